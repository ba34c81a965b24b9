"""A run's model in a form that the rest of the world reads: with transformers, or with JAX alone.

    python -m esc_jax.export --checkpoint=runs/NAME --format=stablehlo --out=exports/NAME
    python -m esc_jax.export --checkpoint=runs/NAME --format=huggingface --out=exports/NAME

huggingface is a directory that transformers loads with its own classes (hubert, efficientnet). stablehlo is one program
from waveform to probabilities, frontend and weights inside, for any batch size on CPU, CUDA and TPU; it runs where
esc_jax is not installed. Both bring a README.md, the model's card, that says how to use them.
"""

import argparse
import json
import pathlib
import sys
from typing import Any

from esc_jax import files
from esc_jax.errors import Problem, command

PROGRAM, DESCRIPTION, CARD = "model.stablehlo", "model.json", "README.md"
PLATFORMS = ("cpu", "cuda", "tpu")


class ExportError(Problem, ValueError):
    """An export that cannot be made. The message is one sentence for the user, and says what to do."""


def to_huggingface(run, directory: pathlib.Path) -> None:
    """Writes config.json, model.safetensors, preprocessor_config.json and README.md for transformers.

    The logits are those of the run; reading the directory again with `esc_jax.pretrained` gives the same arrays.

    Args:
        run: an `esc_jax.build.Restored`.
        directory: an empty folder.
    Raises:
        ExportError: transformers has no class for the architecture, or pads it otherwise.
        PretrainedError: it has the class, but not with this head, frontend or padding.
    """
    from esc_jax import export_card
    from esc_jax.pretrained import efficientnet, hubert

    model = run.config.model
    options, frontend = model.encoder.to_dict(), run.config.frontend.to_dict() | {"sample_rate": run.sample_rate}
    if model.name == "hubert":
        hubert.write(directory, run.variables, options, run.classes, frontend)
    elif model.name == "efficientnet":
        _check_padding(run)
        efficientnet.write(directory, run.variables, options, run.classes, frontend, model.head.dropout)
    else:
        raise ExportError(
            f"transformers has no class for model.name={model.name} (it has for hubert and efficientnet): export it"
            " with --format=stablehlo"
        )
    (directory / CARD).write_text(export_card.huggingface(run), encoding="utf-8")


def _check_padding(run) -> None:
    """Raises ExportError for a spectrogram that transformers' EfficientNet pads otherwise than TensorFlow's SAME.

    It pads as SAME does even sizes; five layers halve the map, so that both agree where the size is a multiple of 32.
    """
    import jax
    import jax.numpy as jnp

    frames, bins = jax.eval_shape(run.frontend, jax.ShapeDtypeStruct((1, samples(run)), jnp.float32)).shape[1:]
    if run.config.model.encoder.same_padding == "tf" and (frames % 32 or bins % 32):
        raise ExportError(
            f"transformers pads spectrograms of {frames} × {bins} otherwise than model.encoder.same_padding=tf does,"
            " and the logits would differ: export with --format=stablehlo, or train with same_padding=transformers"
        )


def samples(run) -> int:
    """Samples of a clip in training, cut or padded."""
    return round(run.clip_s * run.sample_rate)


def program(run):
    """The whole pipeline, lowered for every platform of PLATFORMS, the weights inside as constants.

    The batch is symbolic. The time is not: of the frontends only log_mel can be traced without its length, and a model
    has seen no other than this one.

    Args:
        run: an `esc_jax.build.Restored`.
    Returns:
        `jax.export.Exported`: (batch, samples) float32 → (batch, classes) float32 probabilities.
    """
    import jax
    from jax import export as jax_export
    import jax.numpy as jnp
    import numpy as np

    variables = jax.tree.map(np.asarray, run.variables)  # constants that belong to no device of this machine

    @jax.jit
    def classify(waveform: jax.Array) -> jax.Array:
        return jax.nn.softmax(run.model.apply(variables, run.frontend(waveform)))

    shape = jax_export.symbolic_shape(f"batch, {samples(run)}")
    return jax_export.export(classify, platforms=PLATFORMS)(jax.ShapeDtypeStruct(shape, jnp.float32))


def describe(run) -> dict[str, Any]:
    """What model.json says of a program."""
    import jax

    from esc_jax import export_card

    return {
        "name": export_card.name(run),
        "architecture": run.config.model.name,
        "labels": list(run.classes),
        "sample_rate": run.sample_rate,
        "samples": samples(run),
        "input": {
            "shape": ["batch", samples(run)],
            "dtype": "float32",
            "description": "mono waveforms in [-1, 1) (16-bit samples divided by 32768); a shorter clip is padded with"
            f" zeros at its end{', which the program takes for sound' if run.mask_padding else ''}, a longer recording"
            " cut into windows",
        },
        "output": {
            "shape": ["batch", len(run.classes)],
            "dtype": "float32",
            "description": "probabilities in the order of labels",
        },
        "platforms": list(PLATFORMS),
        "jax": jax.__version__,
        "measured": export_card.measured(run),
    }


def to_stablehlo(run, directory: pathlib.Path) -> None:
    """Writes model.stablehlo (a serialised `jax.export.Exported`), model.json and README.md."""
    from esc_jax import export_card

    (directory / PROGRAM).write_bytes(program(run).serialize())
    content = json.dumps(describe(run), indent=2, ensure_ascii=False)
    (directory / DESCRIPTION).write_text(content + "\n", encoding="utf-8")
    (directory / CARD).write_text(export_card.stablehlo(run), encoding="utf-8")


FORMATS = {"huggingface": to_huggingface, "stablehlo": to_stablehlo}


def export(checkpoint: str | pathlib.Path, form: str, out: str | pathlib.Path) -> pathlib.Path:
    """Writes the model of a checkpoint in a format: all of it, or nothing.

    Args:
        checkpoint: a run's workdir, its `checkpoints` folder or one step in it.
        form: a key of FORMATS.
        out: the folder to make; it may exist if it is empty.
    Returns:
        The folder.
    Raises:
        ExportError, PretrainedError: it cannot be written in this format. CheckpointError: there is nothing to write.
    """
    _check_out(out)
    from esc_jax import build

    return write(build.restore(checkpoint), form, out)


def write(run, form: str, out: str | pathlib.Path) -> pathlib.Path:
    """As `export`, of an `esc_jax.build.Restored`."""
    out = _check_out(out)
    # Its parents are made when there is something to put there: a failed export leaves none of them behind either.
    beside = next(parent for parent in out.parents if parent.is_dir())
    with files.temporary_folder(f".{out.name}.", beside) as folder:
        made = folder / out.name
        made.mkdir()  # with the usual permissions; the temporary folder is its owner's alone
        FORMATS[form](run, made)
        out.parent.mkdir(parents=True, exist_ok=True)
        made.replace(out)
    return out


def _check_out(out: str | pathlib.Path) -> pathlib.Path:
    """The absolute path of a folder that is new or empty. Raises ExportError for anything else."""
    out = pathlib.Path(out).expanduser().resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ExportError(f"--out={out} exists and is not an empty folder: name another, or remove it first")
    return out


class _Parser(argparse.ArgumentParser):
    """Says what is wrong with a command line in one sentence, as the other commands do."""

    def error(self, message: str) -> None:
        self.exit(2, f"esc_jax: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m esc_jax.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="a run's workdir, or a checkpoint in it")
    parser.add_argument("--format", required=True, choices=FORMATS, dest="form", help="what to write")
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder to write; new, or empty")
    return parser


@command
def main(argv: list[str] | None = None) -> None:
    """The command; returns its exit status."""
    asked = _parser().parse_args(argv)
    out = export(asked.checkpoint, asked.form, asked.out)
    written = (f"{path.name} ({path.stat().st_size / 1e6:.1f} MB)" for path in sorted(out.iterdir()))
    sys.stdout.write(f"{out}: {', '.join(written)}\n")


if __name__ == "__main__":
    sys.exit(main())
