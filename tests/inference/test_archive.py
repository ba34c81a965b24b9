"""Folders of results: what is skipped, repeated, refused, and shared by several processes."""

import contextlib
import csv
import errno
import os
import pathlib
import shutil
import subprocess
import sys
import threading

import pytest

from esc_jax.data.audio import AudioError
from esc_jax.inference import archive
from esc_jax.inference.archive import Archive, ArchiveError
from esc_jax.inference.manifest import ManifestError


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


def change(recording, seconds):
    """Moves the time of change of a recording."""
    status = os.stat(recording)
    time_ns = status.st_mtime_ns + round(seconds * 1e9)
    os.utime(recording, ns=(time_ns, time_ns))


NAMES = ["a.wav", "2026/a.wav", "2026/may/b.wav"]


def test_the_tree_is_that_of_the_recordings_and_what_is_finished_is_skipped(tmp_path, recordings):
    first = statuses(archive.process(open_archive(tmp_path), recordings, classify))
    assert first == dict.fromkeys(NAMES, "done")
    assert (tmp_path / "out/2026/may/b.wav.json").read_text() == f"json of {recordings[2]}"
    again = statuses(archive.process(open_archive(tmp_path), recordings, pytest.fail))
    assert again == dict.fromkeys(NAMES, "skipped")
    (tmp_path / "out/2026/a.wav.json").unlink()  # as if it was stopped between two files
    change(recordings[0], 5)  # another recording of this name
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
    with pytest.raises(
        ArchiveError, match=r"out has results with other settings \(hop_s: 1\.0, now 2\.0; top_k: null, now 5\)"
    ):
        open_archive(tmp_path, hop_s=2.0, top_k=5)
    (tmp_path / "out/settings.json").write_text("{")
    with pytest.raises(ArchiveError, match=r"settings\.json is damaged"):
        open_archive(tmp_path)
    with pytest.raises(ArchiveError, match="has other files and no settings"):
        Archive(tmp_path / "recordings", tmp_path / "recordings", {}, [".csv"])


def test_results_of_another_folder_are_refused(tmp_path):
    """Recorders name their files alike on every card."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "REC001.wav").write_text(name)
    out, (one, two) = tmp_path / "out", (tmp_path / "one", tmp_path / "two")
    list(archive.process(Archive(out, one, {}, [".csv", ".json"]), [str(one / "REC001.wav")], classify))
    with pytest.raises(ArchiveError) as error:
        Archive(out, two, {}, [".csv", ".json"])
    assert str(error.value) == (
        f"{out} has results of the recordings in {one}, not of those in {two}: give another --out folder"
    )
    one.rename(tmp_path / "moved")
    settings = out / "settings.json"
    settings.write_text(settings.read_text().replace(str(one), str(tmp_path / "moved")))
    moved = Archive(out, tmp_path / "moved", {}, [".csv", ".json"])
    again = archive.process(moved, [str(tmp_path / "moved/REC001.wav")], pytest.fail)
    assert statuses(again) == {"REC001.wav": "skipped"}


@pytest.mark.parametrize("content", ["[" * 100_000, "[]", "\xff", '{"recordings": ["'], ids=str.__len__)
def test_damaged_settings_are_refused(tmp_path, content):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/settings.json").write_text(content, encoding="latin-1")
    with pytest.raises(ArchiveError, match=r"settings\.json is damaged|has results with other settings"):
        open_archive(tmp_path)


@pytest.mark.parametrize("seconds", [-86_400, -5, 0.5, 1e9])
def test_a_recording_with_another_time_of_change_is_classified_again(tmp_path, recordings, seconds):
    """Also an older one, which replaced it, and one whose time lies in the future; each is then finished."""
    list(archive.process(open_archive(tmp_path), recordings, classify))
    change(recordings[1], seconds)
    again = statuses(archive.process(open_archive(tmp_path), recordings, classify))
    assert again == dict.fromkeys(NAMES, "skipped") | {"2026/a.wav": "done"}
    third = statuses(archive.process(open_archive(tmp_path), recordings, pytest.fail))
    assert third == dict.fromkeys(NAMES, "skipped")


@pytest.mark.parametrize("seconds", [0.1, 60])
def test_a_recording_that_changes_while_it_is_read_is_classified_again(tmp_path, recordings, seconds):
    def grow(path):
        change(path, seconds)
        return classify(path)

    change(recordings[0], -3600)
    assert statuses(archive.process(open_archive(tmp_path), recordings[:1], grow)) == {"a.wav": "done"}
    assert statuses(archive.process(open_archive(tmp_path), recordings[:1], classify)) == {"a.wav": "done"}
    assert statuses(archive.process(open_archive(tmp_path), recordings[:1], pytest.fail)) == {"a.wav": "skipped"}


def test_results_that_were_edited_are_kept(tmp_path, recordings):
    list(archive.process(open_archive(tmp_path), recordings, classify))
    edited = tmp_path / "out/a.wav.csv"
    edited.write_text("corrected by hand")
    again = statuses(archive.process(open_archive(tmp_path), recordings, pytest.fail))
    assert again == dict.fromkeys(NAMES, "skipped") and edited.read_text() == "corrected by hand"


def test_a_row_that_a_full_disk_cut_off_does_not_merge_with_the_next(tmp_path, recordings):
    """Wherever it ends: a csv reader finds the other rows, and the recording gets a new one."""

    def noted(path):
        return 2.0, f'{path}: "a, b", ends early', ["", ""]

    store = open_archive(tmp_path)
    list(archive.process(store, recordings[:1], noted))
    path = tmp_path / "out/manifest.csv"
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        list(archive.process(open_archive(tmp_path), recordings[:2], noted))
        list(archive.process(open_archive(tmp_path), recordings[:2], pytest.fail))
        rows = [row for row in manifest(tmp_path) if row["finished"]]
        assert {row["file"] for row in rows if row["status"] == "done"} == {"a.wav", "2026/a.wav"}, length
        (tmp_path / "out/2026/a.wav.csv").unlink()


def test_a_manifest_that_is_no_csv_file_is_an_error_of_one_sentence(tmp_path, recordings):
    list(archive.process(open_archive(tmp_path), recordings, classify))
    with open(tmp_path / "out/manifest.csv", "a") as file:
        file.write("x" * (csv.field_size_limit() + 1) + "\n")
    with pytest.raises(ManifestError, match=r"manifest\.csv is damaged: remove it, and run the same command again$"):
        open_archive(tmp_path)


def test_a_recording_without_a_row_is_not_finished(tmp_path, recordings, monkeypatch):
    """Its note would be lost."""

    def full(self, *_):
        raise OSError(errno.ENOSPC, "No space left on device")

    change(recordings[0], -60)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(Archive, "record", full)
        list(archive.process(open_archive(tmp_path), recordings[:1], classify))
    assert statuses(archive.process(open_archive(tmp_path), recordings[:1], classify)) == {"a.wav": "done"}


def test_a_full_disk_ends_the_command_and_the_next_one_continues(tmp_path, recordings, monkeypatch):
    """Further recordings would be classified for nothing."""

    @contextlib.contextmanager
    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device")
        yield

    list(archive.process(open_archive(tmp_path), recordings[:1], classify))
    with monkeypatch.context() as patch, pytest.raises(archive.FullError) as raised:
        patch.setattr(archive.files, "atomic_write", full)
        list(archive.process(open_archive(tmp_path), recordings, classify))
    expected = "could not be written (No space left on device): free some space and run the same command again"
    assert str(raised.value) == f"{tmp_path / 'out'} {expected}" and raised.value.status == 1
    assert [row["status"] for row in manifest(tmp_path)] == ["done"]
    outcomes = statuses(archive.process(open_archive(tmp_path), recordings, classify))
    assert outcomes == {"a.wav": "skipped", "2026/a.wav": "done", "2026/may/b.wav": "done"}


def test_a_skipped_recording_keeps_its_note(tmp_path, recordings):
    note = "=a.wav: ends after 2 s"

    def noted(path):
        return 2.0, note if path == recordings[0] else "", ["", ""]

    early = open_archive(tmp_path)  # another process, which has read the manifest before
    notes = [
        {outcome.file: outcome.note for outcome in archive.process(store, recordings, function)}
        for store, function in ((open_archive(tmp_path), noted), (open_archive(tmp_path), pytest.fail), (early, noted))
    ]
    assert notes == 3 * [dict.fromkeys(NAMES, "") | {"a.wav": note}]
    assert len(manifest(tmp_path)) == 3
    os.rename(recordings[0], tmp_path / "a.wav")  # a disk that is missing for a while
    missing = archive.process(open_archive(tmp_path), recordings[:1], lambda path: os.stat(path) and noted(path))
    assert statuses(missing) == {"a.wav": "failed"}
    os.rename(tmp_path / "a.wav", recordings[0])
    (back,) = archive.process(open_archive(tmp_path), recordings[:1], pytest.fail)
    assert (back.status, back.note) == ("skipped", note)
    assert [row["status"] for row in manifest(tmp_path) if row["file"] == "a.wav"] == ["done", "failed", "done"]


def test_a_recording_that_fails_has_no_results(tmp_path, recordings):
    def fail(path):
        raise AudioError(f"{path}: not readable as audio")

    list(archive.process(open_archive(tmp_path), recordings, classify))
    change(recordings[1], 5)
    assert statuses(archive.process(open_archive(tmp_path), recordings, fail))["2026/a.wav"] == "failed"
    assert [path.exists() for recording in recordings for path in open_archive(tmp_path).paths(recording)] == [
        True, True, False, False, True, True,
    ]  # fmt: skip


def test_two_processes_that_begin_at_once(tmp_path, recordings):
    """The second sees the unfinished settings of the first, or of a process that was killed, and its locks."""
    (tmp_path / "out/.locks").mkdir(parents=True)
    partial = tmp_path / "out/settings.json.123.partial"
    partial.write_text("{")
    assert statuses(archive.process(open_archive(tmp_path), recordings, classify)) == dict.fromkeys(NAMES, "done")
    assert not partial.exists()


def test_what_another_process_had_locked_is_tried_again(tmp_path, recordings):
    """The other process gives up its recording while this one works on the rest."""
    held = contextlib.ExitStack()
    assert held.enter_context(open_archive(tmp_path).locked(recordings[0]))

    def release(path):
        held.close()
        return classify(path)

    outcomes = [
        (outcome.file, outcome.status) for outcome in archive.process(open_archive(tmp_path), recordings, release)
    ]
    assert sorted(outcomes) == sorted((name, "done") for name in NAMES)


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


def test_a_result_file_replaces_no_other_file(tmp_path):
    root = tmp_path / "recordings"
    root.mkdir()
    paths = [str(root / name) for name in ("a.wav", "a.wav.events", "manifest")]
    for path in paths:
        pathlib.Path(path).touch()

    def classify(path):
        return 1.0, "", [f"{kind} of {os.path.basename(path)}" for kind in ("windows", "events")]

    def store():
        return Archive(tmp_path / "out", root, {}, [".csv", ".events.csv"])

    outcomes = {one.file: one for one in archive.process(store(), paths, classify)}
    assert {name: one.status for name, one in outcomes.items()} == {
        "a.wav": "done", "a.wav.events": "failed", "manifest": "failed"
    }  # fmt: skip
    assert outcomes["a.wav.events"].note == (
        f"{paths[1]}: its result file a.wav.events.csv would replace that of a.wav: rename one of them, or give it"
        " another --out folder"
    )
    assert outcomes["manifest"].note == (
        f"{paths[2]}: its result file manifest.csv would replace a file of {tmp_path / 'out'}: rename it"
    )
    assert (tmp_path / "out/a.wav.events.csv").read_text() == "events of a.wav"
    # Alone in a second call, too: the manifest tells whose file it is.
    (again,) = archive.process(store(), paths[1:2], classify)
    assert again == outcomes["a.wav.events"]
    assert [row["status"] for row in manifest(tmp_path)] == ["failed", "failed", "done", "failed"]


def test_names_that_differ_in_case_where_the_folder_ignores_case(tmp_path):
    root = tmp_path / "recordings"
    root.mkdir()
    paths = [str(root / name) for name in ("A.wav", "a.wav")]
    for path in paths:
        pathlib.Path(path).write_text(path)
    assert statuses(archive.process(open_archive(tmp_path), paths, classify)) == {"A.wav": "done", "a.wav": "done"}
    shutil.rmtree(tmp_path / "out")
    open_archive(tmp_path)
    (tmp_path / "out/SETTINGS.JSON").touch()  # as on a file system that ignores case
    assert statuses(archive.process(open_archive(tmp_path), paths, classify)) == {"A.wav": "done", "a.wav": "failed"}
    (outcome,) = archive.process(open_archive(tmp_path), paths[1:], classify)
    assert outcome.status == "failed" and "would replace that of A.wav" in outcome.note
    os.rename(*paths)  # there is one file now: its results replace those under its old name
    assert statuses(archive.process(open_archive(tmp_path), paths[1:], classify)) == {"a.wav": "done"}
