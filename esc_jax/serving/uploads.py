"""Uploaded sounds: their limits, and the result as a document of named numbers. Shared by the page and the API."""

from collections.abc import Callable
import dataclasses
import socket
from typing import Any

import numpy as np

from esc_jax.data.audio import AudioError
from esc_jax.data.stream import AudioStream
from esc_jax.errors import Failure
from esc_jax.inference import output
from esc_jax.inference.classifier import SoundClassifier
from esc_jax.inference.events import EventOptions, find_events
from esc_jax.inference.timeline import Timeline, clock

TOP_K = 5  # classes that are shown
MAX_QUEUE = 20  # requests that wait; further users are asked to come back later


class AddressError(Failure, RuntimeError):
    """An address that cannot be listened on. The message is one sentence."""

    def __init__(self, host: str, port: int):
        super().__init__(
            f"{host}:{port} is in use, or is not an address of this machine: choose another --port or --host"
        )


class TooLongError(AudioError):
    """A sound that is longer than the limit."""


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens on an address. Raises AddressError."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family, backlog=2048)
    except (OSError, UnicodeError):  # the latter: a name that is no host name
        raise AddressError(host, port) from None


def classify(
    classifier: SoundClassifier,
    path: str,
    max_s: float,
    hop_s: float = 1.0,
    *,
    progress: Callable[[float], object] = lambda fraction: None,
    observe: Callable[[np.ndarray], object] = lambda block: None,
) -> Timeline:
    """Classifies an uploaded file.

    Args:
        classifier: the model.
        path: the file.
        max_s: maximum length of the sound, s.
        hop_s: as of `SoundClassifier.timeline`.
        progress: called with the fraction that is done.
        observe: called with each block of mono samples at the model's rate.

    Returns:
        The timeline. Its note does not name the file.

    Raises:
        AudioError: the file cannot be used. The message does not name it.
        TooLongError: it is too long. The message does not name it.
    """
    done = 0.0

    def check(block: np.ndarray, stream: AudioStream) -> None:
        nonlocal done
        done += len(block) / stream.sample_rate
        if max(done, stream.announced_s) > max_s:
            raise TooLongError(f"the sound is longer than {clock(max_s)}, the limit of this server")
        progress(min(1.0, done / max(stream.announced_s, done)))
        observe(block)

    try:
        timeline = classifier.timeline(path, hop_s=hop_s, observe=check)
    except AudioError as error:
        raise type(error)(str(error).removeprefix(f"{path}: ")) from None
    return dataclasses.replace(timeline, note=timeline.note.removeprefix(f"{path}: "))


def document(timeline: Timeline, k: int, options: EventOptions = EventOptions()) -> dict[str, Any]:
    """A result as JSON: times in seconds and probabilities as numbers, with names.

    Args:
        timeline: of the sound.
        k: classes of a window, and of the whole sound.
        options: what counts as an event.

    Returns:
        `duration_s`, `note`, `whole` (the sound without silence: `silent`, `unfamiliar`, `top`, and `detected` of a
        multi-label model, as in `windows`), `windows` (`inference.output.rows`) and `events`
        (`inference.output.event_entry`).
    """
    whole = timeline.whole()
    detected = {} if timeline.task.exclusive else {"detected": list(whole.detected) if whole else []}
    return {
        "duration_s": round(timeline.duration_s, 4),
        "note": timeline.note,
        "whole": {
            "silent": whole is None,
            "unfamiliar": bool(whole and whole.unfamiliar),
            **detected,
            "top": output.top(whole, k),
        },
        "windows": output.rows(timeline, k),
        "events": [output.event_entry(event) for event in find_events(timeline, options)],
    }
