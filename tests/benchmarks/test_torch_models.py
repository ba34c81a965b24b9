"""The PyTorch networks of the benchmarks, and the command that compares them."""

import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from esc_jax.models import registry

BENCHMARKS = pathlib.Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def torch():
    """PyTorch, imported when the first test runs."""
    return pytest.importorskip("torch")


@pytest.fixture(scope="module", autouse=True)
def scripts(torch):
    """Puts the folder of the scripts on the path, as Python does for a script."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield


def model_config(name, encoder, head="linear", **head_options):
    config = registry.defaults(name, head)
    config["encoder"] |= encoder
    config["head"] |= head_options
    return config


@pytest.mark.parametrize("name", ["resnet34", "mn04", "mn10", "efficientnet_b0", "distilhubert", "beats"])
def test_equal_number_of_parameters_at_full_size(name, torch):
    import models
    import torch_models

    if name in ("efficientnet_b0", "distilhubert"):
        pytest.importorskip("transformers")
    model = models.CASES[name].config(tiny=False).model
    features = jax.ShapeDtypeStruct((1, *models.CASES[name].shape), jnp.float32)
    shapes = jax.eval_shape(registry.build(model, 50).init, jax.random.key(0), features)
    with torch.device("meta"):
        network = torch_models.build(model, 50)
    count = sum(p.size for p in jax.tree.leaves(shapes["params"]))
    assert count == sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    "config",
    [
        model_config("resnet", {"stage_sizes": (1, 1), "width": 8}),
        model_config("efficientat", {"width_mult": 0.1}, "mlp", width=16),
        model_config(
            "beats",
            {
                "embed_dim": 16,
                "encoder_layers": 2,
                "encoder_embed_dim": 32,
                "encoder_ffn_embed_dim": 48,
                "encoder_attention_heads": 4,
                "conv_pos": 8,
                "conv_pos_groups": 4,
                "num_buckets": 20,
                "max_distance": 30,
                "encoder_layerdrop": 0.0,
            },
        ),
    ],
    ids=lambda config: config["name"],
)
def test_equal_logits_with_equal_variables(config, torch):
    import torch_models

    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 83, 64)).astype(np.float32)
    x[1] = 3.0 * x[1] + 1.0  # two clips of plain noise are nearly equal after pooling
    model = registry.build(config, 5)

    def draw(path, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        # No zeros or ones, which could hide a wrong assignment; positive scales and variances, matrices of unit gain.
        if path[-1].key in ("scale", "var"):
            return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        return (rng.standard_normal(leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1]))).astype(np.float32)

    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    variables = jax.tree_util.tree_map_with_path(draw, shapes)
    network = torch_models.build(config, 5).eval()
    torch_models.load(network, variables)
    with torch.inference_mode():
        logits = network(torch.from_numpy(x)).numpy()
    expected = np.asarray(jax.jit(model.apply)(variables, x))
    # Both sum the same float32 products in different orders. The tolerance is relative to differences between clips.
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4 * expected.std(0).max())


def test_variables_of_another_network_are_refused():
    import torch_models

    config = model_config("resnet", {"stage_sizes": (1,), "width": 8})
    model = registry.build(config, 5)
    variables = jax.tree.map(
        lambda s: np.zeros(s.shape, np.float32),
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32))),
    )
    del variables["params"]["head"]["classifier"]["bias"]
    with pytest.raises(ValueError, match="missing: head.classifier.bias"):
        torch_models.load(torch_models.build(config, 5), variables)


@pytest.mark.extended
@pytest.mark.parametrize("options", [[], ["--together", "--models", "resnet34", "mn04", "--batch", "2", "3"]])
def test_command_prints_a_table_and_writes_it(environment, tmp_path, options):
    command = [sys.executable, BENCHMARKS / "models.py", "--models", "resnet34", "--tiny", "--rounds=1", *options]
    done = subprocess.run([*command, f"--out={tmp_path}"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    rows = [line for line in done.stdout.splitlines() if line.startswith("| resnet34 |")]
    assert len(rows) == 2 and "| model |" in done.stdout
    assert all(row in (tmp_path / "models.md").read_text() for row in rows)
    written = json.loads((tmp_path / "models.json").read_text())
    assert [line["what"] for line in written["lines"]] == ["train", "predict"] * (2 if options else 1)
    assert [line["batch"] for line in written["lines"]] == ([2, 2, 3, 3] if options else [2, 2])
    assert all(len(line["seconds"]["esc_jax"]) == len(line["seconds"]["PyTorch"]) == 1 for line in written["lines"])
    assert written["tiny"] and written["versions"].keys() >= {"jax", "jaxlib", "torch", "transformers"}
    assert written["device"] and written["threads"] > 0 and written["date"]
