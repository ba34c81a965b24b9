"""Runs commands in forks of a process that has imported everything: an import of JAX and orbax takes three seconds.

A request is a line of JSON on stdin: module, arguments, cwd, environment, the paths of files for stdout and stderr, and
kill_after_s, seconds or null. The answer is a line with the exit status; a negative number is that of a signal. A
command has a process of its own, in which no device was used before, and ends as any Python process does. The server
ends with its stdin, or when it has had nothing to do for a while.
"""

import importlib
import json
import os
import runpy
import select
import signal
import sys
import threading

# What the commands import, except the modules that are run themselves.
MODULES = (
    "esc_jax.cli.command", "esc_jax.cli.parser", "esc_jax.config", "esc_jax.experiments.crossval",
    "esc_jax.experiments.pretrain", "esc_jax.experiments.single", "esc_jax.inference.classifier",
    "esc_jax.report.page", "esc_jax.report.timeline_plot",
)  # fmt: skip
IDLE_S = 20.0  # its memory is then free for others


def _become(request: dict) -> None:
    """Turns this fork into the process of a command."""
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["cwd"])
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    for number, path in ((1, request["stdout"]), (2, request["stderr"])):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
        os.close(file)
    sys.argv = [request["module"], *request["arguments"]]
    sys.path[0] = request["cwd"]


def main() -> None:
    """Serves until stdin ends; in a fork, runs the command and returns."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # nothing but answers goes to the pipe
    for module in MODULES:
        importlib.import_module(module)
    while True:
        if not select.select([0], [], [], IDLE_S)[0]:
            return
        line = b""
        while not line.endswith(b"\n"):
            if not (piece := os.read(0, 1 << 16)):
                return
            line += piece
        request = json.loads(line)
        child = os.fork()
        if not child:
            answers.close()
            _become(request)
            runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
            return
        alarm = threading.Timer(request["kill_after_s"] or 0.0, os.kill, (child, signal.SIGKILL))
        if request["kill_after_s"] is not None:
            alarm.start()
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)  # the number is not free for another process yet
        alarm.cancel()
        _, status = os.waitpid(child, 0)
        answers.write(f"{os.waitstatus_to_exitcode(status)}\n")
        answers.flush()


if __name__ == "__main__":
    main()
