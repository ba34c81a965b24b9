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
