"""Result files, read back as the programs that they are for do."""

import csv
import dataclasses
from datetime import UTC, datetime
import io
import json

import numpy as np
import pytest

from esc_jax.cli import predict
from esc_jax.inference import result_files
from esc_jax.inference.events import EventOptions, find_events
from tests.inference.factories import make_scene

START = datetime(2026, 5, 11, 5, 30, tzinfo=UTC)


def make_result(start=None, classes=("rain", "sea_waves", "dog")):
    timeline = make_scene(classes=classes)
    events = find_events(timeline, EventOptions(max_gap_s=0.0))
    timed = start is not None
    return result_files.Result("a/storm 1.wav", timeline, events, start, 32_000, 2, {"model": "m"}, timed)


def write(name, result):
    return result_files.FORMATS[name][1](result)


def test_the_command_has_all_formats():
    names = ("csv", "json", "jsonl", "events", "audacity", "raven", "dcase", "textgrid")
    assert tuple(result_files.FORMATS) == names
    line = ["--model=m", "--out=o", f"--formats={','.join(names)}", "a.wav"]
    assert predict._parser().parse(line).formats == names


def test_audacity_labels():
    """Start, end and text, separated by tabs; text of any kind on one line."""
    result = make_result(classes=("rain\tand\nwind", "sea_waves", "dog"))
    rows = [line.split("\t") for line in write("audacity", result).splitlines()]
    assert [len(row) for row in rows] == [3] * len(result.events)
    for (start, end, text), event in zip(rows, result.events, strict=True):
        assert (float(start), float(end)) == pytest.approx((event.onset_s, event.offset_s), abs=1e-6)
        assert text == f"{' '.join(event.label.split())} {event.score:.3f}"


def test_a_selection_table_of_raven():
    result = make_result()
    rows = list(csv.DictReader(io.StringIO(write("raven", result)), delimiter="\t"))
    assert [row["Selection"] for row in rows] == [str(n) for n in range(1, len(result.events) + 1)]
    for row, event in zip(rows, result.events, strict=True):
        times = float(row["Begin Time (s)"]), float(row["End Time (s)"])
        assert times == pytest.approx((event.onset_s, event.offset_s), abs=1e-6)
        assert (row["View"], row["Channel"], row["Begin File"]) == ("Spectrogram 1", "1", "storm 1.wav")
        assert (float(row["Low Freq (Hz)"]), float(row["High Freq (Hz)"])) == (0.0, 16_000.0)
        assert row["Annotation"] == event.label and float(row["Score"]) == pytest.approx(event.score, abs=1e-4)


def test_an_event_list_of_dcase():
    """The columns of the DCASE challenge, in that order, separated by tabs."""
    result = make_result()
    header, *rows = csv.reader(io.StringIO(write("dcase", result)), delimiter="\t")
    assert header == ["filename", "onset", "offset", "event_label"]
    assert [(name, label) for name, _, _, label in rows] == [("storm 1.wav", event.label) for event in result.events]
    times = [(float(onset), float(offset)) for _, onset, offset, _ in rows]
    assert times == [(round(event.onset_s, 3), round(event.offset_s, 3)) for event in result.events]


def test_a_textgrid_of_praat(tmp_path):
    textgrid = pytest.importorskip("praatio.textgrid")
    result = make_result()
    path = tmp_path / "a.TextGrid"
    path.write_text(write("textgrid", result))
    grid = textgrid.openTextgrid(str(path), includeEmptyIntervals=False)
    assert set(grid.tierNames) == {event.label for event in result.events}
    assert grid.maxTimestamp == pytest.approx(result.timeline.duration_s)
    for label in grid.tierNames:
        spans = [(entry.start, entry.end) for entry in grid.getTier(label).entries]
        expected = [(e.onset_s, e.offset_s) for e in result.events if e.label == label]
        np.testing.assert_allclose(spans, expected, atol=1e-4)


def test_events_as_csv_and_json_lines():
    result = make_result(START)
    rows = list(csv.DictReader(io.StringIO(write("events", result))))
    objects = [json.loads(line) for line in write("jsonl", result).splitlines()]
    assert len(rows) == len(objects) == len(result.events) > 0
    for row, one, event in zip(rows, objects, result.events, strict=True):
        assert row["class"] == one["label"] == event.label and row["file"] == one["file"] == result.file
        assert float(row["onset_s"]) == one["onset_s"] == pytest.approx(event.onset_s, abs=1e-3)
        assert float(row["score"]) == one["score"] == pytest.approx(event.score, abs=1e-6)
        assert row["offset_time"] == one["offset_time"]
        heard = datetime.fromisoformat(one["onset_time"])
        assert heard.tzinfo and (heard - START).total_seconds() == pytest.approx(event.onset_s, abs=1e-3)
    assert "onset_time" not in write("events", make_result()) and "onset_time" not in write("jsonl", make_result())
    # Of a recording without a time, beside others, the columns are empty.
    without = dataclasses.replace(result, start=None)
    rows = list(csv.DictReader(io.StringIO(write("events", without))))
    assert len(rows) == len(result.events) and {(row["onset_time"], row["offset_time"]) for row in rows} == {("", "")}
    assert {row["time"] for row in csv.DictReader(io.StringIO(write("csv", without)))} == {""}


def test_windows_as_csv_and_json():
    result = make_result(START)
    rows = list(csv.DictReader(io.StringIO(write("csv", result))))
    assert [row["time"] for row in rows[:3]] == ["2026-05-11T05:30:00.000+00:00"] * 2 + [
        "2026-05-11T05:30:02.000+00:00"
    ]
    document = json.loads(write("json", result))
    assert document["model"] == "m" and document["start"] == START.isoformat()
    assert len(document["windows"]) == 8 and len(document["events"]) == len(result.events)
