"""Names in Markdown and in cells of csv files."""

import csv

import hypothesis
from hypothesis import strategies as st
import pytest

from esc_jax.evaluation.escaping import escape_cell, escape_markdown, restore_cell


@pytest.mark.parametrize("text", ["=1+1", "+rain", "-x.wav", "@sum", "\tx", "'=1", "''-2"])
def test_formulas_get_an_apostrophe(text):
    assert escape_cell(text) == f"'{text}"


@pytest.mark.parametrize("text", ["rain", "", "sea-waves", "'quoted'", "1=2", "über", " =1"])
def test_other_cells_stay_as_they_are(text):
    assert escape_cell(text) == restore_cell(text) == text


@hypothesis.given(st.text("'=+-@\t\ra,\n\"", max_size=6) | st.text())
def test_cells_are_restored(tmp_path_factory, text):
    assert restore_cell(escape_cell(text)) == text
    path = tmp_path_factory.getbasetemp() / "cells.csv"
    with open(path, "w", newline="", encoding="utf-8", errors="surrogatepass") as file:
        csv.writer(file).writerow([escape_cell(text), "end"])
    with open(path, newline="", encoding="utf-8", errors="surrogatepass") as file:
        (row,) = csv.reader(file)
    assert restore_cell(row[0]) == text and not row[0].startswith(("=", "+", "-", "@", "\t", "\r"))


def test_markdown():
    assert escape_markdown("sea_waves 2") == "sea_waves 2"
    assert escape_markdown("_a_ *b* `c` [d](e) |") == r"\_a\_ \*b\* \`c\` \[d\](e) \|"
    assert escape_markdown("<script>\nalert(1)</script>") == r"\<script\> alert(1)\</script\>"
    assert escape_markdown("a\\|b") == r"a\\\|b"
