"""Time of the parts of a training step: augmentation, frontend, network, optimizer, each alone and the whole step.

    python benchmarks/step_parts.py configs/resnet34.py
    python benchmarks/step_parts.py configs/resnet34.py configs/efficientat_finetune.py --dtype=bfloat16 --batch_size=32

Weights are random and clips are noise. Every part is a compiled program of its own on one device, with the arrays of
the step as its inputs, and is timed over --calls calls that follow one another. Alone, a part reads and writes arrays
that the compiler fuses away within the step, so that the parts take longer than the whole. Rows:

- waveforms, mixing, frontend, spectrograms: the parts of "inputs", all that precedes the network.
- forward: loss of the batch. backward: the difference between loss with gradient and loss.
- optimizer: updates and new parameters.
- step: the whole, without the host. step, called: as `esc_jax.main` calls it, with the batch on the host.
- step, 16 a call: the same with 16 steps in each call and the clips on the device (`train.steps_per_call`,
  `data.on_device`).

GFLOP and GB (bytes read and written) are those of XLA's cost analysis. The benchmark prints a Markdown table and writes
step_parts.json and step_parts.md to --out.
"""

import argparse
from collections.abc import Callable
import concurrent.futures
import functools
import pathlib
import sys
from typing import Any

import record
import subprocesses

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
STEPS_PER_CALL = 16


def load(name: str, options: argparse.Namespace) -> Any:
    """A config with the dtype and the batch size of the command line."""
    from esc_jax import config as configs

    config = configs.load(name)
    config.model.dtype = options.dtype
    config.train.batch_size = options.batch_size or config.train.batch_size
    configs.check(config)
    return config


def compute(function: Callable, *arguments: Any) -> Any:
    """The output of a function, compiled."""
    import jax

    return jax.jit(function)(*arguments)


def input_parts(
    config: Any, model: Any, audio: Any, evaluate: Callable[..., Any] = compute
) -> dict[str, tuple[Callable, tuple]]:
    """Program and arguments of the parts that precede the network, by name.

    Args:
        config: of a run.
        model: of the config.
        audio: (B, time), float.
        evaluate: makes the arguments that are outputs of other parts; `jax.eval_shape` makes their shapes only.
    """
    import jax
    import jax.numpy as jnp

    from esc_jax.augment import compose

    augment, rate, key, positions = config.augment, model.sample_rate, jax.random.key(0), jnp.arange(len(audio))
    waveforms = functools.partial(compose.augment_waveforms, augment, sample_rate=rate)
    augmented = evaluate(lambda key, x: waveforms(key, positions, x), key, audio)
    parts: dict[str, tuple[Callable, tuple]] = {
        "waveforms": (lambda key, x: waveforms(key, positions, x), (key, audio)),
        "frontend": (model.frontend, (augmented,)),
    }
    if augment.mixup_alpha and augment.mixup_on == "waveform":

        def mix(key: Any, x: Any) -> Any:
            share, partner = compose.mixup_pairs(augment, key, positions, len(x))
            return compose.mix_waveforms(augment, key, positions, share, x, x[partner], rate)

        parts["mixing"] = (mix, (key, augmented))
    features = evaluate(model.frontend, augmented)
    spectrograms = functools.partial(compose.augment_spectrograms, augment, frontend=model.frontend)
    parts["spectrograms"] = (lambda key, x: spectrograms(key, positions, x), (key, features))
    return parts


def network_parts(
    config: Any, model: Any, batch: Any, evaluate: Callable[..., Any] = compute
) -> dict[str, tuple[Callable, tuple]]:
    """Program and arguments of the inputs as a whole, the loss, its gradient, the optimizer and the whole step.

    The arguments are as for `input_parts`, with a batch of the pipeline.
    """
    import jax
    import optax
    import synthetic_step

    from esc_jax.objectives.base import Keys
    from esc_jax.objectives.supervised import Supervised
    from esc_jax.runtime import devices
    from esc_jax.tasks import registry as tasks
    from esc_jax.training import optim
    from esc_jax.training import state as states

    objective = Supervised(config, model, tasks.get("single_label"))
    optimizer = optim.build(config.optim, model.variables["params"], total=1000, per_epoch=10)
    state = evaluate(lambda variables: states.create(variables, optimizer, config.train.ema > 0), model.variables)
    step = synthetic_step.supervised_step(config, model, optimizer)
    key = jax.random.key(0)

    def on_one_device(function: Callable) -> Callable:
        """With the axis that collectives name, of size one."""

        def call(*arguments: Any) -> Any:
            mapped = jax.vmap(function, axis_name=devices.AXIS)(*jax.tree.map(lambda x: x[None], arguments))
            return jax.tree.map(lambda x: x[0], mapped)

        return call

    def make_inputs(key: Any, batch: Any, step: Any) -> Any:
        return objective.inputs(None, key, {**batch, "step": step})

    inputs = evaluate(on_one_device(make_inputs), key, batch, state.step)

    def loss(params: Any, batch_stats: Any, inputs: Any, key: Any) -> Any:
        variables = {"params": params, "batch_stats": batch_stats}
        output = objective.loss(variables, None, None, inputs, Keys(*jax.random.split(key)))
        return output.loss.mean(), output.batch_stats

    gradient = on_one_device(jax.grad(loss, has_aux=True))
    arguments = state.params, state.batch_stats, inputs, key
    grads = evaluate(gradient, *arguments)[0]

    def update(grads: Any, opt_state: Any, params: Any) -> Any:
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    return {
        "inputs": (on_one_device(make_inputs), (key, batch, state.step)),
        "forward": (on_one_device(loss), arguments),
        "forward and backward": (gradient, arguments),
        "optimizer": (update, (grads, state.opt_state, state.params)),
        "step": (on_one_device(step), (state, batch)),
    }


def called_steps(config: Any, model: Any, batch: Any) -> dict[str, Callable[[], Any]]:
    """Calls of the step as a training run makes them, each of one step on average."""
    import jax
    import numpy as np
    import synthetic_step

    from esc_jax.data import resident
    from esc_jax.runtime import devices
    from esc_jax.training import optim
    from esc_jax.training import state as states

    optimizer = optim.build(config.optim, model.variables["params"], total=1000, per_epoch=10)
    step = synthetic_step.supervised_step(config, model, optimizer)
    start = jax.tree.map(np.asarray, states.create(model.variables, optimizer, ema=config.train.ema > 0))
    rows = [{"index": np.arange(len(batch["label"]), dtype=np.int32)}] * STEPS_PER_CALL
    mapped = {
        "step, called": (devices.pmap_step(step, 1), jax.tree.map(np.asarray, batch)),
        f"step, {STEPS_PER_CALL} a call": (
            functools.partial(
                devices.pmap_steps(resident.gathered(step), STEPS_PER_CALL, 1),
                constants=devices.replicate((batch, None), 1),
            ),
            rows,
        ),
    }
    states_of = {name: devices.replicate(start, 1) for name in mapped}

    def call(name: str) -> Any:
        program, argument = mapped[name]
        states_of[name], metrics = program(states_of[name], argument)
        return states_of[name], metrics

    return {name: functools.partial(call, name) for name in mapped}


def repeat(call: Callable[[], Any], count: int) -> Callable[[], None]:
    """A function that makes a number of calls and waits for the last one."""
    import jax

    def run() -> None:
        outputs = None
        for _ in range(count):
            outputs = call()
        jax.block_until_ready(outputs)

    return run


def measure(name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of one config."""
    import jax
    import jax.numpy as jnp
    import synthetic_step

    config = load(name, options)
    model = synthetic_step.random_model(config)
    batch = jax.tree.map(jnp.asarray, synthetic_step.batch_of(config))
    parts = input_parts(config, model, batch["audio"].astype(jnp.float32) / 32768.0)
    parts |= network_parts(config, model, batch)
    lowered = [jax.jit(program).lower(*arguments) for program, arguments in parts.values()]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        compiled = dict(zip(parts, pool.map(lambda program: program.compile(), lowered), strict=True))

    calls, counts = {}, dict.fromkeys(parts, options.calls)
    for part, (_, arguments) in parts.items():
        calls[part] = repeat(functools.partial(compiled[part], *arguments), options.calls)
    for part, call in called_steps(config, model, batch).items():
        count = options.calls if part == "step, called" else max(1, options.calls // STEPS_PER_CALL)
        calls[part], counts[part] = repeat(call, count), count * (1 if part == "step, called" else STEPS_PER_CALL)
    times = record.time_alternating(calls, options.rounds)
    median = {part: sorted(seconds)[len(seconds) // 2] / counts[part] for part, seconds in times.items()}
    rows = []
    for part, seconds in median.items():
        shown, label = seconds, part
        if part == "forward and backward":
            shown, label = seconds - median["forward"], "backward"
        cost = compiled[part].cost_analysis() if part in compiled else {}
        before = compiled["forward"].cost_analysis() if label == "backward" else {}
        flops, moved = (
            float(f"{(cost.get(key, 0) - before.get(key, 0)) / 1e9:.3g}") if cost else ""
            for key in ("flops", "bytes accessed")
        )
        rows.append(
            {
                "config": pathlib.Path(name).stem,
                "batch": config.train.batch_size,
                "dtype": options.dtype,
                "part": label,
                "ms": round(1e3 * shown, 3),
                "percent of the step": round(100 * shown / median["step"], 1),
                "GFLOP": flops,
                "GB": moved,
            }
        )
    return rows


def add_arguments(parser: argparse.ArgumentParser, dtype: str = "float32", batch_size: int = 0) -> None:
    """Adds the options of benchmarks of the training steps of configs.

    Args:
        parser: of the command line.
        dtype: default.
        batch_size: default; 0: that of the config.
    """
    parser.add_argument("configs", nargs="*", default=["configs/resnet34.py"], help="default: configs/resnet34.py")
    parser.add_argument("--dtype", default=dtype, choices=("float32", "bfloat16"), help="default: %(default)s")
    size = batch_size or "that of the config"
    parser.add_argument("--batch_size", type=int, default=batch_size, help=f"default: {size}")
    parser.add_argument("--tiny", action="store_true", help="a small network, for tests")
    parser.add_argument("--out", default=record.RESULTS, help="folder of the files (default: benchmarks/results)")


def report(name: str, measure: Callable[..., list[dict[str, Any]]], options: argparse.Namespace) -> None:
    """Measures every config of the command line, prints the table, and writes the files of a benchmark."""
    from esc_jax.runtime import xla

    xla.initialize()
    configs = ["tests/configs/tiny.py"] if options.tiny else options.configs
    with subprocesses.one_sentence_errors():
        for config in configs:  # a mistake in the last one is reported before the first one is measured
            load(config, options)
        rows = [row for config in configs for row in measure(config, options)]
    sys.stdout.write(record.save(name, rows, options.out))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--rounds", type=record.positive(int), default=5, help="default: %(default)s")
    parser.add_argument(
        "--calls", type=record.positive(int), default=20, help="calls that are timed together (default: %(default)s)"
    )
    options = parser.parse_args()
    if options.tiny:
        options.calls = 2
    report("step_parts", measure, options)


if __name__ == "__main__":
    main()
