"""WAV (RIFF, RIFX), RF64, BW64 and Sony Wave64: the sizes in their headers against the bytes that are there."""

import struct

from esc_jax.data.containers.part import WHOLE, Part, is_placeholder, is_unknown, make_part
from esc_jax.data.source import Bytes, View

_UNKNOWN = 0xFFFFFFFF
_MAX_CHUNKS = 1000  # before the samples

_W64_RIFF = b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00"
_W64_TAIL = b"\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"  # of the GUIDs of all other chunks


def is_riff(head: bytes) -> bool:
    """Whether a file begins as a WAV file."""
    return head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and head[8:12] == b"WAVE"


def is_w64(head: bytes) -> bool:
    """Whether a file begins as a Wave64 file."""
    return head[:16] == _W64_RIFF


def _order(head: bytes) -> str:
    """The order of the bytes, for struct."""
    return ">" if head[:4] == b"RIFX" else "<"


def _chunks(source: Bytes, start: int, order: str) -> dict[bytes, tuple[int, int]]:
    """Name → (offset, size) of the chunks of a WAV file up to its samples."""
    chunks: dict[bytes, tuple[int, int]] = {}
    offset = start + 12
    for _ in range(_MAX_CHUNKS):
        head = source.read_at(offset, 8)
        if len(head) < 8:
            break
        name, size = struct.unpack(f"{order}4sI", head)
        chunks.setdefault(name, (offset, size))
        if name == b"data":
            break
        offset += 8 + size + size % 2
    return chunks


def format_tag(source: Bytes) -> int:
    """The code of the encoding of a WAV file; 0 if it has none."""
    order = _order(source.read_at(0, 4))
    offset, size = _chunks(source, 0, order).get(b"fmt ", (0, 0))
    code = source.read_at(offset + 8, 2) if size >= 2 else b""
    return int.from_bytes(code, "big" if order == ">" else "little")


def riff_parts(source: Bytes) -> list[Part]:
    """The parts of a WAV file: one, or several where files were joined."""
    parts = []
    start = 0
    while start >= 0:
        part, start = _riff_part(source, start)
        parts.append(part)
    return parts


def _riff_part(source: Bytes, start: int) -> tuple[Part, int]:
    """The part that begins at `start`, and the start of the next; −1 if there is none."""
    head = source.read_at(start, 12)
    order = _order(head)
    (riff_size,) = struct.unpack(f"{order}I", head[4:8])
    chunks = _chunks(source, start, order)
    if b"data" not in chunks:
        return make_part(source, start, source.size), -1
    offset, size = chunks[b"data"]
    patches = {start + 4: offset - start, offset + 4: 0}  # fields that count the samples, and what they count besides
    wide = b"ds64" in chunks and chunks[b"ds64"][1] >= 24
    if wide and size == _UNKNOWN:
        fields = chunks[b"ds64"][0] + 8
        riff_size, size = struct.unpack("<QQ", source.read_at(fields, 16).ljust(16, b"\0"))
        patches = {fields: offset - start, fields + 8: 0}
    else:
        wide = False
    first = offset + 8
    available = source.size - first
    ends_here = start + 8 + riff_size <= first or is_placeholder(riff_size, 64 if wide else 32)
    unfinished = size == 0 and ends_here
    if available > 0 and (unfinished or is_unknown(size, available, 64 if wide else 32)):
        return _complete(source, start, first, order, wide, patches, unfinished), -1
    if size > available and size not in (source.size - start, source.size - start - 8):  # writers that count the header
        return make_part(source, start, source.size, present=max(0, available) / size), -1
    stop = start + 8 + riff_size  # after chunks that follow the samples
    for end in (first + size + size % 2, first + size, stop, stop + riff_size % 2):
        if end > first and is_riff(source.read_at(end, 12)):
            return make_part(source, start, end), end
    return make_part(source, start, source.size), -1


def _complete(
    source: Bytes, start: int, first: int, order: str, wide: bool, fields: dict[int, int], unfinished: bool
) -> Part:
    """A part whose samples begin at `first` and last to the end of the file, whatever its header says.

    Args:
        source: the file.
        start: of the part.
        first: offset of the first sample.
        order: of the bytes, for struct.
        wide: whether the sizes are those of RF64.
        fields: offset of each size → what it counts besides the samples.
        unfinished: as in `Part`.
    """
    size = source.size - first
    if wide or size + first - start < _UNKNOWN:
        code = "<Q" if wide else f"{order}I"
        patches = {offset: struct.pack(code, size + besides) for offset, besides in fields.items()}
        return make_part(source, start, source.size, patches, unfinished=unfinished)
    # The fields of RIFF are too small: an RF64 header, with all chunks up to the samples.
    sizes = struct.pack("<4sIQQQI", b"ds64", 28, size + first - start + 36, size, 0, 0)
    header: list[bytes | tuple[int, int]]
    header = [b"RF64\xff\xff\xff\xffWAVE" + sizes, (start + 12, first - 4), b"\xff\xff\xff\xff"]
    return Part(View(source, [*header, (first, source.size)]), unfinished=unfinished)


def w64_parts(source: Bytes) -> list[Part]:
    """The part that is a Wave64 file."""
    offset = 40
    for _ in range(_MAX_CHUNKS):
        head = source.read_at(offset, 24)
        if len(head) < 24:
            return [WHOLE]
        (size,) = struct.unpack("<Q", head[16:])
        if head[:16] == b"data" + _W64_TAIL:
            break
        offset += max(24, size + -size % 8)
    else:
        return [WHOLE]
    available = source.size - offset  # sizes include the 24 bytes of their headers
    (riff_size,) = struct.unpack("<Q", source.read_at(16, 8))
    unfinished = size <= 24 and (riff_size <= offset + 24 or is_placeholder(riff_size, 64))
    if available > 24 and (unfinished or is_placeholder(size, 64)):
        patches = {16: struct.pack("<Q", source.size), offset + 16: struct.pack("<Q", available)}
        return [make_part(source, 0, source.size, patches, unfinished=unfinished)]
    present = max(0, available - 24) / (size - 24) if size > max(available, 24) else 1.0
    return [make_part(source, 0, source.size, present=present)]
