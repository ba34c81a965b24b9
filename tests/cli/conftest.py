"""Runs for the tests of esc-jax report, and esc-jax predict in this process."""

import pytest

from tests.report.fixtures import clips, data_dir, runs_dir

__all__ = ["clips", "command", "data_dir", "loaded", "runs_dir"]


@pytest.fixture(scope="module")
def loaded(untrained):
    from esc_jax.inference import classifier as classifiers
    from esc_jax.training.restore import restore

    return classifiers.SoundClassifier(restore(untrained))


@pytest.fixture
def command(loaded, monkeypatch, capsys):
    """The command in this process, with the model in memory: `command("a.wav")` → (status, stdout, stderr)."""
    from esc_jax.cli import predict
    from esc_jax.inference import classifier as classifiers
    from esc_jax.runtime import xla

    monkeypatch.setattr(xla, "initialize", lambda *_, **__: None)
    monkeypatch.setattr(classifiers, "load_classifier", lambda path: loaded)

    def call(*arguments):
        status = 0
        try:
            status = predict.main(["--model=run", *map(str, arguments)])
        except SystemExit as stopped:
            status = stopped.code
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call
