"""The command line: `esc-jax COMMAND …`, also `python -m esc_jax COMMAND …`.

Modules are imported in `main`, where Ctrl-C ends the process with one sentence.
"""

from collections.abc import Sequence
import sys

# Command: what it does. Each is a module of esc_jax.cli, except train.
COMMANDS = {
    "train": "train and test what a config describes",
    "predict": "classify recordings",
    "embed": "write the embeddings of a data set or of recordings",
    "search": "find the passages of an archive that sound like a recording",
    "probe": "fit classifiers on embeddings and test them",
    "report": "report on all runs in a folder, or compare two",
    "export": "write a model for use without esc_jax",
    "listen": "classify live sound",
    "serve": "serve an API that classifies sounds",
    "demo": "serve a web page that classifies sounds",
    "weights": "list and download published weights",
}


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}   {summary}" for name, summary in COMMANDS.items()]
    return "\n".join(
        [
            "usage: esc-jax COMMAND …",
            "",
            "Environmental-sound classification in JAX.",
            "",
            *lines,
            "",
            "esc-jax COMMAND --help describes a command, esc-jax --version prints the version.\n",
        ]
    )


def _train(arguments: Sequence[str]) -> None:
    """Runs `python -m esc_jax.main` in this process."""
    import runpy

    sys.argv = ["esc_jax.main", *arguments]
    runpy.run_module("esc_jax.main", run_name="__main__", alter_sys=True)


def main(argv: list[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv: the command and its arguments; None for those of the process.

    Returns:
        The exit status: 0 done; 1 the command failed; 2 the command line is wrong; 75 stopped by a signal, with the
        state saved; 130 interrupted.
    """
    try:
        from esc_jax.cli.command import command

        return command(_run)(argv)
    except KeyboardInterrupt:  # during the imports above
        sys.stderr.write("esc_jax: interrupted\n")
        return 130


def _run(argv: list[str] | None) -> int:
    import importlib

    import esc_jax
    from esc_jax.cli.parser import nearest

    name, *arguments = list(sys.argv[1:] if argv is None else argv) or [""]
    if name in ("-h", "--help", "help"):
        sys.stdout.write(_help())
        return 0
    if name == "--version":
        sys.stdout.write(f"esc-jax {esc_jax.__version__}\n")
        return 0
    if name not in COMMANDS:
        message = (
            f"there is no command {name}{nearest(name, COMMANDS) or '; see esc-jax --help'}"
            if name
            else "no command given; see esc-jax --help"
        )
        sys.stderr.write(f"esc_jax: {message}\n")
        return 2
    if name == "train":
        _train(arguments)
        return 0
    return importlib.import_module(f"esc_jax.cli.{name}").main(arguments)


if __name__ == "__main__":
    sys.exit(main())
