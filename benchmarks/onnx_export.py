"""Milliseconds per clip on one core: JAX beside the files of exports, in ONNX Runtime and in LiteRT.

    taskset -c 0 python benchmarks/onnx_export.py runs/NAME exports/NAME-onnx exports/NAME-tflite

The first argument is a run, or the name of a classifier such as esc50_small, whose exports the folders are. Every clip
is computed alone. The shortest and the median processor time of 100 calls are printed. On one core it is the elapsed
time of a machine that runs nothing else. The calls alternate, so that all programs meet the same load.
"""

import os

os.environ["JAX_PLATFORMS"] = "cpu"

from collections.abc import Callable
import pathlib
import sys
import time

import jax
import numpy as np
import onnxruntime

from esc_jax.inference.classifier import restore_any

CALLS = 100


def _litert(path: pathlib.Path, value: np.ndarray) -> Callable[[], object]:
    """A call of a LiteRT file."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    source, result = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def call() -> np.ndarray:
        interpreter.set_tensor(source, value)
        interpreter.invoke()
        return interpreter.get_tensor(result)

    return call


def main() -> None:
    """Prints a line for each program."""
    run, folders = restore_any(sys.argv[1]), [pathlib.Path(folder) for folder in sys.argv[2:]]
    model = run.model
    waveform = (np.random.default_rng(0).normal(size=(1, model.clip_samples)) * 0.1).astype(np.float32)
    classify = jax.jit(lambda x: model.module.apply(model.variables, model.frontend(x)))
    features = np.asarray(jax.jit(model.frontend)(waveform))
    programs = {"JAX": lambda: np.asarray(classify(waveform))}
    for path in sorted(path for folder in folders for path in folder.glob("*.onnx")):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        value = features if path.stem == "features" else waveform
        programs[path.name] = lambda session=session, value=value: session.run(
            None, {session.get_inputs()[0].name: value}
        )
    for path in sorted(path for folder in folders for path in folder.glob("*.tflite")):
        programs[path.name] = _litert(path, features if path.stem.startswith("features") else waveform)
    times = {name: [] for name in programs}
    for call in range(CALLS + 5):
        for name, program in programs.items():
            start = time.process_time()
            program()
            if call >= 5:  # the first calls compile and allocate
                times[name].append(1000 * (time.process_time() - start))
    for name, values in times.items():
        sys.stdout.write(f"{name:20s} {min(values):8.2f} ms, median {np.median(values):8.2f} ms\n")


if __name__ == "__main__":
    main()
