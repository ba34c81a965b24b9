"""Training in two processes with one or two devices each, on this machine."""

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]

EPOCHS = 8
TINY = ["--config=tests/configs/tiny.py", f"--config.train.epochs={EPOCHS}"]


def lines(workdir):
    path = workdir / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


class ProcessPair:
    """Two processes of one run; killed when the block ends."""

    def __init__(self, environment, workdir, *arguments, devices=2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        self.workdir, self.processes = workdir, []
        for number in range(2):
            variables = {
                "JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": str(number),
                "XLA_FLAGS": f"{environment['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}",
            }  # fmt: skip
            command = [sys.executable, "-m", "esc_jax.main", "--distributed", *arguments, f"--workdir={workdir}"]
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
            self.processes.append(subprocess.Popen(command, cwd=ROOT, env=environment | variables, **pipes))

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.communicate()

    def wait_for_epochs(self, epochs):
        """Waits until so many epochs are done and saved."""
        while len(lines(self.workdir)) <= epochs:
            assert all(process.poll() is None for process in self.processes), self.processes[0].communicate()[1][-3000:]
            time.sleep(0.05)

    def wait(self):
        """(exit status, stdout, stderr) of both."""
        outputs = [process.communicate(timeout=300) for process in self.processes]
        return [(process.returncode, *text) for process, text in zip(self.processes, outputs, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stops", "kills"),
    [
        (0, ()),
        pytest.param(0, ((3, 0),), marks=pytest.mark.extended),
        pytest.param(1, ((3, 1), (5, 0)), marks=pytest.mark.extended),
    ],
)
def test_two_processes_equal_one_after_stops_and_kills(run, environment, tmp_path, stops, kills):
    run("main", *TINY, f"--workdir={tmp_path / 'one'}", devices=4)
    workdir = tmp_path / "two"
    for _ in range(stops):
        with ProcessPair(environment, workdir, *TINY) as both:
            both.wait_for_epochs(1)
            both.processes[1].send_signal(signal.SIGTERM)  # both stop at the same step
            stopped = both.wait()
            assert [status for status, _, _ in stopped] == [75, 75], stopped
            assert all("run the same command again to continue" in error for _, _, error in stopped)
    for epochs, killed in kills:  # process 0 is the coordinator
        with ProcessPair(environment, workdir, *TINY) as both:
            both.wait_for_epochs(epochs)
            both.processes[killed].kill()
            status, _, error = both.wait()[1 - killed]
            sentence = "esc_jax: another process of this run has ended or cannot be reached"
            assert status == 1 and sentence in error, f"status {status}: {error[-3000:]}"
            assert "Traceback" not in error
    with ProcessPair(environment, workdir, *TINY, devices=1) as both:  # with fewer devices than before
        (status, printed, error), (_, silent, _) = both.wait()
        assert status == 0, error[-3000:]
        # Only the main process prints; gloo writes on stdout too.
        assert f"results: {workdir}" in printed and "results:" not in silent
    expected, result = lines(tmp_path / "one"), lines(workdir)
    assert [line["epoch"] for line in result] == list(range(1, EPOCHS + 1))
    for key, tolerance in (("loss", 1e-4), ("accuracy", 0), ("grad_norm", 1e-3)):
        # Sums over the batch have another order: rounding errors grow over 48 steps.
        np.testing.assert_allclose([x[key] for x in result], [x[key] for x in expected], rtol=tolerance, err_msg=key)
    one, two = (json.loads((folder / "results.json").read_text()) for folder in (tmp_path / "one", workdir))
    assert one["accuracy"] == two["accuracy"] and one["parameters"] == two["parameters"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments, message",
    [
        pytest.param(
            ["--mode=evaluate"],
            "--mode=evaluate runs in one process: leave --distributed out",
            marks=pytest.mark.extended,
        ),
        (["--config.train.batch_size=6"], "train.batch_size=6 is not divisible by the 4 devices: take 4"),
    ],
)
def test_what_needs_a_single_process_is_refused(environment, tmp_path, arguments, message):
    with ProcessPair(environment, tmp_path / "run", *TINY, *arguments) as both:
        assert [(status, message in error) for status, _, error in both.wait()] == [(2, True)] * 2


def test_a_process_without_others_names_the_variables_to_set(run):
    assert not {"JAX_NUM_PROCESSES", "SLURM_JOB_ID"} & os.environ.keys()
    error = run("main", *TINY, "--distributed", check=2).stderr
    assert "cannot join others" in error and "JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID" in error
