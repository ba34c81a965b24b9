"""Checkpoints: which are kept, what is restored, errors."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from esc_jax.training import checkpoint
from esc_jax.training import state as states


def state_at(step, ema=True):
    variables = {"params": {"w": jnp.full((3,), float(step))}, "batch_stats": {"m": jnp.ones(2) * step}}
    return states.create(variables, optax.adam(1e-3), ema).replace(step=jnp.int32(step))


def steps_in(folder):
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit())


def test_the_two_latest_and_the_best_are_kept(tmp_path):
    checkpoints = checkpoint.Checkpoints(tmp_path / "c", select=True)
    for step, metric in ((1, 0.2), (2, 0.9), (3, 0.5), (4, 0.6)):
        checkpoints.save(state_at(step), {"name": "x"}, metric)
    assert steps_in(tmp_path / "c") == [2, 3, 4]
    assert (checkpoints.latest(), checkpoints.best()) == (4, 2)


def test_without_selection_the_two_latest_are_kept(tmp_path):
    checkpoints = checkpoint.Checkpoints(tmp_path / "c")
    for step in (1, 2, 3):
        checkpoints.save(state_at(step), {})
    assert steps_in(tmp_path / "c") == [2, 3] and checkpoints.best() == 3


@pytest.mark.parametrize("carry", [None, {"target": {"w": jnp.arange(3.0)}, "count": jnp.int32(5)}])
@pytest.mark.parametrize("ema", [True, False])
def test_a_restored_state_equals_the_saved_one(tmp_path, ema, carry):
    checkpoints = checkpoint.Checkpoints(tmp_path / "c")
    saved = state_at(7, ema).replace(carry=carry)
    checkpoints.save(saved, {"classes": ["a"]})
    like = state_at(0, ema).replace(carry=jax.tree.map(jnp.zeros_like, carry))
    restored = checkpoints.restore(7, like)
    assert jax.tree.structure(restored) == jax.tree.structure(saved)
    for one, other in zip(jax.tree.leaves(restored), jax.tree.leaves(saved), strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype
    assert checkpoints.meta(7)["classes"] == ["a"]
    folder, step = checkpoint.find(tmp_path / "c")
    weights = checkpoint.read_weights(folder, step, saved.weights())
    np.testing.assert_array_equal(weights["params"]["w"], saved.weights()["params"]["w"])


def test_a_checkpoint_without_the_state_of_the_objective_is_an_error(tmp_path):
    checkpoints = checkpoint.Checkpoints(tmp_path / "c")
    checkpoints.save(state_at(1), {})
    with pytest.raises(checkpoint.CheckpointError, match="could not read the checkpoint of step 1"):
        checkpoints.restore(1, state_at(0).replace(carry={"target": jnp.zeros(3)}))


def test_errors_of_what_cannot_be_read(tmp_path):
    with pytest.raises(checkpoint.CheckpointError, match="no such folder"):
        checkpoint.find(tmp_path / "nothing")
    with pytest.raises(checkpoint.CheckpointError, match="contains no checkpoint"):
        checkpoint.find(tmp_path)
    checkpoint.Checkpoints(tmp_path / "checkpoints").save(state_at(2), {})
    folder, step = checkpoint.find(tmp_path)
    assert step == 2
    with pytest.raises(checkpoint.CheckpointError, match="do not match the model"):
        checkpoint.read_weights(folder, step, {"params": {"other": jnp.ones(4)}, "batch_stats": {}})
    meta = folder / "2" / "meta" / "metadata"
    content = json.loads(meta.read_text())
    del content["crc32"]  # as in a version without checksums
    meta.write_text(json.dumps(content | {"format": 2}))
    with pytest.raises(checkpoint.CheckpointError, match="has format 2, but this version of esc_jax reads format 3"):
        checkpoint.read_meta(folder, step)
    meta.write_text(json.dumps(content))
    with pytest.raises(checkpoint.CheckpointError, match="have no checksum"):
        checkpoint.read_meta(folder, step)


def test_changed_metadata_is_refused(tmp_path):
    checkpoint.Checkpoints(tmp_path / "checkpoints").save(state_at(2), {"classes": ["a", "b"]})
    folder, step = checkpoint.find(tmp_path)
    meta = folder / "2" / "meta" / "metadata"
    meta.write_text(meta.read_text().replace('"a"', '"c"'))
    with pytest.raises(checkpoint.CheckpointError, match="2 is damaged: the checksum of its metadata"):
        checkpoint.read_meta(folder, step)


def test_a_detector_with_too_many_values_is_refused_before_it_is_read(tmp_path, monkeypatch, caplog):
    checkpoints = checkpoint.Checkpoints(tmp_path / "c")
    arrays = {"means": np.ones((4, 5), np.float32), "center": np.ones(5, np.float32)}
    checkpoints.save(state_at(1), {}, novelty=arrays)
    with caplog.at_level("WARNING"):
        read = checkpoint.read_novelty(tmp_path / "c", 1)
    assert not caplog.messages and read["means"].tolist() == arrays["means"].tolist()
    monkeypatch.setattr(checkpoint, "MAX_NOVELTY_VALUES", 24)
    monkeypatch.setattr(checkpoint.ocp.StandardCheckpointer, "restore", None)  # not reached
    with pytest.raises(checkpoint.CheckpointError, match="its detector of unfamiliar sounds has 2.5e"):
        checkpoint.read_novelty(tmp_path / "c", 1)


@pytest.mark.parametrize("item", ["novelty", "ema"])
def test_chunks_that_are_larger_than_their_array_are_refused_before_they_are_read(tmp_path, monkeypatch, item):
    checkpoints = checkpoint.Checkpoints(tmp_path / "c")
    state = state_at(1)
    checkpoints.save(state, {}, novelty={"center": np.ones(5, np.float32)})
    metadata = checkpoint.ocp.StandardCheckpointHandler.metadata

    def enlarged(self, path):
        result = metadata(self, path)
        first = jax.tree.leaves(result.tree)[0]
        object.__setattr__(first.storage, "chunk_shape", (1 << 40,))
        return result

    monkeypatch.setattr(checkpoint.ocp.StandardCheckpointHandler, "metadata", enlarged)
    monkeypatch.setattr(checkpoint.ocp.StandardCheckpointer, "restore", None)  # not reached
    with pytest.raises(checkpoint.CheckpointError, match=f"{item} has chunks of"):
        if item == "novelty":
            checkpoint.read_novelty(tmp_path / "c", 1)
        else:
            checkpoint.read_weights(tmp_path / "c", 1, state.ema)
