"""The commands of docs/own-data.md, on small synthesised files."""

import json
import os
import pathlib
import re
import shlex
import sys

import numpy as np
import pytest
import soundfile

from esc_jax.data import synthetic

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "own-data.md"
ENCODER = "--config=configs/efficientat_frozen.py --config.model.pretrained=mn04_as"


def shown_commands() -> list[str]:
    """The indented commands of the page, with their continuation lines joined."""
    text = PAGE.read_text(encoding="utf-8").replace("\\\n", " ")
    found = re.findall(r"^    ((?:python -m esc_jax|esc-jax).*)$", text, re.MULTILINE)
    return [re.sub(r" +", " ", command) for command in found]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Recordings as on the page: three classes, two takes of each of six recordings, other sounds."""
    root = tmp_path_factory.mktemp("own")
    for number, (name, kind) in enumerate({"frog": "bells", "owl": "tone", "rain": "hiss"}.items()):
        (root / "sounds" / name).mkdir(parents=True)
        for take in range(12):
            samples = synthetic.clip(kind, np.random.default_rng((number, take)))
            place = root / "sounds" / name / f"site{take // 2}_{take % 2 + 1:02d}.{'flac' if take % 2 else 'WAV'}"
            soundfile.write(place, samples, synthetic.RATE)
    (root / "background").mkdir()
    for take in range(4):
        samples = synthetic.clip("clicks", np.random.default_rng((9, take)))
        soundfile.write(root / "background" / f"{take}.wav", samples, synthetic.RATE)
    parts = [synthetic.clip(kind, np.random.default_rng(7)) for kind in ("tone", "hiss")]
    soundfile.write(root / "night.wav", np.concatenate(parts), synthetic.RATE)
    return root


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="commands run in forks")
def test_the_worked_example_runs(folder, environment, commands):
    """With a small random encoder in the place of the published one."""
    small = f"--config={ROOT}/tests/configs/tiny.py --config.method=probe"
    assert len(shown_commands()) == 4
    for command in shown_commands():
        assert ENCODER in command or command.startswith("esc-jax ")
        words = shlex.split(command.replace(ENCODER, small))
        module, *arguments = ["esc_jax", *words[1:]] if words[0] == "esc-jax" else words[2:]
        done = commands.run(module, arguments, environment, cwd=folder)
        assert done.returncode == 0, done.stderr
    names = ("sounds", "sounds-all")
    pooled, deployed = (json.loads((folder / "runs" / name / "results.json").read_text()) for name in names)
    assert pooled["data"]["grouping"]["kind"] == "names" and pooled["data"]["grouping"]["assigned_folds"]
    assert deployed["crossval"]["accuracy"] == pooled["accuracy"] and deployed["folds"] == []
    tags = (folder / "tags.csv").read_text().splitlines()
    assert len(tags) > 6 and tags[1].startswith("night.wav,0.0,")
    card = (folder / "exports" / "sounds" / "README.md").read_text()
    assert f"accuracy **{100 * pooled['accuracy']['mean']:.2f} %**" in card
    assert "Cross-validation of the same config" in card
    assert os.path.getsize(folder / "tags.png") > 10_000
