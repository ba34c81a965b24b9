"""Progress bars."""

import functools
import io
import sys

import tqdm

from esc_jax.runtime.progress import progress_bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_shows_what_is_done_of_all(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(tqdm, "tqdm", functools.partial(tqdm.tqdm, mininterval=0, miniters=1))  # show every update
    with progress_bar("embedding", "batch") as update:
        update(3, 4)
        update(4, 4)
    assert "embedding:  75%" in terminal.getvalue() and "4/4" in terminal.getvalue()


def test_nothing_is_shown_without_a_terminal(capsys):
    with progress_bar("embedding", "batch") as update:
        update(1, 1)
    assert capsys.readouterr() == ("", "")
