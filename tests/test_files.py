"""Atomic writes, locks, temporary folders, and manifests of checksums."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from esc_jax import files


def test_names_that_begin_with_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert files.expand("~/a") == tmp_path / "a" and files.expand("a/~b") == pathlib.Path("a/~b")
    assert files.expand("~no such user") == pathlib.Path("~no such user")


@pytest.mark.skipif(os.name != "posix", reason="needs symbolic links")
def test_a_loop_of_links_is_a_path(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "link").symlink_to(tmp_path)
    assert files.resolve(tmp_path / "loop").name == "loop"
    assert files.resolve(tmp_path / "link/a") == tmp_path.resolve() / "a"


def test_atomic_write_replaces_the_file_at_the_end(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with files.atomic_write(path, "w") as file:
        file.write("new")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_atomic_write_of_a_file_with_the_longest_name(tmp_path):
    path = tmp_path / ("a" * 255)
    with files.atomic_write(path, "w") as file:
        file.write("new")
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_atomic_write_that_fails_changes_nothing(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), files.atomic_write(path, "w") as file:
        file.write("new")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_an_output_replaces_the_file_behind_a_link(tmp_path):
    target, link = tmp_path / "a.txt", tmp_path / "link.txt"
    target.write_text("old")
    target.chmod(0o640)
    link.symlink_to(target)
    with files.write_output(link, "w") as file:
        file.write("new")
        file.flush()
        assert target.read_text() == "old"
    assert link.is_symlink() and target.read_text() == "new" and target.stat().st_mode & 0o777 == 0o640
    with pytest.raises(RuntimeError), files.write_output(link, "w") as file:
        file.write("newer")
        raise RuntimeError
    assert target.read_text() == "new" and sorted(tmp_path.iterdir()) == [target, link]


def test_an_output_to_a_device_or_a_pipe_is_written_directly(tmp_path):
    (tmp_path / "null").symlink_to(os.devnull)
    with files.write_output(tmp_path / "null", "w") as file:
        file.write("x")
    assert (tmp_path / "null").is_char_device()
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    with files.write_output(tmp_path / "pipe", "w") as file:
        file.write("through")
    assert os.read(reader, 100) == b"through" and (tmp_path / "pipe").is_fifo()
    os.close(reader)


def test_the_error_of_an_output_names_the_file_that_was_asked_for(tmp_path):
    path = tmp_path / "nowhere/a.txt"
    with pytest.raises(FileNotFoundError) as caught, files.write_output(path):
        pass
    assert caught.value.filename == str(path)
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(OSError, match="No space") as caught, files.write_output(tmp_path / "a.txt"):
        raise OSError(28, "No space left on device")
    assert caught.value.filename == str(tmp_path / "a.txt") and (tmp_path / "a.txt").read_text() == "old"


def test_a_temporary_folder_is_removed_on_sigterm(tmp_path):
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


def test_a_temporary_folder_restores_the_signal_handlers(tmp_path):
    before = [signal.getsignal(number) for number in files._SIGNALS]
    with files.temporary_folder("x.", tmp_path) as folder:
        (folder / "a").write_text("")
    assert [signal.getsignal(number) for number in files._SIGNALS] == before and not list(tmp_path.iterdir())


HOLDER = """
import pathlib, sys
from esc_jax import files
with files.exclusive_lock(pathlib.Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_a_folder_is_locked_until_its_process_ends(tmp_path):
    folder = tmp_path / "run"
    command = [sys.executable, "-c", HOLDER, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(files.LockedError, match="another process"), files.exclusive_lock(folder):
            pass
        with files.exclusive_lock(tmp_path / "other"):
            pass
        holder.kill()
        holder.wait()
        with files.exclusive_lock(folder):
            pass
    assert not (tmp_path / "other").exists()  # nothing was written into it
    (folder / "result").write_text("")
    with files.exclusive_lock(folder):
        pass
    assert (folder / "result").exists()


def test_where_no_lock_can_be_written_nothing_is_locked(tmp_path):
    (tmp_path / "file").write_text("")
    with files.exclusive_lock(tmp_path / "file"), files.exclusive_lock(tmp_path / "file" / "run"):
        pass
    assert (tmp_path / "file").is_file()


def test_a_file_lock_without_a_place_to_write(tmp_path):
    with files.file_lock(tmp_path / "locks" / "a.lock") as held:
        assert held
    (tmp_path / "file").write_text("")
    with files.file_lock(tmp_path / "file" / "a.lock") as held:
        assert not held


def test_text_is_utf8_whatever_the_locale(tmp_path):
    code = (
        "import pathlib, sys; from esc_jax import files\n"
        "with files.atomic_write(pathlib.Path(sys.argv[1]), 'w') as file:\n"
        "    file.write('caf\\u00e9')"
    )
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a")], env=environment, check=True)
    assert (tmp_path / "a").read_bytes() == "café".encode()


@pytest.fixture
def folder(tmp_path):
    """Two files with a manifest."""
    (tmp_path / "a.bin").write_bytes(bytes(range(256)) * 9)
    (tmp_path / "b.txt").write_text("b")
    files.write_manifest(tmp_path)
    return tmp_path


def test_a_manifest_lists_every_file(folder):
    assert not files.manifest_mismatch(folder)
    assert json.loads((folder / files.MANIFEST).read_text())["files"]["a.bin"][0] == 256 * 9
    (folder / "c.txt").write_text("later")
    assert not files.manifest_mismatch(folder)
    files.write_manifest(folder)
    (folder / "c.txt").unlink()
    assert files.manifest_mismatch(folder) == "c.txt cannot be read"


def test_a_damaged_file_is_named(folder):
    content = (folder / "a.bin").read_bytes()
    for damaged in (b"", content[:-1], content + b"a", b"\1" + content[1:]):
        (folder / "a.bin").write_bytes(damaged)
        assert files.manifest_mismatch(folder) == "a.bin is damaged"
    (folder / "a.bin").write_bytes(content)
    assert not files.manifest_mismatch(folder)


def test_every_flipped_bit_of_a_manifest_is_noticed_or_harmless(folder):
    path = folder / files.MANIFEST
    content = path.read_bytes()
    expected = json.loads(content)
    for place in range(len(content)):
        for bit in range(8):
            damaged = bytearray(content)
            damaged[place] ^= 1 << bit
            path.write_bytes(damaged)
            if not files.manifest_mismatch(folder):
                assert json.loads(damaged) == expected


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"files": []}', '{"files": {"a.bin": 3}, "crc32": 1}', "null"])
def test_what_is_no_manifest(folder, content):
    (folder / files.MANIFEST).write_text(content)
    assert files.manifest_mismatch(folder) == "manifest.json is damaged"
    (folder / files.MANIFEST).unlink()
    assert files.manifest_mismatch(folder).startswith("manifest.json cannot be read (")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" + b" " * (1 << 20) + b"]", "it is larger than 1 MiB"),
        (b"[" * 60_000 + b"]" * 60_000, "nested too deeply"),
        (b"{", "Expecting"),
        (b"\xff", "decode"),
    ],
)
def test_json_of_a_stranger(tmp_path, content, message):
    path = tmp_path / "a.json"
    path.write_bytes(b'{"a": [1, 2]}')
    assert files.read_json(path, 1 << 20) == {"a": [1, 2]}
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        files.read_json(path, 1 << 20)
    path.write_bytes(b"[" + b"0," * 1_000_001 + b"0]")
    with pytest.raises(ValueError, match="more than 1000000 values"):
        files.read_json(path, 4 << 20)
