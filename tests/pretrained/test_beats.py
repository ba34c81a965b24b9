"""Reading of the released BEATs format, and invalid files."""

import json
import pathlib
import pickle
import re

import jax
import numpy as np
import pytest

from esc_jax.pretrained import beats
from esc_jax.pretrained.published import PretrainedError
from tests.pretrained.hostile import refusals

GOLDEN = pathlib.Path(__file__).parents[1] / "goldens" / "beats.npz"
SHARED_BIAS = "encoder.layers.{}.self_attn.relative_attention_bias.weight"


@pytest.fixture
def file():
    """cfg, arrays and label_dict of the golden checkpoint."""
    golden = np.load(GOLDEN)
    arrays = {name.removeprefix("model/"): golden[name] for name in golden.files if name.startswith("model/")}
    return json.loads(str(golden["cfg"])), arrays, json.loads(str(golden["label_dict"]))


def test_head_labels_and_frontend(file):
    cfg, arrays, _ = file
    label_dict = dict(enumerate(["/m/09x0r", *(f"/m/000{i}" for i in range(1, 7))]))
    loaded = beats.from_arrays(cfg, arrays, label_dict)
    assert loaded.labels[:2] == ("Speech", "/m/0001")  # a display name of AudioSet, and an id without one
    assert loaded.head == {"name": "linear", "classes": 7, "dropout": 0.0}
    assert loaded.frontend["name"] == "kaldi_fbank" and loaded.frontend["mean"] == 15.41663
    # A file may repeat the position bias in every layer.
    repeated = {SHARED_BIAS.format(i): arrays[SHARED_BIAS.format(0)] for i in (1, 2)}
    again = beats.from_arrays(cfg, arrays | repeated, label_dict)
    jax.tree.map(np.testing.assert_array_equal, again.variables, loaded.variables)


def test_missing_and_unknown_arrays_are_all_named(file):
    cfg, arrays, _ = file
    del arrays["encoder.layers.1.fc1.weight"], arrays["layer_norm.bias"]
    arrays["decoder.weight"] = np.zeros(3)
    with pytest.raises(PretrainedError) as error:
        beats.from_arrays(cfg, arrays)
    assert "missing: encoder.layers.1.fc1.weight, layer_norm.bias" in str(error.value)
    assert "not used: decoder.weight" in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder_layers": 4}, "missing: encoder.layers.3.fc1.bias"),
        ({"encoder_ffn_embed_dim": 32}, re.escape("encoder.layers.0.fc1.weight (64, 32)")),
        ({"encoder_attention_heads": 8}, "shapes do not match the cfg"),
        (
            {"encoder_attention_heads": 5},
            "the cfg has an invalid option encoder_attention_heads=5: it must be a divisor",
        ),
        ({"activation_fn": "glu"}, "activation_fn=glu: it must be one of gelu"),
        ({"input_patch_size": "16"}, "input_patch_size=16: it must be a whole number"),
        ({"finetuned_model": False}, "finetuned_model"),
        ({"predictor_class": 9}, re.escape("predictor.weight (7, 32)")),
    ],
)
def test_cfg_that_does_not_describe_the_arrays(file, change, message):
    cfg, arrays, _ = file
    with pytest.raises(PretrainedError, match=message):
        beats.from_arrays(cfg | change, arrays)


def test_settings_labels_and_position_bias_that_contradict_the_format(file):
    cfg, arrays, label_dict = file
    with pytest.raises(PretrainedError, match="6 labels for 7 outputs"):
        beats.from_arrays(cfg, arrays, dict(list(label_dict.items())[:6]) | {"seventh": "/m/0006"})
    with pytest.raises(PretrainedError, match="layers.1.self_attn.relative_attention_bias.weight differ"):
        beats.from_arrays(cfg, arrays | {SHARED_BIAS.format(1): arrays[SHARED_BIAS.format(0)] + 1})
    cfg.pop("max_distance")
    with pytest.raises(PretrainedError, match="max_distance"):
        beats.from_arrays(cfg, arrays)


def test_released_format_on_disk(file, tmp_path):
    torch = pytest.importorskip("torch")
    cfg, arrays, label_dict = file
    path = tmp_path / "BEATs_tiny.pt"
    model = {name: torch.from_numpy(array) for name, array in arrays.items()}
    torch.save({"cfg": cfg, "model": model, "label_dict": {int(i): mid for i, mid in label_dict.items()}}, path)
    loaded = beats.read(path)
    assert loaded.labels == tuple(f"/m/000{i}" for i in range(7))
    np.testing.assert_array_equal(
        loaded.variables["params"]["encoder"]["layer_2"]["intermediate"]["kernel"],
        arrays["encoder.layers.2.fc1.weight"].T,
    )

    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PretrainedError, match="truncated"):
        beats.read(path)
    torch.save(model, path)  # a state dict of another architecture has neither cfg nor model
    with pytest.raises(PretrainedError, match="not a BEATs checkpoint"):
        beats.read(path)
    torch.save({"cfg": cfg, "model": {0: torch.zeros(2)}}, path)
    with pytest.raises(PretrainedError, match="not a BEATs checkpoint"):
        beats.read(path)
    torch.save({"cfg": cfg, "model": {"conv.weight": torch.zeros(2)}}, path)
    with pytest.raises(PretrainedError, match=f"{path.name}.*not used: conv.weight"):
        beats.read(path)


def test_lfs_pointer(tmp_path):
    path = tmp_path / "BEATs_iter3.pt"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    with pytest.raises(PretrainedError, match="LFS"):
        beats.read(path)


class _Touch:
    """A pickle that creates a file where it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


def test_code_in_a_file_never_runs(tmp_path):
    torch = pytest.importorskip("torch")
    trace = tmp_path / "ran"
    path = tmp_path / "evil.pt"
    for write in (
        lambda: torch.save({"cfg": {}, "model": _Touch(trace)}, path),
        lambda: path.write_bytes(pickle.dumps(_Touch(trace))),
    ):
        write()
        with pytest.raises(PretrainedError):
            beats.read(path)
        assert not trace.exists()
    pickle.loads(pickle.dumps(_Touch(trace)))
    assert trace.exists()  # the file would have shown


def test_every_value_of_a_cfg_of_a_stranger(file):
    """It is allowed, or not used, or refused in one sentence before anything is built."""
    good, arrays, labels = file
    cfg = {}

    def change(key, value):
        cfg.clear()
        cfg.update(good | {key: value})

    keys = [*good, "predictor_class", "predictor_dropout"]
    assert refusals(lambda: beats.from_arrays(cfg, arrays, labels), change, keys) > 150
