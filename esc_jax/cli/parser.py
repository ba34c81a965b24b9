"""The argument parser of all commands, and the types of their arguments."""

import argparse
from collections.abc import Callable, Iterable, Sequence
import difflib
import math
import os
import pathlib
import re
import sys
from typing import Any, NoReturn

from esc_jax import files
from esc_jax.pretrained import catalog

STORES = (".db", ".sqlite", ".sqlite3")  # names of embedding stores end in these
_OPTION = re.compile("--?[A-Za-z]")


def nearest(name: str, names: Iterable[str]) -> str:
    """ "; did you mean …?" with the closest of `names`; empty if none is close."""
    matches = difflib.get_close_matches(name, list(names), 1)
    return f"; did you mean {matches[0]}?" if matches else ""


class Parser(argparse.ArgumentParser):
    """An `argparse.ArgumentParser` that reports a mistake in one sentence and exits with status 2.

    An unknown option is reported with the nearest one. Options cannot be abbreviated. Options and positional arguments
    can be mixed.

    Args:
        command: name of the command.
        description: its help text.
    """

    def __init__(self, command: str, description: str | None):
        super().__init__(
            prog=f"esc-jax {command}",
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.default_model = ""  # see `add_classifier`

    def error(self, message: str) -> NoReturn:
        """Exits with status 2 and one sentence."""
        self.exit(2, f"esc_jax: {message.removeprefix('argument ')}\n")

    def parse(self, argv: Sequence[str] | None = None) -> argparse.Namespace:
        """The arguments of `argv`, or of the process."""
        given = list(sys.argv[1:] if argv is None else argv)
        known = [option for action in self._actions for option in action.option_strings]
        if "--" in given:  # files follow; argparse would take -a.wav for an option, when it intermixes them
            end = given.index("--")
            names = [f"./{name}" if name.startswith("-") else name for name in given[end + 1 :]]
            given = [*given[:end], *names]
        for argument in given:
            name = argument.split("=")[0]
            if _OPTION.match(name) and name not in known:  # argparse would report a missing option first
                file = f"; for the file, write ./{argument}" if os.path.lexists(argument) else ""
                self.error(f"there is no option {name}" + (file or nearest(name, known) or "; see --help"))
        options, unexpected = self.parse_known_intermixed_args(given)
        if unexpected:
            self.error(f"unexpected argument {unexpected[0]!r}")
        if self.default_model and options.model is None:
            options.model = self.default_model
            weights = catalog.CATALOG[self.default_model]
            about = f"{weights.labels} classes, {weights.licence}"
            sys.stderr.write(f"esc_jax: without --model, the classifier is {weights.name} ({about})\n")
        return options


def _to_float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def number(lowest: float, highest: float, unit: str = "") -> Callable[[str], float]:
    """The type of a number in a range, with the name of its unit for errors."""

    def read(text: str) -> float:
        value = _to_float(text)
        if not lowest <= value <= highest:
            limits = f"from {lowest:g} to {highest:g} {unit}".rstrip()
            raise argparse.ArgumentTypeError(f"{text!r} is not a number {limits}")
        return value

    return read


def text(value: str) -> str:
    """The type of a text that is not empty. As a path, an empty text would be the current folder."""
    if not value:
        raise argparse.ArgumentTypeError("the value is empty")
    return value


def seconds(lowest: float = 0.01, highest: float = 600.0) -> Callable[[str], float]:
    """The type of a duration."""
    return number(lowest, highest, "seconds")


def decibels(text: str) -> float | None:
    """The type of a level relative to full scale; "off" is None."""
    if text == "off":
        return None
    value = _to_float(text)
    if not -200 <= value <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a level from -200 to 0 dB nor 'off'")
    return value


def integer(lowest: int = 1, highest: int | None = None) -> Callable[[str], int]:
    """The type of a whole number."""
    limits = f"of at least {lowest}" if highest is None else f"from {lowest} to {highest}"

    def read(text: str) -> int:
        value = int(text) if text.removeprefix("-").isdecimal() else None
        if value is None or value < lowest or (highest is not None and value > highest):
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number {limits}")
        return value

    return read


def choice(*names: str) -> Callable[[str], str]:
    """The type of one of several names."""

    def read(text: str) -> str:
        if text not in names:
            raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(names)}{nearest(text, names)}")
        return text

    return read


def choices(*names: str) -> Callable[[str], tuple[str, ...]]:
    """The type of a comma-separated list of names."""
    read_one = choice(*names)
    return lambda text: tuple(read_one(name) for name in text.split(","))


def path(value: str) -> pathlib.Path:
    """The type of a file or folder. Shells do not replace the ~ in --name=~/file."""
    return files.expand(text(value))


def output(*suffixes: str, make_parents: bool = False) -> Callable[[str], pathlib.Path]:
    """The type of a file to write.

    Args:
        suffixes: allowed endings. Another ending is usually an input file after an option whose value was forgotten.
        make_parents: whether the command creates the folders above the file; if not, they must exist.
    """

    def read(text: str) -> pathlib.Path:
        file = path(text)
        if file.is_dir():
            raise argparse.ArgumentTypeError(f"{text!r} is a folder; give the name of a file")
        if file.suffix.lower() not in suffixes:
            raise argparse.ArgumentTypeError(f"{text!r} does not end in {' or '.join(suffixes)}")
        if not make_parents and not file.parent.is_dir():
            raise argparse.ArgumentTypeError(f"the folder of {text!r} does not exist")
        return file

    return read


def add_model(parser: Parser, help_text: str, **options: Any) -> None:
    """Adds --model, and --offline."""
    parser.add_argument("--model", metavar="MODEL", type=os.path.expanduser, required=True, help=help_text, **options)
    add_offline(parser)


def add_store_encoder(add: Callable[..., Any]) -> None:
    """Adds --model for the encoder of a store; `add` is `add_argument` of a parser or of a group."""
    text = "new location of the encoder of the store, if it was moved"
    add("--model", metavar="MODEL", type=os.path.expanduser, help=text)


def add_classifier(parser: Parser) -> None:
    """Adds --model for a classifier, and --offline. Without --model, it is the classifier in the package."""
    text = (
        "workdir of a run; or a classifier by its name (esc-jax weights list), file, folder or hub id"
        f" (default: {catalog.DEFAULT}, in the package)"
    )
    parser.add_argument("--model", metavar="MODEL", type=os.path.expanduser, help=text)
    parser.default_model = catalog.DEFAULT
    add_offline(parser)


def add_server(parser: Parser, port: int, lowest_port: int, port_help: str) -> None:
    """Adds the options of a server: --host, --port, --max_minutes, --max_mb."""
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on (default: %(default)s, this machine only)")
    add("--port", type=integer(lowest_port, 65_535), default=port, help=port_help)
    minutes = number(0.01, 1_440.0)
    add("--max_minutes", metavar="M", type=minutes, default=10.0, help="longest sound, minutes (default: %(default)g)")
    add("--max_mb", metavar="MB", type=integer(), default=100, help="largest file, MB (default: %(default)d)")


class _Offline(argparse.Action):
    """Sets the environment variables under which nothing is downloaded."""

    def __call__(self, *arguments: object) -> None:
        os.environ["ESC_JAX_OFFLINE"] = os.environ["HF_HUB_OFFLINE"] = "1"


def add_offline(parser: Parser) -> None:
    """Adds --offline."""
    parser.add_argument("--offline", action=_Offline, nargs=0, help="download nothing")
