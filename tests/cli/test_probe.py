"""`esc-jax probe`: its table and its errors."""

import numpy as np
import pytest

from esc_jax.cli import probe


@pytest.fixture
def embeddings_file(tmp_path):
    """45 clips of three separable classes in three folds."""
    rng = np.random.default_rng(0)
    labels = np.arange(45) % 3
    x = (rng.standard_normal((45, 8)) + 4 * np.eye(8)[labels]).astype(np.float32)
    path = tmp_path / "e.npz"
    np.savez(path, embeddings=x, label=labels, fold=np.arange(45) // 15 + 1, classes=np.array(["a", "b", "c"]))
    return path


def test_the_table(embeddings_file, capsys):
    assert probe.main([str(embeddings_file)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 and lines[-1].startswith("mean  ")
    assert float(lines[-1].split()[1]) > 90


def test_errors(tmp_path, capsys):
    assert probe.main([f"{tmp_path}/none.npz"]) == 1
    assert capsys.readouterr().err == f"esc_jax: No such file or directory: {tmp_path}/none.npz\n"
    (tmp_path / "e.npz").write_text("no numbers")
    assert probe.main([f"{tmp_path}/e.npz"]) == 2
    assert capsys.readouterr().err.startswith(f"esc_jax: {tmp_path}/e.npz contains no embeddings of a data set: ")
    with pytest.raises(SystemExit):
        probe.main(["--seeds=0", "e.npz"])
    assert capsys.readouterr().err == "esc_jax: --seeds: '0' is not a whole number of at least 1\n"
