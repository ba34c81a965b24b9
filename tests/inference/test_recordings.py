"""Recordings named by files, folders and patterns."""

import os

import pytest

from esc_jax.inference.recordings import find_recordings


def test_files_folders_and_patterns(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [
        "d/b.WAV",
        "d/a.ogg",
        "d/.hidden.wav",
        "d/.git/x.wav",
        "d/$RECYCLE.BIN/S-1-5/$RX1.wav",
        "d/e/c.mp3",
        "d/t.txt",
        "[1].wav",
        "x1.wav",
        "x2.wav",
    ]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    files, problems = find_recordings(["x2.wav", "d", "x*.wav", "[1].wav", "d/**/*.mp3", "gone.wav"])
    expected = ["x2.wav", "d/a.ogg", "d/b.WAV", "d/e/c.mp3", "x1.wav", "[1].wav", "gone.wav"]
    assert files == [name.replace("/", os.sep) for name in expected] and problems == []
    assert find_recordings(["empty", "y*.wav"]) == (
        [],
        ["empty: the folder contains no recordings", "y*.wav: no file matches"],
    )
    url = "https://example.org/storm.wav?raw=1"
    assert find_recordings([url]) == (
        [],
        [f"{url}: URLs are not supported; download the file and give its path"],
    )


def test_recordings_in_folders_that_need_ffmpeg(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("d/a.wav", "d/e/b.m4a", "d/c.WebM", "only/x.wma", "d/notes.txt", "d/.hidden.m4a"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    files, problems = find_recordings(["d", "only", "d/c.WebM"])
    assert files == [os.path.join("d", "a.wav"), os.path.join("d", "c.WebM")]
    assert problems == [
        "d: 2 files are not read: they need ffmpeg, which is not installed (c.WebM, e/b.m4a)",
        "only: 1 file is not read: it needs ffmpeg, which is not installed (x.wma)",
    ]
    program = tmp_path / ("ffmpeg.exe" if os.name == "nt" else "ffmpeg")
    program.write_text("")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    names = [name.replace("/", os.sep) for name in ("d/a.wav", "d/c.WebM", "d/e/b.m4a", "only/x.wma")]
    assert find_recordings(["d", "only"]) == (names, [])


def test_a_file_under_several_names_is_one_recording(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("d/a.wav", "d/b.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    names = ["./d/a.wav", "d/../d/a.wav", str(tmp_path / "d/a.wav"), "d/*.wav", str(tmp_path / "d")]
    assert find_recordings(names) == ([os.path.join("d", "a.wav"), os.path.join("d", "b.wav")], [])


@pytest.mark.skipif(os.name == "nt", reason="links need privileges on Windows")
def test_links_in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("d/a.wav", "other/b.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "d/c.wav").symlink_to(tmp_path / "other/b.wav")
    (tmp_path / "d/linked").symlink_to(tmp_path / "other")
    (tmp_path / "d/loop").symlink_to(tmp_path / "d")
    (tmp_path / "d/self.wav").symlink_to("self.wav")
    (tmp_path / "d/lost.wav").symlink_to("gone.wav")
    (tmp_path / "d/lost.txt").symlink_to("gone.txt")
    (tmp_path / "d/.hidden").symlink_to(tmp_path / "other")
    rest = "name a folder behind a link as an argument of its own"
    assert find_recordings(["d"]) == (
        ["d/a.wav", "d/c.wav"], [f"d: 4 links are not followed (linked, loop, lost.wav and 1 more): {rest}"]
    )  # fmt: skip
    for name in ("loop", "self.wav", "lost.wav"):
        (tmp_path / "d" / name).unlink()
    assert find_recordings(["d"])[1] == [f"d: 1 link is not followed (linked): {rest}"]
    assert find_recordings(["d", "d/linked"]) == (["d/a.wav", "d/c.wav"], [])  # c.wav is b.wav


def test_a_folder_that_cannot_be_read_is_reported(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    (tmp_path / "a.wav").touch()
    scan = os.scandir

    def scandir(path):
        if os.path.basename(path) == "closed":
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    found = find_recordings([str(tmp_path)])
    assert found == ([str(tmp_path / "a.wav")], [f"Permission denied: {tmp_path / 'closed'}"])
