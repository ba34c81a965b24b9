"""Exports are complete or leave nothing behind, also from the command line."""

import json
import pathlib
import signal
import subprocess
import sys

import pytest

from esc_jax.cli import export
from esc_jax.export import formats
from esc_jax.export.base import ExportError
from tests.export.factories import save_run, tiny_config


@pytest.fixture(scope="module")
def wrong_calls(resnet_workdir, tmp_path_factory):
    """Name → arguments, exit status and message of calls that fail."""
    folder = tmp_path_factory.mktemp("wrong")
    (folder / "full").mkdir()
    (folder / "full" / "mine.txt").write_text("mine")
    (folder / "empty").mkdir()
    (folder / "file").write_text("")
    old = save_run(folder / "old", tiny_config("resnet"))
    meta = old / "checkpoints/3/meta/metadata"
    meta.write_text(json.dumps(json.loads(meta.read_text()) | {"format": 99}))
    bad = save_run(folder / "bad", tiny_config("resnet"))
    (bad / "results.json").write_text("{")

    def call(model, out, form="stablehlo"):
        return [f"--model={model}", f"--format={form}", f"--out={out}"]

    resnet, out = resnet_workdir, folder / "out"
    return {
        "no folder": (call(folder / "none", out), 1, "no such folder"),
        "no checkpoint": (call(folder / "empty", out), 1, "no checkpoint"),
        "version": (call(old, out), 1, "format 99"),
        "results": (call(bad, out), 1, "was not written by a run"),
        "format": (call(resnet, out, "tflit"), 2, "'tflit' is not one of"),
        "missing": (["--format=stablehlo", f"--out={out}"], 2, "required: --model"),
        "class": (call(resnet, out, "huggingface"), 2, "transformers has no class for model.name=resnet"),
        "full": (call(resnet, folder / "full"), 2, "is not an empty folder"),
        "file": (call(resnet, folder / "file"), 2, "is not an empty folder"),
        "below a file": (call(resnet, folder / "file/x"), 1, "file"),
    }


@pytest.mark.parametrize(
    "case",
    [
        "no folder", "no checkpoint", "version", "results", "format", "missing", "class", "full", "file", "below a file"
    ],
)  # fmt: skip
def test_a_failed_export_prints_one_sentence_and_leaves_nothing(wrong_calls, capsys, case):
    arguments, expected_status, message = wrong_calls[case]
    folder = pathlib.Path(arguments[-1].removeprefix("--out=")).parent
    folder = folder if folder.is_dir() else folder.parent
    before = sorted(folder.rglob("*"))
    try:
        status = export.main(arguments)
    except SystemExit as stopped:  # argparse
        status = stopped.code
    error = capsys.readouterr().err
    assert (status, error.count("\n")) == (expected_status, 1), error
    assert error.startswith("esc_jax: ") and message in error
    assert sorted(folder.rglob("*")) == before


def test_an_interrupted_export_leaves_nothing(resnet_workdir, tmp_path, monkeypatch):
    def interrupted(restored, directory):
        (directory / "model.json").write_text("{")
        raise KeyboardInterrupt

    monkeypatch.setitem(formats.FORMATS, "stablehlo", interrupted)
    with pytest.raises(KeyboardInterrupt):
        formats.export(resnet_workdir, "stablehlo", tmp_path / "new/out")
    assert list(tmp_path.iterdir()) == []


def test_the_command(resnet_workdir, run, tmp_path):
    (tmp_path / "out").mkdir()  # an empty folder is allowed
    arguments = (f"--model={resnet_workdir}", "--format=stablehlo", f"--out={tmp_path}/out")
    done = run("export", *arguments)
    assert "model.stablehlo" in done.stdout and (tmp_path / "out/model.stablehlo").stat().st_size > 10_000
    assert "is not an empty folder" in run("export", *arguments, check=2).stderr
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_empty_folder_is_kept(resnet_workdir, tmp_path, monkeypatch):
    """With its permissions; it can be a mount point, which cannot be replaced."""
    monkeypatch.setitem(formats.FORMATS, "stablehlo", lambda restored, folder: (folder / "a").write_text("a"))
    (tmp_path / "out").mkdir(mode=0o700)
    before = (tmp_path / "out").stat()
    assert formats.export(resnet_workdir, "stablehlo", tmp_path / "out") == tmp_path / "out"
    after = (tmp_path / "out").stat()
    assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a"]


def test_the_next_export_into_an_empty_folder_after_one_that_was_killed(resnet_workdir, tmp_path, monkeypatch):
    program = """
import os, signal, sys
from esc_jax.export import formats

def killed(restored, folder):
    (folder / "half").write_text("{")
    os.kill(os.getpid(), signal.SIGKILL)

formats.FORMATS["stablehlo"] = killed
formats.write(None, "stablehlo", sys.argv[1])
"""
    out = tmp_path / "out"
    out.mkdir()
    assert subprocess.run([sys.executable, "-c", program, str(out)]).returncode == -signal.SIGKILL
    assert len(list(out.iterdir())) == 1
    monkeypatch.setitem(formats.FORMATS, "stablehlo", lambda restored, folder: (folder / "a").write_text("a"))
    formats.export(resnet_workdir, "stablehlo", out)
    assert [path.name for path in out.iterdir()] == ["a"]
    (out / ".out.settings").mkdir()
    (out / "a").rename(out / ".out.settings/a")
    with pytest.raises(ExportError, match="is not an empty folder"):
        formats.export(resnet_workdir, "stablehlo", out)


def test_help_does_not_import_jax():
    program = "import sys, esc_jax.cli.export as e\ntry: e.main(['--help'])\nfinally: assert 'jax' not in sys.modules"
    root = pathlib.Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "huggingface or onnx or safetensors or stablehlo" in done.stdout
