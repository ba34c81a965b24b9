"""Mutated files: recordings of many formats, tables, archives, and weights."""

from collections.abc import Iterator
import io
import random
import shutil
import subprocess
import zipfile

import numpy as np

from esc_jax.data import ffmpeg
from esc_jax.data.layouts.registry import open_source
from esc_jax.data.stream import AudioStream
from esc_jax.models import heads
from esc_jax.models.encoder import Classifier
from esc_jax.models.hubert import Hubert
from esc_jax.pretrained import hubert, load
from tests.data.audio_files import FORMATS, noise_file
from tests.reliability.base import Bench, Counts, Scale, attempt, mutate

MAX_SAMPLES = 200 * 16_000  # a header that promises hours must not give them
FFMPEG_FORMATS = {"m4a": ("-c:a", "aac"), "webm": ("-c:a", "libopus"), "wma": ("-c:a", "wmav2")}


def _decode(content: bytes, name: str) -> str:
    """Reads a file to its end; returns its note."""
    stream, total = AudioStream(content, 16_000, name), 0
    for block in stream:
        total += len(block)
        if not np.isfinite(block).all() or total > MAX_SAMPLES:
            raise AssertionError("samples that are not there")
    return stream.note


def sounds(bench: Bench, scale: Scale, rng: random.Random) -> Iterator[tuple[str, Counts]]:
    """Yields (format, counts of outcomes)."""
    originals = {name: noise_file(name, 1.0) for name in FORMATS}
    executable = shutil.which("ffmpeg") if ffmpeg.find_ffmpeg() else None
    (bench.folder / "a.wav").write_bytes(originals["wav"])
    for name, options in FFMPEG_FORMATS.items() if executable else ():
        path = bench.folder / f"a.{name}"
        line = [executable, "-loglevel", "error", "-i", str(bench.folder / "a.wav"), *options, str(path)]
        if subprocess.run(line, capture_output=True).returncode == 0:
            originals[name] = path.read_bytes()
    counts: Counts = Counts()
    for name, content in originals.items():
        suffix = name if name in FFMPEG_FORMATS else "wav"
        # ffmpeg is a process for each file.
        number = scale.cases * (1 if name in FFMPEG_FORMATS else 3)
        for _ in range(number):
            changed = mutate(content, rng)
            path = bench.folder / f"mutated.{suffix}"
            path.write_bytes(changed)
            outcome = attempt(
                lambda path=path, changed=changed, name=name: (
                    _decode(path, str(path)) if name in FFMPEG_FORMATS else _decode(changed, "x")
                ),
                lambda note: "noted or repaired" if note else "as before",
            )
            counts[outcome] += 1
            if outcome in ("traceback", "no end"):
                (bench.folder / f"{outcome}-{counts[outcome]}.{name}").write_bytes(changed)
                print(f"{name}: {outcome}: {bench.folder}", flush=True)  # noqa: T201
    yield f"mutated recordings of {len(originals)} formats", counts


def tables(bench: Bench, scale: Scale, rng: random.Random) -> Iterator[tuple[str, Counts]]:
    """Yields (csv or zip, counts of outcomes)."""
    folder = bench.folder / "tables"
    (folder / "audio").mkdir(parents=True)
    names = [f"{i % 5 + 1}-{i // 2}-{i}.wav" for i in range(40)]
    for name in names:
        (folder / "audio" / name).write_bytes(noise_file("wav", 0.1))
    rows = [f"{name},{name[0]},{i % 4},{'dog cat owl hen'.split()[i % 4]},False,r{i},A" for i, name in enumerate(names)]
    text = "\n".join(["filename,fold,target,category,esc10,src_file,take", *rows]) + "\n"
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("ESC-50-master/meta/esc50.csv", text)
        for name in names:
            file.write(folder / "audio" / name, f"ESC-50-master/audio/{name}")
    for kind, content in (("csv", text.encode()), ("zip", archive.getvalue())):
        counts: Counts = Counts()
        for _ in range(4 * scale.cases):
            path = folder / f"data.{kind}"
            path.write_bytes(mutate(content, rng))
            outcome = attempt(lambda path=path: open_source(path))
            counts[outcome] += 1
            if outcome in ("traceback", "no end"):
                shutil.copy(path, bench.folder / f"{outcome}-{counts[outcome]}.{kind}")
                print(f"{kind}: {outcome}: {bench.folder}", flush=True)  # noqa: T201
        yield f"mutated data sets: {kind}", counts


def weights(bench: Bench, scale: Scale, rng: random.Random) -> Iterator[tuple[str, Counts]]:
    """Yields (file, counts of outcomes) of a small HuBERT as transformers writes it."""
    import jax
    import jax.numpy as jnp

    options = {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
        "conv_dim": (16,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4,
    }  # fmt: skip
    folder = bench.folder / "weights"
    module = Classifier(Hubert(**options), heads.Projected(3, 8))
    shapes = jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 400), jnp.float32))
    variables = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.1, np.float32), shapes)
    settings = {"name": "raw", "sample_rate": 16_000, "normalize": True}
    hubert.write(folder, variables, options, ("a", "b", "c"), settings)
    for name in ("model.safetensors", "config.json", "preprocessor_config.json"):
        content = (folder / name).read_bytes()
        counts: Counts = Counts()
        for _ in range(2 * scale.cases):
            (folder / name).write_bytes(mutate(content, rng))
            outcome = attempt(lambda: load.load_classifier(str(folder)))
            counts[outcome] += 1
            if outcome in ("traceback", "no end"):
                shutil.copy(folder / name, bench.folder / f"{outcome}-{counts[outcome]}-{name}")
                print(f"{name}: {outcome}: {bench.folder}", flush=True)  # noqa: T201
        (folder / name).write_bytes(content)
        yield f"mutated weights: {name}", counts
