"""`esc-jax COMMAND`: the list of commands, their help, and what all commands share."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

import esc_jax
from esc_jax import __main__ as entry
from esc_jax.cli.command import exit_resumable

ROOT = pathlib.Path(__file__).resolve().parents[2]


def start(code, **options):
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE, text=True, **options)


def test_the_commands_are_listed(capsys):
    assert entry.main(["--help"]) == 0
    printed = capsys.readouterr().out
    for name, summary in entry.COMMANDS.items():
        assert f"  {name:<7}   {summary}\n" in printed
    assert entry.main(["--version"]) == 0
    assert capsys.readouterr().out == f"esc-jax {esc_jax.__version__}\n"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["predikt", "a.wav"], "there is no command predikt; did you mean predict?"),
        (["--model=x"], "there is no command --model=x; see esc-jax --help"),
        ([], "no command given; see esc-jax --help"),
    ],
)
def test_an_unknown_command(argv, message, capsys):
    assert entry.main(argv) == 2
    assert capsys.readouterr().err == f"esc_jax: {message}\n"


@pytest.mark.parametrize("name", [name for name in entry.COMMANDS if name != "train"])
def test_help_imports_little(name):
    heavy = ("jax", "numpy", "matplotlib", "soundfile", "absl")
    code = f"""
import sys
from esc_jax.__main__ import main
try:
    main([{name!r}, "--help"])
except SystemExit as stopped:
    assert stopped.code == 0
assert not (loaded := [module for module in {heavy} if module in sys.modules]), loaded
"""
    done = start(code, stdout=subprocess.PIPE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: esc-jax {name} ")


def test_train_runs_the_main_module():
    done = subprocess.run([sys.executable, "-m", "esc_jax", "train"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("esc_jax: ") and "--config=" in done.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_output_that_cannot_be_written_is_reported():
    code = "import sys; from esc_jax.cli.command import command; sys.exit(command(lambda argv: print('done'))())"
    with open("/dev/full", "w") as full:
        done = start(code, stdout=full)
    assert (done.returncode, done.stderr) == (1, "esc_jax: No space left on device: writing the results\n")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_failure_beside_output_that_cannot_be_written(monkeypatch):
    """Without a second message of the interpreter at its exit, and status 120."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # the error comes with the flush at the end
    code = """
import sys
from esc_jax.cli.command import command
from esc_jax.errors import Failure
def main(argv):
    sys.stdout.write("text")
    raise Failure("broken")
sys.exit(command(main)())
"""
    with open("/dev/full", "w") as full:
        done = start(code, stdout=full)
        assert (done.returncode, done.stderr) == (1, "esc_jax: broken\n")
        done = subprocess.run(
            [sys.executable, "-m", "esc_jax", "--help"], cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert (done.returncode, done.stderr) == (1, "esc_jax: No space left on device: writing the results\n")


@pytest.mark.skipif(os.name != "posix", reason="needs a shell")
def test_a_closed_stdout_is_no_error():
    command = f"{sys.executable} -m esc_jax weights list >&-"
    done = subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_interruption_during_the_imports():
    code = """
import builtins, sys
from esc_jax.__main__ import main
original = builtins.__import__
def interrupted(name, *arguments, **options):
    if name.startswith("esc_jax.cli"):
        raise KeyboardInterrupt
    return original(name, *arguments, **options)
builtins.__import__ = interrupted
sys.exit(main(["predict", "a.wav"]))
"""
    done = start(code)
    assert (done.returncode, done.stderr) == (130, "esc_jax: interrupted\n")


def test_a_closed_pipe_is_no_error():
    code = """
import sys
from esc_jax.cli.command import command
sys.exit(command(lambda argv: [print("line") for _ in range(1_000_000)] and None)())
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait() == 1


def test_the_output_of_c_libraries_is_discarded():
    code = """
import os, sys
from esc_jax.cli.command import discard_native_output
discard_native_output()
os.write(1, b"native")
os.write(2, b"native")
sys.stdout.write("python \\udcff\\n")
sys.stderr.write("error\\n")
"""
    done = start(code, stdout=subprocess.PIPE)
    assert (done.returncode, done.stdout, done.stderr) == (0, "python ?\n", "error\n")


def test_output_is_kept_where_the_streams_are_replaced(capfd):
    from esc_jax.cli.command import discard_native_output

    discard_native_output()
    os.write(1, b"native")
    assert capfd.readouterr().out == "native"


def test_a_signal_is_reported_with_names_that_are_not_utf_8(monkeypatch, capsys):
    def raise_exit(status):
        raise SystemExit(status)

    reader, writer = os.pipe()
    monkeypatch.setattr(os, "_exit", raise_exit)
    monkeypatch.setattr(sys.stderr, "fileno", lambda: writer)  # which pytest's does not have
    with pytest.raises(SystemExit, match="75"), exit_resumable(lambda: "stopped in \udcff"):
        os.kill(os.getpid(), signal.SIGTERM)
    assert os.read(reader, 1000) == b"\nesc_jax: stopped in ?; run the same command again to continue\n"
    os.close(reader)
    os.close(writer)
