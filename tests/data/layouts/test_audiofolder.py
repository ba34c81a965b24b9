"""The audiofolder layout of Hugging Face: tables, split folders and class folders."""

import pytest

from esc_jax.data.layouts.audiofolder import AudioFolderLayout
from esc_jax.data.layouts.options import Options
from esc_jax.data.layouts.registry import open_source
from esc_jax.data.rows import DataError


def tree(root, names, tables=()):
    """Files whose content is their name, and tables."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    for name, text in dict(tables).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def content(layout):
    """(file, classes, fold) of every row."""
    for row in layout.rows:
        assert layout.read(row) == row.filename.encode()
    return [(row.filename, [layout.categories[t] for t in row.targets], row.fold) for row in layout.rows]


SPLIT_FILES = ["train/a.wav", "train/b.wav", "validation/c.wav", "test/d.wav"]
SPLIT_ROWS = [
    ("test/d.wav", ["cat"], 3), ("train/a.wav", ["dog"], 2), ("train/b.wav", ["cat"], 2),
    ("validation/c.wav", ["dog"], 1),
]  # fmt: skip


def test_a_table_in_the_root(tmp_path, caplog):
    tree(tmp_path, SPLIT_FILES)
    names = zip(SPLIT_FILES, ["dog", "cat", "dog", "cat"], strict=True)
    tree(tmp_path, [], {"metadata.csv": "file_name,label\n" + "".join(f"{name},{label}\n" for name, label in names)})
    with caplog.at_level("INFO"):
        layout = open_source(tmp_path)
    assert isinstance(layout, AudioFolderLayout) and content(layout) == SPLIT_ROWS
    assert "validation is fold 1, train is fold 2, test is fold 3" in caplog.text
    assert not layout.grouping.assigned_folds


def test_a_table_in_every_split(tmp_path):
    tables = {
        "train/metadata.csv": "file_name,label\na.wav,dog\nb.wav,cat\n",
        "validation/metadata.csv": "file_name,label\nc.wav,dog\n",
        "test/metadata.csv": "file_name,label\nd.wav,cat\n",
    }
    layout = open_source(tree(tmp_path, [*SPLIT_FILES, "train/not_in_the_table.wav"], tables))
    assert isinstance(layout, AudioFolderLayout) and content(layout) == SPLIT_ROWS


def test_several_labels_and_recordings(tmp_path):
    tables = {
        "train/metadata.csv": 'file_name,labels,recording\na.wav,"dog,cat",r1\nb.wav,cat,r2\n',
        "test/metadata.csv": "file_name,labels,recording\nd.wav,cat,r1\n",
    }
    layout = AudioFolderLayout(tree(tmp_path, ["train/a.wav", "train/b.wav", "test/d.wav"], tables))
    assert content(layout) == [
        ("test/d.wav", ["cat"], 3),
        ("train/a.wav", ["cat", "dog"], 2),
        ("train/b.wav", ["cat"], 2),
    ]
    assert layout.task == "multi_label" and [row.src_file for row in layout.rows] == ["r1", "r1", "r2"]
    assert layout.grouping.kind == "column"


def test_the_folder_is_the_class_if_the_table_has_none(tmp_path):
    names = ["train/dog/a.wav", "train/cat/b.wav", "test/dog/c.wav"]
    table = "file_name,transcript\n" + "".join(f"{name},words\n" for name in names)
    layout = AudioFolderLayout(tree(tmp_path, names, {"metadata.csv": table}))
    assert content(layout) == [("test/dog/c.wav", ["dog"], 3), ("train/cat/b.wav", ["cat"], 2), (names[0], ["dog"], 2)]


def test_a_table_without_splits(tmp_path):
    table = "file_name,label\nx/a.wav,dog\nb.wav,cat\nc.wav,cat\n"
    tree(tmp_path, ["x/a.wav", "b.wav", "c.wav"], {"metadata.csv": table})
    layout = AudioFolderLayout(tmp_path, Options(folds=2))
    assert layout.grouping.assigned_folds and {row.fold for row in layout.rows} == {1, 2}


def test_class_folders_in_splits(tmp_path):
    names = ["train/dog/a.wav", "train/cat/deep/b.wav", "valid/dog/c.wav", "eval/cat/d.wav"]
    layout = open_source(tree(tmp_path, names))
    assert isinstance(layout, AudioFolderLayout)
    assert content(layout) == [
        ("eval/cat/d.wav", ["cat"], 3), ("train/cat/deep/b.wav", ["cat"], 2), ("train/dog/a.wav", ["dog"], 2),
        ("valid/dog/c.wav", ["dog"], 1),
    ]  # fmt: skip


def test_class_folders_without_splits(tmp_path):
    layout = AudioFolderLayout(tree(tmp_path, ["dog/a.wav", "cat/b.wav", "dog/c.wav"]), Options(folds=2))
    assert [labels for _, labels, _ in content(layout)] == [["cat"], ["dog"], ["dog"]]
    assert layout.grouping.assigned_folds


def test_what_is_wrong_is_named(tmp_path):
    def message(root):
        with pytest.raises(DataError) as error:
            AudioFolderLayout(root)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "has no audio files and no folders" in message(tree(tmp_path / "a", [], {"notes.txt": ""}))
    mixed = tree(tmp_path / "b", ["train/dog/a.wav", "cat/b.wav"])
    assert "only some files in" in message(mixed) and "(train); move the others, or use data.name=folder" in message(
        mixed
    )
    loose = tree(tmp_path / "c", ["train/a.wav", "test/dog/b.wav"])
    assert "names no label of 1 file, such as train/a.wav: add a column of labels in metadata.csv" in message(loose)
    table = tree(tmp_path / "d", ["train/a.wav"], {"train/metadata.csv": "file_name,label\na.wav,x\nb.wav,y\n"})
    assert f"are not there (the first: line 3, b.wav); relative names are looked up in {table}/train" in message(table)
    (tmp_path / "e.zip").touch()
    assert "e.zip is not a folder; an audiofolder is one with a metadata.csv" in message(tmp_path / "e.zip")


def test_labels_have_one_separator_in_all_splits(tmp_path):
    """A comma separates labels in one table, so it does in the others; a sound of no class is one, too."""
    tables = {
        "train/metadata.csv": 'file_name,labels\na.wav,"dog,cat"\nb.wav,church bells\n',
        "test/metadata.csv": "file_name,labels\nd.wav,\n",
        "validation/metadata.csv": "file_name,labels\nc.wav,cat\n",
    }
    layout = AudioFolderLayout(tree(tmp_path, SPLIT_FILES, tables))
    assert content(layout) == [
        ("test/d.wav", [], 3),
        ("train/a.wav", ["cat", "dog"], 2),
        ("train/b.wav", ["church bells"], 2),
        ("validation/c.wav", ["cat"], 1),
    ]


def test_tables_of_splits_with_different_columns(tmp_path):
    tables = {
        "train/metadata.csv": "file_name,label\na.wav,dog\nb.wav,cat\n",
        "test/metadata.csv": "file_name,category\nd.wav,cat\n",
    }
    with pytest.raises(DataError, match="test/metadata.csv has the columns file_name, category, and .* same columns"):
        AudioFolderLayout(tree(tmp_path, ["train/a.wav", "train/b.wav", "test/d.wav"], tables))


def test_a_split_without_a_table(tmp_path):
    tables = {"train/metadata.csv": "file_name,label\na.wav,dog\nb.wav,cat\n"}
    with pytest.raises(DataError, match=r"test has no metadata\.csv, and .*train has one"):
        AudioFolderLayout(tree(tmp_path, ["train/a.wav", "train/b.wav", "test/d.wav"], tables))
