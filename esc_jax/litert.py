"""Converts programs of JAX to files of LiteRT: the converter is a part of TensorFlow.

    python -P esc_jax/litert.py '[["model.jax", "model.tflite", "float32"], …]'

`esc_jax.export.tflite` runs this file in a process of its own, so that no process that uses a model imports TensorFlow.
No module imports it, and it imports nothing of esc_jax. The sources are serialised `jax.export.Exported` for one
platform and fixed shapes. "int8" stores the weights in 8 bits (dynamic range: activations are float32 in between).
"""

import json
import pathlib
import sys

from jax import export
from jax.experimental import jax2tf
import tensorflow as tf


def convert(program: export.Exported, quantized: bool) -> bytes:
    """The content of a .tflite file that computes a program of one argument and one result."""
    (argument,) = program.in_avals
    signature = tf.TensorSpec(argument.shape, argument.dtype.name, name="input")

    @tf.function(input_signature=[signature], autograph=False)
    def function(value: tf.Tensor) -> tf.Tensor:
        return jax2tf.convert(program.call, native_serialization_platforms=program.platforms)(value)

    converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()])
    if quantized:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    return bytes(converter.convert())


def main() -> None:
    """Converts the files of the first argument, and writes the version of TensorFlow to stdout."""
    for source, target, kind in json.loads(sys.argv[1]):
        program = export.deserialize(bytearray(pathlib.Path(source).read_bytes()))
        pathlib.Path(target).write_bytes(convert(program, kind == "int8"))
    sys.stdout.write(f"{tf.__version__}\n")


if __name__ == "__main__":
    main()
