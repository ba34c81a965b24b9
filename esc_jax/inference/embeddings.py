"""Embeddings of a frozen encoder, of data sets and of recordings."""

import hashlib
import pathlib

import numpy as np

from esc_jax import files
from esc_jax.errors import UserError

_OVERHANG = 0.01  # of a window: a recording that is longer than whole windows by less has no row for it


class EmbedError(UserError, ValueError):
    """Embeddings that cannot be written. The message is one sentence for the user."""


def digest(encoder, frontend, variables, clips, views: int) -> str:
    """Name of what `embed_clips` gives: it changes with the encoder, its weights, the frontend, the clips, the views."""
    import jax

    parts = (encoder, frontend, clips.fingerprint, clips.length, clips.sample_rate, views)
    parts += ("masked",) if clips.masked else ()
    found = hashlib.sha256(repr(parts).encode())
    weights = {name: tree.get("encoder", {}) for name, tree in variables.items()}
    for path, leaf in jax.tree_util.tree_leaves_with_path(weights):
        found.update(jax.tree_util.keystr(path).encode() + np.ascontiguousarray(leaf).tobytes())
    return found.hexdigest()[:16]


def embed_clips(
    model, frontend, variables, clips, folder: pathlib.Path, *, views: int = 1, batch_size: int = 20
) -> np.ndarray:
    """(views, N, D) float32 embeddings of every clip, as it is and rotated in time as in test-time augmentation.

    Args:
        model, frontend, variables: as `build.start` or `build.restore` gives them.
        clips: the data set.
        folder: keeps finished parts under the digest of what they were made of, so that the same pass is never made
            twice, nor begun anew after an interruption.
        views: 1 for the clips as they are.
        batch_size: clips at a time, all their views together.
    """
    import tqdm

    from esc_jax.data import pipeline
    from esc_jax.runtime import devices
    from esc_jax.training import step as steps

    folder = folder / digest(model.encoder, frontend, variables, clips, views)
    folder.mkdir(parents=True, exist_ok=True)

    encode = steps.embed_step(model, frontend, views)

    def part(start: int) -> pathlib.Path:
        return folder / f"{start:06d}.npy"

    starts = range(0, len(clips), batch_size)
    missing = [start for start in starts if not part(start).exists()]
    indices = [i for start in missing for i in range(start, min(start + batch_size, len(clips)))]
    batches = pipeline.eval_batches(clips, indices, batch_size)
    for start in tqdm.tqdm(missing, desc="embedding", unit="batch", leave=False, disable=None):
        batch = next(batches)
        found = np.asarray(encode(variables, *devices.to_device(pipeline.inputs(batch))))[:, batch["mask"]]
        with files.atomic_write(part(start)) as file:
            np.save(file, found)
    return np.concatenate([np.load(part(start)) for start in starts], axis=1)


def embed_recording(
    encode, variables, stream, window: int, *, mask_padding: bool = False, batch_size: int = 20
) -> tuple[np.ndarray, np.ndarray]:
    """(n,) starts in samples and (n, D) embeddings of a recording of any length.

    Args:
        encode: `step.embed_step` of the model.
        variables: its.
        stream: `stream.AudioStream` at the encoder's rate.
        window: samples of a window.
        mask_padding: whether the model is told what a recording shorter than a window was filled up with.
        batch_size: windows at a time.

    Raises:
        AudioError: it cannot be used.
    """
    from esc_jax.data import audio
    from esc_jax.data import stream as streams
    from esc_jax.runtime import devices

    starts, found, more = [], [], ()
    batch = np.zeros((batch_size, window), np.int16)
    for start, samples in streams.windows(stream, window, window):
        if starts and start - starts[-1] < _OVERHANG * window:
            continue
        batch[len(starts) % batch_size, : len(samples)] = audio.to_int16(samples)
        starts.append(start)
        if mask_padding and len(samples) < window:  # the only one
            more = (np.full(batch_size, len(samples), np.int32),)
        if len(starts) % batch_size == 0:
            found.append(np.asarray(encode(variables, *devices.to_device((batch, *more))))[0])
            batch = np.zeros_like(batch)
    if not starts:
        raise audio.AudioError(f"{stream.name}: holds no samples")
    if len(starts) % batch_size:
        found.append(np.asarray(encode(variables, *devices.to_device((batch, *more))))[0])
    return np.array(starts), np.concatenate(found)[: len(starts)]
