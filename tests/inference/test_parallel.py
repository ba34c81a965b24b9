"""Recordings that are processed several at a time."""

import os
import threading

import pytest

from esc_jax.inference import parallel


@pytest.mark.parametrize(("cores", "expected"), [(1, 2), (2, 2), (6, 3), (64, 8), (None, 2)])
def test_several_recordings_are_in_work_at_once(monkeypatch, cores, expected):
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    together = threading.Barrier(expected, timeout=60)  # broken if fewer than `expected` wait at the same time

    def run(name):
        together.wait()
        return parallel.Outcome(name, "done")

    names = [f"{number}.wav" for number in range(2 * expected)]
    assert sorted(outcome.file for outcome in parallel.run_ahead(run, names)) == sorted(names)
    assert parallel.recordings_at_once() == expected
