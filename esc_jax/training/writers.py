"""Writes the metrics of a run: metrics.jsonl, and TensorBoard's event files where tensorboard or TensorFlow is
installed."""

from collections.abc import Callable, Mapping, Sequence
import importlib.util
import json
import os
import pathlib
import threading
import time
from typing import Any, Protocol

from absl import logging

from esc_jax import files
from esc_jax.errors import first_line


class ScalarWriter(Protocol):
    """The part of `clu.metric_writers.MetricWriter` that is used here."""

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes values of one step."""

    def flush(self) -> None:
        """Writes what is buffered."""

    def close(self) -> None:
        """Writes what is buffered, and closes the file."""


class EventFileWriter:
    """Writes event files with tensorboard's own writer, without TensorFlow.

    Args:
        workdir: folder of the files.
    """

    def __init__(self, workdir: pathlib.Path):
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer import event_file_writer

        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        self._writer = event_file_writer.EventFileWriter(os.fspath(workdir))

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes values of one step."""
        values = [self._summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
        self._writer.add_event(self._event(step=step, wall_time=time.time(), summary=self._summary(value=values)))

    def flush(self) -> None:
        """Writes what is buffered."""
        self._writer.flush()

    def close(self) -> None:
        """Writes what is buffered, and closes the file."""
        self._writer.close()


def _clu_writer(workdir: pathlib.Path) -> ScalarWriter:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # TensorFlow logs a line about them otherwise
    from clu import metric_writers

    return metric_writers.SummaryWriter(os.fspath(workdir))


def open_event_writer(workdir: pathlib.Path) -> ScalarWriter | None:
    """Returns clu's writer if TensorFlow is installed, else tensorboard's own; None without either.

    Importing TensorFlow takes seconds.
    """
    writers = {"tensorflow": _clu_writer, "tensorboard": EventFileWriter}
    for package, writer in writers.items():
        if importlib.util.find_spec(package):
            try:
                return writer(workdir)
            except Exception as error:  # a broken installation must not stop a run that does not need it
                logging.warning("no TensorBoard files from %s: %s", package, error)
    return None


class Writer:
    """The metrics of a run, one line per epoch.

    Args:
        workdir: gets metrics.jsonl and TensorBoard's event files.
        history: lines of the epochs that an interrupted run has finished. Lines written after its last checkpoint are
            dropped, since those epochs run again.
        tensorboard: whether to write event files, if tensorboard or TensorFlow is installed.
    """

    def __init__(self, workdir: pathlib.Path, history: Sequence[dict[str, Any]], tensorboard: bool):
        path = workdir / "metrics.jsonl"
        with files.atomic_write(path, "w") as file:
            file.writelines(json.dumps(line) + "\n" for line in history)
        self._file = open(path, "a", buffering=1, encoding="utf-8")
        self._queue: list[tuple[int, dict[str, float]]] = []
        self._events: ScalarWriter | None = None
        self._thread: threading.Thread | None = None
        if tensorboard:
            # The import is slow: the first steps of the run don't wait for it.
            self._thread = threading.Thread(target=self._open_events, args=(workdir,), daemon=True)
            self._thread.start()

    def _open_events(self, workdir: pathlib.Path) -> None:
        self._events = open_event_writer(workdir)

    def write(self, line: dict[str, Any]) -> None:
        """Writes the metrics of one epoch; `step` is the step they were measured at."""
        self._file.write(json.dumps(line) + "\n")
        scalars = {k: v for k, v in line.items() if isinstance(v, (int, float)) and k not in ("step", "epoch")}
        self._queue.append((line["step"], scalars))
        if self._thread and not self._thread.is_alive():
            self._flush()

    def _flush(self) -> None:
        def write_events(events: ScalarWriter) -> None:
            for step, scalars in self._queue:
                events.write_scalars(step, scalars)
            events.flush()

        self._try(write_events)
        self._queue.clear()

    def _try(self, action: Callable[[ScalarWriter], None]) -> None:
        """Calls an action with the writer of event files. After an error, no further events are written."""
        if self._events is None:
            return
        try:
            action(self._events)
        except Exception as error:  # of a full disk, each package raises types of its own; the run needs no events
            logging.warning("no more TensorBoard files are written: %s", first_line(error))
            self._events = None

    def close(self) -> None:
        """Writes what is still queued, and closes the files."""
        if self._thread:
            self._thread.join()
            self._flush()
        self._try(lambda events: events.close())
        self._file.close()
