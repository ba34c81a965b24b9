"""Embeddings of a frozen encoder, of data sets and of recordings."""

from collections.abc import Callable
import dataclasses
import hashlib
import pathlib
from typing import Any

from absl import logging
import jax
import numpy as np

from esc_jax import files
from esc_jax.data import audio
from esc_jax.data import stream as streams
from esc_jax.data.audio import AudioError
from esc_jax.data.clips import Clips
from esc_jax.errors import UserError, first_line
from esc_jax.inference import model_path
from esc_jax.models.model import Model, update_hash
from esc_jax.pretrained import load
from esc_jax.runtime import devices
from esc_jax.training import packed, restore
from esc_jax.training import step as steps

# As a fraction of a window: a recording that exceeds whole windows by less than this gets no further window.
_MAX_REMAINDER = 0.01
# Rows of a batch that is not full: archives of short recordings have many of them, and every size is compiled once.
_SMALL_BATCHES = (1, 5)


class EmbedError(UserError, ValueError):
    """Embeddings that cannot be computed. The message is one sentence."""


def load_encoder(path: str, sample_rate: int | None = None, window_s: float | None = None) -> Model:
    """The model of a run, or a published checkpoint.

    Args:
        path: a run's workdir or a checkpoint folder; a packed classifier; or the file, folder or hub id of a published
            checkpoint.
        sample_rate: Hz, for a published encoder without a sample rate of its own.
        window_s: length of the windows that are embedded, s; None for that of the training clips.

    Raises:
        EmbedError: `sample_rate` is given for a run, which has its own.
        CheckpointError, PretrainedError: the checkpoint cannot be used.
        ModelPathError: nothing has this path, and published weights have a similar name.
    """
    file = model_path.packed_file(path)
    if not file and not model_path.is_run(path):
        model_path.check_name(path)
        model = load.load_published(path, sample_rate)
    elif sample_rate is not None:
        raise EmbedError(f"sample_rate={sample_rate} is for published encoders: {path} has a sample rate of its own")
    else:
        model = (packed.load(file) if file else restore.restore(path)).model
    return model if window_s is None else dataclasses.replace(model, clip_s=window_s)


def encoder_fingerprint(model: Model) -> str:
    """An identifier of what the embeddings of a recording depend on: encoder, weights, frontend, sample rate."""
    return _digest((model.module.encoder, model.frontend, model.sample_rate, model.mask_padding), model)


def _digest(parts: tuple[Any, ...], model: Model) -> str:
    """Hash of some settings and of the weights that the embeddings of a model depend on."""
    pooled = model.module.pools
    parts += (model.module.head,) if pooled else ()
    checksum = hashlib.sha256(repr(parts).encode())
    update_hash(checksum, {k: tree if pooled else tree.get("encoder", {}) for k, tree in model.variables.items()})
    return checksum.hexdigest()[:16]


def dimension(model: Model) -> int:
    """D of the embeddings of a model."""
    clip = jax.ShapeDtypeStruct((1, model.clip_samples), np.int16)
    return jax.eval_shape(steps.embed_step(model), model.variables, clip).shape[-1]


def digest(model: Model, clips: Clips, views: int) -> str:
    """An identifier of the result of `embed_clips`.

    It changes with the encoder, a head that pools, their weights, the frontend, the clips and the number of views.
    """
    parts: tuple[Any, ...]
    parts = (model.module.encoder, model.frontend, clips.fingerprint, clips.length, clips.sample_rate, views)
    parts += ("masked",) if clips.masked else ()
    return _digest(parts, model)


def embed_clips(
    model: Model,
    clips: Clips,
    folder: pathlib.Path,
    views: int = 1,
    batch_size: int = 20,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Embeds every clip, as it is and with the time shifts of test-time augmentation.

    Each batch is written to `folder`/`digest(…)` when it is done. A pass that was interrupted continues there, and a
    finished one is read from disk.

    Args:
        model: the encoder; its head is not used.
        clips: the data set.
        folder: where batches are cached.
        views: number of views per clip; 1 for the clips as they are.
        batch_size: clips per batch. All views of a clip are in the same batch.
        progress: called with the number of finished batches and of all batches.

    Returns:
        (views, clips, D) float32.
    """
    from esc_jax.data import pipeline  # imports grain, which embedding recordings does not need

    cache = folder / digest(model, clips, views)
    cache.mkdir(parents=True, exist_ok=True)
    encode = steps.embed_step(model, views)

    def batch_file(start: int) -> pathlib.Path:
        return cache / f"{start:06d}.npz"

    starts = range(0, len(clips), batch_size)
    finished = {start: _read_batch(batch_file(start)) for start in starts}
    missing = [start for start in starts if finished[start] is None]
    indices = [i for start in missing for i in range(start, min(start + batch_size, len(clips)))]
    batches = pipeline.eval_batches(clips, indices, batch_size)
    for number, start in enumerate(missing, len(starts) - len(missing) + 1):
        batch = next(batches)
        inputs = devices.to_device(pipeline.inputs(batch))
        embeddings = np.asarray(encode(model.variables, *inputs))[:, batch["mask"]]
        with files.atomic_write(batch_file(start)) as file:
            np.savez(file, embeddings=embeddings)
        finished[start] = embeddings
        if progress:
            progress(number, len(starts))
    return np.concatenate([finished[start] for start in starts], axis=1)


def _read_batch(path: pathlib.Path) -> np.ndarray | None:
    """The embeddings of a batch; None where they have to be computed. A zip file has a checksum of every member."""
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            return file["embeddings"]
    except Exception as error:  # numpy, zipfile and zlib raise many types for a damaged file
        logging.warning("the embeddings in %s are computed again: the file is damaged (%s)", path, first_line(error))
        return None


def embed_recording(
    encode: Callable[..., jax.Array],
    model: Model,
    stream: streams.AudioStream | streams.Excerpt,
    batch_size: int = 20,
    hop_s: float | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Embeds a recording of any length in windows of a training clip, by default side by side.

    If the last window would end before the recording, one more window ends with it. A recording shorter than a window
    is padded with zeros; the padding is masked if the model masks it.

    Args:
        encode: `training.step.embed_step(model)`, compiled once for all recordings.
        model: the encoder.
        stream: the recording, at the model's sample rate.
        batch_size: windows per batch.
        hop_s: between the starts of windows, s; None for the length of a window.

    Returns:
        (n,) starts of the windows in samples, and (n, D) float32 embeddings.

    Raises:
        AudioError: the recording cannot be used.
    """
    window = model.clip_samples
    hop = window if hop_s is None else max(1, round(hop_s * model.sample_rate))
    starts: list[int] = []
    done: list[np.ndarray] = []
    batch = np.zeros((batch_size, window), np.int16)
    valid = np.full(batch_size, window, np.int32)

    def run(rows: int) -> np.ndarray:
        masked = model.mask_padding and bool((valid < window).any())
        size = next(size for size in sorted({*_SMALL_BATCHES, batch_size}) if size >= rows)
        inputs = (batch[:size], valid[:size]) if masked else (batch[:size],)
        return np.asarray(encode(model.variables, *devices.to_device(inputs)))[0]

    for start, samples in streams.windows(stream, window, hop):
        if starts and start - starts[-1] < _MAX_REMAINDER * window:
            continue
        row = len(starts) % batch_size
        batch[row, : len(samples)] = audio.to_int16(samples)  # 16 bits, as in training
        valid[:] = len(samples)  # less than a window only if it is the only one
        starts.append(start)
        if row == batch_size - 1:
            done.append(run(batch_size))
            batch = np.zeros_like(batch)
    if not starts:
        raise AudioError(f"{stream.name}: holds no samples")
    if rest := len(starts) % batch_size:
        done.append(run(rest))
    return np.array(starts), np.concatenate(done)[: len(starts)]
