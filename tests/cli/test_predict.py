"""`esc-jax predict`: its tables, files and pictures, and its errors."""

import contextlib
import csv
import json
import pathlib
import re
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import soundfile

from esc_jax import files
from esc_jax.cli import predict
from esc_jax.inference import classifier as classifiers
from esc_jax.runtime import xla
from esc_jax.training.restore import restore
from tests.data.audio_files import encode, with_positions

ROOT = pathlib.Path(__file__).resolve().parents[2]
RATE, CLASSES = 16_000, ["rain", "sea_waves", "dog"]


def sound(seconds, rate=RATE, channels=1, seed=0):
    """(time, channels) noise, a low hum in its second half."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    noise = 0.2 * rng.uniform(-1, 1, (len(time), channels))
    hum = 0.3 * np.sin(2 * np.pi * 200 * time)
    return np.where(time[:, None] < seconds / 2, noise, hum[:, None] + 0.01 * noise).astype(np.float32)


@pytest.fixture(scope="module")
def loaded(untrained):
    return classifiers.SoundClassifier(restore(untrained))


@pytest.fixture
def command(loaded, monkeypatch, capsys):
    """The command in this process, with the model in memory: `command("a.wav")` → (status, stdout, stderr)."""
    monkeypatch.setattr(xla, "initialize", lambda *_, **__: None)
    monkeypatch.setattr(classifiers, "load_classifier", lambda path: loaded)

    def call(*arguments):
        status = 0
        try:
            status = predict.main(["--model=run", *map(str, arguments)])
        except SystemExit as stopped:
            status = stopped.code
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def test_the_command_end_to_end(run, untrained, loaded, tmp_path):
    folder = tmp_path / "sounds"
    (folder / "more").mkdir(parents=True)
    soundfile.write(folder / "a.wav", sound(7.3, 96_000, 8), 96_000)
    soundfile.write(folder / "more/b.mp3", sound(3.0, 44_100), 44_100)
    soundfile.write(folder / "c.flac", sound(0.05), RATE)
    soundfile.write(folder / "silent.wav", np.zeros(3 * RATE), RATE)
    (folder / "bad.wav").write_text("no audio")
    (folder / "notes.txt").write_text("no audio either, and not asked for")
    done = run(
        "predict", f"--model={untrained}", str(folder), str(tmp_path / "none.wav"), "--window_s=2", "--top_k=2",
        f"--json={tmp_path}/o.json", f"--csv={tmp_path}/o.csv", f"--plot={tmp_path}/o.png", check=1,
    )  # fmt: skip
    assert done.stderr.splitlines() == [
        f"esc_jax: {folder}/bad.wav: not readable as audio (Format not recognised)",
        f"esc_jax: {tmp_path}/none.wav: no such file",
    ]
    names = [f"{folder}/{n}" for n in ("a.wav", "c.flac", "more/b.mp3", "silent.wav")]
    headings = [line for line in done.stdout.splitlines() if not line.startswith(" ")]
    lengths = ["7.3 s, 7 windows", "0.1 s, 1 window", "3.0 s, 2 windows", "3.0 s, 2 windows"]
    assert headings == [f"{n}: {t}" for n, t in zip(names, lengths, strict=True)]
    assert done.stdout.rstrip().endswith("whole     0:00.0 –   0:03.0   silence")
    assert sorted(p.name for p in tmp_path.glob("*.png")) == ["o-a.png", "o-b.png", "o-c.png", "o-silent.png"]

    document = json.loads((tmp_path / "o.json").read_text())
    assert (document["model"], document["task"]) == (str(untrained), "single_label")
    assert (document["classes"], document["window_s"], document["hop_s"]) == (CLASSES, 2.0, 1.0)
    assert [f["file"] for f in document["files"]] == names and len(document["problems"]) == 2
    with open(tmp_path / "o.csv", newline="") as file:
        table = list(csv.reader(file))
    assert ",".join(table[0]) == "file,start_s,end_s,class,probability,level_db,silent,unfamiliar"
    expected = []
    for entry in document["files"]:
        timeline = loaded.timeline(entry["file"], 2.0)
        assert [w["start_s"] for w in entry["windows"]] == pytest.approx(timeline.starts, abs=1e-4)
        for row, window in enumerate(entry["windows"]):
            order = np.argsort(-timeline.probabilities[row])[: 0 if window["silent"] else 2]
            assert [t["class"] for t in window["top"]] == [CLASSES[i] for i in order]
            # The command compiles without optimisation, as these tests do; only the last digits may differ.
            probabilities = timeline.probabilities[row, order]
            assert [t["probability"] for t in window["top"]] == pytest.approx(probabilities, abs=2e-6)
            pairs = [(t["class"], t["probability"]) for t in window["top"]] or [("silence", "")]
            level = "" if window["level_db"] is None else str(window["level_db"])
            marks = [level, str(window["silent"]).lower(), str(window["unfamiliar"]).lower()]
            times = [str(window["start_s"]), str(window["end_s"])]
            expected += [[entry["file"], *times, c, str(p), *marks] for c, p in pairs]
    assert table[1:] == expected
    assert [w["silent"] for w in document["files"][3]["windows"]] == [True, True]
    assert document["files"][3]["windows"][0]["level_db"] is None


def test_opus_files_that_libsndfile_refuses(command, tmp_path):
    """A page that is 10 ms late changes nothing, and the codec little."""
    content = encode(sound(6.3), "opus")
    late = with_positions(content, lambda number, position: position + 488 * (number == 3))
    soundfile.write(tmp_path / "a.wav", sound(6.3), RATE)
    (tmp_path / "whole.opus").write_bytes(content)
    (tmp_path / "late.opus").write_bytes(late)
    with pytest.raises(soundfile.LibsndfileError, match="malformed"):
        soundfile.read(tmp_path / "late.opus")
    windows = {}
    for name in ("a.wav", "whole.opus", "late.opus"):
        status, _, stderr = command(tmp_path / name, "--window_s=2", f"--json={tmp_path}/o.json")
        assert status == 0 and stderr == ""
        windows[name] = json.loads((tmp_path / "o.json").read_text())["files"][0]["windows"]
    assert windows["late.opus"] == windows["whole.opus"]
    for window, expected in zip(windows["late.opus"], windows["a.wav"], strict=True):
        shares = [{top["class"]: top["probability"] for top in w["top"]} for w in (window, expected)]
        assert shares[0] == pytest.approx(shares[1], abs=0.05)


def test_segments_are_three_windows(command, loaded, tmp_path):
    soundfile.write(tmp_path / "a.wav", sound(9.4), RATE)
    status, out, _ = command(tmp_path / "a.wav", "--segments=begin,middle,end", "--window_s=2", "--top_k=1")
    timeline = loaded.timeline(tmp_path / "a.wav", 2.0)
    assert timeline.starts.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 7.4]
    lines = [f"{tmp_path}/a.wav: 9.4 s, 9 windows"]
    for name, row, times in (
        ("begin ", 0, "0:00.0 –   0:02.0"),
        ("middle", 4, "0:04.0 –   0:06.0"),
        ("end   ", 8, "0:07.4 –   0:09.4"),
    ):
        best = timeline.probabilities[row].argmax()
        lines.append((name, times, CLASSES[best], f"{100 * timeline.probabilities[row, best]:5.1f} %"))
    assert status == 0 and out.splitlines()[0] == lines[0]
    for line, parts in zip(out.splitlines()[1:], lines[1:], strict=True):
        assert line.startswith(f"  {parts[0]}    {parts[1]}   {parts[2]}") and line.endswith(parts[3])
    assert command(tmp_path / "a.wav", "--segments=end", "--window_s=2")[1].count("\n") == 2


MISTAKES = [
    ([], "the following arguments are required: FILE"),
    (["a.wav", "--windows_s=3"], "there is no option --windows_s; did you mean --window_s?"),
    (["a.wav", "--window_s=0"], "--window_s: '0' is not a number from 0.01 to 600 seconds"),
    (["a.wav", "--top_k=0"], "--top_k: '0' is not a whole number of at least 1"),
    (
        ["a.wav", "--segments=begin,midle"],
        "--segments: 'midle' is not one of begin, middle, end; did you mean middle?",
    ),
    (["a.wav", "--plot=o.bmp"], "--plot: 'o.bmp' does not end in .png or .pdf or .svg"),
    (["--json", "a.wav", "b.wav"], "--json: 'a.wav' does not end in .json"),  # a forgotten value
    (["a.wav", "o.csv", "--csv=./o.csv"], "o.csv is both read and written: give another name for the results"),
]


@pytest.mark.parametrize("arguments, message", MISTAKES, ids=lambda x: " ".join(x) if isinstance(x, list) else "")
def test_a_wrong_command_line_is_one_sentence(command, arguments, message):
    assert command(*arguments) == (2, "", f"esc_jax: {message}\n")


def test_a_model_that_cannot_predict(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(xla, "initialize", lambda *_, **__: None)
    assert predict.main([f"--model={tmp_path}", "a.wav"]) == 1
    assert capsys.readouterr().err.startswith(f"esc_jax: {tmp_path}")
    (tmp_path / "weights.pt").write_bytes(b"")
    assert predict.main([f"--model={tmp_path}/weights.pt", "a.wav"]) == 2
    assert capsys.readouterr().err == f"esc_jax: {tmp_path}/weights.pt is empty: download it again.\n"


def test_options_reach_the_timeline(command, tmp_path):
    soundfile.write(tmp_path / "a.wav", sound(6.0) * 1e-3, RATE, subtype="FLOAT")  # about −60 and −73 dB
    options = ["--silence_db=off", "--smooth_s=2", "--hop_s=0.5", f"--json={tmp_path}/o.json"]
    status, out, err = command(*options, tmp_path / "a.wav", "--window_s=1")
    assert (status, err) == (0, "") and "silence" not in out
    document = json.loads((tmp_path / "o.json").read_text())
    assert document["silence_db"] is None and (document["smooth_s"], document["hop_s"]) == (2.0, 0.5)
    assert len(document["files"][0]["windows"]) == 11
    assert "silence" in command(tmp_path / "a.wav")[1]


def test_a_file_that_breaks_off_is_shown_and_reported(command, tmp_path):
    soundfile.write(tmp_path / "a.mp3", sound(10.0, 44_100), 44_100)
    content = (tmp_path / "a.mp3").read_bytes()
    (tmp_path / "a.mp3").write_bytes(content[: len(content) // 2])
    status, out, err = command(tmp_path / "a.mp3", f"--json={tmp_path}/o.json")
    assert status == 1 and out.startswith(f"{tmp_path}/a.mp3: ")
    assert err.startswith(f"esc_jax: {tmp_path}/a.mp3: breaks off after ") and err.count("\n") == 1
    assert json.loads((tmp_path / "o.json").read_text())["files"][0]["note"] == err[len("esc_jax: ") : -1]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows allows no such names")
def test_names_of_files_are_written_without_control_characters(command, tmp_path):
    soundfile.write(tmp_path / "a\x1b[31m\nb.wav", sound(1.0), RATE)
    (tmp_path / "loop.wav").symlink_to(tmp_path / "loop.wav")
    status, out, err = command(tmp_path / "a\x1b[31m\nb.wav", tmp_path / "loop.wav", f"--csv={tmp_path}/o.csv")
    assert status == 1 and out.startswith(f"{tmp_path}/a\\x1b[31m b.wav: 1.0 s")
    assert err == f"esc_jax: {tmp_path}/loop.wav: Too many levels of symbolic links\n"


def test_an_interruption_keeps_the_finished_files(command, loaded, monkeypatch, tmp_path):
    for name in ("a.wav", "b.wav", "c.wav"):
        soundfile.write(tmp_path / name, sound(2.0), RATE)
    timeline = loaded.timeline

    def interrupted(file, *arguments, **options):
        if file.endswith("b.wav"):
            raise KeyboardInterrupt
        return timeline(file, *arguments, **options)

    monkeypatch.setattr(loaded, "timeline", interrupted, raising=False)
    status, _, err = command(tmp_path, f"--csv={tmp_path}/o.csv")
    assert (status, err) == (1, "esc_jax: interrupted after 1 of 3 files\n")
    files = {row.split(",")[0] for row in (tmp_path / "o.csv").read_text().splitlines()[1:]}
    assert files == {str(tmp_path / "a.wav")}


def test_what_fails_for_one_file_does_not_lose_the_others(command, loaded, monkeypatch, tmp_path):
    """The device's memory ends in b; the name of a picture is too long for c; the table cannot be written."""
    names = ["a.wav", "b.wav", "c" * 250 + ".wav"]
    for name in names:
        soundfile.write(tmp_path / name, sound(2.0), RATE)
    timeline = loaded.timeline

    def exhausted(file, *arguments, **options):
        if file.endswith("b.wav"):
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 9 GB\nand a page more")
        return timeline(file, *arguments, **options)

    monkeypatch.setattr(loaded, "timeline", exhausted, raising=False)
    (tmp_path / "o.csv").symlink_to(tmp_path / "nowhere/o.csv")
    outputs = [
        f"--{kind}={tmp_path}/o.{ending}" for kind, ending in (("csv", "csv"), ("json", "json"), ("plot", "png"))
    ]
    status, _, err = command(*(tmp_path / name for name in names), *outputs)
    assert (status, err.splitlines()) == (1, [
        f"esc_jax: {tmp_path}/b.wav: the device has too little memory (RESOURCE_EXHAUSTED: 9 GB)",
        f"esc_jax: File name too long: {tmp_path}/o-{names[2].removesuffix('.wav')}.png",
        f"esc_jax: No such file or directory: {tmp_path}/o.csv",
    ])  # fmt: skip
    document = json.loads((tmp_path / "o.json").read_text())
    assert [pathlib.Path(f["file"]).name for f in document["files"]] == [names[0], names[2]]
    assert (tmp_path / "o-a.png").exists() and len(document["problems"]) == 3


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (jax.errors.JaxRuntimeError(""), 1, "the device reported an error (JaxRuntimeError)"),
        (OSError(28, "No space left on device"), 1, "No space left on device: writing the results"),
    ],
)
def test_an_error_while_the_model_is_loaded(command, monkeypatch, error, status, message):
    def load(path):
        raise error

    monkeypatch.setattr(classifiers, "load_classifier", load)
    assert command("a.wav") == (status, "", f"esc_jax: {message}\n")


def test_notes_on_files(command, tmp_path):
    wave = sound(6.0)
    soundfile.write(tmp_path / "opposite.wav", np.concatenate([wave, -wave], 1), RATE)
    status, out, err = command(tmp_path / "opposite.wav", f"--json={tmp_path}/o.json")
    sentence = f"{tmp_path}/opposite.wav: its channels cancel each other, and one of them was used"
    assert (status, err) == (0, f"esc_jax: {sentence}\n") and "silence" not in out
    document = json.loads((tmp_path / "o.json").read_text())
    assert document["files"][0]["note"] == sentence and document["problems"] == []
    soundfile.write(tmp_path / "cut.wav", wave, RATE)
    (tmp_path / "cut.wav").write_bytes((tmp_path / "cut.wav").read_bytes()[:96_022])
    status, out, err = command(tmp_path / "cut.wav", f"--json={tmp_path}/o.json")
    sentence = f"{tmp_path}/cut.wav: breaks off after 3.0 of 6.0 s; only what is there was classified"
    assert (status, err) == (1, f"esc_jax: {sentence}\n") and out.startswith(f"{tmp_path}/cut.wav: 3.0 s")
    assert json.loads((tmp_path / "o.json").read_text())["problems"] == [sentence]


def test_a_picture_of_a_file_with_mathematics_in_its_name(command, tmp_path):
    soundfile.write(tmp_path / "$x_{$.wav", sound(2.0), RATE)
    status, _, err = command(tmp_path / "$x_{$.wav", f"--plot={tmp_path}/o.png")
    assert (status, err) == (0, "") and (tmp_path / "o.png").stat().st_size > 1000


def test_a_folder_with_files_that_need_ffmpeg(command, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    soundfile.write(tmp_path / "a.wav", sound(2.0), RATE)
    (tmp_path / "b.m4a").write_bytes(b"")
    status, out, err = command(tmp_path)
    assert status == 1 and out.startswith(f"{tmp_path}/a.wav: 2.0 s")
    assert err == f"esc_jax: {tmp_path}: 1 file is not read: it needs ffmpeg, which is not installed (b.m4a)\n"


def tree_of_sounds(root, count=6):
    """Recordings of 1 to 3 s in subfolders, and one that is no audio."""
    for number in range(count):
        folder = root / ("a" if number % 2 else "b/c")
        folder.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / f"20260511_05{number:02}00.wav", sound(1.0 + number % 3, seed=number), RATE)
    (root / "bad.wav").write_text("no audio")
    return root


def contents(folder):
    """Name → content of the result files below a folder."""
    names = (path for path in folder.rglob("*") if path.is_file() and path.suffix in (".csv", ".json", ".txt"))
    return {path.relative_to(folder).as_posix(): path.read_text() for path in names if path.name != "manifest.csv"}


def test_a_folder_of_results(command, loaded, tmp_path):
    root = tree_of_sounds(tmp_path / "sounds")
    out = tmp_path / "out"
    options = ("--window_s=1", "--formats=csv,json,audacity", "--start=names", f"--out={out}")
    status, text, error = command(*options, root)
    assert status == 1 and "bad.wav: not readable as audio" in error and error.count("\n") == 1
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
    assert first == (1, f"{out}: 1 recordings of 0:03 classified\n", sentence)
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
        start = max(0, round((float(row["onset_s"]) - 1) * rate))
        np.testing.assert_allclose(samples, whole[start : start + len(samples)], atol=1 / 32768)


def test_names_and_thresholds_of_classes(command, loaded, tmp_path, monkeypatch):
    monkeypatch.setattr(loaded, "classes", loaded.classes)  # restored at the end
    soundfile.write(tmp_path / "a.wav", sound(2.0), RATE)
    (tmp_path / "names.csv").write_text("class,name\nrain,Regen\nsea_waves,Wellen\ndog,Hund\n")
    status, text, _ = command(f"--names={tmp_path / 'names.csv'}", "--window_s=1", tmp_path / "a.wav")
    assert status == 0 and any(name in text for name in ("Regen", "Wellen", "Hund"))
    assert not any(name in text for name in CLASSES)
    (tmp_path / "t.csv").write_text("Regen,1.0\nWellen,1.0\nHund,1.0\n")  # without a header
    out = tmp_path / "out"
    status, _, _ = command(f"--thresholds={tmp_path / 't.csv'}", f"--out={out}", "--formats=events", tmp_path / "a.wav")
    assert status == 0 and (out / "a.wav.events.csv").read_text().count("\n") == 1  # no event


def test_older_results_survive_a_full_disk(command, monkeypatch, tmp_path):
    """The disk is full after a part of the table, the document and the picture."""
    soundfile.write(tmp_path / "a.wav", sound(2.0), RATE)
    outputs = {kind: tmp_path / f"o.{kind}" for kind in ("csv", "json", "png")}
    arguments = [f"--{'plot' if kind == 'png' else kind}={path}" for kind, path in outputs.items()]
    assert command(*arguments, tmp_path / "a.wav")[0] == 0
    before = {path: path.read_bytes() for path in outputs.values()}
    write = files.atomic_write

    @contextlib.contextmanager
    def full(*arguments):
        with write(*arguments) as file:
            yield file
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "atomic_write", full)
    status, _, error = command(*arguments, "--window_s=1", tmp_path / "a.wav")
    assert status == 1
    expected = [f"esc_jax: No space left on device: {outputs[kind]}" for kind in ("png", "csv", "json")]
    assert error.splitlines() == expected
    assert {path: path.read_bytes() for path in before} == before and len(list(tmp_path.iterdir())) == 4


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
    assert (status, text) == (1, f"{tmp_path}/o: 1 recordings of 0:04 classified, 1 failed\n")
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
