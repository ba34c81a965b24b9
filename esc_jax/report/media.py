"""The clips behind a run's mistakes, as a page can show and play them."""

from collections.abc import Container, Iterable
import dataclasses
import io
import pathlib

import soundfile

from esc_jax.data import audio, cache
from esc_jax.data.rows import DataError
from esc_jax.data.layouts.registry import open_source
from esc_jax.report import plots
from esc_jax.report.runs import Run

_SECONDS = 10.0  # of a clip, at most: a page of long clips would not load
_MP3_RATES = (16_000, 22_050, 24_000, 32_000, 44_100, 48_000)


@dataclasses.dataclass(frozen=True)
class Media:
    """A clip: an mp3 file, and a png of its spectrogram."""

    mp3: bytes
    png: bytes


def _candidates(run: Run) -> list[pathlib.Path]:
    """Where the run's data may lie: data.dir, or what was downloaded or generated in the cache folder."""
    data = run.config.get("data") or {}
    if data.get("dir"):
        return [pathlib.Path(data["dir"])]
    root = cache.cache_root(data.get("cache_dir") or "")
    return sorted(root.iterdir()) if root.is_dir() else []


def source(run: Run):
    """The data set that a run was tested on, known by its fingerprint: (`data.source.Source` or one with its
    attributes, ""), or (None, the reason in one sentence)."""
    reasons = []
    for path in _candidates(run):
        try:
            found = open_source(path)
        except (DataError, OSError) as error:
            reasons.append(str(error))
            continue
        if run.fingerprint.split("-")[0] == found.fingerprint:  # a subset has its name behind the whole's
            return found, ""
        reasons.append(f"{path} holds other data than {run.name} was tested on")
    if len(reasons) != 1:
        return None, "their data set is not in data.dir of config.json, nor in the cache folder"
    return None, reasons[0]


def _place(clip: str, rows: Container[str]) -> tuple[str, float]:
    """The file of a clip and the second at which it starts: a window of a track is called `track.wav@5s`."""
    name, _, start = clip.rpartition("@")
    return (clip, 0.0) if clip in rows or not name else (name, float(start.removesuffix("s")))


def media(run: Run, clips: Iterable[str]) -> tuple[dict[str, Media], str]:
    """Sound and picture of clips, at the sample rate and length that the model was given.

    Returns:
        clip → media, of those that can be read; and a sentence on those that cannot, empty where there are none.
    """
    clips = list(clips)
    found, reason = source(run)
    if found is None:
        return {}, f"The clips were not found: {reason}."
    rows = {row.filename: row for row in found.rows}
    seconds = min(_SECONDS, float((run.config.get("data") or {}).get("clip_s") or _SECONDS))
    rate = run.sample_rate if run.sample_rate in _MP3_RATES else 32_000
    done, lost = {}, []
    for clip in clips:
        try:
            name, start = _place(clip, rows)
            waveform = audio.load(found.read(rows[name]), rate, clip)[round(start * rate) :][: round(seconds * rate)]
        except (KeyError, ValueError):  # AudioError is one
            lost.append(clip)
            continue
        # mp3, as every browser plays it: a fifth of the size of 16-bit samples, with all of the bandwidth.
        sound, picture = io.BytesIO(), io.BytesIO()
        soundfile.write(sound, waveform, rate, format="MP3")
        plots.spectrogram(waveform, rate, picture)
        done[clip] = Media(sound.getvalue(), picture.getvalue())
    return done, f"Not readable: {', '.join(lost)}." if lost else ""
