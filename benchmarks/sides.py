"""A model on two sides, ours and PyTorch's, as functions of a number of calls, and rounds in which they alternate."""

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

import numpy as np
import record

CLASSES = 50
MOST_CALLS = 200  # in a round


def drawn(config, shape: tuple[int, ...]):
    """Our model and its variables, drawn at random."""
    import jax
    import jax.numpy as jnp

    from esc_jax.models import registry
    from esc_jax.runtime import devices

    model = registry.build(config.model, CLASSES, axis_name=devices.AXIS)
    # It runs once: there is nothing to gain from optimising it.
    draw = jax.jit(model.init, compiler_options={"xla_backend_optimization_level": 0})
    made = draw(jax.random.key(0), jnp.zeros((1, *shape)))
    return model, {"params": made["params"], "batch_stats": made.get("batch_stats", {})}


def ours(what: str, config, model, variables, x: np.ndarray, labels: np.ndarray) -> Callable[[int], None]:
    """A function that makes so many calls and waits for the last one."""
    import jax
    import jax.numpy as jnp

    from esc_jax.runtime import devices
    from esc_jax.training import optim
    from esc_jax.training import state as states
    from esc_jax.training import step as steps

    # The steps take 16-bit waveforms (rows, time) and divide by 32768: a power of two, so that features which were
    # multiplied by it, and laid out flat, come back to the bit.
    audio = jnp.asarray(32768 * x.reshape(len(x), -1))

    def frontend(audio: jax.Array, padding: jax.Array | None = None) -> jax.Array:
        return audio.reshape(-1, *x.shape[1:])

    # XLA's CPU client may run calls beside one another that do not depend on each other; PyTorch never does.
    settle = jax.block_until_ready if jax.default_backend() == "cpu" else lambda found: found
    if what == "predict":
        predict = steps.predict_step(model, frontend)

        def call(calls: int) -> None:
            for _ in range(calls):
                found = settle(predict(variables, audio))
            jax.block_until_ready(found)

        return call

    optimizer = optim.build(config.optim, variables["params"], total=1000, per_epoch=100)
    step = devices.pmap_step(steps.train_step(model, frontend, optimizer, config, CLASSES), devices=1)
    state = states.create(jax.tree.map(jnp.copy, variables), optimizer, ema=False)  # which the first step consumes
    batch = {"audio": audio, "label": jnp.asarray(labels)}

    def call(calls: int) -> None:
        nonlocal state
        for _ in range(calls):
            state, metrics = step(state, batch)
            settle(metrics)
        jax.block_until_ready((state, metrics))

    return call


def theirs(
    what: str, config, x: np.ndarray, labels: np.ndarray, options: argparse.Namespace, device: str
) -> tuple[Callable[[int], None], int]:
    """The same of PyTorch, and the number of its network's parameters."""
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

    optim = config.optim
    optimizer = torch.optim.AdamW(network.parameters(), lr=optim.lr, weight_decay=optim.weight_decay, fused=True)

    def call(calls: int) -> None:
        for _ in range(calls):
            optimizer.zero_grad(set_to_none=True)
            torch.nn.functional.cross_entropy(logits(), target).backward()
            optimizer.step()
        wait()

    return call, parameters


def alternate(sides: Mapping[str, Callable[[int], None]], rounds: int, least_s: float) -> dict[str, list[float]]:
    """Seconds per call in each round, of each side; a round is as many calls as take `least_s`."""
    calls = {}
    for name, call in sides.items():
        call(1)  # compiles
        started = time.perf_counter()
        call(1)
        calls[name] = min(MOST_CALLS, max(1, math.ceil(least_s / (time.perf_counter() - started))))
    taken = record.in_turn(
        {name: functools.partial(call, calls[name]) for name, call in sides.items()},
        rounds,
        before={name: functools.partial(call, 1) for name, call in sides.items()},
    )
    return {name: [seconds / calls[name] for seconds in found] for name, found in taken.items()}


class Elsewhere:
    """A side in a process of its own; called with a number of calls, it returns once they are made.

    The process runs `serve`. It ends with the `with` statement.

    Args:
        command: that starts it.
    """

    def __init__(self, command: Sequence[str]):
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def about(self) -> dict:
        """What the process says about its side, once it is ready."""
        return json.loads(self._answer())

    def __call__(self, calls: int) -> None:
        self._process.stdin.write(f"{calls}\n")
        self._process.stdin.flush()
        self._answer()

    def _answer(self) -> str:
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"a side ended with status {self._process.wait()}: {shlex.join(self._process.args)}")
        return line

    def __enter__(self) -> "Elsewhere":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


def serve(prepare: Callable[[], tuple[dict, Callable[[int], None]]]) -> None:
    """Makes calls as `Elsewhere` asks for them, until it ends; `prepare` gives what is said about them first."""
    # What libraries print is not to be taken for an answer.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    about, call = prepare()
    answers.write(json.dumps(about) + "\n")
    answers.flush()
    for line in sys.stdin:
        call(int(line))
        answers.write("done\n")
        answers.flush()
