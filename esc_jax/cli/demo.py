"""Serves a web page that classifies uploaded and recorded sounds.

    esc-jax demo
    esc-jax demo --model=runs/resnet34
    esc-jax demo --model=runs/resnet34 --examples=recordings/ --host=0.0.0.0 --port=8080

The page is reachable from this machine only, unless --host says otherwise. Sounds are processed one after the other and
deleted ten minutes after the upload, or when the server stops. Requires Gradio: pip install "esc-jax[demo]".
"""

import importlib.util
import os
import sys

from esc_jax.cli import parser as arguments
from esc_jax.cli.command import command, initialize_device
from esc_jax.errors import UserError


def _parser() -> arguments.Parser:
    parser = arguments.Parser("demo", __doc__)
    arguments.add_classifier(parser)
    text = "sounds to offer (default: test clips of the data set, if data.dir has them)"
    parser.add_argument("--examples", metavar="DIR", type=os.path.expanduser, help=text)
    arguments.add_server(parser, 7860, 1, "port to listen on (default: %(default)s)")
    return parser


@command
def main(argv: list[str] | None = None) -> None:
    """The command: serves the page until it is interrupted."""
    options = _parser().parse(argv)
    if importlib.util.find_spec("gradio") is None:
        raise UserError('the demo requires Gradio: pip install "esc-jax[demo]"')
    from esc_jax.serving import demo

    initialize_device()

    def announce(address: str) -> None:
        sys.stdout.write(f"listening on {address}; press Ctrl-C to stop\n")
        sys.stdout.flush()

    demo.serve(
        options.model,
        host=options.host,
        port=options.port,
        examples_folder=options.examples,
        max_s=60 * options.max_minutes,
        max_mb=options.max_mb,
        announce=announce,
    )
