"""Ogg: joined streams, streams without an end, FLAC in Ogg as a FLAC file of its own, and timestamps of Opus."""

from collections.abc import Iterator
import dataclasses
import zlib

from esc_jax.data.containers.flac import flac_parts
from esc_jax.data.containers.opus import GranulePositions
from esc_jax.data.containers.part import WHOLE, Part
from esc_jax.data.source import Bytes, View
from esc_jax.errors import counted

_BLOCK = 1 << 16
_BEGIN, _END = 2, 4  # flags of the first and of the last page of a stream
_VORBIS, _OPUS, _FLAC, _SPEEX = b"\x01vorbis", b"OpusHead", b"\x7fFLAC", b"Speex   "
_CODECS = (_VORBIS, _OPUS, _FLAC, _SPEEX)
_NO_END = "the end of its stream is missing"
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def is_ogg(head: bytes) -> bool:
    """Whether a file begins as an Ogg file."""
    return head[:4] == b"OggS"


@dataclasses.dataclass(frozen=True)
class _Page:
    """A page: `start` to `stop` in the file, of which the first `header` bytes are its header.

    `number` counts the pages of a stream. A page is damaged if its checksum does not match. `content` is the whole page
    if its checksum has been compared.
    """

    start: int
    stop: int
    header: int
    flags: int
    serial: bytes
    number: int
    damaged: bool = False
    content: bytes = b""


@dataclasses.dataclass
class _Link:
    """A file in a chain.

    Attributes:
        start, stop: first byte, and the one after the last.
        streams: their number.
        codecs: serial number of a stream of audio → its codec.
        last: serial number → the last page of the stream.
        bodies: serial number → (start, stop) of the content of every page, of a stream of FLAC.
        damaged: number of damaged and of missing pages.
        positions: serial number → the timestamps of a stream of Opus.
    """

    start: int
    stop: int = 0
    streams: int = 0
    codecs: dict[bytes, bytes] = dataclasses.field(default_factory=dict)
    last: dict[bytes, _Page] = dataclasses.field(default_factory=dict)
    bodies: dict[bytes, list[tuple[int, int]]] = dataclasses.field(default_factory=dict)
    damaged: int = 0
    positions: dict[bytes, GranulePositions] = dataclasses.field(default_factory=dict)

    def add(self, page: _Page) -> None:
        """Adds the next page."""
        if page.serial not in self.codecs:
            return
        self.damaged += page.damaged
        if previous := self.last.get(page.serial):
            self.damaged += max(0, page.number - previous.number - 1)
        self.last[page.serial] = page
        if self.codecs[page.serial] == _FLAC:
            self.bodies.setdefault(page.serial, []).append((page.start + page.header, page.stop))
        if self.codecs[page.serial] == _OPUS and page.content and not page.damaged:
            self.positions.setdefault(page.serial, GranulePositions()).add(page.content)

    @property
    def ended(self) -> bool:
        """Whether the last page of all audio is there."""
        return all(page.flags & _END and page.stop <= self.stop for page in self.last.values())


def _checksum(page: bytes) -> int:
    """The CRC-32 of a page, with its own bytes as zeros. It is that of zlib with the order of all bits reversed."""
    content = page[:22] + bytes(4) + page[26:]
    value = zlib.crc32(content.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int.from_bytes(value.to_bytes(4, "big").translate(_REVERSED), "little")


def _pages(source: Bytes, verify: bool = False) -> Iterator[_Page]:
    """The pages of a file. What is between them is skipped.

    With `verify`, checksums are compared, and the next page may begin inside one that is damaged: the rest of that page
    is missing, where a file that breaks off was joined with another one.
    """
    start = 0
    while start < source.size:
        head = source.read_at(start, 27 + 255)
        if head[:4] != b"OggS":
            block = source.read_at(start + 1, _BLOCK)
            place = block.find(b"OggS")
            start += 1 + (place if place >= 0 else max(1, len(block) - 3))
            continue
        if len(head) < 27 or len(head) < 27 + head[26]:  # cut within the header
            yield _Page(start, source.size + 1, len(head), 0, head[14:18], 0)
            return
        header = 27 + head[26]
        stop = start + header + sum(head[27:header])
        damaged, content, following = False, b"", stop
        if verify:
            content = source.read_at(start, stop - start)
            whole = stop <= source.size  # a page that is cut is no damage: the end of its stream is missing
            damaged = whole and _checksum(content) != int.from_bytes(head[22:26], "little")
            place = content.find(b"OggS", 4) if damaged or not whole else -1
            following = start + place if place > 0 else stop
            content = content if whole else b""
        yield _Page(start, stop, header, head[5], head[14:18], int.from_bytes(head[18:22], "little"), damaged, content)
        start = following


def _links(source: Bytes, verify: bool = False) -> list[_Link]:
    """The files that a chain consists of. Damaged pages are counted with `verify`."""
    links: list[_Link] = []
    in_header = False
    for page in _pages(source, verify):
        if page.flags & _BEGIN:
            if not in_header:
                links.append(_Link(page.start))
            in_header = True
            content = source.read_at(page.start + page.header, 8)
            links[-1].streams += 1
            if codec := next((codec for codec in _CODECS if content.startswith(codec)), b""):
                links[-1].codecs[page.serial] = codec
        elif links:
            in_header = False
        if links:
            links[-1].add(page)
    for link, following in zip(links, links[1:], strict=False):
        link.stop = following.start
    if links:
        links[-1].stop = source.size
    return links


def needs_ffmpeg(source: Bytes) -> bool:
    """Whether libsndfile cannot read the streams of the first file: another codec than Vorbis, Opus and FLAC."""
    links = _links(source)
    return bool(links) and not set(links[0].codecs.values()) & {_VORBIS, _OPUS, _FLAC}


def is_multiplexed(source: Bytes) -> bool:
    """Whether the first file has several streams, such as a video, which libsndfile need not be able to read."""
    links = _links(source)
    return bool(links) and links[0].streams > 1


def ogg_parts(source: Bytes) -> list[Part]:
    """The parts of an Ogg file: one for each file of a chain."""
    links = [link for link in _links(source, verify=True) if link.codecs]
    if not links:
        return [WHOLE]
    parts: list[Part] = []
    for link in links:
        truncated = not link.ended
        reason = _NO_END if truncated else ""
        damage = f"{counted(link.damaged, 'page')} of its stream" if link.damaged else ""
        if set(link.codecs.values()) == {_FLAC}:
            parts += [
                dataclasses.replace(p, truncated=truncated, reason=reason, damage=damage) for p in _flac(source, link)
            ]
            continue
        patches = _corrected(source, link)
        whole = len(links) == 1 and link.start == 0 and not patches
        view = None if whole else View.patched(source, link.start, link.stop, patches)
        parts.append(Part(view, truncated=truncated, reason=reason, damage=damage))
    return parts


def _corrected(source: Bytes, link: _Link) -> dict[int, bytes]:
    """Offset → new bytes of the headers of pages, if libsndfile does not accept the timestamps of a stream of Opus."""
    if all(positions.readable for positions in link.positions.values()):
        return {}
    patches = {}
    corrected = {serial: GranulePositions() for serial in link.positions}
    for page in _pages(View(source, [(link.start, link.stop)]), verify=True):
        if page.serial in corrected and page.content and not page.damaged:
            position = corrected[page.serial].add(page.content).to_bytes(8, "little", signed=True)
            content = page.content[:6] + position + page.content[14:]
            if content != page.content:
                patches[link.start + page.start + 6] = content[6:22] + _checksum(content).to_bytes(4, "little")
    return patches


def _flac(source: Bytes, link: _Link) -> list[Part]:
    """The content of the pages is a FLAC file after nine bytes. libsndfile reads only what it wrote itself."""
    (first, stop), *others = next(iter(link.bodies.values()))
    stream = View(source, [(first + 9, min(stop, link.stop)), *((a, min(b, link.stop)) for a, b in others)])
    return [dataclasses.replace(part, view=part.view or stream) for part in flac_parts(stream)]
