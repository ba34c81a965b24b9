"""FLAC: the length in the header against the last frame that is complete; joined files."""

import functools
import re

from esc_jax.data.containers.part import Part
from esc_jax.data.source import Bytes, View

_STREAMINFO = 34  # bytes
_BLOCK = 1 << 20
# A FLAC file within a file: its first block is STREAMINFO, which may be the last block before the frames.
_BEGINNING = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")
_SYNC = re.compile(rb"\xff[\xf8\xf9]")
_SIZES = {1: 192, 2: 576, 3: 1152, 4: 2304, 5: 4608} | {code: 256 << (code - 8) for code in range(8, 16)}
_CUT = "its last frame is cut short"


def is_flac(head: bytes) -> bool:
    """Whether a file begins as a FLAC file. ID3 tags before it are skipped by `mpeg.skip_id3`."""
    return head[:4] == b"fLaC"


def flac_parts(source: Bytes, start: int = 0) -> list[Part]:
    """The parts of a FLAC file that begins at `start`: one, or several where files were joined.

    The header has the number of samples, or 0. It is compared with the number and the length of the last frame, and
    corrected where it is not the number of samples in the file.
    """
    starts = [start, *_beginnings(source, start + 8)]
    ends = [*starts[1:], source.size]
    parts = []
    for first, stop in zip(starts, ends, strict=True):
        whole = len(starts) == 1
        section = source if first == 0 and whole else View(source, [(0 if whole else first, stop)])
        parts.append(_part(section, first if whole else 0, whole))
    return parts


def _beginnings(source: Bytes, start: int) -> list[int]:
    """Offsets of FLAC files after `start`. Eight bytes that are equal by chance occur once in 2⁶³."""
    offsets = []
    while block := source.read_at(start, _BLOCK):
        offsets += [start + match.start() for match in _BEGINNING.finditer(block)]
        start += max(1, len(block) - 7) if len(block) == _BLOCK else len(block)
    return offsets


def _part(source: Bytes, start: int, whole: bool) -> Part:
    """The part that `source` is. The header is at `start`."""
    unchanged = Part(None if whole else View(source, [(0, source.size)]))
    info = source.read_at(start + 8, _STREAMINFO)
    if len(info) < _STREAMINFO:
        return unchanged
    total = int.from_bytes(info[13:18], "big") & 0xFFFFFFFFF
    last = _last_frame(source, info, _audio_start(source, start))
    if last is None:
        return unchanged
    samples, complete = last
    if total == samples:
        return unchanged
    field = (info[13] & 0xF0) << 32 | samples  # four bits of another number come before the 36 bits of the length
    view = View.patched(source, 0, source.size, {start + 21: field.to_bytes(5, "big")})
    if samples < total:
        return Part(view, present=samples / total, truncated=True)
    return Part(view, truncated=not complete, reason="" if complete else _CUT)


def _audio_start(source: Bytes, start: int) -> int:
    """Offset of the first frame: after the blocks of metadata."""
    offset = start + 4
    while offset < source.size:
        head = source.read_at(offset, 4)
        if len(head) < 4:
            break
        offset += 4 + int.from_bytes(head[1:], "big")
        if head[0] & 0x80:
            break
    return min(offset, source.size)


def _last_frame(source: Bytes, info: bytes, start: int) -> tuple[int, bool] | None:
    """Number of samples up to the end of the last complete frame, and whether that is the end of the file.

    None if no frame is recognised.

    Args:
        source: the file.
        info: STREAMINFO.
        start: offset of the first frame.
    """
    block_size = int.from_bytes(info[2:4], "big")
    rate_bits = int.from_bytes(info[10:14], "big")
    channels, bits = (rate_bits >> 9 & 7) + 1, (rate_bits >> 4 & 31) + 1
    largest = int.from_bytes(info[7:10], "big") or (block_size * channels * bits + 7) // 8 + 64
    stop = source.size
    if source.read_at(stop - 128, 3) == b"TAG":  # ID3v1
        stop -= 128
    begin = max(start, stop - 4 * largest - 64)
    tail = source.read_at(begin, stop - begin)
    offsets = [match.start() for match in _SYNC.finditer(tail)]
    # Offset in the tail, and samples up to the end of the frame.
    frames = [(o, end) for o in offsets if (end := _frame_end(tail[o : o + 16], block_size)) > 0]
    stops = [*(offset for offset, _ in frames[1:]), len(tail)]
    for offset, end in reversed(frames):
        ends = [place for place in stops if place > offset]
        checks = _crc16(tail, offset, ends)
        if checks:
            return end, checks[-1] == len(tail)
    return (0, False) if frames and begin == start else None


def _frame_end(head: bytes, block_size: int) -> int:
    """Number of the sample after a frame with this header; 0 if it is no header.

    Args:
        head: at least the bytes of the header.
        block_size: samples of a frame, where all but the last have the same.
    """
    if len(head) < 6 or head[3] & 1:
        return 0
    size_code, rate_code = head[2] >> 4, head[2] & 15
    number, place = _coded_number(head, 4)
    if not place or not size_code or rate_code == 15 or head[3] >> 4 > 10:
        return 0
    size = _SIZES.get(size_code, 0)
    if size_code in (6, 7):
        width = size_code - 5
        size = int.from_bytes(head[place : place + width], "big") + 1
        place += width
    place += {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    if place >= len(head) or _crc8(head[:place]) != head[place]:
        return 0
    return number + size if head[1] & 1 else number * block_size + size


def _coded_number(head: bytes, place: int) -> tuple[int, int]:
    """A number in the extended form of UTF-8, and the offset after it; offset 0 if it is invalid."""
    first = head[place]
    if first < 0x80:
        return first, place + 1
    count = 8 - (first ^ 0xFF).bit_length()  # leading ones
    if not 2 <= count <= 7 or place + count > len(head):
        return 0, 0
    number = first & (0x7F >> count)
    for byte in head[place + 1 : place + count]:
        if byte >> 6 != 2:
            return 0, 0
        number = number << 6 | byte & 0x3F
    return number, place + count


@functools.cache
def _table(polynomial: int, bits: int) -> tuple[int, ...]:
    """Remainders of all bytes, of a cyclic redundancy check that starts with the highest bit."""
    top, mask = 1 << (bits - 1), (1 << bits) - 1
    table = []
    for byte in range(256):
        value = byte << (bits - 8)
        for _ in range(8):
            value = (value << 1 ^ polynomial if value & top else value << 1) & mask
        table.append(value)
    return tuple(table)


def _crc8(content: bytes) -> int:
    table, value = _table(0x07, 8), 0
    for byte in content:
        value = table[value ^ byte]
    return value


def _crc16(content: bytes, start: int, ends: list[int]) -> list[int]:
    """Those of the ascending `ends` for which the bytes from `start` end with their own checksum."""
    table, value, matching = _table(0x8005, 16), 0, []
    for end in ends:
        for byte in content[start:end]:
            value = (value << 8 & 0xFFFF) ^ table[value >> 8 ^ byte]
        if value == 0:
            matching.append(end)
        start = end
    return matching
