"""`esc-jax probe`: its table and its errors."""

import numpy as np
import pytest

from esc_jax.cli import probe

pytestmark = pytest.mark.usefixtures("no_xla_setup")


def make_file(path, **changes):
    """A file of embeddings: 45 clips of three separable classes in three folds; an array of None is left out."""
    rng = np.random.default_rng(0)
    labels = np.arange(45) % 3
    arrays = {
        "embeddings": (rng.standard_normal((45, 8)) + 4 * np.eye(8)[labels]).astype(np.float32),
        "label": labels,
        "fold": np.arange(45) // 15 + 1,
        "classes": np.array(["a", "b", "c"]),
    }
    np.savez(path, **{name: array for name, array in (arrays | changes).items() if array is not None})
    return path


def test_the_table(tmp_path, capsys):
    assert probe.main([str(make_file(tmp_path / "e.npz"))]) == 0
    *_, last = capsys.readouterr().out.splitlines()
    assert last.startswith("mean  ") and float(last.split()[1]) > 90


def test_the_table_of_a_multi_label_file(tmp_path, capsys):
    """Classes that are directions of the embeddings are found; the metric is that of the task."""
    rng = np.random.default_rng(0)
    labels = rng.random((60, 3)) < 0.4
    x = rng.standard_normal((60, 8)) + 5 * labels @ np.eye(8)[:3]
    arrays = {"embeddings": x.astype(np.float32), "label": labels, "fold": np.arange(60) // 20 + 1}
    path = make_file(tmp_path / "e.npz", **arrays, task=np.array("multi_label"))
    assert probe.main([str(path)]) == 0
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first == "mAP, %" and last.startswith("mean  ") and float(last.split()[1]) > 90


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fold": None}, "contains no embeddings of a data set"),  # of recordings
        ({"label": np.arange(44) % 3}, "contains arrays that do not belong together"),
        ({"label": np.arange(45) % 3 + 1}, "contains arrays that do not belong together"),
        ({"task": np.array("multi_label")}, "contains arrays that do not belong together"),
        ({"label": np.eye(3, dtype=bool)[np.arange(45) % 3]}, "contains arrays that do not belong together"),
        ({"task": np.array("regression")}, "contains no embeddings of a data set"),
        ({"embeddings": np.full((45, 8), np.nan)}, "contains values that are not finite"),
    ],
)
def test_inconsistent_embeddings(changes, message, tmp_path, capsys):
    path = make_file(tmp_path / "e.npz", **changes)
    assert probe.main([str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"esc_jax: {path} {message}: ") and error.count("\n") == 1


@pytest.mark.parametrize("content", ["text", "npy", "truncated"])
def test_a_file_of_another_kind(content, tmp_path, capsys):
    path = make_file(tmp_path / "e.npz")
    if content == "text":
        path.write_text("no numbers")
    elif content == "npy":
        with open(path, "wb") as file:
            np.save(file, np.zeros((9, 4)))
    else:
        path.write_bytes(path.read_bytes()[:200])
    assert probe.main([str(path)]) == 2
    assert f"esc_jax: {path} contains no embeddings of a data set: " in capsys.readouterr().err


def test_errors_of_the_command_line(tmp_path, capsys):
    assert probe.main([f"{tmp_path}/none.npz"]) == 1
    assert capsys.readouterr().err == f"esc_jax: No such file or directory: {tmp_path}/none.npz\n"
    with pytest.raises(SystemExit):
        probe.main(["--seeds=0", "e.npz"])
    assert capsys.readouterr().err == "esc_jax: --seeds: '0' is not a whole number of at least 1\n"
