"""Names and kinds of files in the official layout: composed and decomposed Unicode, archives, pipes."""

import os
import shutil
import unicodedata
import zipfile

import numpy as np
import pytest
import soundfile

from esc_jax.data import prepare, prepared
from esc_jax.data.audio import AudioError
from esc_jax.data.layouts import class_folders, esc50
from esc_jax.data.layouts.esc50 import Esc50Layout
from esc_jax.data.layouts.folder import FolderLayout
from esc_jax.data.layouts.gtzan import GtzanLayout
from esc_jax.data.layouts.unlabelled import UnlabelledLayout
from esc_jax.data.rows import DataError

NAMES = [f"{take}-{name}-{target}.wav" for take in (1, 2) for target, name in enumerate(("Bär", "Möwe"))]


def write(root, table, disk):
    """A data set whose names are in one form of Unicode in the table, and in another on the disk."""
    (root / "meta").mkdir(parents=True)
    (root / "audio").mkdir()
    lines = ["filename,fold,target,category"]
    for number, name in enumerate(NAMES):
        lines.append(f"{unicodedata.normalize(table, name)},{number // 2 + 1},{number % 2},{'ab'[number % 2]}")
        samples = np.full(8000, number / 10, np.float32)
        soundfile.write(root / "audio" / unicodedata.normalize(disk, name), samples, 16_000)
    (root / "meta/esc50.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


def archive(tree, path, flag=True):
    """The tree as a zip file. Without the flag, its names are UTF-8, but do not say so."""
    with zipfile.ZipFile(path, "w") as file:
        for one in sorted(tree.rglob("*.*")):
            file.write(one, f"{unicodedata.normalize('NFD', 'Töne')}/{one.relative_to(tree).as_posix()}")
    if not flag:
        content = bytearray(path.read_bytes())
        for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            start = content.find(mark)
            while start >= 0:
                content[start + place + 1] &= ~0x08
                start = content.find(mark, start + 4)
        path.write_bytes(content)
    return path


@pytest.mark.parametrize("table, disk", [("NFC", "NFD"), ("NFD", "NFC"), ("NFC", "NFC"), ("NFD", "NFD")])
@pytest.mark.parametrize("packed", ["folder", "zip", "zip without the flag"])
def test_composed_and_decomposed_names_are_equal(tmp_path, table, disk, packed):
    path = write(tmp_path / "tree", table, disk)
    if packed != "folder":
        path = archive(path, tmp_path / "a.zip", flag=packed == "zip")
    source = Esc50Layout(path)
    assert [row.filename for row in source.rows] == NAMES
    folder = prepare.prepared_dir(source, 16_000, tmp_path / "cache")
    clips = prepared.open_prepared(folder, 8000, source)
    peaks = {name: clips.fetch(i).max() for i, name in enumerate(clips.filenames)}
    expected = [round(3276.8 * number) for number in range(4)]
    assert [peaks[row.filename] for row in source.rows] == pytest.approx(expected, abs=1)
    assert source.fingerprint == Esc50Layout(write(tmp_path / "again", "NFC", "NFC")).fingerprint
    assert all(source.read(row)[:4] == b"RIFF" for row in source.rows)


def test_a_large_member_of_an_archive_is_refused(tmp_path, monkeypatch):
    path = archive(write(tmp_path / "tree", "NFC", "NFC"), tmp_path / "a.zip")
    monkeypatch.setattr(esc50, "MAX_MEMBER_BYTES", 10_000)
    source = Esc50Layout(path)
    with pytest.raises(AudioError, match=r"unpacks to .* GiB, and at most .* GiB are read from an archive$"):
        source.read(source.rows[0])
    with pytest.raises(DataError, match="at most .* GiB are read"):
        prepare.prepared_dir(source, 16_000, tmp_path / "cache")
    monkeypatch.setattr(esc50, "MAX_MEMBER_BYTES", 10)
    with pytest.raises(DataError, match=r"meta/esc50\.csv in .* cannot be read .*at most"):
        Esc50Layout(path)


@pytest.mark.parametrize("name", ["/etc/passwd", "../secret.wav", "a/../../b.wav", "..\\\\b.wav"])
def test_names_do_not_lead_out_of_the_folder(tmp_path, name):
    root = write(tmp_path / "tree", "NFC", "NFC")
    table = root / "meta/esc50.csv"
    table.write_text(table.read_text(encoding="utf-8").replace(NAMES[0], name), encoding="utf-8")
    with pytest.raises(DataError, match="line 2: .* leads out of the folder audio"):
        Esc50Layout(root)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="POSIX")
def test_a_pipe_in_the_place_of_a_file_does_not_block(tmp_path):
    root = write(tmp_path / "tree", "NFC", "NFC")
    (root / "audio" / NAMES[0]).unlink()
    os.mkfifo(root / "audio" / NAMES[0])
    source = Esc50Layout(root)
    with pytest.raises(AudioError, match=f"^audio/{NAMES[0]}: is a named pipe, not an audio file$"):
        source.read(source.rows[0])
    with pytest.raises(DataError, match=f"^audio/{NAMES[0]}: is a named pipe"):
        prepare.prepared_dir(source, 16_000, tmp_path / "cache")
    genres = tmp_path / "genres"
    for genre in ("blues", "jazz"):
        shutil.copytree(root / "audio", genres / genre, copy_function=lambda *_: None)
        os.mkfifo(genres / genre / "a.wav")
    tracks = GtzanLayout(tmp_path)
    with pytest.raises(AudioError, match="is a named pipe"):
        tracks.read(tracks.rows[0])
    with pytest.raises(DataError, match="is a named pipe"):
        UnlabelledLayout(genres)
    os.remove(root / "meta/esc50.csv")
    os.mkfifo(root / "meta/esc50.csv")
    with pytest.raises(DataError, match="holds no meta/esc50.csv"):
        Esc50Layout(root)


@pytest.fixture
def folders(tmp_path):
    """Two class folders with a wav file and an m4a file each."""
    for name in ("rain", "wind"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for file in ("a.wav", "b.m4a", "c.txt"):
            (tmp_path / "data" / name / file).write_bytes(name.encode())
    return tmp_path / "data"


def test_files_that_need_ffmpeg_are_counted_and_named(folders, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    for open_layout in (FolderLayout, GtzanLayout, UnlabelledLayout):
        caplog.clear()
        with caplog.at_level("WARNING"):
            source = open_layout(folders)
        assert [row.filename for row in source.rows] == ["rain/a.wav", "wind/a.wav"]
        assert caplog.messages[0] == (
            f"{folders}: 2 files are not read: they need ffmpeg, which is not installed (rain/b.m4a, wind/b.m4a)"
        )
    for name in ("rain", "wind"):
        (folders / name / "a.wav").unlink()
    with pytest.raises(DataError, match=r"2 files are not read: they need ffmpeg"):
        FolderLayout(folders)


def test_files_that_ffmpeg_reads_belong_to_the_data_set(folders, tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / ("ffmpeg.exe" if os.name == "nt" else "ffmpeg")
    program.write_text("")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    expected = ["rain/a.wav", "rain/b.m4a", "wind/a.wav", "wind/b.m4a"]
    assert [row.filename for row in FolderLayout(folders).rows] == expected
    assert class_folders.audio_files(["a.txt", "b.M4A"]) == ["b.M4A"]
