"""Files that appear whole or not at all, and folders that are one process's own or go with it."""

import signal
import subprocess
import sys

import pytest

from esc_jax import files


def test_what_is_written_takes_the_place_of_the_file_at_the_end(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with files.atomic_write(path, "w") as file:
        file.write("new")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_what_fails_leaves_the_file_as_it_was_and_nothing_beside_it(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), files.atomic_write(path, "w") as file:
        file.write("new")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_folder_goes_with_a_process_that_is_told_to_end(tmp_path):
    """In a callback of the garbage collector too, where an exception would be ignored."""
    code = """
import gc, os, pathlib, signal, sys
from esc_jax import files
with files.temporary_folder("x.", pathlib.Path(sys.argv[1])) as folder:
    (folder / "a").write_text("")
    gc.callbacks.append(lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    gc.collect()
    print("went on")
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (143, "") and not list(tmp_path.iterdir())


def test_a_folder_that_is_no_longer_needed_leaves_the_signal_as_it_was(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    with files.temporary_folder("x.", tmp_path) as folder:
        (folder / "a").write_text("")
    assert signal.getsignal(signal.SIGTERM) == before and not list(tmp_path.iterdir())


KEEPER = """
import pathlib, sys
from esc_jax import files
with files.exclusive_lock(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])):
    print("kept", flush=True)
    sys.stdin.read()
"""


def test_a_folder_of_another_process_is_refused_until_that_process_ends(tmp_path):
    folder, locks = tmp_path / "run", tmp_path / "locks"
    command = [sys.executable, "-c", KEEPER, str(folder), str(locks)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as keeper:
        assert keeper.stdout.readline() == "kept\n"
        with pytest.raises(files.LockedError, match="another process"), files.exclusive_lock(folder, locks):
            pass
        with files.exclusive_lock(tmp_path / "other", locks):
            pass
        keeper.kill()
        keeper.wait()
        with files.exclusive_lock(folder, locks):
            pass
    assert not folder.exists()


def test_where_no_lock_can_be_written_nobody_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with files.exclusive_lock(tmp_path / "run", tmp_path / "file" / "locks"):
        pass
