"""The csv files of results/ are consistent, and the tables of README.md and docs/ are written from them."""

import math
import pathlib
import re
import shutil

import pytest

from results import columns, layout, tables

FILES = sorted(path.stem for path in columns.DATA.glob("*.csv"))
# Rows of these files refer to other rows, or to papers.
WITHOUT_COMMAND = {"goals", "published"}
Z = 1.959964


def _rows():
    return [(name, row) for name in FILES for row in columns.read(name)]


def _float(text):
    return float(text.replace(",", ""))


def _wilson(correct, total):
    share, spread = correct / total, Z * Z / total
    centre = share + spread / 2
    half = Z * math.sqrt(share * (1 - share) / total + spread / (4 * total))
    return [100 * (centre + sign * half) / (1 + spread) for sign in (-1, 1)]


@pytest.fixture
def site(tmp_path):
    """A copy of the pages."""
    root = tmp_path / "site"
    for page in tables.pages(tables.ROOT):
        copy = root / page.relative_to(tables.ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(page, copy)
    return root


def test_pages_agree_with_the_csv_files(capsys):
    status = tables.main([])
    assert status == 0, capsys.readouterr().err


def test_changed_number_is_reported_and_repaired(site, capsys):
    page = site / "docs" / "results" / "index.md"
    original = page.read_text(encoding="utf-8")
    changed = original.replace("93.56 (92.3–94.8)", "95.36 (92.3–94.8)", 1)
    assert changed != original
    page.write_text(changed, encoding="utf-8")

    assert tables.main(["--root", str(site)]) == 1
    message = capsys.readouterr().err
    assert str(pathlib.PurePath("docs/results/index.md")) in message and "table headline " in message
    assert page.read_text(encoding="utf-8") == changed  # a check writes nothing

    assert tables.main(["--root", str(site), "--write"]) == 0
    assert page.read_text(encoding="utf-8") == original


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- results:no-such-table -->\n<!-- /results -->\n", "no-such-table"),
        ("<!-- results:accuracy -->\n", "needs its own"),
        ("<!-- results:accuracy -->\n<!-- results:seeds -->\n<!-- /results -->\n", "needs its own"),
    ],
)
@pytest.mark.parametrize("options", [[], ["--write"]])
def test_wrong_markers_are_refused(site, capsys, text, message, options):
    page = site / "docs" / "wrong.md"
    page.write_text(text, encoding="utf-8")
    assert tables.main(["--root", str(site), *options]) == 1
    assert message in capsys.readouterr().err
    assert page.read_text(encoding="utf-8") == text


def test_every_table_is_on_a_page():
    text = "".join(page.read_text(encoding="utf-8") for page in tables.pages(tables.ROOT))
    assert {match[1] for match in tables.BLOCK.findall(text)} == set(layout.TABLES)


def test_every_row_is_in_a_table():
    shown = {(table.file, name) for name, table in layout.TABLES.items()}
    by_id = {(table.file, row_id) for table in layout.TABLES.values() for row_id in table.ids}
    for name, row in _rows():
        assert (name, row["table"]) in shown or (name, row["id"]) in by_id, (name, row)


def test_links_of_the_headline_exist():
    for name, target in layout.HEADLINE.values():
        page, _, anchor = target.partition("#")
        text = (tables.ROOT / "docs" / page).read_text(encoding="utf-8")
        headings = re.findall(r"^##+ (.+)$", text, re.MULTILINE)
        assert name and anchor in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    assert "(docs/results/gpu.md#" in tables.render("headline", pathlib.PurePath("README.md"))
    assert "(gpu.md#" in tables.render("headline", pathlib.PurePath("docs/results/index.md"))


def test_every_row_has_command_machine_and_date():
    for name, row in _rows():
        if name not in WITHOUT_COMMAND:
            assert row["command"] and row["machine"] and row["date"], (name, row)
    assert all(row["source"] and row["kind"] == "published" for row in columns.read("published"))


def test_ids_are_unique():
    for name in ("accuracy", "models"):
        ids = [row["id"] for row in columns.read(name) if row["id"]]
        assert len(ids) == len(set(ids))


def test_values_lie_inside_their_ranges():
    for name, row in _rows():
        if name == "novelty":  # a mean, and quantiles of the draws
            continue
        for key, low in row.items():
            base = key.removesuffix("_low")
            if base == key:
                continue
            values = [low, row.get(base, ""), row[f"{base}_high"]]
            numbers = [_float(value) for value in values if value]
            assert numbers == sorted(numbers), (name, row)


def test_accuracies_are_counts_of_clips():
    for row in columns.read("accuracy"):
        assert row["accuracy"] and row["protocol"] == "holdout"
        if not row["total"]:
            assert row["data"] == "synthetic"
            continue
        for key, count in (("accuracy", "correct"), ("tta", "tta_correct")):
            assert bool(row[key]) == bool(row[count]), row
            if row[key]:
                assert _float(row[key]) == pytest.approx(100 * int(row[count]) / int(row["total"]), abs=0.00501), row


def test_accuracies_are_means_of_their_folds():
    for row in columns.read("accuracy"):
        clips = 80 if row["data"] == "ESC-10" else 400
        for key, prefix in (("accuracy", "fold"), ("tta", "tta")):
            folds = [_float(row[f"{prefix}_{fold}"]) for fold in range(1, 6) if row[f"{prefix}_{fold}"]]
            for value in folds:
                assert (value * clips / 100).is_integer(), row
            if not folds:
                continue
            assert len(folds) * clips == int(row["total"]), row
            mean = sum(folds) / len(folds)
            assert _float(row[key]) == pytest.approx(mean, abs=0.00501), row
            if row[f"{key}_std"]:
                variance = sum((value - mean) ** 2 for value in folds) / (len(folds) - 1)
                assert _float(row[f"{key}_std"]) == pytest.approx(math.sqrt(variance), abs=0.00501), row


def test_seeds_add_up():
    for name, seeds in (("3", ("3.0", "3.1", "3.2")), ("3b", ("3b.0", "3b.1", "3b.2"))):
        for key in ("correct", "tta_correct", "total"):
            parts = sum(int(columns.by_id("accuracy", seed)[key]) for seed in seeds)
            assert int(columns.by_id("accuracy", name)[key]) == parts


def test_wilson_intervals_follow_from_the_counts():
    intervals = 0
    for row in columns.read("accuracy"):
        if row["interval"] != "Wilson":
            continue
        for key, count in (("accuracy", "correct"), ("tta", "tta_correct")):
            if row[count]:
                ends = [_float(row[f"{key}_low"]), _float(row[f"{key}_high"])]
                assert ends == pytest.approx(_wilson(int(row[count]), int(row["total"])), abs=0.0501), row
                intervals += 1
    assert intervals


def test_differences_follow_from_the_accuracies():
    for row in columns.read("comparisons"):
        a, b = (_float(columns.by_id("accuracy", row[key])[row["metric"]]) for key in "ab")
        # Both accuracies and the difference are rounded.
        assert _float(row["points"]) == pytest.approx(a - b, abs=0.0601), row


def test_ratios_follow_from_the_times():
    for row in columns.read("models"):
        if row["ratio"] and row["esc_jax_ms"]:
            ratio = _float(row["pytorch_ms"]) / _float(row["esc_jax_ms"])
            # Times are rounded to three or four digits.
            assert _float(row["ratio"]) == pytest.approx(ratio, abs=0.0105), row


def test_goals_refer_to_measurements():
    for row in columns.read("goals"):
        assert columns.by_id(row["file"], row["id"])[row["column"]]
    text = tables.render("goals-accuracy")
    assert "| 94.38 | no |" in text and "| 94.52 | yes |" in text


def test_cells():
    row = {"x": "1", "x_low": "", "x_high": ""}
    assert columns.spread(row, "x") == "1"
    assert columns.spread(row | {"x_low": "-1", "x_high": "2"}, "x", signed=True) == "+1 (−1 to +2)"
    assert columns.spread(row | {"x_low": "0.5", "x_high": "2"}, "x") == "1 (0.5–2)"
    assert columns.spread(row | {"x": "", "x_low": "0.5", "x_high": "2"}, "x") == "0.5–2"
    assert columns.spread(row | {"x": "", "x_low": "60"}, "x") == "more than 60"
    assert columns.spread(row | {"x_high": "2"}, "x") == "1 (at most 2)"
    assert columns.spread(row | {"x": ""}, "x") == columns.EMPTY
