"""Exports: programs that run without esc_jax, directories that transformers loads. Cards: test_export_card.py."""

import dataclasses
import functools
import json
import os
import pathlib
import re
import subprocess
import sys

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import soundfile

from esc_jax import build
from esc_jax import config as configs
from esc_jax.cli import export
from esc_jax.export import base, formats
from esc_jax.frontends import registry as frontends
from esc_jax.inference.classifier import SoundClassifier
from esc_jax.models import registry as models
from esc_jax.pretrained import efficientnet, hubert, merge
from esc_jax.pretrained.checkpoint import PretrainedError
from esc_jax.training import checkpoint
from esc_jax.training import state as states
from esc_jax.training import step as steps

CLASSES = ("dog", "sea_waves", "chainsaw", "rain", "wind", "snoring", "hen")
READERS = {"hubert": hubert.read, "efficientnet": efficientnet.read}
ENCODERS = {
    "resnet": {"stage_sizes": (1, 1), "width": 8},
    "hubert": {
        "hidden_size": 32,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "conv_dim": (16,) * 7,
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 4,
        "weighted_layer_sum": True,
    },
    "efficientnet": {"width_coefficient": 0.3, "depth_coefficient": 0.1, "same_padding": "transformers"},
    "efficientat": {"width_mult": 0.1},
    "beats": {
        "embed_dim": 12,
        "encoder_layers": 1,
        "encoder_embed_dim": 16,
        "encoder_ffn_embed_dim": 24,
        "encoder_attention_heads": 2,
        "conv_pos": 8,
        "conv_pos_groups": 2,
    },
}
FRONTENDS = {"hubert": "raw", "efficientat": "efficientat_mel", "beats": "kaldi_fbank"}


def tiny(name: str):
    """A config of every architecture, half a second at 16 kHz."""
    head = {"hubert": "projected", "efficientat": "mlp"}.get(name, "linear")
    config = configs.defaults(name, head, FRONTENDS.get(name, "log_mel"))
    config.experiment = f"tiny_{name}"
    config.data.update(sample_rate=16_000, clip_s=0.5, test_fold=2)
    config.model.encoder.update(ENCODERS[name])
    if config.frontend.name == "log_mel":
        config.frontend.update(n_fft=512, hop=256, mels=32, htk=True, win_length=400)
    if name == "efficientat":
        config.frontend.fmax = 7000.0
    return config


def random_variables(config, seed=0):
    """Every array random, no two alike.

    From shapes alone: compiling the initialisation takes longer than all else here.
    """
    model = models.build(config.model, len(CLASSES))
    frontend = frontends.build(config.frontend, config.data.sample_rate)
    shapes = jax.eval_shape(lambda key: model.init(key, frontend(jnp.zeros((1, 8000)))), jax.random.key(0))
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        kind = path[-1].key
        if kind in ("var", "scale", "magnitude"):
            return jnp.asarray(rng.uniform(*((0.2, 0.5) if kind == "var" else (1.0, 2.0)), leaf.shape), jnp.float32)
        fan_in = np.prod(leaf.shape[:-1]) if len(leaf.shape) > 1 else 100.0
        return jnp.asarray(rng.normal(size=leaf.shape, scale=(2 / fan_in) ** 0.5), jnp.float32)

    found = jax.tree_util.tree_map_with_path(draw, shapes)
    return {"params": found["params"], "batch_stats": found.get("batch_stats", {})}


def balanced(config, variables):
    """The classifier scaled and shifted, so that the logits of `clips` are of mean 0 and size 1.

    Else most random networks give every clip the same class with certainty, and any two programs would agree.
    """
    model = models.build(config.model, len(CLASSES))
    frontend = frontends.build(config.frontend, config.data.sample_rate)
    logits = jax.jit(lambda x: model.apply(variables, frontend(x)))(steps.to_float(clips(5)))
    classifier = variables["params"]["head"]["classifier"]
    classifier["bias"] = (classifier["bias"] - logits.mean(0)) / logits.std()
    classifier["kernel"] = classifier["kernel"] / logits.std()
    return variables


def save(workdir: pathlib.Path, config, variables=None, ema=None) -> pathlib.Path:
    """A run's workdir as training leaves it, at step 3."""
    variables = random_variables(config) if variables is None else variables
    state = states.create(variables, optax.sgd(0.1), ema=False).replace(step=jnp.int32(3), ema=ema)
    meta = {"config": config.to_dict(), "classes": list(CLASSES), "sample_rate": config.data.sample_rate}
    checkpoints = checkpoint.Checkpoints(workdir / "checkpoints")
    checkpoints.save(state, meta)
    checkpoints.close()
    return workdir


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Workdir of a run of the tiny ResNet."""
    return save(tmp_path_factory.mktemp("resnet"), tiny("resnet"))


@pytest.fixture(scope="module")
def restored(tmp_path_factory):
    """An architecture's tiny run, restored once."""

    @functools.cache
    def get(name: str) -> build.Restored:
        variables = balanced(tiny(name), random_variables(tiny(name)))
        return build.restore(save(tmp_path_factory.mktemp(name), tiny(name), variables))

    return get


def clips(count: int) -> np.ndarray:
    """(count, 8000) int16: noise, and silence as the last."""
    audio = np.random.default_rng(1).normal(size=(count, 8000), scale=3000).astype(np.int16)
    audio[-1] = 0
    return audio


def probabilities(run, audio: np.ndarray) -> np.ndarray:
    return np.asarray(steps.predict_step(run.model, run.frontend)(run.variables, audio)[0])


def assert_same_tree(found, expected):
    found, expected = traverse_util.flatten_dict(found), traverse_util.flatten_dict(expected)
    assert found.keys() == expected.keys()
    for path, array in expected.items():
        np.testing.assert_array_equal(found[path], array, err_msg="/".join(path))


def code(directory: pathlib.Path) -> str:
    """The card's usage example."""
    (found,) = re.findall(r"```python\n(.*?)```", (directory / "README.md").read_text(), re.DOTALL)
    return found


# What the card tells a user to run, on clips from a file; nothing of ours, nor what we are built on, can be imported.
ALONE = """
import sys
for missing in ("esc_jax", "flax", "orbax", "optax", "ml_collections", "librosa"):
    sys.modules[missing] = None
{example}
for count in (1, 2, 5):
    np.save(f"out{{count}}.npy", classify(waveforms[:count]))
"""


@pytest.mark.parametrize("name", ENCODERS)
def test_a_program_runs_without_esc_jax_and_gives_the_same(restored, tmp_path, name):
    audio, run = clips(5), restored(name)
    out = formats.write(run, "stablehlo", tmp_path / "out")
    assert {path.name for path in out.iterdir()} == {"model.stablehlo", "model.json", "README.md"}
    np.save(out / "clips.npy", audio.astype(np.float32) / 32768)
    zeros = 'np.zeros((1, model["samples"]), np.float32)'
    assert zeros in code(out)
    done = subprocess.run(
        [sys.executable, "-I", "-c", ALONE.format(example=code(out).replace(zeros, 'np.load("clips.npy")'))],
        cwd=out, env=os.environ, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    expected = probabilities(run, audio)
    assert np.ptp(expected, axis=0).max() > 0.05  # far above the tolerance: the clips do differ
    for count in (1, 2, 5):
        # The same operations compiled anew, weights folded into them: float32 sums in another order.
        np.testing.assert_allclose(np.load(out / f"out{count}.npy"), expected[:count], atol=1e-5, rtol=0)
    assert [CLASSES[i] for i in expected.argmax(-1)] == eval(done.stdout)


def test_a_program_is_for_three_platforms_and_any_batch(workdir, tmp_path):
    out = formats.export(workdir, "stablehlo", tmp_path / "a/b/out")
    program = jax.export.deserialize(bytearray((out / "model.stablehlo").read_bytes()))
    assert program.platforms == ("cpu", "cuda", "tpu")
    assert not program.disabled_safety_checks  # no custom call without a promise of compatibility
    (shape,) = (aval.shape for aval in program.in_avals)
    assert str(shape[0]) == "batch" and shape[1] == 8000
    described = json.loads((out / "model.json").read_text())
    assert described["labels"] == list(CLASSES)
    assert (described["sample_rate"], described["samples"]) == (16_000, 8000)
    assert described["input"]["shape"] == ["batch", 8000] and described["output"]["shape"] == ["batch", 7]
    assert described["measured"] == {"accuracy": None, "reason": "the run has no results"}


def test_the_averaged_weights_are_exported_where_a_run_has_them(tmp_path):
    config, average = tiny("hubert"), random_variables(tiny("hubert"), seed=1)
    out = formats.export(save(tmp_path / "run", config, ema=average), "huggingface", tmp_path / "out")
    assert_same_tree(hubert.read(out).variables["params"], average["params"])


@pytest.mark.parametrize("name", READERS)
def test_import_export_import_is_the_identity(restored, tmp_path, name):
    run = restored(name)
    out = formats.write(run, "huggingface", tmp_path / "first")
    found = READERS[name](out)
    assert found.labels == CLASSES
    assert found.frontend == run.config.frontend.to_dict() | {"sample_rate": 16_000}
    for collection, tree in found.variables.items():
        assert_same_tree(tree, run.variables[collection])
    # In again through model.pretrained, as a run starts; and out again.
    config = tiny(name)
    config.model.pretrained = str(out)
    adopted, _, _, variables = build.start(config, CLASSES)
    started = dataclasses.replace(run, config=adopted, variables=variables)
    again = formats.write(started, "huggingface", tmp_path / "second")
    for file in ("config.json", "model.safetensors", "preprocessor_config.json"):
        assert (again / file).read_bytes() == (out / file).read_bytes()
    assert_same_tree(merge.read(name, str(again)).variables, found.variables)


@pytest.mark.parametrize(("name", "head"), [("hubert", "SequenceClassification"), ("efficientnet", "ForImageClass")])
def test_transformers_gives_the_same_by_the_example_of_the_card(restored, tmp_path, monkeypatch, capsys, name, head):
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    audio, run = clips(2)[:1], restored(name)
    out = formats.write(run, "huggingface", tmp_path / "out")
    soundfile.write(out / "clip.wav", audio[0], 16_000)
    monkeypatch.chdir(out)
    names = {}
    exec(code(out), names)
    assert head in type(names["model"]).__name__
    assert list(names["model"].config.id2label.values()) == list(CLASSES)
    logits = np.asarray(jax.jit(lambda x: run.model.apply(run.variables, run.frontend(x)))(steps.to_float(audio)))
    inputs = names["inputs"] if name == "hubert" else {"pixel_values": names["pixel_values"]}
    with torch.no_grad():
        found = names["model"](**inputs).logits.numpy()
    # The tolerance, between two libraries that sum in different orders; the example's features are librosa's.
    np.testing.assert_allclose(found, logits, atol=1e-4, rtol=0)
    np.testing.assert_allclose(names["probabilities"], probabilities(run, audio)[0], atol=1e-4, rtol=0)
    assert np.ptp(logits) > 0.05  # far above it
    best = CLASSES[int(logits[0].argmax())]
    assert capsys.readouterr().out.startswith(best)


def test_a_recording_shorter_than_a_clip_is_what_transformers_makes_of_it(restored, tmp_path, monkeypatch):
    """By the example of the card: filled up by both, and told of it (its attention mask, our `data.mask_padding`)."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    audio, run = clips(2)[0, :5000], dataclasses.replace(restored("hubert"), mask_padding=True)
    out = formats.write(run, "huggingface", tmp_path / "out")
    soundfile.write(out / "clip.wav", audio, 16_000)
    monkeypatch.chdir(out)
    names = {}
    exec(code(out), names)
    assert names["inputs"]["attention_mask"].sum() == 5000 and names["inputs"]["input_values"].shape == (1, 8000)
    untold = dataclasses.replace(run, mask_padding=False)
    told, untold = (SoundClassifier(one)(audio, 16_000).vector for one in (run, untold))
    # The tolerance for logits, between two libraries that sum in different orders.
    np.testing.assert_allclose(told, names["probabilities"], atol=1e-4, rtol=0)
    assert np.abs(untold - told).max() > 0.01


def test_a_width_that_transformers_computes_otherwise_is_refused(tmp_path):
    config = tiny("efficientnet")
    config.model.encoder.width_coefficient = 0.25
    variables = random_variables(config)
    with pytest.raises(PretrainedError, match="leaves a residual out at width_coefficient=0.25"):
        efficientnet.write(tmp_path, variables, config.model.encoder.to_dict(), CLASSES, {"name": "log_mel"})
    assert list(tmp_path.iterdir()) == []


def test_a_spectrogram_that_transformers_pads_otherwise_is_refused(restored, tmp_path):
    config = tiny("efficientnet")
    config.model.encoder.same_padding = "tf"
    run = dataclasses.replace(restored("efficientnet"), config=config)
    # 32 frames of 32 bins: there both pads are the same.
    assert formats.write(run, "huggingface", tmp_path / "out").is_dir()
    with pytest.raises(base.ExportError, match=r"spectrograms of 38 × 32 .* --format=stablehlo"):
        formats.write(dataclasses.replace(run, clip_s=0.6), "huggingface", tmp_path / "refused")
    assert not (tmp_path / "refused").exists()


@pytest.fixture(scope="module")
def wrong(workdir, tmp_path_factory):
    """What goes wrong: arguments by name."""
    folder = tmp_path_factory.mktemp("wrong")
    (folder / "full").mkdir()
    (folder / "full" / "mine.txt").write_text("mine")
    (folder / "empty").mkdir()
    (folder / "file").write_text("")
    old = save(folder / "old", tiny("resnet"))
    meta = old / "checkpoints/3/meta/metadata"
    meta.write_text(json.dumps(json.loads(meta.read_text()) | {"format": 99}))
    bad = save(folder / "bad", tiny("resnet"))
    (bad / "results.json").write_text("{")
    resnet, out = workdir, folder / "out"
    return {
        "no folder": ([f"--checkpoint={folder}/none", "--format=stablehlo", f"--out={out}"], 1, "no such folder"),
        "no checkpoint": ([f"--checkpoint={folder}/empty", "--format=stablehlo", f"--out={out}"], 1, "no checkpoint"),
        "version": ([f"--checkpoint={old}", "--format=stablehlo", f"--out={out}"], 1, "written in format 99"),
        "results": ([f"--checkpoint={bad}", "--format=stablehlo", f"--out={out}"], 1, "is not what a run writes"),
        "format": ([f"--checkpoint={resnet}", "--format=onnx", f"--out={out}"], 2, "invalid choice: 'onnx'"),
        "missing": (["--format=stablehlo", f"--out={out}"], 2, "required: --checkpoint"),
        "class": (
            [f"--checkpoint={resnet}", "--format=huggingface", f"--out={out}"],
            2,
            "no class for model.name=resnet (it has for hubert and efficientnet): export it with --format=stablehlo",
        ),
        "full": ([f"--checkpoint={resnet}", "--format=stablehlo", f"--out={folder}/full"], 2, "not an empty folder"),
        "file": ([f"--checkpoint={resnet}", "--format=stablehlo", f"--out={folder}/file"], 2, "not an empty folder"),
        "below a file": ([f"--checkpoint={resnet}", "--format=stablehlo", f"--out={folder}/file/x"], 1, "file"),
    }


@pytest.mark.parametrize(
    "case",
    [
        "no folder", "no checkpoint", "version", "results", "format", "missing", "class", "full", "file", "below a file"
    ],
)  # fmt: skip
def test_what_a_user_can_get_wrong_is_one_sentence_and_leaves_nothing(wrong, capsys, case):
    arguments, status, sentence = wrong[case]
    folder = pathlib.Path(arguments[-1].removeprefix("--out=")).parent
    folder = folder if folder.is_dir() else folder.parent
    before = sorted(folder.rglob("*"))
    try:
        found = export.main(arguments)
    except SystemExit as stopped:  # argparse
        found = stopped.code
    said = capsys.readouterr().err
    assert (found, said.count("\n")) == (status, 1)
    assert said.startswith("esc_jax: ") and sentence in said
    assert sorted(folder.rglob("*")) == before


def test_an_export_that_breaks_off_leaves_nothing(workdir, tmp_path, monkeypatch):
    def half(run, directory):
        (directory / "model.json").write_text("{")
        raise KeyboardInterrupt

    monkeypatch.setitem(formats.FORMATS, "stablehlo", half)
    with pytest.raises(KeyboardInterrupt):
        formats.export(workdir, "stablehlo", tmp_path / "new/out")
    assert list(tmp_path.iterdir()) == []


def test_the_command(workdir, run, tmp_path):
    (tmp_path / "out").mkdir()  # empty: it may be there
    arguments = (f"--checkpoint={workdir}", "--format=stablehlo", f"--out={tmp_path}/out")
    done = run("export", *arguments)
    assert "model.stablehlo" in done.stdout and (tmp_path / "out/model.stablehlo").stat().st_size > 10_000
    assert "is not an empty folder" in run("export", *arguments, check=2).stderr
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_help_needs_no_jax():
    """Two seconds are promised; JAX alone takes one."""
    program = "import sys, esc_jax.export as e\ntry: e.main(['--help'])\nfinally: assert 'jax' not in sys.modules"
    root = pathlib.Path(__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--format {huggingface,stablehlo}" in done.stdout
