"""The reliability programme in its short form. `make reliability` runs the long one."""

import os
import pathlib
import sys

import pytest

from tests.reliability.__main__ import FAILURES, measure
from tests.reliability.base import SCALES

LIBRARY = ("sounds", "tables", "weights")
COMMANDS = ("damage", "kills", "places")


def failures(name):
    compiled = pathlib.Path(os.environ["ESC_JAX_TEST_COMPILED"])
    rows = measure(name, SCALES["short"], 0, compiled)
    assert rows and all(counts.total() for _, counts in rows)
    return {row: {outcome: counts[outcome] for outcome in FAILURES if counts[outcome]} for row, counts in rows}


@pytest.mark.parametrize("name", LIBRARY)
def test_mutated_files(name):
    assert not any(failures(name).values())


@pytest.mark.extended
@pytest.mark.skipif(sys.platform != "linux", reason="commands run in forks")
@pytest.mark.parametrize("name", [*COMMANDS, "demo"])
def test_commands(name):
    if name == "demo":
        pytest.importorskip("gradio_client")
    assert not any(failures(name).values())
