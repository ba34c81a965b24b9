"""Opus in Ogg: the granule positions of pages against the lengths of their packets (RFC 7845 and RFC 6716)."""

_CONTINUED, _END = 1, 4  # flags of a page that begins within a packet, and of the last page of a stream
_LONGEST = 5760  # samples of a packet: 120 ms
# Samples of a frame at 48 kHz, by the upper five bits of the first byte of a packet: SILK, hybrid, CELT.
_FRAME = (480, 960, 1920, 2880) * 3 + (480, 960) * 2 + (120, 240, 480, 960) * 4


def packet_samples(head: bytes) -> int:
    """Number of samples of a packet at 48 kHz; 0 if it is invalid.

    Args:
        head: the first two bytes of the packet; fewer if it has fewer.
    """
    if not head:
        return 0
    frames = (1, 2, 2, head[1] & 63 if len(head) > 1 else 0)[head[0] & 3]
    samples = frames * _FRAME[head[0] >> 3]
    return samples if samples <= _LONGEST else 0


class GranulePositions:
    """Compares the granule positions of a stream, which are its timestamps, with the samples in its packets.

    ffmpeg and other encoders derive granule positions from the timestamps of their input. Where these jump, as those of
    some Vorbis files do, a page may lie some milliseconds late and the next one in time again. libsndfile then refuses
    the file as malformed: a page, except for the last, must not end before the end of the previous page plus its own
    samples. All samples are there, and other decoders do not compare.

    Attributes:
        readable: whether libsndfile accepts the positions so far.
    """

    def __init__(self) -> None:
        self.readable = True
        self._headers = 2  # packets before the audio
        self._open: bytes | None = None  # head of a packet that continues on the next page
        self._samples = 0
        self._previous: int | None = None  # position of the previous page
        self._begin = 0  # position of the first sample: the earliest according to any page

    def add(self, page: bytes) -> int:
        """Adds the next page that is not damaged. Returns the position that it should have: the samples up to its end.

        The position of the last page may exclude samples at its end, which are padding of the encoder.
        """
        position, last = int.from_bytes(page[6:14], "little", signed=True), page[5] & _END
        heads = self._heads(page)
        skipped = min(self._headers, len(heads))
        self._headers -= skipped
        if skipped == len(heads):  # no audio ends on this page
            return position
        samples = sum(map(packet_samples, heads[skipped:]))
        before, self._samples = self._samples, self._samples + samples
        begin = position - self._samples
        if self._previous is None:
            self.readable = begin <= 0 if last else begin >= 0
            self._begin = 0 if last else begin
        elif not last:
            self.readable &= position - self._previous >= samples
            self._begin = min(self._begin, begin)
        self._previous = position
        end = position - self._begin
        return end if last and before < end < self._samples else self._samples

    def _heads(self, page: bytes) -> list[bytes]:
        """The first two bytes of the packets that end on a page; none of a packet whose beginning is missing."""
        place = 27 + page[26]
        head = (self._open or b"") if page[5] & _CONTINUED else None
        heads = []
        for size in page[27:place]:
            if head is None:
                head = page[place : place + min(size, 2)]
            place += size
            if size < 255:
                heads.append(head)
                head = None
        self._open = head
        return heads
