"""A folder per class: what is found, what is logged, and what is wrong with one."""

import collections
import os
import random
import shutil
import unicodedata

import hypothesis
from hypothesis import strategies as st
import pytest

from esc_jax.data.audio import EXTENSIONS, AudioError
from esc_jax.data.layouts.folder import FolderLayout
from esc_jax.data.layouts.options import Options
from esc_jax.data.layouts.registry import open_source
from esc_jax.data.layouts.unlabelled import UnlabelledLayout
from esc_jax.data.rows import DataError


def tree(root, names):
    """Files whose content is their name."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def test_files_at_any_depth_and_of_any_format(tmp_path):
    names = [
        f"{'rain' if i % 2 else 'wind'}/{'x/' * (i % 4)}{i}{suffix}" for i, suffix in enumerate(sorted(EXTENSIONS))
    ]
    names += ["rain/a/b/c/d/LOUD.WAV", "wind/Mixed.FlAc"]
    layout = FolderLayout(tree(tmp_path, names))
    assert [row.filename for row in layout.rows] == sorted(names) and layout.categories == ("rain", "wind")
    for row in layout.rows:
        assert layout.categories[row.targets[0]] == row.filename.split("/")[0]
        assert layout.read(row) == row.filename.encode() == layout.locate(row).read_bytes()
    assert isinstance(open_source(tmp_path), FolderLayout)
    shutil.rmtree(tmp_path / "rain")
    with pytest.raises(AudioError, match=r"^rain/a/b/c/d/LOUD.WAV: cannot be read \(No such file or directory\)$"):
        layout.read(next(row for row in layout.rows if "LOUD" in row.filename))


def test_what_is_not_used_is_logged(tmp_path, caplog):
    names = ["rain/1.wav", "wind/1.wav", "loose.wav", "loose.mp3", "wind/2.mid", "rain/notes.txt", "rain/3.mid"]
    names += [".hidden/1.wav", "rain/._1.wav", "README"]
    tree(tmp_path, names)
    (tmp_path / "empty/deeper").mkdir(parents=True)
    with caplog.at_level("INFO"):
        layout = FolderLayout(tmp_path)
    assert [row.filename for row in layout.rows] == ["rain/1.wav", "wind/1.wav"]
    assert f"2 audio files, such as loose.mp3, are not used: they lie in no class folder of {tmp_path}" in caplog.text
    assert "files that are not used, because their names are not those of audio files: 4 (2 × .mid" in caplog.text
    assert "folders without audio files are no classes: empty" in caplog.text


def test_names_and_content_make_the_fingerprint(tmp_path):
    names = ["rain/1.wav", "rain/2.wav", "wind/1.wav"]
    one, other = (FolderLayout(tree(tmp_path / part, names)) for part in ("one", "other"))
    assert one.fingerprint == other.fingerprint and one.rows == other.rows
    seen = {one.fingerprint, FolderLayout(tmp_path / "one", Options(folds=2)).fingerprint}
    (tmp_path / "one/rain/1.wav").write_bytes(b"other")
    seen.add(FolderLayout(tmp_path / "one").fingerprint)
    (tmp_path / "one/rain").rename(tmp_path / "one/snow")
    seen.add(FolderLayout(tmp_path / "one").fingerprint)
    assert len(seen) == 4


def test_decomposed_names_are_the_same_data(tmp_path):
    names = [f"Käuzchen/größe-{i}.wav" for i in range(9)] + ["wind/é.wav"]
    layouts = []
    for form in ("NFC", "NFD"):
        root = tmp_path / form
        for name in names:
            path = root / unicodedata.normalize(form, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
        layouts.append(FolderLayout(root))
    assert layouts[0].fingerprint == layouts[1].fingerprint and layouts[0].categories == ("Käuzchen", "wind")
    (tmp_path / "NFC" / unicodedata.normalize("NFD", "wind/é.wav")).write_bytes(b"x")
    with pytest.raises(DataError, match="differ in Unicode composition only: rename one"):
        FolderLayout(tmp_path / "NFC")


def test_names_that_are_not_utf8(tmp_path):
    tree(tmp_path, ["rain/1.wav", "wind/1.wav"])
    with open(os.fsencode(tmp_path) + b"/wind/caf\xe9.wav", "wb") as file:
        file.write(b"cafe")
    layout = FolderLayout(tmp_path)
    assert layout.rows[2].filename == "wind/caf\\xe9.wav" and layout.read(layout.rows[2]) == b"cafe"


MISTAKES = [
    ([], r"has no audio files and no folders with audio files: put the audio files of each class into a folder"),
    (["a.wav", "b.wav"], r"has 2 audio files but no folders with audio files: .* list them in a csv \(data.name=csv\)"),
    (["x/a.mid", "x/b.txt", "y/c.mid"], r"\(other files: 2 × .mid, 1 × .txt\)"),
    (["x/a.wav", "b.wav"], r"has one class folder, x; at least two are needed, such as the sound and everything else$"),
    (["x/dog/a.wav", "x/cat/b.wav"], r"one class folder, x; .*; if the classes are the folders in it, use .*dir=.*/x$"),
    (["train/dog/a.wav", "Test/dog/b.wav"], r"the folders in .* are splits \(Test, train\), not classes: use .*audiof"),
    ([" x/a.wav", "y/b.wav"], r"the name of class 0, ' x', must be one line of text"),
]


@pytest.mark.parametrize(("names", "message"), MISTAKES)
def test_what_is_wrong_is_named(tmp_path, names, message):
    with pytest.raises(DataError, match=message) as error:
        FolderLayout(tree(tmp_path, names))
    assert "\n" not in str(error.value)


def test_a_path_that_is_no_folder(tmp_path):
    with pytest.raises(DataError, match="nothing does not exist"):
        FolderLayout(tmp_path / "nothing")
    (tmp_path / "a.csv").touch()
    with pytest.raises(
        DataError, match="a.csv is not a folder; unpack an archive, and use data.name=csv for a csv file"
    ):
        FolderLayout(tmp_path / "a.csv")


def test_links_and_pipes_are_named(tmp_path):
    root, outside = tree(tmp_path / "tree", ["rain/1.wav", "wind/1.wav"]), tmp_path / "outside"
    tree(outside, ["2.wav"])
    link = root / "rain/2.wav"

    def message():
        with pytest.raises(DataError) as error:
            FolderLayout(root)
        with pytest.raises(DataError, match="data.background"):
            UnlabelledLayout(root)
        return str(error.value)

    link.symlink_to(outside / "2.wav")
    assert f"{link} is a link out of the data set, to {outside}/2.wav: copy the file, or give its absolute" in message()
    link.unlink()
    link.symlink_to("nothing")
    assert f"{link} is a link to a file that does not exist" in message()
    link.unlink()
    os.mkfifo(link)
    assert f"{link} is a named pipe, not an audio file: remove it" in message()
    link.unlink()
    link.symlink_to(outside)
    assert f"{link} is a link to a folder, which is not followed: copy the folder, or list its files" in message()
    link.unlink()
    link.symlink_to("1.wav")  # a link inside the data set
    assert len(FolderLayout(root).rows) == 3
    link.unlink()
    tree(root, ["rain/2.wav/3.wav"])  # a folder that is called like a file
    assert [row.filename for row in FolderLayout(root).rows] == ["rain/1.wav", "rain/2.wav/3.wav", "wind/1.wav"]


def test_recordings_stay_together(tmp_path):
    names = [f"{name}/rec{i:02d}_{take}.wav" for name in ("dog", "cat") for i in range(10) for take in range(4)]
    layout = FolderLayout(tree(tmp_path, names))
    folds = collections.defaultdict(set)
    for row in layout.rows:
        folds[row.src_file].add(row.fold)
    assert len(folds) == 10 and all(len(found) == 1 for found in folds.values())
    assert layout.grouping.kind == "names" and layout.grouping.assigned_folds
    counts = collections.Counter((row.targets[0], row.fold) for row in layout.rows)
    assert set(counts.values()) == {8}  # two recordings of four takes
    ungrouped = FolderLayout(tmp_path, Options(group_pattern=""))
    assert ungrouped.grouping.kind == "none" and len({row.src_file for row in ungrouped.rows}) == 80


@hypothesis.given(seed=st.integers(0, 99))
def test_folds_depend_on_names_alone(tmp_path_factory, seed):
    """Not on the order on disk, and not on the content."""
    root = tmp_path_factory.mktemp("tree")
    names = [f"{name}/{place}-{i}.wav" for name in "abc" for place in ("yard", "roof", name * 3) for i in range(3)]
    expected = {row.filename: row.fold for row in FolderLayout(tree(root / "one", names), Options(folds=3)).rows}
    other = root / "other"
    for name in random.Random(seed).sample(names, len(names)):
        tree(other, [name])
        (other / name).write_bytes(bytes([seed]))
    assert {row.filename: row.fold for row in FolderLayout(other, Options(folds=3)).rows} == expected
