"""The frontends as matrix products: the runtimes of exported files have no fast Fourier transform on CPUs.

The DFT of length N = R·C of a frame x, with samples n = C·r + c and bins k = p + R·q, is two products:

    A[p, c] = Σ_r exp(−2πi·p·r / R) x[C·r + c]
    X[p, q] = Σ_c A[p, c] exp(−2πi·c·(p + R·q) / N)

A real frame needs p = 0 … R/2 only, because X[N − k] is the conjugate of X[k]. For N = 1024 these are 7 % of the
multiplications of the DFT as one matrix. The bins stay in the order (p, q); the mel matrix has its rows in this order.
"""

from __future__ import annotations

from collections.abc import Callable
import functools
import math
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from esc_jax.frontends.efficientat_mel import EfficientATMel
from esc_jax.frontends.kaldi_fbank import FLOOR, KaldiFbank, symmetric_window
from esc_jax.frontends.log_mel import LogMel

Frontend = Callable[[jax.Array], jax.Array]


def as_products(frontend: Any) -> Frontend:
    """The frontend without a Fourier transform: (batch, time) waveforms → the same features.

    Args:
        frontend: of `esc_jax.frontends`. One that has no Fourier transform, such as `Raw`, is returned as it is.
    """
    functions: dict[type, Callable[[Any, jax.Array], jax.Array]] = {
        LogMel: _log_mel,
        EfficientATMel: _efficientat_mel,
        KaldiFbank: _kaldi_fbank,
    }
    function = functions.get(type(frontend))
    return frontend if function is None else functools.partial(function, frontend)


def _log_mel(frontend: LogMel, waveform: jax.Array) -> jax.Array:
    size, length = frontend.win_length or frontend.n_fft, frontend.n_fft
    edge = length // 2 if frontend.center else 0
    count = 1 + (waveform.shape[1] + 2 * edge - length) // frontend.hop
    # Zeros around the window change the phase of the spectrum only, so the frames contain the window alone.
    frames = _frames(waveform, (length - size) // 2 - edge, count, size, frontend.hop)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
    power = _power(frames * window.astype(np.float32)[None, None], length)
    return (jnp.log(_mel(power, frontend.bank, length) + frontend.offset) - frontend.mean) / frontend.std


def _efficientat_mel(frontend: EfficientATMel, waveform: jax.Array) -> jax.Array:
    size, length = frontend.window, frontend.fft
    signal = _cut(waveform, 1, waveform.shape[1]) - 0.97 * _cut(waveform, 0, waveform.shape[1] - 1)
    count = 1 + signal.shape[1] // frontend.hop
    signal = jnp.pad(signal, [(0, 0), (length // 2, length // 2)], mode="reflect")
    frames = _frames(signal, (length - size) // 2, count, size, frontend.hop)
    power = _power(frames * np.hanning(size).astype(np.float32)[None, None], length)
    return (jnp.log(_mel(power, frontend.bank, length) + 1e-5) + 4.5) / frontend.log_scale


def _kaldi_fbank(frontend: KaldiFbank, waveform: jax.Array) -> jax.Array:
    size, hop = frontend.samples
    signal = frontend.pad(waveform * np.float32(frontend.scale))
    frames = _frames(signal, 0, 1 + (signal.shape[1] - size) // hop, size, hop)
    if frontend.remove_dc:
        frames = frames - jnp.mean(frames, axis=-1, keepdims=True)
    previous = jnp.concatenate([_cut(frames, 0, 1), _cut(frames, 0, size - 1)], axis=-1)
    frames = frames - np.float32(frontend.preemphasis) * previous
    power = _power(frames * symmetric_window(frontend.window, size)[None, None], frontend.fft)
    energy = power if frontend.power else jnp.sqrt(power)
    mel = _mel(energy, frontend.bank, frontend.fft)
    return (jnp.log(jnp.maximum(mel, FLOOR)) - frontend.mean) / (2 * frontend.std)


def _frames(waveform: jax.Array, start: int, count: int, size: int, hop: int) -> jax.Array:
    """Overlapping frames (batch, count, size) from a sample on, with zeros outside of the waveform.

    The waveform is cut into blocks of one hop. A frame is several blocks, the last one cut: no sample is gathered.
    """
    blocks = -(-size // hop)
    end = start + (count - 1 + blocks) * hop
    low, high = max(0, -start), max(0, end - waveform.shape[1])
    padded = _cut(jnp.pad(waveform, [(0, 0), (low, high)]), start + low, end + low)
    rows = padded.reshape(-1, count - 1 + blocks, hop)
    cuts = [lax.slice_in_dim(rows, block, block + count, axis=1) for block in range(blocks)]
    parts = [_cut(cut, 0, min(hop, size - block * hop)) for block, cut in enumerate(cuts)]
    return jnp.concatenate(parts, axis=-1)


def _cut(x: jax.Array, start: int, limit: int) -> jax.Array:
    """Part of the last axis. Indexing an array with a symbolic shape is a gather."""
    return lax.slice_in_dim(x, start, limit, axis=-1)


def _factors(length: int) -> tuple[int, int]:
    """R and C: the two factors of a length that are closest to each other."""
    rows = max(r for r in range(1, math.isqrt(length) + 1) if length % r == 0)
    return rows, length // rows


def _power(frames: jax.Array, length: int) -> jax.Array:
    """Power of the bins in the order (p, q): (batch, count, size) → (batch, count, (R // 2 + 1)·C).

    Args:
        frames: windowed.
        length: of the DFT, at least the size of the frames.
    """
    rows, columns = _factors(length)
    half, used = rows // 2 + 1, -(-frames.shape[2] // columns)
    frames = jnp.pad(frames, [(0, 0), (0, 0), (0, used * columns - frames.shape[2])])
    batch, count = frames.shape[:2]
    first = np.exp(-2j * np.pi * (np.outer(np.arange(half), np.arange(used)) % rows) / rows)
    first = np.stack([first.real, first.imag], 1).reshape(2 * half, used).astype(np.float32)
    x = lax.dot_general(
        jnp.broadcast_to(first, (batch, count, *first.shape)),
        frames.reshape(batch, count, used, columns),
        (((3,), (2,)), ((0, 1), (0, 1))),
        precision=lax.Precision.HIGHEST,
    )
    x = x.reshape(batch, count, half, 2 * columns).transpose(2, 0, 1, 3)
    bins = np.arange(half)[:, None, None] + rows * np.arange(columns)
    second = np.exp(-2j * np.pi * (np.arange(columns)[:, None] * bins % length) / length)
    # (a + bi)(c + di): rows are the real and imaginary part of A, columns those of X.
    second = np.block([[second.real, second.imag], [-second.imag, second.real]]).astype(np.float32)
    x = lax.dot_general(x, jnp.asarray(second), (((3,), (1,)), ((0,), (0,))), precision=lax.Precision.HIGHEST)
    real, imag = _cut(x, 0, columns), _cut(x, columns, 2 * columns)
    return (real * real + imag * imag).transpose(1, 2, 0, 3).reshape(batch, count, half * columns)


def _mel(power: jax.Array, bank: np.ndarray, length: int) -> jax.Array:
    """The product with a mel bank (bins from 0 on, bands), whose rows are brought into the order of `_power`."""
    rows, columns = _factors(length)
    bins = np.arange(rows // 2 + 1)[:, None] + rows * np.arange(columns)
    bins = np.minimum(bins, length - bins).ravel()  # X[N − k] is the conjugate of X[k]
    _, place = np.unique(bins, return_index=True)  # bins that occur twice count once
    matrix = np.zeros((bins.size, bank.shape[1]), np.float32)
    matrix[place[: len(bank)]] = bank
    return jnp.matmul(power, matrix, precision=lax.Precision.HIGHEST)
