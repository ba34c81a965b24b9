"""Runs with the clips on the devices and with several steps per call, compared with plain runs."""

import json

import numpy as np
import pytest

_TIMES = ("seconds", "data_wait")


def read(folder):
    """Lines of metrics.jsonl without times, and the text of predictions.csv."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in _TIMES} for line in lines], (
        folder / "predictions.csv"
    ).read_text()


@pytest.mark.extended
def test_runs_are_the_same(run, tmp_path):
    def train(name, on_device, steps_per_call):
        done = run(
            "main",
            "--config=tests/configs/tiny.py",
            f"--workdir={tmp_path / name}",
            "--config.train.epochs=1",
            f"--config.data.on_device={on_device}",
            f"--config.train.steps_per_call={steps_per_call}",
            devices=2,
        )
        assert ("the clips are kept on the device" in done.stderr) == (on_device == "true")
        assert ("the host dispatches 4 steps at a time" in done.stderr) == (steps_per_call == 4)
        return read(tmp_path / name)

    plain = train("plain", "false", 1)
    assert train("resident", "true", 1) == plain
    # An epoch has six steps. One program computes calls of four and of two steps.
    calls = train("calls", "true", 4)
    # The compiler fuses the operations of a loop otherwise: float32 rounding, which the optimizer amplifies.
    for line, expected in zip(calls[0], plain[0], strict=True):
        assert line.keys() == expected.keys()
        np.testing.assert_allclose(list(line.values()), list(expected.values()), rtol=1e-4)


@pytest.mark.parametrize("value", ["0", "many", "-3", "100000"])
def test_an_impossible_number_of_steps_is_refused(run, value):
    done = run("main", "--config=tests/configs/tiny.py", f"--config.train.steps_per_call={value}", check=2)
    assert f"config.train.steps_per_call={value} must be auto or a number from 1 to 1024" in done.stderr
