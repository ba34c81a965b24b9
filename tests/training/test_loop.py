"""The training loop with a step of one line: compilation, resume, divergence, which checkpoints are kept."""

import dataclasses
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from esc_jax.runtime import devices
from esc_jax.training import checkpoint, loop
from esc_jax.training import state as states


class Batches:
    """Endless batches; the n-th is full of n."""

    def __init__(self, shape):
        self.shape, self.count = shape, 0

    def __next__(self):
        self.count += 1
        return np.full(self.shape, self.count, np.float32)

    def get_state(self):
        return self.count

    def set_state(self, count):
        self.count = count


def step(state, batch, constants=None):
    mean = jax.lax.pmean(batch.mean(), devices.AXIS)
    params = jax.tree.map(lambda p: p + mean, state.params)
    return state.replace(step=state.step + 1, params=params), {"loss": mean}


def plan(workdir, epochs, per_epoch=2, **options):
    return loop.Plan(
        epochs=epochs,
        per_epoch=per_epoch,
        rate=lambda step: 0.1,
        workdir=workdir,
        tensorboard=False,
        checkpoint_epochs=1,
        evaluate=lambda weights, line: loop.EpochEval(),
        meta=lambda progress, batches: {"data": "numbers", "progress": progress, "batches": batches},
        **options,
    )


@pytest.mark.parametrize("runs", [None, 2])
def test_a_step_is_compiled_once_and_after_a_resume_once(tmp_path, caplog, runs):
    variables = {"params": {"w": jnp.zeros(3)}, "batch_stats": {}}
    state = states.create(variables, optax.sgd(0.1), ema=False)
    if runs:
        layout = devices.run_layout(runs)
        state = jax.tree.map(lambda x: jnp.broadcast_to(x[None, None], (*layout, *x.shape)), state)
        program, shape = devices.pmap_runs(step, runs), (*layout, 8)
        options = {"place": lambda state: devices.shard_runs(runs, state)}

        def run(state, batch):
            state, metrics = program(state, batch)
            return state, {key: value.mean() for key, value in metrics.items()}
    else:
        run, shape, options = devices.pmap_step(step), (8,), {}
    batches = Batches(shape)
    for epochs in (2, 4):
        caplog.clear()
        checkpoints = checkpoint.Checkpoints(tmp_path / "checkpoints")
        with jax.log_compiles():
            final, progress = loop.run(plan(tmp_path, epochs, **options), run, state, batches, checkpoints)
        checkpoints.close()
        compiled = [r.message for r in caplog.records if r.message.startswith("Compiling jit(_fun)")]  # of pmap
        assert len(compiled) == (1 if epochs == 2 else 0), compiled
        state = jax.tree.map(jnp.zeros_like, final)  # replaced by the checkpoint
        jax.block_until_ready(state)
    assert [line["epoch"] for line in progress["history"]] == [1, 2, 3, 4]
    np.testing.assert_array_equal(np.unique(final.params["w"]), sum(range(1, 9)))


def map_step(step, steps_per_call):
    return devices.pmap_steps(step, steps_per_call) if steps_per_call > 1 else devices.pmap_step(step)


@pytest.mark.parametrize(
    ("signal_at", "stop_after", "steps_per_call"),
    [(number, number, 1) for number in range(1, 9)] + [(1, 3, 3), (3, 3, 3), (4, 4, 3), (6, 7, 3), (8, 8, 3)],
)
def test_a_run_resumes_from_any_step(tmp_path, monkeypatch, signal_at, stop_after, steps_per_call):
    """An epoch has four steps, so that calls of three steps end after steps 3, 4, 7 and 8."""
    variables = {"params": {"w": jnp.zeros(3)}, "batch_stats": {}}

    def run(limit=None):
        original = loop.StopSignal.agree

        def agree(self, number, last, steps):
            self.received = self.received or (limit is not None and number >= limit)
            return original(self, number, last, steps)

        monkeypatch.setattr(loop.StopSignal, "agree", agree)
        checkpoints = checkpoint.Checkpoints(tmp_path / "checkpoints")
        state = states.create(jax.tree.map(jnp.copy, variables), optax.sgd(0.1), ema=False)
        try:
            mapped = map_step(step, steps_per_call)
            options = {"per_epoch": 4, "steps_per_call": steps_per_call}
            return loop.run(plan(tmp_path, 2, **options), mapped, state, Batches((8,)), checkpoints)
        finally:
            checkpoints.close()
            monkeypatch.undo()

    with pytest.raises(loop.Interrupted, match=f"stopped at step {stop_after} of 8"):
        run(signal_at)
    final, progress = run()
    # Batch n is full of n: the sum of the first eight, and the mean of each epoch's four, counted once.
    np.testing.assert_array_equal(final.params["w"], 36.0)
    assert [line["loss"] for line in progress["history"]] == [2.5, 6.5]


@pytest.mark.parametrize("steps_per_call", [1, 4])
def test_the_step_of_a_loss_that_is_not_finite_is_named(tmp_path, steps_per_call):
    def spoil(state, batch):
        state, metrics = step(state, batch)
        return state, {"loss": jnp.where(state.step == 6, jnp.inf, metrics["loss"])}

    checkpoints = checkpoint.Checkpoints(tmp_path / "checkpoints")
    state = states.create({"params": {"w": jnp.zeros(3)}, "batch_stats": {}}, optax.sgd(0.1), ema=False)
    options = {"per_epoch": 4, "steps_per_call": steps_per_call}
    with pytest.raises(loop.TrainError, match="the loss is inf at step 6; the last good checkpoint is step 4"):
        loop.run(plan(tmp_path, 2, **options), map_step(spoil, steps_per_call), state, Batches((8,)), checkpoints)
    checkpoints.close()


def test_the_share_of_waiting_is_recorded(tmp_path, monkeypatch):
    """By a clock on which a batch takes one second and a step three. A device that still computes does not wait."""
    now = 0.0
    clock = types.SimpleNamespace(monotonic=lambda: now, strftime=time.strftime, gmtime=time.gmtime)
    monkeypatch.setattr(loop, "time", clock)
    mapped = devices.pmap_step(step)

    class Slow(Batches):
        def __next__(self):
            nonlocal now
            now += 1.0
            return super().__next__()

    class Loss(float):
        ready = True

        def is_ready(self):
            return Loss.ready

    def timed(state, batch):
        nonlocal now
        state, metrics = mapped(state, batch)
        now += 3.0
        return state, {"loss": Loss(metrics["loss"])}

    shares = []
    for ready in (True, False):
        now, Loss.ready, folder = 0.0, ready, tmp_path / str(ready)
        checkpoints = checkpoint.Checkpoints(folder / "checkpoints")
        state = states.create({"params": {"w": jnp.zeros(3)}, "batch_stats": {}}, optax.sgd(0.1), ema=False)
        progress = loop.run(plan(folder, 2, per_epoch=4), timed, state, Slow((8,)), checkpoints)[1]
        checkpoints.close()
        shares.append([line["data_wait"] for line in progress["history"]])
    # A batch is read before the first step and after each step but the last one: five in the 17 s of the first epoch,
    # three in the 15 s of the second. A busy device waits for the first batch of the run only.
    assert shares == [[round(5 / 17, 4), round(3 / 15, 4)], [round(1 / 17, 4), 0.0]]


@pytest.mark.parametrize(("bad", "kept"), [(2, None), (4, 2)])
def test_weights_that_are_not_finite_are_not_saved(tmp_path, bad, kept):
    """Two steps are an epoch. The loss of the step that makes the weights NaN is finite."""

    def spoil(state, batch):
        state, metrics = step(state, batch)
        params = jax.tree.map(lambda p: jnp.where(state.step == bad, jnp.nan, p), state.params)
        return state.replace(params=params), metrics

    checkpoints = checkpoint.Checkpoints(tmp_path / "checkpoints")
    state = states.create({"params": {"w": jnp.zeros(3)}, "batch_stats": {}}, optax.sgd(0.1), ema=False)
    with pytest.raises(loop.TrainError, match=f"the weights are not finite after step {bad}"):
        loop.run(plan(tmp_path, 2), devices.pmap_step(spoil), state, Batches((8,)), checkpoints)
    assert checkpoints.latest() == kept
    checkpoints.close()


def test_only_the_best_and_the_latest_checkpoints_are_kept_over_restarts(tmp_path):
    accuracy = {1: 0.5, 2: 0.9, 3: 0.2, 4: 0.3, 5: 0.1, 6: 0.4}

    def evaluate(weights, line):
        return loop.EpochEval(selection=accuracy[line["epoch"]])

    for epochs in (2, 4, 6):
        checkpoints = checkpoint.Checkpoints(tmp_path / "checkpoints", select=True)
        state = states.create({"params": {"w": jnp.zeros(3)}, "batch_stats": {}}, optax.sgd(0.1), ema=False)
        resumed = dataclasses.replace(plan(tmp_path, epochs), evaluate=evaluate)
        loop.run(resumed, devices.pmap_step(step), state, Batches((8,)), checkpoints)
        assert checkpoints.best() == 4
        checkpoints.close()
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()) == ["10", "12", "4"]
