"""Runs example.py of an export where nothing but the standard library and a few packages can be imported."""

from collections.abc import Set
import pathlib
import subprocess
import sys
import wave

import numpy as np

_CODE = """
import importlib.abc, runpy, sys
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in {allowed} and name.partition(".")[0] not in sys.stdlib_module_names:
            raise ImportError(f"{{name}} is not allowed")
sys.meta_path.insert(0, Block())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
assert not {{"jax", "onnx", "tensorflow", "esc_jax"}}.intersection(sys.modules)
"""


def isolated(
    folder: pathlib.Path, allowed: Set[str], *arguments: str, cwd: pathlib.Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs example.py of a folder, in this folder or in another one."""
    command = [sys.executable, "-I", "-c", _CODE.format(allowed=set(allowed)), str(folder / "example.py"), *arguments]
    return subprocess.run(command, cwd=cwd or folder, capture_output=True, text=True)


def write_wav(path: pathlib.Path, channels: np.ndarray, rate: int) -> None:
    """Writes (samples, channels) int16."""
    with wave.open(str(path), "wb") as file:
        file.setparams((channels.shape[1], 2, rate, 0, "NONE", ""))
        file.writeframes(channels.astype("<i2").tobytes())
