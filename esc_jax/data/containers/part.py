"""What the structure of a file says about its audio."""

from collections.abc import Mapping
import dataclasses

from esc_jax.data.source import Bytes, View


@dataclasses.dataclass(frozen=True)
class Part:
    """A section of a file that a decoder reads by itself. Most files are one part; joined files have several.

    Attributes:
        view: bytes of the part, with a header that has the right length; None for the file as it is.
        present: fraction of the samples promised by the header that the file contains.
        truncated: whether the part breaks off.
        reason: how that is known, in words; empty where the header promises more samples.
        unfinished: whether the header has sizes of 0, as that of a recorder that lost power.
        damage: what is damaged inside the part, in words; empty where nothing is, or where the format cannot tell.
    """

    view: View | None = None
    present: float = 1.0
    truncated: bool = False
    reason: str = ""
    unfinished: bool = False
    damage: str = ""


WHOLE = Part()


def make_part(
    base: Bytes,
    start: int,
    stop: int,
    patches: Mapping[int, bytes] | None = None,
    *,
    present: float = 1.0,
    unfinished: bool = False,
) -> Part:
    """The part of a file from `start` to `stop`.

    Args:
        base: the file.
        start, stop: first byte, and the one after the last.
        patches: offset in the file → bytes to put there.
        present, unfinished: as in `Part`.
    """
    whole = start == 0 and stop >= base.size and not patches
    view = None if whole else View.patched(base, start, min(stop, base.size), patches or {})
    return Part(view, present, truncated=present < 1.0, unfinished=unfinished)


def is_placeholder(size: int, bits: int = 32) -> bool:
    """Whether a size in a header says "unknown".

    Writers to a pipe leave 2³² − 1, 2³¹ − 1, 2³¹ (arecord) or 0x7FFFF000 (SoX), with or without their header; in fields
    of 64 bits, −1 or 2⁶³ − 1.
    """
    if bits == 64:
        return size >= 1 << 62
    return size >= 0xFFFF0000 or 0x7FFE0000 <= size <= 0x80001000


def is_unknown(size: int, available: int, bits: int = 32) -> bool:
    """Whether a size does not say where the audio ends.

    It is a placeholder, and not that of a file of just this size with some metadata at its end; or it is the remainder
    that writers leave of a size that the field cannot hold.

    Args:
        size: in the header.
        available: bytes up to the end of the file.
        bits: of the field.
    """
    rest = available - size
    return (is_placeholder(size, bits) and not 0 <= rest <= 1 << 20) or (rest > 0 and rest % (1 << bits) == 0)
