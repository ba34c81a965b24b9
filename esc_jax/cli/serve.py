"""Serves a JSON API that classifies recordings.

    esc-jax serve
    esc-jax serve --model=mn04_as
    esc-jax serve --model=runs/resnet34 --host=0.0.0.0 --port=8080 --max_queue=50
    curl --data-binary @storm.ogg http://127.0.0.1:8000/classify

The page /docs describes the API for people, and /openapi.json for programs. GET /health, /metrics (for Prometheus) and
/model return the state of the server, its metrics, and the classes and limits. Recordings are classified one at a time,
and then deleted. If more than --max_queue requests wait, the status is 503, with the time after which to try again.

The API is reachable from this machine only, unless --host says otherwise. It has no accounts and no encryption: put a
reverse proxy in front of it if others can reach it. Requires FastAPI: pip install "esc-jax[serve]".
"""

import importlib.util
import sys

from esc_jax.cli import parser as arguments
from esc_jax.cli.command import command, initialize_device
from esc_jax.errors import UserError


def _parser() -> arguments.Parser:
    parser = arguments.Parser("serve", __doc__)
    arguments.add_classifier(parser)
    arguments.add_server(parser, 8000, 0, "0 for any (default: %(default)s)")
    waiting, text = arguments.integer(0, 10_000), "largest number of waiting requests (default: %(default)d)"
    parser.add_argument("--max_queue", metavar="N", type=waiting, default=20, help=text)
    return parser


@command
def main(argv: list[str] | None = None) -> None:
    """The command: serves the API until it is interrupted."""
    options = _parser().parse(argv)
    if missing := [name for name in ("fastapi", "uvicorn", "prometheus_client") if not importlib.util.find_spec(name)]:
        raise UserError(f'the API requires {missing[0]}: pip install "esc-jax[serve]"')
    from esc_jax.serving import api

    initialize_device()

    def announce(address: str) -> None:
        sys.stdout.write(f"listening on {address}, described at {address}/docs; press Ctrl-C to stop\n")
        sys.stdout.flush()

    api.serve(
        options.model,
        host=options.host,
        port=options.port,
        max_s=60 * options.max_minutes,
        max_mb=options.max_mb,
        max_queue=options.max_queue,
        announce=announce,
    )
