"""Audio files in memory, whole and in the forms that recorders, browsers and disks leave them in; and reading them."""

import functools
import io
import struct

import numpy as np
import pytest
import soundfile

from esc_jax.data import audio
from esc_jax.data.audio import AudioError
from esc_jax.data.stream import AudioStream
from tests.inference.sounds import sound

RATE = 16_000
# Name → format and subtype of soundfile. The length of an MP3 is known to a frame, all others to the sample.
FORMATS = {
    "wav": ("WAV", "PCM_16"),
    "wav_float": ("WAV", "FLOAT"),
    "wavex": ("WAVEX", "PCM_24"),
    "wav_adpcm": ("WAV", "IMA_ADPCM"),
    "rf64": ("RF64", "PCM_16"),
    "w64": ("W64", "PCM_16"),
    "aiff": ("AIFF", "PCM_16"),
    "aifc": ("AIFF", "FLOAT"),
    "caf": ("CAF", "PCM_16"),
    "caf_alac": ("CAF", "ALAC_16"),
    "au": ("AU", "PCM_16"),
    "au_ulaw": ("AU", "ULAW"),
    "voc": ("VOC", "PCM_16"),
    "nist": ("NIST", "PCM_16"),
    "nist_ulaw": ("NIST", "ULAW"),
    "flac": ("FLAC", "PCM_16"),
    "flac24": ("FLAC", "PCM_24"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}


def encode(samples, name, rate=RATE):
    """Bytes of a file."""
    kind, subtype = FORMATS[name]
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind, subtype=subtype)
    return file.getvalue()


def noise_file(name, seconds=2.0, rate=RATE, channels=1, seed=0):
    """Bytes of a file with `tests.inference.sounds.sound`."""
    return encode(sound(seconds, rate, channels, seed), name, rate)


def patch(content, **fields):
    """`content` with bytes replaced: at the end of a mark, `RIFF=b"…"`, or at an offset, `at_18=b"…"`."""
    content = bytearray(content)
    for mark, value in fields.items():
        offset = int(mark[3:]) if mark.startswith("at_") else content.index(mark.rstrip("_").encode()) + 4
        content[offset : offset + len(value)] = value
    return bytes(content)


def with_sizes(content, name, unknown):
    """The file with the sizes in its header as a writer to a pipe leaves them; or 0 where `unknown` is false."""
    small, large = (b"\xff" * 4, b"\xff" * 8) if unknown else (bytes(4), bytes(8))
    match name:
        case "wav" | "wav_float" | "wavex":
            return patch(content, RIFF=small, data=small)
        case "rf64":
            start = content.index(b"ds64") + 8
            return patch(content, **{f"at_{start}": large, f"at_{start + 8}": large})
        case "w64":
            start = content.index(b"data\xf3\xac\xd3\x11") + 16
            return patch(content, at_16=large, **{f"at_{start}": large})
        case "aiff" | "aifc":
            frames = content.index(b"COMM") + 10
            return patch(content, FORM=small, SSND=small, **{f"at_{frames}": bytes(4)})
        case "caf":
            return patch(content, data=large)
        case "au" | "au_ulaw":
            return patch(content, at_8=small)
        case "flac" | "flac24":  # the four highest bits belong to another number
            return patch(content, at_21=bytes([content[21] & 0xF0]) + bytes(4))
    raise ValueError(name)


def ogg_pages(content):
    """The pages of an Ogg file."""
    pages, start = [], 0
    while start < len(content):
        count = content[start + 26]
        stop = start + 27 + count + sum(content[start + 27 : start + 27 + count])
        pages.append(content[start:stop])
        start = stop
    return pages


@functools.cache
def _remainders():
    """The remainder of each byte, for the checksum of Ogg."""
    table = []
    for byte in range(256):
        value = byte << 24
        for _ in range(8):
            value = (value << 1 ^ 0x04C11DB7 if value & 1 << 31 else value << 1) & 0xFFFFFFFF
        table.append(value)
    return table


def ogg_checksum(page):
    """The page with its checksum."""
    page = page[:22] + bytes(4) + page[26:]
    value, table = 0, _remainders()
    for byte in page:
        value = (value << 8 & 0xFFFFFFFF) ^ table[value >> 24 ^ byte]
    return page[:22] + struct.pack("<I", value) + page[26:]


def with_positions(content, function):
    """An Ogg file with other granule positions after its headers: `function(number, position)` of a page."""
    pages = ogg_pages(content)
    for number, page in enumerate(pages[2:], 2):
        position = function(number, struct.unpack_from("<q", page, 6)[0])
        pages[number] = ogg_checksum(page[:6] + struct.pack("<q", position) + page[14:])
    return b"".join(pages)


def opus_file(content, segments):
    """An Opus file in pages of up to `segments` segments, so that packets continue on the next page."""
    headers, audio = ogg_pages(content)[:2], ogg_pages(content)[2:]
    lacing = b"".join(page[27 : 27 + page[26]] for page in audio)
    body = b"".join(page[27 + page[26] :] for page in audio)
    end, position, pages = struct.unpack_from("<q", audio[-1], 6)[0], 0, []
    for first in range(0, len(lacing), segments):
        sizes = lacing[first : first + segments]
        last, continued = first + segments >= len(lacing), first > 0 and lacing[first - 1] == 255
        packets = sum(size < 255 for size in sizes)
        position += 960 * packets  # libsndfile writes packets of 20 ms, and a shorter one at the end
        flags = 4 * last + continued
        shown = end if last else position if packets else -1
        head = struct.pack("<4sBBq4sIIB", b"OggS", 0, flags, shown, audio[0][14:18], 2 + len(pages), 0, len(sizes))
        pages.append(ogg_checksum(head + sizes + body[: sum(sizes)]))
        body = body[sum(sizes) :]
    return b"".join([*headers, *pages])


def flac_in_ogg(content, size=4000, serial=7):
    """A FLAC file in Ogg: the nine bytes of the mapping, then the content of the file, in pages of `size` bytes."""
    stream = [b"\x7fFLAC\x01\x00\x00\x01" + content[:42]]
    stream += [content[place : place + size] for place in range(42, len(content), size)]
    pages = []
    for number, body in enumerate(stream):
        flags = (2 if number == 0 else 0) | (4 if number == len(stream) - 1 else 0)
        lacing = bytes([255] * (len(body) // 255) + [len(body) % 255])
        head = struct.pack("<4sBBqIIIB", b"OggS", 0, flags, 0, serial, number, 0, len(lacing))
        pages.append(ogg_checksum(head + lacing + body))
    return b"".join(pages)


def id3(size=500):
    """An ID3v2 tag of `size` bytes after its header."""
    return b"ID3\x04\x00\x00" + bytes([0, 0, size >> 7, size & 127]) + b"\xff\xfb" * (size // 2) + bytes(size % 2)


def cancelling(samples, gain=-1.0):
    """(time, 2): a sound, and the same with another sign."""
    return np.concatenate([samples, gain * samples], axis=1).astype(np.float32)


def read(content, rate=RATE):
    """Samples and note of a file, read block by block."""
    stream = AudioStream(content, rate, "x")
    samples = np.concatenate([np.zeros(0, np.float32), *stream])
    return samples, stream.note


def refused(content, message):
    """Whether the file is refused as a training clip."""
    with pytest.raises(AudioError, match=message) as raised:
        audio.load(content, RATE, "x")
    assert str(raised.value).startswith("x: ") and "\n" not in str(raised.value)


def original(name, content):
    """What soundfile reads of a file that is whole."""
    return soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)[0].mean(axis=1)
