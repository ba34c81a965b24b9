"""Milliseconds per clip on one core: JAX beside the files of an ONNX export, in ONNX Runtime.

    taskset -c 0 python benchmarks/onnx_export.py runs/NAME exports/NAME-onnx

The export is the one of the run. Every clip is computed alone. The shortest and the median processor time of 100 calls
are printed. On one core it is the elapsed time of a machine that runs nothing else. The calls alternate, so that all
programs meet the same load.
"""

import os

os.environ["JAX_PLATFORMS"] = "cpu"

import pathlib
import sys
import time

import jax
import numpy as np
import onnxruntime

from esc_jax.training.restore import restore

CALLS = 100


def main() -> None:
    """Prints a line for each program."""
    run, folder = restore(sys.argv[1]), pathlib.Path(sys.argv[2])
    model = run.model
    waveform = (np.random.default_rng(0).normal(size=(1, model.clip_samples)) * 0.1).astype(np.float32)
    classify = jax.jit(lambda x: model.module.apply(model.variables, model.frontend(x)))
    features = np.asarray(jax.jit(model.frontend)(waveform))
    programs = {"JAX": lambda: np.asarray(classify(waveform))}
    for path in sorted(folder.glob("*.onnx")):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        value = features if path.stem == "features" else waveform
        programs[path.name] = lambda session=session, value=value: session.run(
            None, {session.get_inputs()[0].name: value}
        )
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
