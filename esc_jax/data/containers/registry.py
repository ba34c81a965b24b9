"""The parts of a file, by the format that its first bytes name."""

from esc_jax.data.containers import flac, iff, legacy, mpeg, ogg, riff
from esc_jax.data.containers.part import Part
from esc_jax.data.source import Source

# First bytes of formats that libsndfile does not read → name of the format.
_FOREIGN = (
    (0, b"\x1a\x45\xdf\xa3", "Matroska or WebM"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "WMA"),
    (4, b"ftyp", "MPEG-4"),
    (4, b"moov", "QuickTime"),
    (4, b"mdat", "QuickTime"),
    (4, b"wide", "QuickTime"),
    (0, b"#!AMR", "AMR"),
    (0, b"\x0b\x77", "AC-3"),
    (0, b"wvpk", "WavPack"),
    (0, b"MAC ", "Monkey's Audio"),
    (0, b"TTA1", "TTA"),
    (0, b"TTA2", "TTA"),
    (0, b"MPCK", "Musepack"),
    (0, b"MP+", "Musepack"),
    (0, b"DSD ", "DSD"),
    (0, b"FRM8", "DSD"),
    (0, b"\x7f\xfe\x80\x01", "DTS"),
    (0, b"ADIF", "AAC"),
    (0, b"FLV", "Flash video"),
)
# Codes of encodings that libsndfile reads in WAV files: PCM, floating point, A-law, μ-law, ADPCM, GSM, MP3, and the
# extensible format, which names the encoding elsewhere. 0 stands for a file without a code.
_WAV_ENCODINGS = {0, 1, 2, 3, 6, 7, 0x11, 0x31, 0x38, 0x40, 0x55, 0xFFFE}


def foreign_format(source: Source) -> str:
    """Name of the format of a file that libsndfile does not read; empty for all that it may read."""
    start = mpeg.skip_id3(source)
    head = source.read_at(start, 16)
    for offset, mark, name in _FOREIGN:
        if head[offset:].startswith(mark):
            return name
    if len(head) > 3 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0 and head[2] >> 2 & 15 < 13:
        return "AAC"
    if riff.is_riff(head) and riff.format_tag(source) not in _WAV_ENCODINGS:
        return "WAV with compressed audio"
    if ogg.is_ogg(head) and ogg.needs_ffmpeg(source):
        return "Ogg with another codec than Vorbis, Opus and FLAC"
    return ""


def is_wave(source: Source) -> bool:
    """Whether a file is a WAV or Wave64 file, some of whose encodings libsndfile does not read."""
    head = source.read_at(0, 16)
    return riff.is_riff(head) or riff.is_w64(head)


def is_multiplexed(source: Source) -> bool:
    """Whether a file has several streams, so that libsndfile may not be able to read it."""
    return ogg.is_ogg(source.read_at(0, 4)) and ogg.is_multiplexed(source)


def parts(source: Source) -> list[Part]:
    """The sections of a file that libsndfile reads by themselves, in order; at least one."""
    head = source.read_at(0, 16)
    if riff.is_riff(head):
        return riff.riff_parts(source)
    if riff.is_w64(head):
        return riff.w64_parts(source)
    if iff.is_aiff(head):
        return iff.aiff_parts(source)
    if iff.is_caf(head):
        return iff.caf_parts(source)
    if iff.is_au(head):
        return iff.au_parts(source)
    if ogg.is_ogg(head):
        return ogg.ogg_parts(source)
    if legacy.is_nist(head):
        return legacy.nist_parts(source)
    if legacy.is_voc(head):
        return legacy.voc_parts(source)
    start = mpeg.skip_id3(source)
    if flac.is_flac(source.read_at(start, 4)):
        return flac.flac_parts(source, start)
    return mpeg.mpeg_parts(source, start)
