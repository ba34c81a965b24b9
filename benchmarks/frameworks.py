"""A network in esc_jax and in PyTorch as functions of a number of calls, and rounds in which the two alternate."""

import argparse
from collections.abc import Callable, Mapping, Sequence
import functools
import json
import math
import os
import shlex
import subprocess
import sys
import time
from typing import Any

import numpy as np
import record

CLASSES = 50
MAX_CALLS = 200  # per round


def random_model(config: Any, shape: tuple[int, ...]) -> Any:
    """The `Model` of a config with random weights, for features of a given shape.

    Its frontend takes features that were multiplied by 32768 and flattened, in place of 16-bit waveforms: the steps
    divide by 32768, a power of two, so that the features are restored exactly.
    """
    import jax
    import jax.numpy as jnp

    from esc_jax.models import registry
    from esc_jax.models.model import Model
    from esc_jax.runtime import devices

    def frontend(audio: jax.Array, padding: jax.Array | None = None) -> jax.Array:
        return audio.reshape(-1, *shape)

    module = registry.build(config.model, CLASSES, axis_name=devices.AXIS)
    # This program runs once. Optimizing it would take longer than it saves.
    initialize = jax.jit(module.init, compiler_options={"xla_backend_optimization_level": 0})
    variables = initialize(jax.random.key(0), jnp.zeros((1, *shape)))
    return Model(
        module=module,
        frontend=frontend,
        variables={"params": variables["params"], "batch_stats": variables.get("batch_stats", {})},
        classes=tuple(f"class {number}" for number in range(CLASSES)),
        sample_rate=config.data.sample_rate,
        clip_s=config.data.clip_s,
    )


def jax_calls(what: str, config: Any, model: Any, x: np.ndarray, labels: np.ndarray) -> Callable[[int], None]:
    """A function that makes a number of calls of esc_jax and waits for the last one.

    Args:
        what: "train" or "predict".
        config: of the experiment.
        model: of `random_model`.
        x: features of a batch.
        labels: of the batch.
    """
    import jax
    import jax.numpy as jnp
    import synthetic_step

    from esc_jax.runtime import devices
    from esc_jax.tasks import registry as tasks
    from esc_jax.training import optim
    from esc_jax.training import state as states
    from esc_jax.training import step as steps

    audio = jnp.asarray(32768 * x.reshape(len(x), -1))
    # XLA's CPU client may execute independent calls concurrently; PyTorch never does.
    synchronize = jax.block_until_ready if jax.default_backend() == "cpu" else lambda output: output
    if what == "predict":
        predict = steps.predict_step(model, tasks.get("single_label"))

        def call(calls: int) -> None:
            for _ in range(calls):
                output = synchronize(predict(model.variables, audio))
            jax.block_until_ready(output)

        return call

    optimizer = optim.build(config.optim, model.variables["params"], total=1000, per_epoch=100)
    step = devices.pmap_step(synthetic_step.supervised_step(config, model, optimizer), devices=1)
    state = states.create(jax.tree.map(jnp.copy, model.variables), optimizer, ema=False)  # donated to the first step
    batch = {"audio": audio, "label": jnp.asarray(labels)}

    def call(calls: int) -> None:
        nonlocal state
        for _ in range(calls):
            state, metrics = step(state, batch)
            synchronize(metrics)
        jax.block_until_ready((state, metrics))

    return call


def torch_calls(
    what: str, config: Any, x: np.ndarray, labels: np.ndarray, options: argparse.Namespace, device: str
) -> tuple[Callable[[int], None], int]:
    """The same for PyTorch, and the number of parameters of its network."""
    import torch
    import torch_models

    torch.manual_seed(0)
    layout = torch.contiguous_format if options.channels_first else torch.channels_last
    network = torch_models.build(config.model, CLASSES, layout).to(device, memory_format=layout)
    network.train(what == "train")
    parameters = sum(p.numel() for p in network.parameters())
    features, target = torch.from_numpy(x).to(device), torch.from_numpy(labels).long().to(device)
    forward = torch.compile(network) if options.compile else network

    def logits() -> torch.Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=config.model.dtype == "bfloat16"):
            return forward(features).float()

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    if what == "predict":

        @torch.inference_mode()
        def call(calls: int) -> None:
            for _ in range(calls):
                logits().softmax(-1)
            wait()

        return call, parameters

    settings = config.optim
    optimizer = torch.optim.AdamW(network.parameters(), lr=settings.lr, weight_decay=settings.weight_decay, fused=True)

    def call(calls: int) -> None:
        for _ in range(calls):
            optimizer.zero_grad(set_to_none=True)
            torch.nn.functional.cross_entropy(logits(), target).backward()
            optimizer.step()
        wait()

    return call, parameters


def alternate(
    frameworks: Mapping[str, Callable[[int], None]], rounds: int, min_seconds: float
) -> dict[str, list[float]]:
    """Seconds per call in each round, for each framework; a round makes as many calls as take `min_seconds`."""
    calls = {}
    for name, call in frameworks.items():
        call(1)  # compiles
        started = time.perf_counter()
        call(1)
        calls[name] = min(MAX_CALLS, max(1, math.ceil(min_seconds / (time.perf_counter() - started))))
    times = record.time_alternating(
        {name: functools.partial(call, calls[name]) for name, call in frameworks.items()},
        rounds,
        warmup={name: functools.partial(call, 1) for name, call in frameworks.items()},
    )
    return {name: [seconds / calls[name] for seconds in values] for name, values in times.items()}


class FrameworkProcess:
    """A framework in a process of its own. Calling it with a number of calls returns when these are made.

    The process runs `serve`. It ends with the `with` statement.

    Args:
        command: that starts the process.
    """

    def __init__(self, command: Sequence[str]):
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    @functools.cached_property
    def about(self) -> dict[str, Any]:
        """The description that the process sends when it is ready."""
        return json.loads(self._read_line())

    def __call__(self, calls: int) -> None:
        self._process.stdin.write(f"{calls}\n")
        self._process.stdin.flush()
        self._read_line()

    def _read_line(self) -> str:
        line = self._process.stdout.readline()
        if not line:
            command = shlex.join(map(str, self._process.args))
            sys.exit(f"a process ended with status {self._process.wait()}: {command}")
        return line

    def __enter__(self) -> "FrameworkProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


def serve(prepare: Callable[[], tuple[dict[str, Any], Callable[[int], None]]], call_first: bool = False) -> None:
    """Makes calls on the requests of a `FrameworkProcess`, until that ends.

    Args:
        prepare: returns the description to send, and the function of a number of calls.
        call_first: make a call, which compiles, before the description is sent.
    """
    # The output of libraries must not be read as an answer.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    about, call = prepare()
    if call_first:
        call(1)
    answers.write(json.dumps(about) + "\n")
    answers.flush()
    for line in sys.stdin:
        call(int(line))
        answers.write("done\n")
        answers.flush()
