"""ResNet against the published counts and a plain torch module."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from esc_jax.models.resnet import ResNet
from esc_jax.ops.dropout import drop_path


def init(module, shape):
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    return x, jax.jit(module.init)(jax.random.key(0), x)


def test_thirty_four_layers_have_the_published_number_of_parameters():
    _, variables = init(ResNet(), (1, 64, 64))
    count = sum(p.size for p in jax.tree.leaves(variables["params"]))
    # 21,797,672 with three channels and 1,000 classes: less the classifier and two of three stem channels.
    assert count == 21_797_672 - 513_000 - 2 * 64 * 49


def test_width_and_depth_come_from_the_fields():
    x, variables = init(ResNet(stage_sizes=(1, 1), width=8), (2, 40, 32))
    result = ResNet(stage_sizes=(1, 1), width=8).apply(variables, x)
    assert result.embedding.shape == (2, 16) and result.features.shape == (2, 5, 4, 16)
    np.testing.assert_allclose(result.embedding, result.features.mean((1, 2)), rtol=1e-5)


def test_he_initialisation_and_zero_scale():
    _, variables = init(ResNet(stage_sizes=(1, 1), width=64, zero_init=True), (1, 32, 32))
    kernel = variables["params"]["stage2_block1"]["conv2"]["kernel"]
    np.testing.assert_allclose(kernel.std(), np.sqrt(2 / (9 * 128)), rtol=0.02)
    assert not variables["params"]["stage1_block1"]["bn2"]["scale"].any()
    _, variables = init(ResNet(stage_sizes=(1, 1), width=64, zero_init=False), (1, 32, 32))
    assert (variables["params"]["stage1_block1"]["bn2"]["scale"] == 1).all()


def test_equals_a_torch_network():
    torch = pytest.importorskip("torch")
    module = ResNet(stage_sizes=(1, 2), width=8, zero_init=False)
    x, variables = init(module, (2, 45, 37))
    rng = np.random.default_rng(1)
    stats = jax.tree.map(lambda s: rng.uniform(0.5, 1.5, s.shape).astype(np.float32), variables["batch_stats"])
    p, f = variables["params"], torch.nn.functional

    def conv(x, kernel, stride, padding):
        return f.conv2d(x, torch.tensor(np.asarray(kernel)).permute(3, 2, 0, 1), stride=stride, padding=padding)

    def norm(x, params, stats):
        arrays = (stats["mean"], stats["var"], params["scale"], params["bias"])
        return f.batch_norm(x, *(torch.tensor(np.asarray(a)) for a in arrays), eps=1e-5)

    y = torch.tensor(x)[:, None]
    y = f.relu(norm(conv(y, p["stem"]["kernel"], 2, 3), p["bn_stem"], stats["bn_stem"]))
    y = f.max_pool2d(y, 3, 2, 1)
    for name, stride in (("stage1_block1", 1), ("stage2_block1", 2), ("stage2_block2", 1)):
        b, s = p[name], stats[name]
        z = f.relu(norm(conv(y, b["conv1"]["kernel"], stride, 1), b["bn1"], s["bn1"]))
        z = norm(conv(z, b["conv2"]["kernel"], 1, 1), b["bn2"], s["bn2"])
        if "conv_shortcut" in b:
            y = norm(conv(y, b["conv_shortcut"]["kernel"], stride, 0), b["bn_shortcut"], s["bn_shortcut"])
        y = f.relu(y + z)
    result = module.apply({"params": p, "batch_stats": stats}, x)
    np.testing.assert_allclose(result.features, y.permute(0, 2, 3, 1), rtol=1e-4, atol=1e-4)


def test_stochastic_depth_drops_branches_of_examples_at_linear_rates():
    """With identity statistics, the output of a block is that of its shortcut where its branch is dropped."""
    shape, rate = (400, 9, 9), 0.6
    plain = ResNet(stage_sizes=(1, 1, 1), width=4, zero_init=False)
    x, variables = init(plain, (1, 9, 9))
    x = np.broadcast_to(x, shape)
    deep = ResNet(stage_sizes=(1, 1, 1), width=4, zero_init=False, drop_path=rate)
    # The variables and the evaluation are the same.
    assert jax.tree.map(jnp.shape, init(deep, (1, 9, 9))[1]) == jax.tree.map(jnp.shape, variables)
    np.testing.assert_array_equal(deep.apply(variables, x[:2]).embedding, plain.apply(variables, x[:2]).embedding)
    rngs = {"droppath": jax.random.key(3)}

    def blocks(module):
        keep = {"mutable": ["batch_stats", "intermediates"], "rngs": rngs, "capture_intermediates": True}
        _, state = jax.jit(lambda: module.apply(variables, x, train=True, **keep))()
        return state["intermediates"]

    random = blocks(deep)
    for number, name in enumerate(("stage1_block1", "stage2_block1", "stage3_block1"), start=1):
        layers = random[name]
        branch, output = layers["bn2"]["__call__"][0], layers["__call__"][0]
        # The first block keeps the shape: its shortcut is its input, the output of the pooling.
        if number > 1:
            shortcut = layers["bn_shortcut"]["__call__"][0]
            dropped = np.isclose(output, jax.nn.relu(shortcut), atol=1e-6).all((1, 2, 3))
            kept = np.isclose(output, jax.nn.relu(shortcut + branch / (1 - rate * number / 3)), atol=1e-4).all(
                (1, 2, 3)
            )
            assert (dropped ^ kept).all()
            assert abs(dropped.mean() - rate * number / 3) < 0.08
        else:
            assert len(np.unique(np.asarray(output).reshape(400, -1).round(4), axis=0)) == 2


def test_a_branch_keeps_its_mean():
    y = jnp.ones((4000, 2, 3))
    result = np.asarray(drop_path(jax.random.key(0), 0.3, y))
    assert (result == result[:, :1, :1]).all() and set(np.unique(result)) == {0, np.float32(1 / 0.7)}
    assert abs(result.mean() - 1) < 0.04


def test_bfloat16_is_averaged_in_float32():
    x = np.random.default_rng(0).standard_normal((2, 64, 64)).astype(np.float32)
    model = ResNet(stage_sizes=(1,), width=8, dtype=jnp.bfloat16)
    result, _ = jax.jit(model.init_with_output)(jax.random.key(0), x)
    np.testing.assert_allclose(result.embedding, np.asarray(result.features, np.float32).mean((1, 2)), rtol=1e-5)
