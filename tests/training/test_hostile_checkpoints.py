"""Checkpoints of strangers: every value that prediction reads, replaced by values that no run writes.

The checksum of the metadata is computed again, as a stranger would do: it is not what refuses them.
"""

import copy
import json
import pathlib
import shutil
import subprocess
import sys

import pytest

from esc_jax import files
from esc_jax.config import flatten
from esc_jax.errors import UserError
from esc_jax.inference.classifier import SoundClassifier
from esc_jax.training import checkpoint
from esc_jax.training.checkpoint import CheckpointError
from esc_jax.training.restore import check_meta, restore

ROOT = pathlib.Path(__file__).resolve().parents[2]
NESTED = json.loads("[" * 100 + "]" * 100)
VALUES = (10**9, -1, 0, 1e300, float("nan"), "x" * 1000, "", None, [], {}, NESTED, True)


def metadata(workdir):
    return next((workdir / "checkpoints").glob("*/meta/metadata"))


def set_value(meta, key, value):
    """Sets `config.model.encoder.width` and so on in a copy."""
    meta = copy.deepcopy(meta)
    *path, last = key.split(".")
    node = meta
    for name in path:
        node = node[name]
    node[last] = value
    return meta


def write(path, meta):
    meta = {name: value for name, value in meta.items() if name != "crc32"}
    # Written and read once, so that the order and types are those of the file.
    meta = json.loads(json.dumps(meta))
    path.write_text(json.dumps(meta | {"crc32": files.json_checksum(meta)}))


@pytest.fixture
def stranger(untrained, tmp_path):
    """A copy of a run, and its metadata."""
    workdir = tmp_path / "run"
    shutil.copytree(untrained, workdir)
    return workdir, json.loads(metadata(workdir).read_text())


READ = ("config.model", "config.frontend", "config.augment.crop_s", "config.data", "config.task", "classes")


def keys_of(meta):
    """All keys, and the objects that hold them."""
    flat = flatten({name: value for name, value in meta.items() if name in ("config", "classes")})
    parents = {key.rpartition(".")[0] for key in flat if "." in key}
    return [key for key in (*flat, *parents) if key.startswith(READ) or key in ("config", "calibration")]


def test_every_value_of_the_metadata(stranger):
    """Either the model loads, since the value is allowed or not used, or there is one sentence."""
    workdir, meta = stranger
    meta["calibration"] = {"temperature": 1.5, "fitted_on": "x", "thresholds": None}
    keys = [*keys_of(meta), "calibration.temperature", "calibration.thresholds", "classes", "checksums", "format"]
    refused = 0
    for key in dict.fromkeys(keys):
        for value in VALUES:
            write(metadata(workdir), set_value(meta, key, value))
            try:
                # Without reading the weights, where nothing is wrong so far: the loop is quick.
                found = checkpoint.read_meta(workdir / "checkpoints", 0)
                check_meta(found)
            except UserError as error:
                refused += 1
                assert "\n" not in str(error) and len(str(error)) < 500, (key, value)
    assert refused > 100


BUILT = {
    "config.model.encoder.width": (10**9, 65_536, 0, "x", None, [], True),
    "config.model.encoder.stage_sizes": ([10**9], [256] * 65, [[]], "x", None, [1] * 64),
    "config.model.encoder.drop_path": (1.0, -0.5, "x", None, []),
    "config.model.head.dropout": (1.0, "x", None),
    "config.model.head.pooling": ("attention", "max", 3, None, []),  # attention: there are no weights for it
    "config.model.head.attention_width": (10**9, 0, -1, "x", None, [], True),
    "config.model.head.name": ("none", 3, None, []),
    "config.model.name": ("beats", "none", 3),
    "config.model.dtype": ("float8", "bfloat16", "complex64", None),
    "config.frontend.n_fft": (10**7, 10**9, -1, 3.5, "x"),
    "config.frontend.mels": (10**9, 513, 0, None),
    "config.frontend.hop": (0, -1, 10**9),
    "config.frontend.fmax": (1e300, -5.0),
    "config.frontend.name": ("none", "kaldi_fbank", None),
    "config.data.clip_s": (1e9, 0, -1, "x"),
    "config.data.sample_rate": (10**9, 0, 7.5, "x"),
    "config.augment.crop_s": (1e9, -1),
    "config.task": ("energy", 3, None, []),
    "classes": ([], ["a"], ["a", "a", "b"], ["a", "b\nc", "d"], [1, 2, 3], "abc", None, ["a"] * 20_000),
    "calibration.temperature": (0, -1, float("nan"), float("inf"), "x", [], True),
    "calibration.thresholds": ([0.5], [float("nan")] * 3, "x", [2, 2, 2], 3),
}


@pytest.mark.parametrize("key", BUILT)
def test_values_that_reach_the_model(stranger, key):
    workdir, meta = stranger
    meta["calibration"] = {"temperature": 1.5, "fitted_on": "x", "thresholds": None}
    refusals = 0
    for value in BUILT[key]:
        write(metadata(workdir), set_value(meta, key, value))
        try:
            SoundClassifier(restore(workdir))
        except CheckpointError as error:
            refusals += 1
            assert "\n" not in str(error) and str(error).startswith(str(workdir.resolve())), (key, value)
    assert refusals >= len(BUILT[key]) - 1


def test_metadata_that_are_no_json_object(stranger):
    workdir, meta = stranger
    for text in ("[" * 100_000 + "]" * 100_000, "", "{", "3", json.dumps(meta)[:-30], '{"format": 3}'):
        metadata(workdir).write_text(text)
        with pytest.raises(CheckpointError) as error:
            restore(workdir)
        assert "\n" not in str(error.value)
    with metadata(workdir).open("wb") as file:
        file.truncate(checkpoint.MAX_META_BYTES + 1)
    with pytest.raises(CheckpointError, match="its metadata cannot be read .it is larger than 64 MiB"):
        restore(workdir)


MEASURE = """
import re, sys
from esc_jax.errors import UserError
from esc_jax.training.restore import restore
def peak():
    return int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1])
restore(sys.argv[1])
before = peak()
for path in sys.argv[2:]:
    try:
        restore(path)
    except UserError as error:
        continue
    raise SystemExit(f"{path} was loaded")
print(peak() - before)
"""
EXPENSIVE = {
    "config.model.encoder.width": 65_536,
    "config.model.encoder.stage_sizes": [256],
    "config.frontend.mels": 512,
    "config.frontend.n_fft": 10**9,
    "config.data.clip_s": 3600.0,
    "classes": [str(i) for i in range(10_000)],
}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory in /proc")
def test_a_refusal_takes_little_memory(untrained, tmp_path, environment):
    paths = []
    for number, (key, value) in enumerate(EXPENSIVE.items()):
        paths.append(tmp_path / str(number))
        shutil.copytree(untrained, paths[-1])
        meta = set_value(json.loads(metadata(paths[-1]).read_text()), key, value)
        if key == "config.data.clip_s":
            meta["config"]["data"]["sample_rate"] = 192_000
        write(metadata(paths[-1]), meta)
    command = [sys.executable, "-c", MEASURE, str(untrained), *map(str, paths)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) < 200 << 10  # KiB
