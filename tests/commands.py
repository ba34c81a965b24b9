"""Runs commands of esc_jax in forks of one process (`command_server`)."""

import contextlib
import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]


class Commands:
    """Runs commands with little start-up time; for Linux.

    Args:
        folder: for the output of commands.
    """

    def __init__(self, folder: pathlib.Path):
        self._folder = folder
        self._server: subprocess.Popen[str] | None = None

    def _ask(self, request: dict) -> str:
        """The answer to a request; empty where the server has ended meanwhile."""
        if self._server is None or self._server.poll() is not None:
            command = [sys.executable, str(ROOT / "tests/command_server.py")]
            pipe = subprocess.PIPE
            environment = os.environ | {"PYTHONPATH": str(ROOT)}
            self._server = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=pipe, stdout=pipe, text=True)
        assert self._server.stdin and self._server.stdout
        answer = ""
        with contextlib.suppress(BrokenPipeError):
            self._server.stdin.write(json.dumps(request) + "\n")
            self._server.stdin.flush()
            answer = self._server.stdout.readline()
        if not answer:  # it has closed its end: it is ending
            self._server.wait(60)
        return answer

    def run(
        self,
        module: str,
        arguments: list[str],
        environment: dict[str, str],
        kill_after_s: float | None = None,
        cwd: pathlib.Path = ROOT,
    ) -> subprocess.CompletedProcess[str]:
        """As `subprocess.run([python, "-m", module, *arguments])`.

        Args:
            module: is run as `python -m` does.
            arguments: of the command.
            environment: of its process.
            kill_after_s: the process is killed (SIGKILL) if it has not ended by then; None: it is not.
            cwd: folder that it starts in; the root of the repository by default.
        """
        outputs = [self._folder / name for name in ("stdout", "stderr")]
        request = {
            "module": module, "arguments": arguments, "cwd": str(cwd), "environment": environment,
            "stdout": str(outputs[0]), "stderr": str(outputs[1]), "kill_after_s": kill_after_s,
        }  # fmt: skip
        answer = self._ask(request) or self._ask(request)  # again, where it had just ended for lack of work
        assert answer, "the command server has crashed"
        texts = [path.read_text(encoding="utf-8", errors="replace") for path in outputs]
        return subprocess.CompletedProcess([module, *arguments], int(answer), *texts)

    def close(self) -> None:
        """Ends the server."""
        if self._server is not None:
            self._server.kill()
            self._server.wait()
