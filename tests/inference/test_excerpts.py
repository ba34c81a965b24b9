"""The best events of each class, cut out of recordings."""

import csv
import errno
import os
import pathlib
import shutil
import sys

import numpy as np
import pytest
import soundfile

from esc_jax.inference import excerpts
from esc_jax.inference.events import Event
from esc_jax.inference.excerpts import Detection

RATE = 22_050


@pytest.fixture
def root(tmp_path):
    """Two recordings: ramps, so that every sample tells its place."""
    folder = tmp_path / "recordings"
    (folder / "x").mkdir(parents=True)
    for name in ("a.wav", "x/b.flac"):
        soundfile.write(folder / name, np.arange(20 * RATE) / (20 * RATE), RATE, "PCM_16")
    return folder


EVERYTHING = {"a.wav", "x/b.flac", "gone.wav"}  # the recordings


def write(best, root, out, window_s, max_s, problems, bom=False, finished=EVERYTHING):
    return excerpts.write_excerpts(best, root, out, window_s, max_s, problems, finished=finished, bom=bom)


def detection(label, score, file, onset, offset, peak=None):
    return Detection(score, file, Event(onset, offset, label, score, peak))


def test_the_best_of_each_class():
    rng = np.random.default_rng(0)
    everything = [
        detection(str(rng.integers(3)), float(score), f"{i}.wav", 0.0, 1.0) for i, score in enumerate(rng.random(60))
    ]
    best = excerpts.best_events(everything, 4)
    for label in "012":
        scores = sorted((one.score for one in everything if one.event.label == label), reverse=True)[:4]
        assert [one.score for one in best if one.event.label == label] == scores
    assert [one.event.label for one in best] == sorted(one.event.label for one in best)


def test_excerpts_are_cut_with_a_second_at_both_ends(root, tmp_path):
    best = [
        detection("dog", 0.9, "a.wav", 5.0, 7.5),
        detection("dog", 0.8, "x/b.flac", 0.2, 1.0),
        detection("sea/waves", 0.7, "a.wav", 18.0, 20.0),
        detection("sea/waves", 0.6, "a.wav", 2.0, 19.0),
        detection("sea/waves", 0.5, "gone.wav", 2.0, 3.0),
    ]
    problems = []
    out = tmp_path / "clips"
    assert write(best, root, out, 1.0, 10.0, problems) == (4, 0)
    assert len(problems) == 1 and "gone.wav" in problems[0]
    spans = {
        "dog/001-a-4.0s.wav": (4.0, 8.5),
        "dog/002-b-0.0s.wav": (0.0, 2.0),
        "sea_waves/001-a-17.0s.wav": (17.0, 20.0),
        "sea_waves/002-a-1.0s.wav": (1.0, 13.0),  # at most 10 s, and the margins
    }
    with open(out / "excerpts.csv", newline="") as file:
        table = {row["excerpt"]: row for row in csv.DictReader(file)}
    assert set(table) == set(spans)
    for name, (start, stop) in spans.items():
        samples, rate = soundfile.read(out / name)
        expected = np.arange(round(start * RATE), round(stop * RATE)) / (20 * RATE)
        assert rate == RATE
        np.testing.assert_allclose(samples, expected, atol=2 / 32768)  # both files are rounded to 16 bits
        assert (float(table[name]["start_s"]), float(table[name]["end_s"])) == pytest.approx((start, stop), abs=6e-4)
    with soundfile.SoundFile(out / "dog/001-a-4.0s.wav") as file:
        assert file.title == "dog" and file.comment == "a.wav, 5.0 to 7.5 s, score 0.900"
    assert table["sea_waves/001-a-17.0s.wav"]["class"] == "sea/waves"


@pytest.mark.parametrize(
    ("peak", "start", "stop"), [(4.0, 2.0, 7.0), (10.0, 7.5, 12.5), (16.5, 13.0, 18.0), (None, 2.0, 7.0)]
)
def test_of_a_long_event_the_part_around_its_best_window_is_written(root, tmp_path, peak, start, stop):
    best = [detection("dog", 0.9, "a.wav", 2.0, 18.0, peak)]
    assert write(best, root, tmp_path, 1.0, 5.0, []) == (1, 0)
    (path,) = tmp_path.glob("dog/*.wav")
    samples, _ = soundfile.read(path)
    expected = np.arange(round((start - 1) * RATE), round((stop + 1) * RATE)) / (20 * RATE)
    np.testing.assert_allclose(samples, expected, atol=2 / 32768)  # both files are rounded to 16 bits


@pytest.mark.parametrize(
    ("onset", "offset", "peak", "start", "stop"),
    [
        (9.5, 10.5, 10.0, 5.0, 15.0),
        (0.0, 3.0, 2.0, 0.0, 7.0),
        (17.0, 20.0, 17.5, 12.5, 20.0),
        (4.0, 17.0, 10.0, 3.0, 18.0),
    ],
)
def test_an_excerpt_has_the_whole_of_its_best_window(root, tmp_path, onset, offset, peak, start, stop):
    """Windows of 10 s, in a recording of 20 s."""
    problems = []
    write([detection("dog", 0.9, "a.wav", onset, offset, peak)], root, tmp_path, 10.0, 30.0, problems)
    (path,) = tmp_path.glob("dog/*.wav")
    samples, _ = soundfile.read(path)
    expected = np.arange(round(start * RATE), round(stop * RATE)) / (20 * RATE)
    np.testing.assert_allclose(samples, expected, atol=2 / 32768)  # both files are rounded to 16 bits
    assert path.name == f"001-a-{start:.1f}s.wav" and not problems


def test_events_are_read_back(tmp_path):
    path = tmp_path / "e.csv"
    for encoding in ("utf-8", "utf-8-sig"):
        path.write_text("file,onset_s,offset_s,class,score\n'=a.wav,1.000,2.500,dog,0.5\n", encoding=encoding)
        assert excerpts.read_events(path) == [detection("dog", 0.5, "=a.wav", 1.0, 2.5)]
    path.write_text("file,onset_s,offset_s,class,score,peak_s,unfamiliar\na.wav,1.000,2.500,dog,0.5,2.000,false\n")
    assert excerpts.read_events(path)[0].event.peak_s == 2.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file;onset_s;offset_s;class;score\na.wav;1,0;2,5;dog;0,5\n", "has no column file"),
        ("file,onset_s,class,score\na.wav,1,dog,0.5\n", "has no column offset_s"),
        ("", "has no column file"),
        ("file,onset_s,offset_s,class,score\na.wav,1,2\n", "line 2: not an event"),
        ("file,onset_s,offset_s,class,score\na.wav,1,2,dog,high\n", "line 2: not an event"),
        ("file,onset_s,offset_s,class,score\na.wav,0,1,dog,1\na.wav,2,1,dog,1\n", "line 3: not an event"),
        ("file,onset_s,offset_s,class,score\na.wav,0,inf,dog,1\n", "line 2: not an event"),
    ],
)
def test_events_that_another_program_has_changed(tmp_path, text, message):
    path = tmp_path / "e.csv"
    path.write_text(text)
    with pytest.raises(excerpts.ExcerptError, match=message) as caught:
        excerpts.read_events(path)
    assert str(caught.value).startswith(str(path))


def test_classes_with_similar_names_have_folders_of_their_own(root, tmp_path):
    labels = ["a/b", "A:b", "a_b", "a:b", "a_b-2", "excerpts.csv", "\N{OWL}" * 80, "\N{OWL}" * 79 + "x"]
    best = [detection(label, 0.5, "a.wav", 2.0 + i, 3.0 + i) for i, label in enumerate(labels)]
    problems = []
    written = write(best, root, tmp_path / "clips", 1.0, 10.0, problems)
    assert written == (len(labels), 0) and not problems
    with open(tmp_path / "clips/excerpts.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    names = {row["class"]: row["excerpt"] for row in rows}
    assert len({name.lower() for name in names.values()}) == len(labels)
    assert names["a_b"].startswith("a_b/") and names["a_b-2"].startswith("a_b-2/")
    for row in rows:
        samples, _ = soundfile.read(tmp_path / "clips" / row["excerpt"])
        first = (float(row["onset_s"]) - 1) / 20  # of the ramp
        np.testing.assert_allclose(samples[0], first, atol=2 / 32768)
    assert write([], root, tmp_path / "clips", 1.0, 10.0, []) == (0, len(labels))
    assert list((tmp_path / "clips").iterdir()) == [tmp_path / "clips/excerpts.csv"]


def test_an_excerpt_that_cannot_be_written(root, tmp_path, monkeypatch):
    """The disk is full for the second one of a.wav; the others stay, and those of b.flac follow."""
    out, write_output = tmp_path / "clips", excerpts.files.write_output

    def full(path, *arguments, **options):
        if path.name.startswith("002"):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return write_output(path, *arguments, **options)

    monkeypatch.setattr(excerpts.files, "write_output", full)
    places = [("a.wav", 2.0), ("a.wav", 5.0), ("x/b.flac", 2.0)]
    best = [detection("dog", 0.9, file, onset, onset + 1) for file, onset in places]
    problems = []
    assert write(best, root, out, 1.0, 10.0, problems) == (2, 0)
    assert problems == [f"No space left on device: {out}/dog/002-a-4.0s.wav"]
    with open(out / "excerpts.csv", newline="") as file:
        assert [row["excerpt"] for row in csv.DictReader(file)] == ["dog/001-a-1.0s.wav", "dog/003-b-1.0s.wav"]


def test_what_libsndfile_refuses_is_one_sentence(root, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise soundfile.LibsndfileError(2)

    monkeypatch.setattr(excerpts.soundfile, "SoundFile", refuse)
    one = detection("dog", 0.9, "a.wav", 2.0, 3.0)
    with pytest.raises(excerpts.ExcerptError, match="^x.wav: cannot be written "):
        excerpts._encode(one, np.zeros(9, np.float32), RATE, pathlib.Path("x.wav"))


def test_excerpts_of_an_earlier_call_are_removed_and_other_files_are_kept(root, tmp_path):
    out = tmp_path / "clips"
    write(
        [detection("dog", 0.9, "a.wav", 5.0, 6.0), detection("dog", 0.8, "a.wav", 9.0, 9.5)]
        + [detection("frog", 0.9, "x/b.flac", 2.0, 3.0)], root, out, 1.0, 10.0, []
    )  # fmt: skip
    (out / "dog/002-a-8.0s.wav").rename(out / "dog/best.wav")  # a name of the user
    soundfile.write(out / "dog/003-a-1.0s.wav", np.zeros(RATE), RATE)  # not our header, such as after an edit
    (out / "dog/004-a-1.0s.wav").symlink_to(root / "a.wav")
    (out / "dog/002-a-8.0s.wav.77.partial").write_bytes(b"RIFF")  # of a killed call
    (out / "notes").mkdir()
    shutil.copy(out / "dog/001-a-4.0s.wav", out / "notes/001-a-4.0s.wav")  # sorted by the user
    (out / "notes/005-a-1.0s.wav").write_text("no audio")
    (out / "dog-2").mkdir()
    shutil.copy(out / "dog/001-a-4.0s.wav", out / "dog-2/001-a-4.0s.wav")
    kept = {f"dog/{name}.wav" for name in ("best", "003-a-1.0s", "004-a-1.0s")}
    kept |= {"notes/001-a-4.0s.wav", "notes/005-a-1.0s.wav", "dog-2/001-a-4.0s.wav", "excerpts.csv"}
    assert write([detection("dog", 0.7, "x/b.flac", 4.0, 5.0)], root, out, 1.0, 10.0, []) == (1, 2)
    names = {path.relative_to(out).as_posix() for path in out.rglob("*") if not path.is_dir()}
    assert names == kept | {"dog/001-b-3.0s.wav"} and not (out / "frog").exists()
    with open(out / "excerpts.csv", newline="") as file:
        assert [row["excerpt"] for row in csv.DictReader(file)] == ["dog/001-b-3.0s.wav"]


def names_of(out):
    return {path.relative_to(out).as_posix() for path in out.rglob("*.wav")}


def table_of(out):
    with open(out / "excerpts.csv", newline="", encoding="utf-8", errors="surrogateescape") as file:
        return {row["excerpt"]: row["file"] for row in csv.DictReader(file)}


def test_excerpts_of_recordings_that_are_away_or_unreadable_are_kept(root, tmp_path):
    out = tmp_path / "clips"
    best = [detection("dog", 0.9, "a.wav", 5.0, 6.0), detection("dog", 0.8, "x/b.flac", 2.0, 3.0)]
    write(best, root, out, 1.0, 10.0, [])
    first = {"dog/001-a-4.0s.wav": "a.wav", "dog/002-b-1.0s.wav": "x/b.flac"}
    assert table_of(out) == first and names_of(out) == set(first)
    # x/b.flac is away: it is not among the finished recordings.
    assert write(best[:1], root, out, 1.0, 10.0, [], finished={"a.wav"}) == (1, 0)
    assert table_of(out) == first and names_of(out) == set(first)
    # It cannot be read, and its event has another rank.
    (root / "x/b.flac").write_text("no audio")
    problems = []
    best = [detection("dog", 0.95, "a.wav", 9.0, 10.0), best[0], best[1]]
    assert write(best, root, out, 1.0, 10.0, problems) == (2, 1) and len(problems) == 1
    assert table_of(out) == {
        "dog/001-a-8.0s.wav": "a.wav", "dog/002-a-4.0s.wav": "a.wav", "dog/002-b-1.0s.wav": "x/b.flac"
    }  # fmt: skip
    assert names_of(out) == set(table_of(out))


def test_files_with_the_name_of_an_excerpt_are_not_replaced(root, tmp_path):
    """A link, a sound that another program has saved, and one that is not in the table."""
    out, mine = tmp_path / "clips", tmp_path / "mine.wav"
    best = [detection("dog", 0.9 - 0.1 * i, "a.wav", 4.0 * i + 2, 4.0 * i + 3) for i in range(3)]
    write(best, root, out, 1.0, 10.0, [])
    paths = [out / f"dog/00{i + 1}-a-{4 * i + 1}.0s.wav" for i in range(3)]
    assert names_of(out) == {path.relative_to(out).as_posix() for path in paths}
    paths[0].rename(mine)
    paths[0].symlink_to(mine)
    samples, rate = soundfile.read(paths[1])
    soundfile.write(paths[1], samples[:100], rate)
    lines = [line for line in (out / "excerpts.csv").read_text().splitlines() if "/003-" not in line]
    (out / "excerpts.csv").write_text("\n".join(lines) + "\n")
    before = [path.read_bytes() for path in (mine, *paths)]
    for _ in range(2):
        assert write(best, root, out, 1.0, 10.0, []) == (3, 0)
        assert [path.read_bytes() for path in (mine, *paths)] == before and paths[0].is_symlink()
        assert set(table_of(out)) == {f"dog/{path.stem}-2.wav" for path in paths}
    assert names_of(out) == {f"dog/{path.stem}{end}.wav" for path in paths for end in ("", "-2")}


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are bytes on Linux only")
def test_a_recording_whose_name_is_not_utf8(root, tmp_path):
    name = os.fsdecode(b"b\xe9ll.wav")
    shutil.copy(root / "a.wav", root / name)
    problems = []
    assert write(
        [detection("dog", 0.9, name, 5.0, 6.0)], root, tmp_path / "clips", 1.0, 10.0, problems, False, {name}
    ) == (1, 0)
    (path,) = (tmp_path / "clips").glob("dog/*.wav")
    assert soundfile.SoundFile(path).comment.startswith("b\N{REPLACEMENT CHARACTER}ll.wav, ") and not problems
    assert list(table_of(tmp_path / "clips").values()) == [name]


def test_a_table_that_is_not_one_of_excerpts_is_not_replaced(root, tmp_path):
    assert excerpts.is_replaceable(tmp_path / "gone") and excerpts.is_replaceable(tmp_path)
    table = tmp_path / "excerpts.csv"
    for bom in (False, True):
        write([detection("dog", 0.9, "a.wav", 5.0, 6.0)], root, tmp_path, 1.0, 10.0, [], bom)
        assert excerpts.is_replaceable(tmp_path) and table.read_bytes().startswith(b"\xef\xbb\xbf") == bom
    table.write_text("excerpt,class,score,file,onset_s,offset_s\n")  # of an earlier version
    assert excerpts.is_replaceable(tmp_path)
    table.write_text("excerpt,class,score,file,onset_s,offset_s,checked\n")
    assert not excerpts.is_replaceable(tmp_path)
    table.write_text('"' + "x" * 200_000)
    assert not excerpts.is_replaceable(tmp_path)
