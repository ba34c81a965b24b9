"""Audio and spectrograms of clips, for the HTML page."""

from collections.abc import Container, Iterable, Sequence
import dataclasses
import io
import os
import pathlib

import numpy as np
import soundfile

from esc_jax.data import cache
from esc_jax.data.layouts.registry import open_source
from esc_jax.data.rows import DataError, Layout
from esc_jax.data.stream import AudioStream, cut
from esc_jax.report import plots
from esc_jax.report.runs import Run

_MAX_SECONDS = 10.0  # of a clip; the page would be too large with longer ones
_MP3_RATES = (16_000, 22_050, 24_000, 32_000, 44_100, 48_000)


@dataclasses.dataclass(frozen=True)
class Media:
    """A clip as an MP3 file, and its mel spectrogram as a PNG file."""

    mp3: bytes
    png: bytes


def _candidates(run: Run) -> list[pathlib.Path]:
    """Where the data set of a run may be: data.dir, or the folders in the cache."""
    data = run.config.get("data") or {}
    if data.get("dir"):
        return [pathlib.Path(data["dir"])]
    root = cache.cache_root(data.get("cache_dir") or "")
    return sorted(root.iterdir()) if root.is_dir() else []


def find_data(run: Run) -> tuple[Layout | None, str]:
    """The data set that a run was tested on, identified by its fingerprint, and "".

    If there is none, None and the reason as a sentence.
    """
    reasons = []
    for path in _candidates(run):
        try:
            data = open_source(path, run.config.get("data"))
        except (DataError, OSError) as error:
            reasons.append(str(error))
            continue
        if run.fingerprint.split("-")[0] == data.fingerprint:  # that of a subset is followed by "-" and its name
            return data, ""
        reasons.append(f"{path} contains other data than {run.name} was tested on")
    if len(reasons) != 1:
        return None, "the data set is neither in data.dir of config.json nor in the cache folder"
    return None, reasons[0]


def _file_and_start(clip: str, files: Container[str]) -> tuple[str, float]:
    """The file of a clip, and the start of the clip in seconds. A window of a track is called `track.wav@5s`."""
    name, _, start = clip.rpartition("@")
    return (clip, 0.0) if clip in files or not name else (name, float(start.removesuffix("s")))


def playable_rate(sample_rate: int) -> int:
    """The sample rate of an MP3 file for a model of this one, Hz."""
    return sample_rate if sample_rate in _MP3_RATES else 32_000


def encode(waveform: np.ndarray, sample_rate: int) -> Media:
    """Audio and spectrogram of (time,) samples; the rate is one of `playable_rate`."""
    # MP3 plays in every browser, and has a fifth of the size of 16-bit samples.
    sound, picture = io.BytesIO(), io.BytesIO()
    soundfile.write(sound, waveform, sample_rate, format="MP3")
    plots.spectrogram(waveform, sample_rate, picture)
    return Media(sound.getvalue(), picture.getvalue())


def excerpts(
    source: bytes | str | os.PathLike[str], spans: Sequence[tuple[float, float]], rate: int, name: str = ""
) -> list[Media | None]:
    """Audio and spectrograms of parts of a recording, which may be long.

    Args:
        source, name: as for `data.stream.AudioStream`.
        spans: begin and end of each part, s.
        rate: of the audio, Hz, as of `playable_rate`.

    Returns:
        The media of each part; None for a part that the recording does not have.

    Raises:
        AudioError: the recording cannot be read.
    """
    samples = [(round(start * rate), round(end * rate)) for start, end in spans]
    pieces = cut(AudioStream(source, rate, name), samples)
    return [encode(piece, rate) if len(piece) else None for piece in pieces]


def media(run: Run, clips: Iterable[str]) -> tuple[dict[str, Media], str]:
    """Audio and spectrograms of clips, at the sample rate and with the length of the model's input.

    Returns:
        clip → media, for the clips that can be read; and a sentence on the others, empty if there are none.
    """
    data, reason = find_data(run)
    if data is None:
        return {}, f"Clips not available: {reason}."
    rows = {row.filename: row for row in data.rows}
    seconds = min(_MAX_SECONDS, float((run.config.get("data") or {}).get("clip_s") or _MAX_SECONDS))
    rate = playable_rate(run.sample_rate)
    result: dict[str, Media] = {}
    unreadable = []
    for clip in clips:
        try:
            name, start = _file_and_start(clip, rows)
            (part,) = excerpts(data.locate(rows[name]), [(start, start + seconds)], rate, clip)
        except (KeyError, ValueError):  # AudioError is a ValueError
            part = None
        if part is None:
            unreadable.append(clip)
        else:
            result[clip] = part
    return result, f"Not readable: {', '.join(unreadable)}." if unreadable else ""
