"""The page of passages: what is on it, hostile names, and labelling in a browser."""

import csv
import io
import time

import numpy as np
import pytest
import soundfile

from esc_jax.inference import labels
from esc_jax.inference.index import Match, Query
from esc_jax.report import passages_page
from tests.report.test_page import ParsedPage

HOSTILE = '"><script>alert(1)</script>&.wav'


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Three matches of a query, one in a recording that is gone: (page, matches, problems)."""
    folder = tmp_path_factory.mktemp("sounds")
    wave = 0.2 * np.random.default_rng(0).uniform(-1, 1, 48_000)
    files = [folder / "=a, b.wav", folder / HOSTILE.replace("/", "")]
    for path in files:
        soundfile.write(path, wave, 16_000)
    matches = [
        Match(str(files[0]), 1.0, 2.0, 0.9), Match(str(files[1]), 0.0, 1.0, 0.8),
        Match(f"{folder}/gone.wav", 0, 1, 0.7),
        Match(str(files[0]), 2.0, 3.0, 0.6),
    ]  # fmt: skip
    query = Query(np.zeros((1, 8)), None, 0.5, 1.5)
    out = folder / "page.html"
    problems = passages_page.write_search(out, str(files[0]), query, matches, ["frog", "=no"], 16_000)
    return out, matches, problems


def test_what_is_on_the_page(page):
    out, matches, problems = page
    parsed = ParsedPage(out.read_text())
    assert parsed.open == [] and sum(tag == "script" for tag, _ in parsed.elements) == 1
    assert sum(tag == "audio" for tag, _ in parsed.elements) == 1 + 3
    figures = [attributes for tag, attributes in parsed.elements if tag == "figure" and "data-recording" in attributes]
    assert [figure["data-recording"] for figure in figures] == [match.file for match in matches]
    assert [(figure["data-start"], figure["data-end"]) for figure in figures][0] == ("1.000", "2.000")
    assert len(problems) == 1 and "gone.wav: no such file" in problems[0]


def test_a_long_list_is_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(passages_page, "MAX_PASSAGES", 2)
    cards = [passages_page.Card("none.wav", float(i), i + 1.0, "") for i in range(5)]
    passages_page.write(tmp_path / "p.html", "t", "Text.", cards, ["a"], 16_000)
    text = (tmp_path / "p.html").read_text()
    assert text.count("<figure") == 2 and "The first 2 of 5 passages." in text


def test_labelling_in_a_browser(page, browser, tmp_path):
    out, matches, _ = page
    browser.call("/url", {"url": out.resolve().as_uri()})

    def click(selector):
        browser.call(f"/element/{browser.find(selector)}/click", {})

    assert browser.run("return document.getElementById('save').disabled")
    click("figure[data-recording] .labels button")  # frog
    click("figure[data-recording]:nth-of-type(2) .labels button:nth-child(2)")
    click("figure[data-recording]:nth-of-type(4) .labels button")
    click("figure[data-recording]:nth-of-type(4) .labels button")  # taken back
    field = browser.find("#new input")
    browser.call(f"/element/{field}/value", {"text": "owl\ue007"})
    click("figure[data-recording]:nth-of-type(3) .labels button:nth-child(3)")
    assert browser.run("return document.getElementById('count').textContent") == "3 of 4 labelled"
    browser.run("URL.createObjectURL = blob => { blob.text().then(text => { window.saved = text; }); return '#'; };")
    click("#save")
    for _ in range(50):
        if text := browser.run("return window.saved || ''"):
            break
        time.sleep(0.1)
    assert list(csv.reader(io.StringIO(text)))[0] == list(labels.COLUMNS)
    (tmp_path / "labels.csv").write_text(text, newline="")
    assert labels.read_labels(tmp_path / "labels.csv") == [
        labels.Label(matches[0].file, 1.0, 2.0, "frog"), labels.Label(matches[1].file, 0.0, 1.0, "=no"),
        labels.Label(matches[2].file, 0.0, 1.0, "owl"),
    ]  # fmt: skip
    loaded = "return performance.getEntriesByType('resource').filter(r => !r.name.startsWith('data:')).length"
    assert browser.run(loaded) == 0
    assert browser.run("return document.documentElement.scrollWidth <= window.innerWidth")
