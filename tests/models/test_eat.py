"""EAT against the published counts and a torch network, and its inputs of other lengths."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from esc_jax.models.eat import Eat
from tests.training import helpers


def small(**options):
    defaults = {
        "width": 4, "stem_strides": (4, 4), "stage_blocks": 2, "kernel_size": 5, "embed_dim": 8, "layers": 2,
        "heads": 2, "ffn": 12, "positions": 10,
    }  # fmt: skip
    return Eat(**(defaults | options))


def waveforms(samples, batch=2):
    return jnp.asarray(np.random.default_rng(0).standard_normal((batch, samples)), jnp.float32)


def randomized(module, x):
    """Variables with random values in every array, also in those that are initialized with zeros or ones."""
    rng = np.random.default_rng(1)
    variables = jax.eval_shape(module.init, jax.random.key(0), x)

    def draw(path, leaf):
        values = rng.standard_normal(leaf.shape).astype(np.float32) * 0.3
        return 1.0 + 0.5 * np.abs(values) if path[-1].key in ("scale", "var") else values

    return jax.tree_util.tree_map_with_path(draw, variables)


@pytest.mark.parametrize(("positions", "classes", "count"), [(112, 50, 5_183_618), (216, 527, 5_258_463)])
def test_has_the_published_number_of_parameters(positions, classes, count):
    """5.2 million for ESC-50, 5.3 million for AudioSet."""
    shapes = jax.eval_shape(Eat(positions=positions).init, jax.random.key(0), jnp.zeros((1, 4096)))["params"]
    assert sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) + 129 * classes == count


class TorchEat:
    """The network in torch, of the parameters of a flax one, in evaluation mode. Signals are (B, C, T)."""

    def __init__(self, variables):
        import torch

        self.torch, self.f = torch, torch.nn.functional
        self.tree = jax.tree.map(lambda a: torch.tensor(np.asarray(a)), variables)

    def conv(self, x, params, dilation=1, depthwise=False):
        kernel = params["kernel"].T[:, None] if depthwise else params["kernel"].permute(2, 1, 0)
        pad = dilation * (kernel.shape[-1] // 2)
        x = self.f.pad(x, (pad, pad), "reflect") if pad else x
        groups = len(kernel) if depthwise else 1
        return self.f.conv1d(x, kernel, params.get("bias"), dilation=dilation, groups=groups)

    def norm(self, x, params, stats):
        params, stats = params["norm"], stats["norm"]
        y = self.f.batch_norm(x, stats["mean"], stats["var"], params["scale"], params["bias"], eps=1e-5)
        return self.f.leaky_relu(y, 0.2)

    def down(self, x, name, stride):
        params, stats = self.tree["params"][name], self.tree["batch_stats"][name]
        x = self.norm(self.conv(x, params["conv"]), params["out"], stats["out"])
        taps = self.torch.cat([self.torch.arange(1.0, stride + 2), self.torch.arange(float(stride), 0, -1)])
        kernel = (taps / taps.sum()).expand(x.shape[1], 1, -1)
        return self.f.conv1d(self.f.pad(x, (stride, stride), "reflect"), kernel, stride=stride, groups=x.shape[1])

    def block(self, x, name, dilation):
        params, stats = self.tree["params"][name], self.tree["batch_stats"][name]
        time = self.norm(self.conv(x, params["time_conv"], dilation, True), params["time"], stats["time"])
        mixed = self.norm(self.conv(x, params["channel_conv"]), params["channel"], stats["channel"])
        return self.conv(x, params["shortcut"]) + mixed + time

    def transformer(self, x, module):
        torch, params = self.torch, self.tree["params"]
        size = module.embed_dim
        layer = torch.nn.TransformerEncoderLayer(size, module.heads, module.ffn, activation="gelu", batch_first=True)
        encoder = torch.nn.TransformerEncoder(layer, module.layers, torch.nn.LayerNorm(size))
        state = {"norm.weight": params["last"]["scale"], "norm.bias": params["last"]["bias"]}
        for i in range(module.layers):
            p, prefix = params[f"layer_{i}"], f"layers.{i}."
            qkv = [p["attention"][name] for name in ("query", "key", "value")]
            state[f"{prefix}self_attn.in_proj_weight"] = torch.cat([q["kernel"].T for q in qkv])
            state[f"{prefix}self_attn.in_proj_bias"] = torch.cat([q["bias"] for q in qkv])
            linear = {"self_attn.out_proj": p["attention"]["out"], "linear1": p["intermediate"]}
            for name, q in (linear | {"linear2": p["output"]}).items():
                state |= {f"{prefix}{name}.weight": q["kernel"].T, f"{prefix}{name}.bias": q["bias"]}
            for name, q in (("norm1", p["attention_norm"]), ("norm2", p["output_norm"])):
                state |= {f"{prefix}{name}.weight": q["scale"], f"{prefix}{name}.bias": q["bias"]}
        encoder.load_state_dict(state)
        token = params["class_token"].expand(len(x), 1, -1)
        x = torch.cat([token, x.transpose(1, 2)], 1) + params["position"][: 1 + x.shape[2]]
        return encoder.eval()(x).detach().numpy()

    def __call__(self, waveform, module):
        params, stats = self.tree["params"], self.tree["batch_stats"]
        x = self.torch.tensor(np.asarray(waveform))[:, None]
        x = self.norm(self.conv(x, params["stem_conv"]), params["stem_out"], stats["stem_out"])
        for i, stride in enumerate(module.stem_strides, start=1):
            x = self.down(x, f"stem_down{i}", stride)
            x = self.block(x, f"stem_block{i}", 1) if i in (1, 3) else x
        for i, stride in enumerate(module.stage_strides, start=1):
            for j in range(module.stage_blocks):
                x = self.block(x, f"stage{i}_block{j + 1}", 3**j)
            x = self.down(x, f"stage{i}_down{module.stage_blocks + 1}", stride)
        return self.transformer(self.conv(x, params[f"stage{len(module.stage_strides) + 1}_projection"]), module)


@pytest.mark.parametrize("samples", [640, 571])
def test_equals_a_torch_network(samples):
    pytest.importorskip("torch")
    module, x = small(), waveforms(samples)
    variables = randomized(module, x)
    expected = TorchEat(variables)(x, module)
    result = jax.jit(module.apply)(variables, x)
    # Tokens are normalized. float32 sums of some hundred products in another order, through a dozen layers.
    np.testing.assert_allclose(result.embedding, expected[:, 0], atol=2e-4)
    np.testing.assert_allclose(result.features, expected[:, 1:], atol=2e-4)


@pytest.mark.parametrize("samples", [1, 64, 640, 1000])
def test_any_length_gives_a_token_for_each_64_samples(samples):
    module = small(stage_blocks=1, layers=1)
    variables = randomized(module, waveforms(640))
    result = jax.jit(module.apply)(variables, waveforms(samples))
    assert result.embedding.shape == (2, 8) and result.features.shape == (2, -(-samples // 64), 8)
    assert np.isfinite(result.embedding).all()


@pytest.mark.slow
def test_padding_is_silence():
    module, x = small(stage_blocks=1, layers=1), waveforms(640)
    variables = randomized(module, x)
    padding = jnp.zeros(x.shape, bool).at[:, 300:].set(True)
    result = [module.apply(variables, x, padding=mask).embedding for mask in (None, padding)]
    np.testing.assert_array_equal(*result)


def test_weights_are_drawn_with_a_deviation_of_a_fiftieth():
    module = small(stage_blocks=1, layers=1, width=32, embed_dim=64)
    variables = jax.jit(module.init)(jax.random.key(0), waveforms(64))
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables["params"]):
        name = path[-1].key
        if name == "kernel" and leaf.size > 1000:
            assert leaf.std() == pytest.approx(0.02, rel=0.1), path
        elif name in ("bias", "class_token", "position"):
            assert not leaf.any(), path


@pytest.mark.slow
@pytest.mark.parametrize("remat", [False, True])
def test_every_parameter_gets_a_gradient(remat):
    module, x = small(stage_blocks=1, layers=1, remat=remat), waveforms(640)
    variables = randomized(module, x)

    def loss(params):
        variables_ = {"params": params, "batch_stats": variables["batch_stats"]}
        rngs = {"dropout": jax.random.key(3)}
        encoded, updates = module.apply(variables_, x, train=True, mutable=["batch_stats"], rngs=rngs)
        return (encoded.embedding * jnp.arange(8.0)[None]).sum(), updates["batch_stats"]

    (_, stats), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        # The softmax does not depend on the bias of the keys.
        assert np.isfinite(leaf).all() and (leaf.any() or "key" in str(path)), path
    assert all(leaf.any() for leaf in jax.tree.leaves(stats))


@pytest.mark.extended
def test_recomputation_does_not_change_the_gradients():
    x = waveforms(640)
    variables = randomized(small(stage_blocks=1, layers=1), x)

    def gradients(remat):
        module = small(stage_blocks=1, layers=1, dropout=0.0, remat=remat)

        def loss(params):
            encoded, _ = module.apply(
                {"params": params, "batch_stats": variables["batch_stats"]}, x, train=True, mutable=["batch_stats"]
            )
            return encoded.embedding[:, 0].sum()

        return jax.jit(jax.grad(loss))(variables["params"])

    # The same operations; XLA fuses them in another way.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), gradients(False), gradients(True))


@pytest.mark.extended
def test_bfloat16_gives_an_embedding_in_float32():
    module, x = small(stage_blocks=1, layers=1), waveforms(640)
    variables = randomized(module, x)
    expected = module.apply(variables, x).embedding
    result = module.clone(dtype=jnp.bfloat16).apply(variables, x).embedding
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, expected, atol=0.15)  # 8 bits, through a dozen layers
    assert np.abs(expected).max() > 1


@pytest.mark.extended
def test_training_lowers_the_loss(noise_clips):
    from esc_jax import config as configs

    config = configs.defaults("eat", frontend="raw")
    config.data.update(sample_rate=16_000, clip_s=0.5)
    config.model.encoder.update(width=4, stem_strides=(4, 4), stage_blocks=1, embed_dim=16, layers=1, heads=2, ffn=32)
    config.optim.update(schedule="constant", warmup_percent=-1.0, lr=3e-3)
    config.train.batch_size = 4
    _, _, losses = helpers.train(config, noise_clips, 20)
    assert np.isfinite(losses).all() and np.mean(losses[-4:]) < 0.9 * np.mean(losses[:4])
