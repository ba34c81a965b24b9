"""The TFDS builder, and that what `esc_jax.data.prepare` writes is a data set that it prepared."""

import json

import numpy as np
import pytest

from esc_jax.data import audio, prepare, synthetic, tfds_metadata
from esc_jax.data.layouts.esc50 import Esc50Layout

RATE = 22_050


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
