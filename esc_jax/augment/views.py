"""Views of a clip whose predictions are averaged in a test: rotations, crops and speeds."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from esc_jax.augment import waveform

ROTATIONS = "rotations"  # the default
KINDS = (ROTATIONS, "crops", "speeds")


@dataclasses.dataclass(frozen=True)
class Views:
    """Which views are made of each clip.

    Attributes:
        kind: one of KINDS.
        count: number of views.
        crop_samples: length of crops.
        octaves: largest change of speed.
    """

    kind: str = ROTATIONS
    count: int = 1
    crop_samples: int = 0
    octaves: float = 0.0

    @property
    def include_clip(self) -> bool:
        """Whether the first view is the clip itself."""
        return self.kind == ROTATIONS

    def __call__(self, audio: jax.Array, samples: jax.Array | None = None) -> jax.Array:
        """(B, time) → (count, B, length of a view).

        Args:
            audio: clips, floating point.
            samples: (B,) length of each clip without its padding, for rotations; None for clips without padding.
        """
        if self.kind == "crops":
            return crops(audio, self.count, self.crop_samples)
        if self.kind == "speeds":
            return speeds(audio, self.count, self.octaves)
        return rotations(audio, self.count, samples)


def rotations(audio: jax.Array, count: int, samples: jax.Array | None = None) -> jax.Array:
    """(B, time) → (count, B, time): the clip, then its rotations in time by 1/count, 2/count, … of its length.

    Args:
        audio: clips.
        count: number of views.
        samples: (B,) length of each clip without its padding, which stays in place; None for clips without padding.
    """
    numbers = jnp.arange(count)
    if samples is None:
        return jax.vmap(lambda shift: waveform.rotate(audio, shift))(numbers * (audio.shape[-1] // count))
    rotated = jax.vmap(waveform.rotate)
    return jax.vmap(lambda number: rotated(audio, number * (samples // count), samples))(numbers)


def crops(audio: jax.Array, count: int, length: int) -> jax.Array:
    """(B, time) → (count, B, length): windows at equal distances, the first at the start and the last at the end.

    With ten crops, the test of ACDNet (Mohaimenuzzaman et al., Pattern Recognition 2023) and EnvNet-v2.
    """
    room = audio.shape[-1] - length
    starts = [round(number * room / max(1, count - 1)) for number in range(count)]
    return jnp.stack([audio[..., start : start + length] for start in starts])


def speeds(audio: jax.Array, count: int, octaves: float) -> jax.Array:
    """(B, time) → (count, B, ⌊time / 2^o⌋): the middle of the clip at speeds 2^u, with u from −o to o in equal steps.

    Pitch and tempo change together. Values between samples are interpolated linearly, as in `waveform.crop`.

    Args:
        audio: clips.
        count: number of views.
        octaves: o.
    """
    time = audio.shape[-1]
    length = int(time / 2.0**octaves)
    views = []
    for number in range(count):
        speed = 2.0 ** (octaves * (2 * number / max(1, count - 1) - 1))
        first = (time - 1 - speed * (length - 1)) / 2
        positions = np.maximum(first + speed * np.arange(length), 0.0)  # in double precision
        left = positions.astype(np.int32)
        fraction = (positions - left).astype(np.float32)[None]
        views.append(audio[..., left] * (1.0 - fraction) + audio[..., np.minimum(left + 1, time - 1)] * fraction)
    return jnp.stack(views)
