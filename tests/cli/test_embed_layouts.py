"""`esc-jax embed` recognises the layout of a data set."""

import pytest

from esc_jax.cli import embed
from esc_jax.data.datasets import registry as datasets
from esc_jax.data.rows import DataError


@pytest.mark.parametrize(
    ("files", "options", "name"),
    [
        (["dog/1.wav", "cat/1.wav"], [], "folder"),
        (["train/dog/1.wav", "test/dog/1.wav"], [], "audiofolder"),
        (["genres/blues/1.wav"], [], "gtzan"),
        (["meta/esc50.csv", "audio/1.wav"], [], "esc50"),
        (["dog/1.wav", "cat/1.wav"], ["--data_name=gtzan"], "gtzan"),
    ],
)
def test_the_name_of_the_data(untrained, tmp_path, monkeypatch, files, options, name):
    names = []

    def load(data):
        names.append(data.name)
        raise DataError("stop here")

    monkeypatch.setattr(datasets, "load", load)
    for file in files:
        (tmp_path / "data" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / file).touch()
    arguments = [f"--model={untrained}", f"--data_dir={tmp_path / 'data'}", f"--out={tmp_path}/e.npz", *options]
    assert embed.main(arguments) == 2 and names == [name]
