"""The command on recordings: what it writes, draws and says."""

import csv
import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
import soundfile

from esc_jax import build
from esc_jax.cli import predict
from esc_jax.frontends.log_mel import mel_bank
from esc_jax.inference import classifier, output, recordings
from esc_jax.inference.timeline import Timeline
from esc_jax.report import timeline_plot as plots_timeline

ROOT = pathlib.Path(__file__).resolve().parents[1]
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
    return classifier.SoundClassifier(build.restore(untrained))


@pytest.fixture
def command(loaded, monkeypatch, capsys):
    """The command in this process, with the model in memory: `command("a.wav")` → (status, stdout, stderr)."""
    monkeypatch.setattr(parallel, "initialize", lambda *_, **__: None)
    monkeypatch.setattr(classifiers, "load_classifier", lambda path: loaded)

    def call(*arguments):
        status = 0
        try:
            status = predict.main(["--checkpoint=run", *map(str, arguments)])
        except SystemExit as stopped:
            status = stopped.code
        said = capsys.readouterr()
        return status, said.out, said.err

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
        "predict", f"--checkpoint={untrained}", str(folder), str(tmp_path / "none.wav"), "--window_s=2", "--top_k=2",
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
    assert (document["classes"], document["window_s"], document["hop_s"]) == (CLASSES, 2.0, 1.0)
    assert [f["file"] for f in document["files"]] == names and len(document["problems"]) == 2
    with open(tmp_path / "o.csv", newline="") as file:
        table = list(csv.reader(file))
    assert table[0] == ["file", "start_s", "end_s", "class", "probability"]
    expected = []
    for found in document["files"]:
        timeline = loaded.timeline(found["file"], 2.0)
        assert [w["start_s"] for w in found["windows"]] == pytest.approx(timeline.starts, abs=1e-4)
        for row, window in enumerate(found["windows"]):
            order = np.argsort(-timeline.probabilities[row])[: 0 if window["silent"] else 2]
            assert [t["class"] for t in window["top"]] == [CLASSES[i] for i in order]
            # The command compiles without optimisation, as these tests do; only the last digits may differ.
            shares = timeline.probabilities[row, order]
            assert [t["probability"] for t in window["top"]] == pytest.approx(shares, abs=2e-6)
            pairs = [(t["class"], t["probability"]) for t in window["top"]] or [("silence", "")]
            expected += [[found["file"], str(window["start_s"]), str(window["end_s"]), c, str(p)] for c, p in pairs]
    assert table[1:] == expected
    assert [w["silent"] for w in document["files"][3]["windows"]] == [True, True]
    assert document["files"][3]["windows"][0]["level_db"] is None


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


def made():
    """A rainy timeline with a silence and a strange end, eight windows of 4 s."""
    starts = np.array([0.0, 2, 4, 6, 8, 10, 12, 13])
    shares = np.full((8, 3), 0.1, np.float32)
    shares[np.arange(8), [0, 0, 1, 1, 1, 0, 0, 0]] = 0.8
    silent, strange = np.arange(8) == 4, np.arange(8) > 4
    return Timeline(tuple(CLASSES), starts, starts + 4, shares, np.zeros(8), silent, strange, 3617.0)


def test_the_table_has_a_row_for_every_passage():
    assert output.table("x.wav", made(), 2) == (
        "x.wav: 3617.0 s, 8 windows\n"
        "            0:00.0 –   0:05.0   rain       80.0 %   sea_waves  10.0 %\n"
        "            0:05.0 –   0:09.0   sea_waves  80.0 %   rain       10.0 %\n"
        "            0:09.0 –   0:11.0   silence\n"
        "            0:11.0 –1:00:17.0   rain       80.0 %   sea_waves  10.0 %   (unlike anything in training)\n"
        "  whole     0:00.0 –1:00:17.0   rain       60.0 %   sea_waves  30.0 %\n"
    )


def test_what_stands_for_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (
        "d/b.WAV",
        "d/a.ogg",
        "d/.hidden.wav",
        "d/.git/x.wav",
        "d/e/c.mp3",
        "d/t.txt",
        "[1].wav",
        "x1.wav",
        "x2.wav",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    found, problems = recordings.find_recordings(["x2.wav", "d", "x*.wav", "[1].wav", "d/**/*.mp3", "gone.wav"])
    assert found == ["x2.wav", "d/a.ogg", "d/b.WAV", "d/e/c.mp3", "x1.wav", "[1].wav", "gone.wav"]
    assert problems == []
    assert recordings.find_recordings(["empty", "y*.wav"]) == (
        [],
        ["empty: the folder holds no recordings", "y*.wav: no file matches"],
    )
    url = "https://example.org/storm.wav?raw=1"
    assert recordings.find_recordings([url]) == ([], [f"{url}: URLs are not fetched; download it, and give the file"])


def test_names_of_plots(tmp_path):
    taken = set()
    names = [
        output.plot_path(tmp_path / "o.png", f, taken, False).name for f in ("a/x.wav", "y.ogg", "b/x.wav", "x.mp3")
    ]
    assert names == ["o-x.png", "o-y.png", "o-x-2.png", "o-x-3.png"]
    assert output.plot_path(tmp_path / "o.png", "x.wav", set(), True).name == "o.png"


MISTAKES = [
    ([], "the following arguments are required: FILE"),
    (["a.wav", "--windows_s=3"], "there is no --windows_s; did you mean --window_s?"),
    (["a.wav", "--window_s=0"], "--window_s: 0: from 0.01 to 600 seconds are possible"),
    (["a.wav", "--hop_s=-1"], "--hop_s: -1: from 0.01 to 600 seconds are possible"),
    (["a.wav", "--hop_s=nan"], "--hop_s: nan: from 0.01 to 600 seconds are possible"),
    (["a.wav", "--hop_s=fast"], "--hop_s: fast is not a number of seconds"),
    (["a.wav", "--top_k=0"], "--top_k: 0: a number of classes, 1 or more"),
    (
        ["a.wav", "--segments=begin,midle"],
        "--segments: there is no segment 'midle': choose of begin, middle, end; did you mean middle?",
    ),
    (["a.wav", "--silence_db=20"], "--silence_db: 20: a level from -200 to 0 dB below full scale, or off"),
    (["a.wav", "--csv=no/such/o.csv"], "--csv: no/such/o.csv: its folder does not exist"),
    (["a.wav", "--json=tests"], "--json: tests: is a folder"),
    (["a.wav", "--plot=o.bmp"], "--plot: o.bmp: the name must end in .png, .pdf, .svg"),
    (["--json", "a.wav", "b.wav"], "--json: a.wav: the name must end in .json"),
    (["--csv", "a.wav", "b.wav"], "--csv: a.wav: the name must end in .csv"),
    (["a.wav", "o.csv", "--csv=./o.csv"], "o.csv would be read and written over: name another file for the results"),
]


@pytest.mark.parametrize("arguments, sentence", MISTAKES, ids=lambda x: " ".join(x) if isinstance(x, list) else "")
def test_a_wrong_command_line_is_one_sentence(command, arguments, sentence):
    status, out, err = command(*arguments)
    assert (status, out, err) == (2, "", f"esc_jax: {sentence}\n")


def test_a_checkpoint_that_is_none_is_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(parallel, "initialize", lambda *_, **__: None)
    assert predict.main([f"--checkpoint={tmp_path}", "a.wav"]) == 1
    assert capsys.readouterr().err == f"esc_jax: {tmp_path}: holds no checkpoint\n"


def test_options_reach_the_timeline(command, tmp_path):
    soundfile.write(tmp_path / "a.wav", sound(6.0) * 1e-3, RATE, subtype="FLOAT")  # about −60 and −73 dB
    options = ["--silence_db=off", "--smooth_s=2", "--hop_s=0.5", f"--json={tmp_path}/o.json"]
    status, out, err = command(*options, tmp_path / "a.wav", "--window_s=1")
    assert (status, err) == (0, "") and "silence" not in out
    found = json.loads((tmp_path / "o.json").read_text())
    assert found["silence_db"] is None and (found["smooth_s"], found["hop_s"]) == (2.0, 0.5)
    assert len(found["files"][0]["windows"]) == 11
    assert "silence" in command(tmp_path / "a.wav")[1]


def test_a_file_that_breaks_off_is_shown_and_reported(command, tmp_path):
    soundfile.write(tmp_path / "a.mp3", sound(10.0, 44_100), 44_100)
    content = (tmp_path / "a.mp3").read_bytes()
    (tmp_path / "a.mp3").write_bytes(content[: len(content) // 2])
    status, out, err = command(tmp_path / "a.mp3", f"--json={tmp_path}/o.json")
    assert status == 1 and out.startswith(f"{tmp_path}/a.mp3: ")
    assert err.startswith(f"esc_jax: {tmp_path}/a.mp3: breaks off after ") and err.count("\n") == 1
    assert json.loads((tmp_path / "o.json").read_text())["files"][0]["note"] == err[len("esc_jax: ") : -1]


def test_an_interruption_keeps_what_is_done(command, loaded, monkeypatch, tmp_path):
    for name in ("a.wav", "b.wav", "c.wav"):
        soundfile.write(tmp_path / name, sound(2.0), RATE)
    listen = loaded.timeline

    def interrupted(file, *arguments, **options):
        if file.endswith("b.wav"):
            raise KeyboardInterrupt
        return listen(file, *arguments, **options)

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
    listen = loaded.timeline

    def exhausted(file, *arguments, **options):
        if file.endswith("b.wav"):
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 9 GB\nand a page more")
        return listen(file, *arguments, **options)

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
    ("error", "status", "said"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (jax.errors.JaxRuntimeError(""), 1, "the device could not do it (JaxRuntimeError)"),
        (OSError(28, "No space left on device"), 1, "No space left on device: writing the results"),
    ],
)
def test_what_ends_a_command_while_it_loads(command, monkeypatch, error, status, said):
    def load(path):
        raise error

    monkeypatch.setattr(classifiers, "load_classifier", load)
    assert command("a.wav") == (status, "", f"esc_jax: {said}\n")


def test_what_is_said_and_cannot_be_written_is_told():
    code = "import sys; from esc_jax.errors import command; sys.exit(command(lambda argv: print('done'))())"
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, "esc_jax: No space left on device: writing the results\n")


def test_names_that_are_no_text(command, tmp_path):
    name = os.fsdecode(os.fsencode(tmp_path) + b'/\xff,"a.wav')
    soundfile.write(tmp_path / "a.wav", sound(2.0), RATE)
    os.rename(tmp_path / "a.wav", name)
    found, _ = recordings.find_recordings([str(tmp_path)])
    assert found == [name]
    timeline = made()
    output.write_csv(tmp_path / "o.csv", [(name, timeline)], 1)
    with open(tmp_path / "o.csv", newline="", errors="surrogateescape") as file:
        assert {row[0] for row in csv.reader(file)} == {"file", name}


def test_help_is_quick_because_it_imports_little(run):
    code = "import sys, esc_jax.predict; print([m for m in ('jax', 'numpy', 'matplotlib') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
    done = run("predict", "--help")
    for option in (
        "checkpoint",
        "window_s",
        "hop_s",
        "top_k",
        "segments",
        "smooth_s",
        "silence_db",
        "json",
        "csv",
        "plot",
    ):
        assert f"--{option}" in done.stdout


def test_an_overview_is_the_mean_of_its_frames():
    signal = sound(20.0)[:, 0]
    overview = plots_timeline.Overview(RATE, columns=50)
    for block in np.split(signal, [3, 900, 17_000, 17_001, 200_000]):
        overview.add(block)
    size, hop = 1024, 512
    frames = np.stack([signal[k : k + size] for k in range(0, len(signal) - size + 1, hop)]) * np.hanning(size)
    power = np.abs(np.fft.rfft(frames)) ** 2 @ mel_bank(RATE, size, 64, 0.0, 8000.0, False)
    per = 8  # 624 frames, in more than 50 and less than 100 columns
    expected = np.array([power[k : k + per].mean(axis=0) for k in range(0, len(power), per)]).T
    found = overview.image()
    assert found.shape == expected.shape == (64, 78)
    # dB of float32 powers
    np.testing.assert_allclose(found, np.maximum(10 * np.log10(expected / expected.max() + 1e-12), -80), atol=0.01)


@pytest.mark.parametrize("signal", [sound(0.01)[:, 0], np.zeros(5 * RATE, np.float32)])
def test_an_overview_of_next_to_nothing(signal):
    overview = plots_timeline.Overview(RATE)
    overview.add(signal)
    image = overview.image()
    assert image.shape[0] == 64 and image.shape[1] >= 1 and np.isfinite(image).all() and image.max() <= 0


def drawn(timeline):
    overview = plots_timeline.Overview(RATE)
    overview.add(sound(5.0)[:, 0])
    return plots_timeline.recording(timeline, overview, "title").axes


def test_a_picture_shows_leaders_silence_and_time(tmp_path):
    timeline = made()
    overview = plots_timeline.Overview(RATE)
    overview.add(sound(5.0)[:, 0])
    spectrogram, classes, ribbon = plots_timeline.recording(timeline, overview, "title", tmp_path / "o.png").axes
    assert (tmp_path / "o.png").read_bytes()[:4] == b"\x89PNG"
    assert spectrogram.get_title() == "title"
    assert [t.get_text() for t in classes.get_yticklabels()] == ["rain", "sea waves", "dog"]  # by windows led
    cells = classes.collections[0].get_array().reshape(3, 8, 3)
    strip = ribbon.collections[0].get_array().reshape(8, 3)
    grey = 200 / 255
    np.testing.assert_allclose(cells[:, 4], grey)
    np.testing.assert_allclose(strip[4], grey)
    blue, orange = (np.array([31, 119, 180]) / 255, np.array([255, 127, 14]) / 255)
    np.testing.assert_allclose(strip[[0, 1, 5, 6, 7]], np.tile(blue, (5, 1)))
    np.testing.assert_allclose(strip[[2, 3]], np.tile(orange, (2, 1)))
    np.testing.assert_allclose(cells[0, 0], 0.2 + 0.8 * blue, atol=1e-6)
    np.testing.assert_allclose(cells[0, 2], 0.9 + 0.1 * blue, atol=1e-6)
    assert [t.get_text() for t in ribbon.texts] == ["rain?"]  # the one passage wide enough for its name
    assert len(ribbon.patches) == 3 and all(patch.get_hatch() for patch in ribbon.patches)
    assert "unlike anything in training" in ribbon.get_xlabel()
    assert ribbon.get_xlim() == (0, 3617)
    assert ribbon.xaxis.get_major_formatter()(600, 0) == "10:00"


def test_a_picture_of_too_many_classes_and_of_silence():
    names = tuple(f"c{i}" for i in range(20))
    starts = np.arange(20.0)
    shares = np.eye(20, dtype=np.float32)
    many = Timeline(names, starts, starts + 1, shares, np.zeros(20), np.zeros(20, bool), np.zeros(20, bool), 20.0)
    _, classes, ribbon = drawn(many)
    assert len(classes.get_yticklabels()) == 12
    assert "8 other classes" in ribbon.get_xlabel() and "silence" not in ribbon.get_xlabel()
    quiet = Timeline(names, starts, starts + 1, shares, np.zeros(20), np.ones(20, bool), np.zeros(20, bool), 20.0)
    _, classes, ribbon = drawn(quiet)
    assert classes.get_yticklabels() == [] and [t.get_text() for t in ribbon.texts] == ["silence"]
