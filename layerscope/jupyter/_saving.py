"""Figures, pages and Datasets written in the background, and a line that says where they are."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from pathlib import Path

import anywidget
import traitlets

from layerscope.jupyter import _words as words
from layerscope.jupyter._strip import static

__all__ = ["Code", "Saved", "Saver"]


class Code(anywidget.AnyWidget):
    """Python, with a button that copies it; nothing where there is none.

    Attributes
    ----------
    text : str
    """

    _esm = static("copy.js", "code.js")
    text = traitlets.Unicode("").tag(sync=True)


class Saved(anywidget.AnyWidget):
    """A line that says what is being saved, and where it is then, with a button that copies that.

    Attributes
    ----------
    text : str
        Nothing is shown where it is empty.
    path : str
        What can be copied; empty while it is being saved, and where it could not be.
    kind : {"info", "busy", "error"}
    """

    _esm = static("copy.js", "saved.js")
    text = traitlets.Unicode("").tag(sync=True)
    path = traitlets.Unicode("").tag(sync=True)
    kind = traitlets.Unicode("info").tag(sync=True)


class Saver:
    """Writes files one after the other, each in a thread, so that clicks are answered meanwhile.

    Parameters
    ----------
    line : Saved
    """

    def __init__(self, line: Saved) -> None:
        self._line, self._one = line, threading.Lock()
        self._threads: list[threading.Thread] = []

    def save(self, path: Path, write: Callable[[Path], object]) -> None:
        """Begin to write a file; nothing is raised, since nobody would see it."""
        work = functools.partial(self._save, path.expanduser().absolute(), write)
        thread = threading.Thread(target=work, name="layerscope", daemon=True)
        self._threads = [each for each in self._threads if each.is_alive()] + [thread]
        thread.start()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until all is written; whether it was in time (seconds for each)."""
        for thread in self._threads:
            thread.join(timeout)
        return not any(thread.is_alive() for thread in self._threads)

    def _save(self, path: Path, write: Callable[[Path], object]) -> None:
        with self._one:
            self._say(f"saving {path.name} …", "busy")
            try:
                write(path)
            except Exception as error:  # noqa: BLE001 - told to the user
                self._say(f"{path.name} is not saved: {words.said(error)}", "error")
            else:
                self._say(f"Saved {path}", "info", str(path))

    def _say(self, text: str, kind: str, path: str = "") -> None:
        with self._line.hold_sync():
            self._line.text, self._line.kind, self._line.path = text, kind, path
