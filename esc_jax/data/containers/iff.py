"""AIFF and AIFF-C, CAF, and AU: the sizes in their headers against the bytes that are there."""

import struct

from esc_jax.data.containers.part import WHOLE, Part, is_placeholder, is_unknown, make_part
from esc_jax.data.source import Bytes, View

_MAX_CHUNKS = 1000  # before the samples
# Bytes per sample and channel of the encodings of AIFF-C that do not follow the number of bits.
_AIFC_BYTES = {b"ulaw": 1, b"alaw": 1, b"ULAW": 1, b"ALAW": 1, b"raw ": 1}
# Bytes of a block of 64 samples, for one channel.
_AIFC_BLOCK = {b"ima4": 34}


def is_aiff(head: bytes) -> bool:
    """Whether a file begins as an AIFF file."""
    return head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC")


def aiff_parts(source: Bytes) -> list[Part]:
    """The parts of an AIFF file: one, or several where files were joined."""
    parts = []
    start = 0
    while start >= 0:
        part, start = _aiff_part(source, start)
        parts.append(part)
    return parts


def _aiff_part(source: Bytes, start: int) -> tuple[Part, int]:
    """The part that begins at `start`, and the start of the next; −1 if there is none."""
    (form_size,) = struct.unpack(">I", source.read_at(start + 4, 4))
    offset, common = start + 12, -1
    for _ in range(_MAX_CHUNKS):
        head = source.read_at(offset, 8)
        if len(head) < 8:
            return make_part(source, start, source.size), -1
        name, size = struct.unpack(">4sI", head)
        if name == b"COMM":
            common = offset
        if name == b"SSND":
            break
        offset += 8 + size + size % 2
    else:
        return make_part(source, start, source.size), -1
    available = source.size - offset - 8  # with eight bytes before the samples, as `size`
    unfinished = size <= 8 and (start + 8 + form_size <= offset + 16 or is_placeholder(form_size))
    if available > 8 and (unfinished or is_unknown(size, available)):
        limit = min(available, 0xFFFFFFFF - 64)
        patches = {start + 4: struct.pack(">I", min(source.size - start - 8, 0xFFFFFFFF))}
        patches[offset + 4] = struct.pack(">I", limit)
        if common >= 0 and (frames := _aiff_frames(source, common, limit - 8)):
            patches[common + 10] = struct.pack(">I", frames)
        return make_part(source, start, source.size, patches, unfinished=unfinished), -1
    if size > max(available, 8):
        return make_part(source, start, source.size, present=max(0, available - 8) / (size - 8)), -1
    for end in (offset + 8 + size + size % 2, start + 8 + form_size):
        if end > offset and is_aiff(source.read_at(end, 12)):
            return make_part(source, start, end), end
    return make_part(source, start, source.size), -1


def _aiff_frames(source: Bytes, common: int, size: int) -> int:
    """Number of frames (of blocks, in ima4) in `size` bytes, by the chunk COMM at `common`; 0 if that is not known."""
    channels, _, bits = struct.unpack(">HIH", source.read_at(common + 8, 8).ljust(8, b"\0"))
    kind = source.read_at(common + 26, 4)
    width = _AIFC_BLOCK.get(kind) or _AIFC_BYTES.get(kind) or (bits + 7) // 8
    return min(size // (channels * width), 0xFFFFFFFF) if channels * width else 0


def is_caf(head: bytes) -> bool:
    """Whether a file begins as a Core Audio file."""
    return head[:4] == b"caff"


def caf_parts(source: Bytes) -> list[Part]:
    """The part that is a Core Audio file."""
    offset, packets = 8, 0
    for _ in range(_MAX_CHUNKS):
        head = source.read_at(offset, 12)
        if len(head) < 12:
            return [WHOLE]
        name, size = struct.unpack(">4sQ", head)
        if name == b"data":
            break
        if name == b"pakt":
            packets = offset
        offset += 12 + size
    else:
        return [WHOLE]
    available = source.size - offset - 12  # with the four bytes of the edit count, as `size`
    unfinished = size <= 4
    unknown = unfinished or is_placeholder(size, 64)
    if available <= 4 or (size <= available and not unknown):
        return [WHOLE]
    # libsndfile refuses a size that is larger than the file, and one that is unknown.
    data = struct.pack(">4sQ", b"data", available)
    present = 1.0 if unknown else (available - 4) / (size - 4)
    start = 0
    pieces: list[bytes | tuple[int, int]] = []
    if packets:
        table, stop, present = _complete_packets(source, packets, available - 4)
        start, pieces = stop, [(0, packets), table]
    view = View(source, [*pieces, (start, offset), data, (offset + 12, source.size)])
    return [Part(view, present, truncated=present < 1.0, unfinished=unfinished)]


def _complete_packets(source: Bytes, offset: int, size: int) -> tuple[bytes, int, float]:
    """A table of packets without those that are beyond `size` bytes. libsndfile would decode these to noise.

    Args:
        source: the file.
        offset: of the chunk pakt: numbers of packets and of valid frames, then the size of every packet.
        size: bytes of packets in the file.

    Returns:
        The chunk, the offset after the chunk in the file, and the fraction of the packets that is left.
    """
    head = source.read_at(offset + 4, 32).ljust(32, b"\0")
    length, number, frames, priming, remainder = struct.unpack(">QQQII", head)
    stop = offset + 12 + length
    table = source.read_at(offset + 36, min(length - 24, source.size) if length > 24 else 0)
    value, used, kept, end = 0, 0, 0, 0
    for place, byte in enumerate(table, 1):
        value = value << 7 | byte & 0x7F
        if byte & 0x80:
            continue
        used, value = used + value, 0
        if used > size:
            break
        kept, end = kept + 1, place
    if kept >= number or not number:
        return source.read_at(offset, stop - offset), stop, 1.0
    # All packets but the last have the same number of frames; the chunk says by how much the last is shorter.
    left = kept * (frames + remainder) // number
    shorter = struct.pack(">4sQQQII", b"pakt", 24 + end, kept, left, priming, 0)
    return shorter + table[:end], stop, kept / number


def is_au(head: bytes) -> bool:
    """Whether a file begins as an AU file, in either order of bytes."""
    return head[:4] in (b".snd", b"dns.")


def au_parts(source: Bytes) -> list[Part]:
    """The parts of an AU file: one, or several where files were joined."""
    parts = []
    start = 0
    while start >= 0:
        part, start = _au_part(source, start)
        parts.append(part)
    return parts


def _au_part(source: Bytes, start: int) -> tuple[Part, int]:
    """The part that begins at `start`, and the start of the next; −1 if there is none."""
    head = source.read_at(start, 12)
    order = ">" if head[:4] == b".snd" else "<"
    if len(head) < 12:
        return make_part(source, start, source.size), -1
    offset, size = struct.unpack(f"{order}II", head[4:])
    available = source.size - start - offset
    if available > 0 and (size == 0 or is_unknown(size, available)):
        patches = {start + 8: struct.pack(f"{order}I", min(available, 0xFFFFFFFF))}
        return make_part(source, start, source.size, patches, unfinished=size == 0), -1
    if size > max(available, 0):
        return make_part(source, start, source.size, present=max(0, available) / size), -1
    end = start + offset + size
    if size and is_au(source.read_at(end, 4)) and len(source.read_at(end, 24)) == 24:
        return make_part(source, start, end), end
    return make_part(source, start, source.size), -1
