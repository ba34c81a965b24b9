"""`esc-jax predict --out`: a folder of results, events and excerpts."""

import csv
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile

from esc_jax.inference import excerpts
from tests.cli.sounds import CLASSES, RATE, sound, tree_of_sounds

ROOT = pathlib.Path(__file__).resolve().parents[2]


def contents(folder):
    """Name → content of the result files below a folder."""
    names = (path for path in folder.rglob("*") if path.is_file() and path.suffix in (".csv", ".json", ".txt"))
    return {path.relative_to(folder).as_posix(): path.read_text() for path in names if path.name != "manifest.csv"}


def test_a_folder_of_results(command, loaded, tmp_path):
    root = tree_of_sounds(tmp_path / "sounds")
    out = tmp_path / "out"
    options = ("--window_s=1", "--formats=csv,json,audacity", "--start=names", f"--out={out}")
    status, text, error = command(*options, root)
    lines = error.splitlines()
    assert status == 1 and lines[0] == f"esc_jax: 1 recording of 7 has no time in the name ({root}/bad.wav)"
    assert "bad.wav: not readable as audio" in lines[1] and len(lines) == 2
    assert text == f"{out}: 6 recordings of 0:12 classified, 1 failed\n"
    files = contents(out)
    assert len(files) == 6 * 3 + 1
    first = list(csv.DictReader(files["b/c/20260511_050000.wav.csv"].splitlines()))
    assert (first[0]["file"], first[0]["time"]) == ("b/c/20260511_050000.wav", "2026-05-11T05:00:00.000")
    timeline = loaded.timeline(root / "a/20260511_050100.wav", 1.0)
    windows = json.loads(files["a/20260511_050100.wav.json"])["windows"]
    found = [window["top"][0]["probability"] for window in windows]
    np.testing.assert_allclose(found, timeline.probabilities.max(axis=1), atol=2e-6)
    # Again: only what failed is tried, and nothing else changes.
    status, text, _ = command(*options, root)
    assert status == 1 and text == f"{out}: 0 recordings of 0:00 classified, 6 finished before, 1 failed\n"
    assert contents(out) == files
    (root / "bad.wav").unlink()
    status, text, _ = command(*options, root)
    assert (status, text) == (0, f"{out}: 0 recordings of 0:00 classified, 6 finished before\n")


def test_a_second_call_reports_what_the_first_did_and_another_folder_is_refused(command, tmp_path):
    out, (one, two) = tmp_path / "out", (tmp_path / "one", tmp_path / "two")
    for folder in (one, two):
        folder.mkdir()
        soundfile.write(folder / "REC001.wav", sound(6.0), RATE)
    (one / "REC001.wav").write_bytes((one / "REC001.wav").read_bytes()[: 44 + 3 * RATE * 2])
    first, again = (command(f"--out={out}", one) for _ in range(2))
    sentence = f"esc_jax: {one}/REC001.wav: breaks off after 3.0 of 6.0 s; only what is there was classified\n"
    assert first == (1, f"{out}: 1 recording of 0:03 classified\n", sentence)
    assert again == (1, f"{out}: 0 recordings of 0:00 classified, 1 finished before\n", sentence)
    status, text, error = command(f"--out={out}", two)
    assert (status, text) == (2, "") and error == (
        f"esc_jax: {out} has results of the recordings in {one}, not of those in {two}: give another --out folder\n"
    )


def test_excerpts_of_the_best_events(command, tmp_path):
    root = tree_of_sounds(tmp_path / "sounds")
    (root / "bad.wav").unlink()
    options = ("--window_s=1", "--min_confidence=0", f"--out={tmp_path / 'out'}", f"--clips={tmp_path / 'clips'}")
    status, text, _ = command(*options, "--clips_per_class=2", root)
    with open(tmp_path / "clips/excerpts.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert status == 0 and text.endswith(f"{tmp_path / 'clips'}: {len(rows)} excerpts\n")
    assert 0 < len(rows) <= 2 * len(CLASSES)
    for row in rows:
        samples, rate = soundfile.read(tmp_path / "clips" / row["excerpt"])
        whole, _ = soundfile.read(root / row["file"])
        start = round(float(row["start_s"]) * rate)
        assert float(row["start_s"]) == pytest.approx(max(0.0, float(row["onset_s"]) - 1), abs=1.1e-3)
        np.testing.assert_allclose(samples, whole[start : start + len(samples)], atol=1 / 32768)


def test_names_and_thresholds_of_classes(command, loaded, tmp_path, monkeypatch):
    monkeypatch.setattr(loaded, "classes", loaded.classes)  # restored at the end
    soundfile.write(tmp_path / "a.wav", sound(2.0), RATE)
    (tmp_path / "names.csv").write_text("class,name\nrain,Regen\nsea_waves,Wellen\ndog,Hund\n")
    status, text, _ = command(f"--names={tmp_path / 'names.csv'}", "--window_s=1", tmp_path / "a.wav")
    assert status == 0 and any(name in text for name in ("Regen", "Wellen", "Hund"))
    assert not any(name in text for name in CLASSES)
    (tmp_path / "t.csv").write_text("Regen,1.0\nsea_waves,1.0\nHund,1.0\n")  # without a header, by both names
    out = tmp_path / "out"
    status, _, _ = command(f"--thresholds={tmp_path / 't.csv'}", f"--out={out}", "--formats=events", tmp_path / "a.wav")
    assert status == 0 and (out / "a.wav.events.csv").read_text().count("\n") == 1  # no event
    chosen = json.loads((out / "settings.json").read_text())["events"]["thresholds"]
    assert chosen == {"Regen": 1.0, "Wellen": 1.0, "Hund": 1.0}


@pytest.mark.parametrize(
    "options",
    [
        ["--names=t.csv", "--csv=t.csv"],
        ["--names=t.csv", "--json=t.json", "--csv=./t.csv"],
        ["--thresholds=c/excerpts.csv", "--out=o", "--clips=c"],
        ["--names=c/excerpts.csv", "--out=o", "--clips=./c"],
    ],
)
def test_tables_of_classes_are_not_overwritten(command, monkeypatch, tmp_path, options):
    monkeypatch.chdir(tmp_path)
    table = tmp_path / options[0].split("=")[1]
    table.parent.mkdir(exist_ok=True)
    table.write_text("rain,0.5\n")
    soundfile.write("a.wav", sound(1.0), RATE)
    sentence = f"esc_jax: {table.relative_to(tmp_path)} is both read and written: give another name for the results\n"
    assert command(*options, "a.wav") == (2, "", sentence)
    assert table.read_text() == "rain,0.5\n"


def test_recordings_that_end_after_the_last_year(command, tmp_path):
    names = ["99991231_235958.wav", "20260511_053000.wav"]
    for name in names:
        soundfile.write(tmp_path / name, sound(4.0), RATE)
    paths = [tmp_path / name for name in names]
    status, text, error = command("--start=names", f"--out={tmp_path}/o", "--formats=csv,events", *paths)
    assert (status, text) == (1, f"{tmp_path}/o: 1 recording of 0:04 classified, 1 failed\n")
    assert error == (f"esc_jax: {paths[0]}: a recording that begins at 9999-12-31T23:59:58 ends after the year 9999\n")
    assert (tmp_path / "o" / f"{names[1]}.events.csv").exists()


def test_excerpts_in_spite_of_a_changed_file_of_events(command, tmp_path):
    for name in ("a.wav", "b.wav"):
        soundfile.write(tmp_path / name, sound(2.0), RATE)
    options = [f"--out={tmp_path}/o", "--formats=events", tmp_path / "a.wav", tmp_path / "b.wav"]
    assert command(*options)[0] == 0
    table = tmp_path / "o/a.wav.events.csv"
    table.write_text(table.read_text().replace(",", ";"))
    status, text, error = command(f"--clips={tmp_path}/clips", *options)
    assert status == 1 and error.startswith(f"esc_jax: {table} has no column file: ") and error.count("\n") == 1
    with open(tmp_path / "clips/excerpts.csv", newline="") as file:
        assert {row["file"] for row in csv.DictReader(file)} == {"b.wav"}
    (tmp_path / "file").touch()
    status, _, error = command(f"--clips={tmp_path}/file", *options)
    assert status == 1 and f"esc_jax: File exists: {tmp_path}/file\n" in error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--min_confidence=0"], "--min_confidence needs --out=RESULTS"),
        (["--formats=events"], "--formats needs --out=RESULTS"),
        (["--min_length_s=0"], "--min_length_s needs --out=RESULTS"),
        (["--clips_per_class=3"], "--clips_per_class needs --out=RESULTS"),
        (["--out=o", "--clips_per_class=3"], "--clips_per_class needs --clips=DIR"),
        ([""], "FILE: the value is empty"),
        (["--out=o", "--clips="], "--clips: the value is empty"),
        (["--out="], "--out: the value is empty"),
        (["--names="], "--names: the value is empty"),
        (["--out=o", "--thresholds="], "--thresholds: the value is empty"),
        (["--clips=x"], "--clips needs --out=RESULTS"),
        (["--start=names"], "--start needs --out=RESULTS"),
        (["--csv_bom"], "--csv_bom needs --csv=OUT.csv or --out=RESULTS"),
        (["--out=o", "--csv=o.csv"], "--csv is for the output on the terminal"),
        (["--out=o", "--formats=csv,ravn"], "'ravn' is not one of .*; did you mean raven?"),
        (["--out=o", "--start=dawn"], "'dawn' is neither names nor a time"),
        (["--out=o", "--thresholds=none.csv"], "none.csv does not exist"),
    ],
)
def test_options_of_result_files_that_do_not_fit(command, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    soundfile.write("a.wav", sound(1.0), RATE)
    status, _, error = command(*options, "a.wav")
    assert status == 2 and re.search(message.replace("?", r"\?"), error), error
    assert not (tmp_path / "o/a.wav.csv").exists()


@pytest.mark.slow
def test_a_stopped_archive_is_continued(run, untrained, environment, tmp_path):
    """Stopped by SIGTERM and by SIGKILL; the results are those of a call that was not."""
    root = tree_of_sounds(tmp_path / "sounds", 30)
    (root / "bad.wav").unlink()
    arguments = ["--window_s=1", "--hop_s=0.05", "--formats=csv,json", f"--model={untrained}", str(root)]
    run("predict", *arguments, f"--out={tmp_path / 'whole'}")
    out = tmp_path / "out"
    line = [sys.executable, "-m", "esc_jax", "predict", *arguments, f"--out={out}"]
    for how in (signal.SIGTERM, signal.SIGKILL):
        before = len(contents(out)) if out.exists() else 0
        with subprocess.Popen(line, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as process:
            while process.poll() is None and (len(contents(out)) if out.exists() else 0) < before + 6:
                time.sleep(0.01)
            process.send_signal(how)
            _, error = process.communicate(timeout=60)
        assert process.returncode == (75 if how == signal.SIGTERM else -9), error
        assert how == signal.SIGKILL or "run the same command again to continue" in error
    done = run("predict", *arguments, f"--out={out}").stdout
    assert "finished before" in done and contents(out) == contents(tmp_path / "whole")
    assert not list(out.rglob("*.partial"))


def test_excerpts_of_a_second_call(command, tmp_path):
    """The folder has those of the last call only. Those of recordings that are not found are kept."""
    root, clips = tree_of_sounds(tmp_path / "sounds"), tmp_path / "clips"
    (root / "bad.wav").unlink()
    options = ("--window_s=1", f"--clips={clips}")
    assert command(*options, f"--out={tmp_path}/one", root)[0] == 0
    before = set(clips.glob("*/*.wav"))
    status, text, _ = command(*options, f"--out={tmp_path}/two", "--clips_per_class=1", root)
    after = set(clips.glob("*/*.wav"))
    with open(clips / "excerpts.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert status == 0 and {clips / row["excerpt"] for row in rows} == after and len(after) < len(before)
    excerpts = f"{len(after)} excerpt{'s' * (len(after) > 1)}"
    assert text.endswith(f"{clips}: {excerpts}, {len(before - after)} of an earlier call removed\n")
    root.rename(tmp_path / "elsewhere")
    root.mkdir()  # the place of a disk that is not mounted
    status, text, _ = command(*options, f"--out={tmp_path}/two", "--clips_per_class=1", root)
    assert status == 1 and text.endswith(f"{clips}: 0 excerpts\n")
    assert set(clips.glob("*/*.wav")) == after


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_excerpts_are_written(command, tmp_path, monkeypatch, number):
    def raise_exit(status):
        raise SystemExit(status)

    monkeypatch.setattr(os, "_exit", raise_exit)
    monkeypatch.setattr(sys.stderr, "fileno", lambda: 2)  # which pytest's does not have
    monkeypatch.setattr(excerpts, "write_excerpts", lambda *_, **__: os.kill(os.getpid(), number))
    soundfile.write(tmp_path / "a.wav", sound(1.0), RATE)
    status, text, error = command(f"--out={tmp_path}/o", f"--clips={tmp_path}/c", tmp_path / "a.wav")
    assert status == 75 and "1 recording of 0:01 classified" in text, error


def test_folders_of_excerpts_that_are_refused(command, tmp_path):
    root, clips = tree_of_sounds(tmp_path / "sounds"), tmp_path / "clips"
    clips.mkdir()
    (clips / "excerpts.csv").write_text("mine\n")
    sentence = f"{clips}/excerpts.csv is not as predict has written it: rename it, or give another --clips folder"
    assert command(f"--out={tmp_path}/o", f"--clips={clips}", root) == (2, "", f"esc_jax: {sentence}\n")
    (tmp_path / "link").symlink_to(root)
    sentence = f"--clips={tmp_path}/link/a is in the folder of the recordings, {root}: give another folder"
    assert command(f"--out={tmp_path}/o", f"--clips={tmp_path}/link/a", root) == (2, "", f"esc_jax: {sentence}\n")
    recording = root / "a/20260511_050100.wav"
    status, _, error = command(f"--out={tmp_path}/o", f"--clips={tmp_path}/link", recording)
    assert status == 2 and error == (
        f"esc_jax: {recording} is in --clips={tmp_path}/link: give another folder for the excerpts\n"
    )


def test_csv_files_for_excel(command, tmp_path):
    soundfile.write(tmp_path / "ä.wav", sound(2.0), RATE)
    options = ("--window_s=1", "--formats=csv,json,events", f"--out={tmp_path}/o", tmp_path / "ä.wav")
    assert command("--csv_bom", f"--clips={tmp_path}/clips", *options)[0] == 0
    for name in ("o/ä.wav.csv", "o/ä.wav.events.csv", "o/manifest.csv", "clips/excerpts.csv"):
        content = (tmp_path / name).read_bytes()
        assert content.startswith(b"\xef\xbb\xbf") and content.count(b"\xef\xbb\xbf") == 1 and "ä".encode() in content
    json.loads((tmp_path / "o/ä.wav.json").read_text())
    again = command("--csv_bom", f"--clips={tmp_path}/clips", *options)
    assert again[0] == 0 and "1 finished before" in again[1]
    status, _, error = command(*options)
    assert status == 2 and "(csv_bom: true, now null)" in error
    assert command(f"--csv={tmp_path}/o.csv", "--csv_bom", tmp_path / "ä.wav")[0] == 0
    assert (tmp_path / "o.csv").read_bytes().startswith(b"\xef\xbb\xbffile,")


def test_a_recording_under_three_names_is_classified_once(command, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    soundfile.write("a.wav", sound(1.0), RATE)
    status, text, error = command("--out=o", "a.wav", "./a.wav", tmp_path / "a.wav")
    assert (status, text, error) == (0, "o: 1 recording of 0:01 classified\n", "")
    assert command("a.wav", tmp_path / "a.wav")[1].count("1 window") == 1


def test_a_format_of_the_times_in_names(command, tmp_path):
    for name in ("260511_053000.wav", "pond.wav"):
        soundfile.write(tmp_path / name, sound(1.0), RATE)
    options = (f"--out={tmp_path}/o", "--start=%y%m%d_%H%M%S")
    status, _, error = command(*options, tmp_path / "260511_053000.wav", tmp_path / "pond.wav")
    assert status == 0 and f"1 recording of 2 has no time in the name ({tmp_path}/pond.wav)" in error
    with open(tmp_path / "o/260511_053000.wav.csv", newline="") as file:
        assert next(csv.DictReader(file))["time"] == "2026-05-11T05:30:00.000"
    status, _, error = command(f"--out={tmp_path}/other", "--start=%y%m%d", tmp_path / "pond.wav")
    assert status == 2 and "--start=%y%m%d: a format of names has %Y or %y" in error
