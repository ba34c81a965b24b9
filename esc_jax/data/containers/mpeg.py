"""MPEG audio (MP1, MP2, MP3): joined files, and the lengths in Xing and VBRI headers against the frames."""

from collections.abc import Iterator
import dataclasses
import functools
from typing import NamedTuple

from esc_jax.data.containers.part import WHOLE, Part
from esc_jax.data.source import Bytes, View
from esc_jax.errors import counted

_BLOCK = 1 << 20
_JUNK = 1 << 16  # bytes before the first frame, such as the rest of a frame
_TAGS = (b"ID3", b"TAG", b"APETAGEX")
# kbit/s by version and layer. MPEG 2.5 has those of MPEG 2.
_V2 = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_KBPS = {
    (1, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): _V2,
    (2, 3): _V2,
}
_HZ = (44_100, 48_000, 32_000)


class _Kind(NamedTuple):
    """What all frames of a stream have in common. `version` is 1, 2, or 3 for MPEG 2.5."""

    version: int
    layer: int
    rate: int
    mono: bool

    @property
    def side_information(self) -> int:
        """Bytes between the header of a frame of layer III and its content, where a Xing header would be."""
        if self.version == 1:
            return 17 if self.mono else 32
        return 9 if self.mono else 17


class _Header(NamedTuple):
    """Header of a frame of `size` bytes."""

    size: int
    kbps: int
    kind: _Kind


@functools.cache
def _parse(second: int, third: int, mono: bool) -> _Header | None:
    """The header with these bytes after 0xFF; None if there is none. A frame of free format has no size."""
    version = {3: 1, 2: 2, 0: 3}.get(second >> 3 & 3, 0)
    layer = 4 - (second >> 1 & 3)
    rate_code, bitrate_code = third >> 2 & 3, third >> 4
    if second >> 5 != 7 or not version or layer == 4 or rate_code == 3 or bitrate_code in (0, 15):
        return None
    rate = _HZ[rate_code] >> (version - 1)
    kbps = _KBPS[min(version, 2), layer][bitrate_code - 1]
    padding = third >> 1 & 1
    if layer == 1:
        size = (12_000 * kbps // rate + padding) * 4
    else:
        size = (72_000 if layer == 3 and version > 1 else 144_000) * kbps // rate + padding
    return _Header(size, kbps, _Kind(version, layer, rate, mono))


class _Reader:
    """Headers and tags of a file, which is read in blocks."""

    def __init__(self, source: Bytes):
        self._source, self.size = source, source.size
        self._start, self._block = 0, b""

    def bytes(self, place: int, count: int) -> bytes:
        """Up to `count` bytes from `place`."""
        first = place - self._start
        if first < 0 or first + count > len(self._block):
            self._start, self._block = place, self._source.read_at(place, max(count, _BLOCK))
            first = 0
        return self._block[first : first + count]

    def header(self, place: int) -> _Header | None:
        """The header of the frame at `place`; None if there is none."""
        head = self.bytes(place, 4)
        return _parse(head[1], head[2], head[3] >> 6 == 3) if len(head) == 4 and head[0] == 0xFF else None

    def confirmed(self, place: int) -> _Header | None:
        """The header at `place` if a frame of the same kind, a tag, or the end of the file follows the frame."""
        header = self.header(place)
        if header is None:
            return None
        end = place + header.size
        following = self.header(end)
        if following is not None and following.kind == header.kind:
            return header
        return header if end == self.size or self.bytes(end, 8).startswith(_TAGS) else None

    def after_tag(self, place: int) -> int:
        """Offset after the tag (ID3v2, ID3v1 or APE) at `place`; 0 if there is none."""
        head = self.bytes(place, 32)
        if head[:3] == b"TAG":
            return place + 128
        if head[:8] == b"APETAGEX" and len(head) == 32:  # the size counts a footer, and no header
            return place + 32 + max(0, int.from_bytes(head[12:16], "little") - (0 if head[23] & 0x20 else 32))
        if head[:3] == b"ID3" and len(head) >= 10 and max(head[6:10]) < 128:
            size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
            return place + 10 + size + 10 * bool(head[5] & 16)
        return 0

    def next_mark(self, place: int) -> int:
        """Offset from `place` on where a frame or a tag may begin; the size of the file if there is none."""
        while place < self.size:
            block = self.bytes(place, 4096)
            offsets = [offset for mark in (b"\xff", *_TAGS) if (offset := block.find(mark)) >= 0]
            if offsets:
                return place + min(offsets)
            place += max(1, len(block) - 7)
        return self.size


def skip_id3(source: Bytes) -> int:
    """Offset after the ID3v2 tags with which a file begins; 0 if there are none."""
    reader, start = _Reader(source), 0
    while reader.bytes(start, 3) == b"ID3" and (end := reader.after_tag(start)):
        start = end
    return start


def _first_frame(reader: _Reader, start: int) -> int:
    """Offset of the first frame: at `start`, or after junk if two more follow; −1 if there is none."""
    place = start
    while place < min(start + _JUNK, reader.size):
        header = reader.confirmed(place)
        if header is not None and (place == start or reader.confirmed(place + header.size) is not None):
            return place
        place = reader.after_tag(place) or reader.next_mark(place + 1)
    return -1


def _frames(reader: _Reader, place: int) -> Iterator[tuple[int, _Header, bool]]:
    """(offset, header, whether a tag precedes it) of all frames from `place` on. Junk between them is skipped.

    The last frame may end after the file.
    """
    kind, tagged = None, False
    while place < reader.size:
        header = reader.header(place)
        if header is not None and header.kind != kind:  # after junk, `kind` is None
            header = reader.confirmed(place)
        if header is not None:
            yield place, header, tagged
            place, kind, tagged = place + header.size, header.kind, False
            continue
        kind = None
        if after := reader.after_tag(place):
            place, tagged = after, True
        else:
            place = reader.next_mark(place + 1)


@dataclasses.dataclass
class _Stream:
    """Frames that belong together: `start` to `stop` in the file.

    `field` is the offset of their number in a Xing or VBRI header: 0 if that does not say, None if there is none.
    `promised` is this number, or 0. `cut` is whether one more frame follows that is not complete. `junk` is the number
    of bytes up to the next stream that are no tag.
    """

    start: int
    stop: int
    kind: _Kind
    field: int | None
    promised: int
    frames: int = 0
    cut: bool = False
    junk: int = 0
    bitrates: set[int] = dataclasses.field(default_factory=set)


def _field(reader: _Reader, place: int, kind: _Kind) -> int | None:
    """Offset of the number of frames in the Xing or VBRI header in a frame, as `_Stream.field`."""
    if kind.layer != 3:
        return None
    content = reader.bytes(place, 64)
    xing = 4 + kind.side_information
    if content[xing : xing + 4] in (b"Xing", b"Info"):
        return place + xing + 8 if content[xing + 7 : xing + 8] > b"\0" else 0
    return place + 50 if content[36:40] == b"VBRI" else None


def _streams(reader: _Reader, start: int) -> list[_Stream]:
    """The streams from `start` on.

    A stream begins with a Xing or VBRI header, after a tag or other bytes, and where the kind of the frames changes.
    """
    streams: list[_Stream] = []
    for place, header, tagged in _frames(reader, start):
        field = _field(reader, place, header.kind)
        if streams and not tagged:
            streams[-1].junk = place - streams[-1].stop
        if not streams or field is not None or tagged or streams[-1].junk or header.kind != streams[-1].kind:
            promised = int.from_bytes(reader.bytes(field, 4), "big") if field else 0
            streams.append(_Stream(place, place, header.kind, field, promised))
        stream = streams[-1]
        if place + header.size > reader.size:
            stream.cut = True
            break
        stream.stop = place + header.size
        if field is None:
            stream.frames += 1
            stream.bitrates.add(header.kbps)
    return [stream for stream in streams if stream.frames]


def mpeg_parts(source: Bytes, start: int) -> list[Part]:
    """The parts of a file of MPEG audio that begins at `start`: one, or several where files were joined.

    libsndfile estimates the length of a file without a Xing or VBRI header from its first bitrate, and reads no
    further. Where the bitrate changes, such a header is put before the frames. A header with too few frames is
    corrected. Junk before and between frames, after which libsndfile may give up, is left out.
    """
    reader = _Reader(source)
    first = _first_frame(reader, start)
    streams = _streams(reader, first) if first >= 0 else []
    parts = []
    for number, stream in enumerate(streams):
        stop = streams[number + 1].start if number + 1 < len(streams) else source.size
        stop -= stream.junk
        view = View(source, [(stream.start, stop)]) if len(streams) > 1 or first > start else None
        if stream.field and stream.frames > stream.promised:
            view = View.patched(source, stream.start, stop, {stream.field: stream.frames.to_bytes(4, "big")})
        elif not stream.field and len(stream.bitrates) > 1 and stream.kind.layer == 3:
            view = View(source, [_xing(source, stream), (_first_audio(stream, reader), stream.stop)])
        missing = stream.promised - stream.frames
        truncated = missing > 1 or (stream.cut and (missing > 0 or not stream.promised))  # some count the header, too
        reason = "its last frame is cut short" if stream.cut else ""
        damage = f"{counted(stream.junk, 'byte')} after its frames" if stream.junk else ""
        parts.append(Part(view, truncated=truncated, reason=reason, damage=damage))
    return parts or [WHOLE]


def _first_audio(stream: _Stream, reader: _Reader) -> int:
    """Offset of the first frame with audio: after one with a Xing header that does not say how many follow."""
    header = reader.header(stream.start) if stream.field is not None else None
    return stream.start + (header.size if header else 0)


def _xing(source: Bytes, stream: _Stream) -> bytes:
    """A frame that is the Xing header of a stream: the number of frames and of bytes."""
    first = source.read_at(stream.start, 4)
    for code in range(1, 15):  # the smallest frame with room for it
        head = bytes([0xFF, first[1] | 1, code << 4 | first[2] & 0x0C, first[3]])
        header = _parse(head[1], head[2], stream.kind.mono)
        if header is not None and header.size >= stream.kind.side_information + 20:
            size = stream.stop - stream.start + header.size
            fields = b"Xing" + (3).to_bytes(4, "big") + stream.frames.to_bytes(4, "big") + size.to_bytes(4, "big")
            return (head + bytes(stream.kind.side_information) + fields).ljust(header.size, b"\0")
    return b""
