"""Folders of results: what is skipped, repeated, refused, and shared by several processes."""

import csv
import os
import subprocess
import sys
import threading

import pytest

from esc_jax.data.audio import AudioError
from esc_jax.inference import archive
from esc_jax.inference.archive import Archive, ArchiveError


@pytest.fixture
def recordings(tmp_path):
    root = tmp_path / "recordings"
    paths = [root / name for name in ("a.wav", "2026/a.wav", "2026/may/b.wav")]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(path.as_posix().encode())
    return [str(path) for path in paths]


def open_archive(tmp_path, **settings):
    return Archive(tmp_path / "out", tmp_path / "recordings", {"hop_s": 1.0} | settings, [".csv", ".json"])


def classify(path):
    return 2.0, "", [f"csv of {path}", f"json of {path}"]


def statuses(outcomes):
    return {outcome.file: outcome.status for outcome in outcomes}


def manifest(tmp_path):
    with open(tmp_path / "out/manifest.csv", newline="") as file:
        return list(csv.DictReader(file))


NAMES = ["a.wav", "2026/a.wav", "2026/may/b.wav"]


def test_the_tree_is_that_of_the_recordings_and_what_is_finished_is_skipped(tmp_path, recordings):
    first = statuses(archive.process(open_archive(tmp_path), recordings, classify))
    assert first == dict.fromkeys(NAMES, "done")
    assert (tmp_path / "out/2026/may/b.wav.json").read_text() == f"json of {recordings[2]}"
    again = statuses(archive.process(open_archive(tmp_path), recordings, pytest.fail))
    assert again == dict.fromkeys(NAMES, "skipped")
    (tmp_path / "out/2026/a.wav.json").unlink()  # as if it was stopped between two files
    newer = os.stat(tmp_path / "out/a.wav.csv").st_mtime + 5
    os.utime(recordings[0], (newer, newer))  # another recording of this name
    third = statuses(archive.process(open_archive(tmp_path), recordings, classify))
    assert third == {"a.wav": "done", "2026/a.wav": "done", "2026/may/b.wav": "skipped"}
    assert sorted(row["file"] for row in manifest(tmp_path)) == sorted([*NAMES, "a.wav", "2026/a.wav"])


def test_failures_are_recorded_and_tried_again(tmp_path, recordings):
    def fail_once(path):
        if path == recordings[1]:
            raise AudioError(f"{path}: not readable as audio")
        return classify(path)

    outcomes = list(archive.process(open_archive(tmp_path), recordings, fail_once))
    assert statuses(outcomes) == dict.fromkeys(NAMES, "done") | {"2026/a.wav": "failed"}
    assert [row["note"] for row in manifest(tmp_path) if row["status"] == "failed"] == [
        f"{recordings[1]}: not readable as audio"
    ]
    again = statuses(archive.process(open_archive(tmp_path), recordings, classify))
    assert again == dict.fromkeys(NAMES, "skipped") | {"2026/a.wav": "done"}


def test_a_bug_is_not_a_failed_recording(tmp_path, recordings):
    def crash(path):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(archive.process(open_archive(tmp_path), recordings, crash))


def test_other_settings_and_other_folders_are_refused(tmp_path, recordings):
    list(archive.process(open_archive(tmp_path), recordings, classify))
    with pytest.raises(ArchiveError, match=r"out has results with another hop_s and top_k: give another folder"):
        open_archive(tmp_path, hop_s=2.0, top_k=5)
    (tmp_path / "out/settings.json").write_text("{")
    with pytest.raises(ArchiveError, match=r"settings\.json is damaged"):
        open_archive(tmp_path)
    with pytest.raises(ArchiveError, match="has other files and no settings"):
        Archive(tmp_path / "recordings", tmp_path / "recordings", {}, [".csv"])


def test_a_recording_is_classified_by_one_of_several_processes(tmp_path, recordings):
    """A lock is held by a file descriptor, so that threads are like processes."""
    entered, leave = threading.Event(), threading.Event()
    first, second = open_archive(tmp_path), open_archive(tmp_path)

    def slow(path):
        entered.set()
        assert leave.wait(60)
        return classify(path)

    results = []
    thread = threading.Thread(target=lambda: results.extend(archive.process(first, recordings[:1], slow)))
    thread.start()
    assert entered.wait(60)
    other = statuses(archive.process(second, recordings, classify))
    leave.set()
    thread.join()
    assert other == {"a.wav": "locked", "2026/a.wav": "done", "2026/may/b.wav": "done"}
    assert statuses(results) == {"a.wav": "done"}


def test_the_common_folder_depends_on_the_arguments_alone(tmp_path, monkeypatch):
    (tmp_path / "x/y").mkdir(parents=True)
    (tmp_path / "x/z").mkdir()
    monkeypatch.chdir(tmp_path)
    for arguments, folder in (
        (["x"], "x"),
        (["x/"], "x"),
        (["x/y", "x/z"], "x"),
        (["x/y/a.wav"], "x/y"),
        (["x/y/a.wav", "x/b.wav"], "x"),
        (["x/**/*.wav"], "x"),
        (["x/[yz]/*.wav", "x/y/a.wav"], "x"),
        ([str(tmp_path / "x/y/a.wav"), "x/z"], "x"),
    ):
        assert archive.common_folder(arguments) == tmp_path / folder, arguments


KILLED = """
import os, sys
from esc_jax.inference.archive import Archive
archive = Archive(*map(__import__("pathlib").Path, sys.argv[1:3]), {"hop_s": 1.0}, [".csv", ".json"])
os.replace = lambda old, new: os._exit(9)
with archive.locked(sys.argv[3]):
    archive.write(sys.argv[3], ["half", "half"])
"""


def test_what_a_killed_process_was_writing_is_removed(tmp_path, recordings):
    open_archive(tmp_path)
    command = [sys.executable, "-c", KILLED, tmp_path / "out", tmp_path / "recordings", recordings[1]]
    assert subprocess.run(command).returncode == 9
    assert len(list((tmp_path / "out").rglob("*.partial"))) == 1
    assert statuses(archive.process(open_archive(tmp_path), recordings, classify)) == dict.fromkeys(NAMES, "done")
    assert not list((tmp_path / "out").rglob("*.partial"))
    assert (tmp_path / "out/2026/a.wav.csv").read_text() == f"csv of {recordings[1]}"


@pytest.mark.parametrize(("cores", "expected"), [(1, 2), (2, 2), (6, 3), (64, 8), (None, 2)])
def test_several_recordings_are_in_work_at_once(monkeypatch, cores, expected):
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    together = threading.Barrier(expected, timeout=60)  # broken if fewer than `expected` wait at the same time

    def run(name):
        together.wait()
        return archive.Outcome(name, "done")

    names = [f"{number}.wav" for number in range(2 * expected)]
    assert sorted(outcome.file for outcome in archive.run_ahead(run, names)) == sorted(names)
    assert archive.recordings_at_once() == expected
