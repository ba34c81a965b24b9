"""A web page that listens: upload or record a sound, and read what the model hears in it, and when.

    python -m esc_jax.demo --checkpoint=runs/resnet34
    python -m esc_jax.demo --checkpoint=runs/resnet34 --examples=recordings/ --host=0.0.0.0 --port=8080

The page is for this machine alone unless --host says otherwise. Sounds are worked on one after the other, and deleted
ten minutes after they were uploaded, or with the server. It needs requirements-demo.txt.
"""

import argparse
import os

from esc_jax import files
from esc_jax.cli.command import command
from esc_jax.serving.demo import serve


@command
def main(argv: list[str] | None = None) -> None:
    """The command line: serves the page until it is interrupted."""
    parser = argparse.ArgumentParser(
        "python -m esc_jax.demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--checkpoint", metavar="DIR", required=True, help="workdir of a finished run")
    add("--examples", metavar="DIR", help="sounds to offer (default: clips of the data set, where data.dir has them)")
    add("--host", default="127.0.0.1", help="address to listen on (default: %(default)s, this machine alone)")
    add("--port", type=int, default=7860, help="(default: %(default)s)")
    add("--max_minutes", type=float, default=10.0, help="longest sound that is taken (default: %(default)g)")
    add("--max_mb", type=int, default=100, help="largest file that is taken (default: %(default)d)")
    options = parser.parse_args(argv)
    if options.max_minutes <= 0 or options.max_mb <= 0 or not 0 < options.port < 65536:
        parser.error("--max_minutes and --max_mb must be above 0, --port from 1 to 65535")
    with files.temporary_folder("esc_jax_demo_") as folder:
        os.environ["GRADIO_TEMP_DIR"] = str(folder)
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        for name in ("no_proxy", "NO_PROXY"):  # Gradio asks its own page whether it is there
            os.environ[name] = ",".join([*filter(None, [os.environ.get(name)]), "localhost", "127.0.0.1", options.host])
        try:
            import gradio  # noqa: F401
        except ImportError:
            parser.exit(2, "esc_jax: the demo needs Gradio: pip install -r requirements-demo.txt\n")
        serve(options, folder)
