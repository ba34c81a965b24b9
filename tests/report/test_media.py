"""The data set of a run is opened as the run read it."""

import dataclasses

import numpy as np
import soundfile

from esc_jax.data.layouts.folder import FolderLayout
from esc_jax.data.layouts.options import Options
from esc_jax.report import media
from esc_jax.report import runs as finished

RATE = 16_000


def test_options_of_the_run_are_used(runs_dir, tmp_path):
    """Folds are part of the fingerprint; a clip from the middle of a long recording is decoded up to its end."""
    for name in ("dog", "cat"):
        (tmp_path / name).mkdir()
        for i in range(4):
            sine = 0.5 * np.sin(2 * np.pi * 440 * np.arange(70 * RATE if i == 0 else RATE) / RATE)
            soundfile.write(tmp_path / name / f"{name}-{i}.wav", sine, RATE)
    run = finished.read(runs_dir / "good")
    run = dataclasses.replace(run, fingerprint=FolderLayout(tmp_path, Options(folds=3)).fingerprint)
    run.config["data"].update(name="folder", dir=str(tmp_path), folds=3, clip_s=0.5)
    source, reason = media.find_data(run)
    assert isinstance(source, FolderLayout) and not reason
    clips, reason = media.media(run, ["dog/dog-0.wav@66s", "dog/dog-1.wav", "dog/dog-9.wav"])
    assert sorted(clips) == ["dog/dog-0.wav@66s", "dog/dog-1.wav"] and reason == "Not readable: dog/dog-9.wav."
    run.config["data"]["folds"] = 4
    assert media.find_data(run) == (None, f"{tmp_path} contains other data than {run.name} was tested on")
