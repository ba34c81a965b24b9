"""Where the numbers of a run go: metrics.jsonl, and TensorBoard where TensorFlow is installed."""

from collections.abc import Sequence
import importlib.util
import json
import os
import pathlib
import threading
from typing import Any

from absl import logging

from esc_jax import files


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes a JSON file in one rename, so that no reader ever sees half of it."""
    with files.atomic_write(path, "w") as file:
        file.write(json.dumps(value, indent=1) + "\n")


class Writer:
    """The metrics of a run, a line per epoch.

    Args:
        workdir: gets metrics.jsonl, and TensorBoard's files.
        history: lines of the epochs that an interrupted run has finished; what was written after its last checkpoint
            is dropped, since those epochs come again.
        tensorboard: whether to write TensorBoard files too, where TensorFlow is installed.
    """

    def __init__(self, workdir: pathlib.Path, history: Sequence[dict[str, Any]], tensorboard: bool):
        path = workdir / "metrics.jsonl"
        with files.atomic_write(path, "w") as file:
            file.writelines(json.dumps(line) + "\n" for line in history)
        self._file = open(path, "a", buffering=1)
        self._queued: list[tuple[int, dict[str, float]]] = []
        self._summary = None
        self._thread = None
        if tensorboard and importlib.util.find_spec("tensorflow"):
            # TensorFlow takes seconds to import. The first steps of the run don't wait for it.
            self._thread = threading.Thread(target=self._open_tensorboard, args=(workdir,), daemon=True)
            self._thread.start()

    def _open_tensorboard(self, workdir: pathlib.Path) -> None:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # it would announce them; nothing is computed there
        try:
            from clu import metric_writers

            self._summary = metric_writers.SummaryWriter(str(workdir))
        except Exception as error:  # a broken TensorFlow must not stop a run that does not need it
            logging.warning("no TensorBoard files: %s", error)

    def write(self, line: dict[str, Any]) -> None:
        """One epoch's metrics; `step` is the step they were taken at."""
        self._file.write(json.dumps(line) + "\n")
        scalars = {k: v for k, v in line.items() if isinstance(v, (int, float)) and k not in ("step", "epoch")}
        self._queued.append((line["step"], scalars))
        if self._thread and not self._thread.is_alive():
            self._flush()

    def _flush(self) -> None:
        if self._summary:
            for step, scalars in self._queued:
                self._summary.write_scalars(step, scalars)
            self._summary.flush()
        self._queued.clear()

    def close(self) -> None:
        """Writes what is still queued."""
        if self._thread:
            self._thread.join()
            self._flush()
            if self._summary:
                self._summary.close()
        self._file.close()
