"""Exports a classifier for use without esc_jax (transformers, ONNX Runtime, LiteRT or JAX), or as one file for esc_jax.

    esc-jax export --model=runs/NAME --format=stablehlo --out=exports/NAME
    esc-jax export --model=runs/NAME --format=onnx --out=exports/NAME
    esc-jax export --model=runs/NAME --format=tflite --out=exports/NAME
    esc-jax export --model=runs/NAME --format=huggingface --out=exports/NAME
    esc-jax export --model=runs/NAME --format=safetensors --out=exports/NAME
    esc-jax export --model=mn04_as --format=onnx --out=exports/tagger

huggingface  a folder that transformers loads with its own classes (hubert, efficientnet)
onnx         files for ONNX Runtime, in float32 and int8, which are compared with JAX on clips; needs
             pip install 'esc-jax[onnx]'
safetensors  the whole classifier in one small file without folder names of this machine, which
             `esc-jax predict --model=exports/NAME` reads
stablehlo    one program from waveform to probabilities, including frontend and weights, for any batch size on CPU,
             CUDA and TPU
tflite       files for LiteRT (TensorFlow Lite) on phones, compared in the same way (efficientat, efficientnet,
             resnet); needs pip install 'esc-jax[tflite]'

Each folder contains a README.md, the model card, which says how to use the files.
"""

import sys

from esc_jax.cli import parser as arguments
from esc_jax.cli.command import command
from esc_jax.export import formats


def _parser() -> arguments.Parser:
    parser = arguments.Parser("export", __doc__)
    arguments.add_model(parser, "workdir of a run, a checkpoint folder in it, or a published classifier")
    names = tuple(formats.FORMATS)
    add = parser.add_argument
    add("--format", metavar="FORMAT", required=True, type=arguments.choice(*names), help=f"{' or '.join(names)}")
    add("--out", metavar="DIR", type=arguments.path, required=True, help="the folder to write; new, or empty")
    return parser


@command
def main(argv: list[str] | None = None) -> None:
    """The command."""
    options = _parser().parse(argv)
    out = formats.export(options.model, options.format, options.out)
    written = (f"{path.name} ({path.stat().st_size / 1000:,.0f} kB)" for path in sorted(out.iterdir()))
    sys.stdout.write(f"{out}: {', '.join(written)}\n")
