"""`esc-jax predict`: its tables, files and pictures, and its errors."""

import contextlib
import csv
import json
import os
import pathlib
import signal
import sys

import jax
import numpy as np
import pytest
import soundfile

from esc_jax import files
from esc_jax.cli import predict
from esc_jax.inference import classifier as classifiers
from esc_jax.runtime import xla
from tests.cli.sounds import CLASSES, RATE, sound
from tests.data.audio_files import encode, with_positions


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


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("finished", [0, 1])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_keeps_the_finished_files(command, loaded, monkeypatch, tmp_path, number, finished):
    """Without a finished file, the table of an earlier call stays."""
    table, at_exit = tmp_path / "o.csv", []
    table.write_text("earlier\n")
    for name in ("a.wav", "b.wav", "c.wav"):
        soundfile.write(tmp_path / name, sound(2.0), RATE)
    timeline = loaded.timeline

    def stopped(file, *arguments, **options):
        if file.endswith("ab"[finished] + ".wav"):
            os.kill(os.getpid(), number)
        return timeline(file, *arguments, **options)

    def raise_exit(status):
        at_exit.append(table.read_text())
        raise SystemExit(status)

    reader, writer = os.pipe()
    monkeypatch.setattr(loaded, "timeline", stopped, raising=False)
    monkeypatch.setattr(os, "_exit", raise_exit)
    monkeypatch.setattr(sys.stderr, "fileno", lambda: writer)  # which pytest's does not have
    status, _, _ = command(tmp_path, f"--csv={table}")
    what = "interrupted" if number == signal.SIGINT else "stopped"
    assert status == (130 if number == signal.SIGINT else 143)
    assert os.read(reader, 1000).decode().startswith(f"\nesc_jax: {what} after {finished} of 3 files")
    os.close(reader)
    os.close(writer)
    rows = at_exit[0].splitlines()[1:]
    assert {row.split(",")[0] for row in rows} == ({str(tmp_path / "a.wav")} if finished else set())
    assert (at_exit == ["earlier\n"]) == (finished == 0)


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
