"""NIST SPHERE and Creative VOC: the sizes in their headers against the bytes that are there."""

import re

from esc_jax.data.containers.part import WHOLE, Part, make_part
from esc_jax.data.source import Bytes

_VOC = b"Creative Voice File\x1a"
_VOC_SOUND = {1: 2, 9: 12}  # type of a block with samples → bytes before them


def is_nist(head: bytes) -> bool:
    """Whether a file begins as a NIST SPHERE file."""
    return head[:8] == b"NIST_1A\n"


def nist_parts(source: Bytes) -> list[Part]:
    """The part that is a NIST SPHERE file, whose header is text."""
    head = source.read_at(0, 16)
    first = int(head[8:16]) if head[8:16].strip().isdigit() else 1024
    fields = dict(re.findall(rb"^(\w+) -(?:i|s\d+) (\d{1,15})\s", source.read_at(0, min(first, 1 << 16)), re.MULTILINE))
    if b"sample_count" not in fields:
        return [WHOLE]
    width = int(fields.get(b"channel_count", b"1")) * int(fields.get(b"sample_n_bytes", b"2"))
    size, available = int(fields[b"sample_count"]) * width, max(0, source.size - first)
    return [make_part(source, 0, source.size, present=available / size if size > available else 1.0)]


def is_voc(head: bytes) -> bool:
    """Whether a file begins as a VOC file; `head` has at least 16 bytes."""
    return head[:16] == _VOC[:16]


def voc_parts(source: Bytes) -> list[Part]:
    """The part that is a VOC file."""
    offset = int.from_bytes(source.read_at(20, 2), "little")
    for _ in range(100):
        head = source.read_at(offset, 4)
        if len(head) < 4:
            break
        size = int.from_bytes(head[1:], "little")
        if before := _VOC_SOUND.get(head[0]):
            available = max(0, source.size - offset - 4 - before)
            size -= before
            return [make_part(source, 0, source.size, present=available / size if size > available else 1.0)]
        offset += 4 + size
    return [WHOLE]
