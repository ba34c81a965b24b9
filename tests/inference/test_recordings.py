"""Recordings named by files, folders and patterns."""

import os

from esc_jax.inference.recordings import find_recordings


def test_files_folders_and_patterns(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [
        "d/b.WAV",
        "d/a.ogg",
        "d/.hidden.wav",
        "d/.git/x.wav",
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
