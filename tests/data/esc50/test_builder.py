"""The TFDS builder, and that what `esc_jax.data.prepare` writes is a data set that it prepared."""

import json

import numpy as np
import pytest
import soundfile

from esc_jax.data import audio, prepare, prepared, synthetic, tfds_metadata
from esc_jax.data.layouts.csv_file import CsvLayout
from esc_jax.data.layouts.esc50 import Esc50Layout

RATE = 22_050

pytestmark = pytest.mark.slow  # TensorFlow is imported


@pytest.fixture(scope="module", autouse=True)
def tfds():
    """TFDS, imported when the first test runs: half a gigabyte with TensorFlow."""
    pytest.importorskip("tensorflow")
    return pytest.importorskip("tensorflow_datasets")


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    return Esc50Layout(synthetic.generate(tmp_path_factory.mktemp("data") / "tree", clips_per_fold=1, seed=1))


@pytest.fixture(scope="module")
def by_tfds(layout, tfds, tmp_path_factory):
    """Folder that TFDS prepared with the builder."""
    import esc_jax.data.esc50  # noqa: F401  registers the builder

    folder = tmp_path_factory.mktemp("by_tfds")
    tfds.data_source(f"esc50/{RATE}hz", data_dir=folder, builder_kwargs={"source": layout.path})
    return folder / "esc50" / f"{RATE}hz" / tfds_metadata.VERSION


@pytest.fixture(scope="module")
def by_esc_jax(layout, tmp_path_factory):
    return prepare.prepared_dir(layout, RATE, tmp_path_factory.mktemp("by_esc_jax"))


@pytest.mark.parametrize("which", ["by_tfds", "by_esc_jax"])
def test_data_source_returns_every_clip(layout, tfds, request, which):
    import esc_jax.data.esc50  # noqa: F401  registers the builder

    folder = request.getfixturevalue(which)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    splits = tfds.data_source(f"esc50/{RATE}hz", data_dir=folder.parents[2], builder_kwargs={"source": layout.path})
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before  # not prepared again
    assert sorted(splits) == [f"fold{f}" for f in range(1, 6)]
    rows = {r.filename: r for r in layout.rows}
    seen = []
    for fold, records in splits.items():
        for record in records:
            row = rows[record["filename"].decode()]
            seen.append(row.filename)
            assert f"fold{row.fold}" == fold and record["fold"] == row.fold and (record["label"],) == row.targets
            assert record["source"].decode() == row.src_file and record["take"].decode() == row.take
            expected = audio.to_int16(audio.load(layout.read(row), RATE))
            np.testing.assert_array_equal(record["audio"], expected)
    assert sorted(seen) == sorted(rows)


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json", "metadata.json"])
def test_metadata_is_that_of_tfds(by_tfds, by_esc_jax, name):
    ours, theirs = (json.loads((folder / name).read_text()) for folder in (by_esc_jax, by_tfds))
    assert ours == theirs


@pytest.mark.parametrize("name", ["label.labels.txt", "LICENSE"])
def test_texts_are_those_of_tfds(by_tfds, by_esc_jax, name):
    assert (by_esc_jax / name).read_bytes() == (by_tfds / name).read_bytes()


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """A multi-label csv: several labels, one and none, and a recording of more than a minute."""
    root = tmp_path_factory.mktemp("scenes")
    rng = np.random.default_rng(0)
    table = "filename,labels,fold\nlong.wav,dog;cat,1\none.wav,dog,1\nnone.wav,,2\ntwo.wav,owl;dog,2\n"
    (root / "scenes.csv").write_text(table)
    for name, seconds in (("long", 130.5), ("one", 1), ("none", 0.3), ("two", 60)):
        soundfile.write(root / f"{name}.wav", 0.1 * rng.standard_normal(round(16_000 * seconds)), 16_000)
    return CsvLayout(root / "scenes.csv")


def test_multi_label_data_and_long_recordings(scenes, tfds, tmp_path):
    """What is prepared, the metadata and the records of both are equal."""
    import esc_jax.data.esc50

    ours = prepare.prepared_dir(scenes, 16_000, tmp_path / "ours")
    builder = esc_jax.data.esc50.Builder(config="16000hz", data_dir=tmp_path / "theirs", source=scenes.path)
    builder.download_and_prepare()
    theirs = tmp_path / "theirs/esc50/16000hz" / tfds_metadata.VERSION
    assert (ours / "labels.labels.txt").read_text() == "cat\ndog\nowl\n"
    for name in ("dataset_info.json", "features.json", "metadata.json"):
        assert json.loads((ours / name).read_text()) == json.loads((theirs / name).read_text())
    assert (ours / "labels.labels.txt").read_bytes() == (theirs / "labels.labels.txt").read_bytes()
    seen = {}
    for folder in (ours, theirs):
        opened = tfds.builder_from_directory(folder)
        assert opened.info.features["labels"].feature.names == ["cat", "dog", "owl"]
        seen[folder] = {}
        for split in ("fold1", "fold2"):
            for record in opened.as_data_source(split=split):
                name = record.pop("filename").decode()
                seen[folder][name] = {key: np.asarray(value).tolist() for key, value in record.items()}
    assert seen[ours] == seen[theirs]
    labels = {name: record["labels"] for name, record in seen[ours].items()}
    long = {f"long.wav@{start}s": [0, 1] for start in (0, 60, 120)}
    assert labels == long | {"one.wav": [1], "none.wav": [], "two.wav": [1, 2]}
    data = prepared.open_prepared(ours, 16_000, scenes)
    assert data.task == "multi_label" and data.labels.dtype == bool
    np.testing.assert_array_equal(data.labels, [[1, 1, 0], [0, 0, 0], [0, 1, 0], [0, 1, 1]])
    assert len(data.fetch(0)) == round(130.5 * 16_000)


def test_a_clip_that_cannot_be_decoded(layout, tmp_path):
    import shutil

    from esc_jax.data.esc50 import Builder

    tree = shutil.copytree(layout.path, tmp_path / "tree")
    bad = layout.rows[0].filename
    (tree / "audio" / bad).write_bytes(b"no audio")
    for mode, folder in (("error", "a"), ("skip", "b")):
        builder = Builder(config="16000hz", data_dir=tmp_path / folder, source=tree, on_bad_clip=mode)
        if mode == "error":
            with pytest.raises(Exception, match=f"audio/{bad}: not readable as audio"):
                builder.download_and_prepare()
        else:
            builder.download_and_prepare()
            assert builder.info.splits.total_num_examples == len(layout.rows) - 1
