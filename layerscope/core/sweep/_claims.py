"""Claims: who of several processes is at which piece of work in a folder.

A claim is a link that leads nowhere, made with its content or not at all; it names its process.
Claims only save work. Where one is wrongly taken for a dead process's, a piece is computed twice,
to the same bits; so a claim keeps others away only while its process can be seen to run, or keeps
touching it: after a kill nobody waits for it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from layerscope.base import files
from layerscope.base.owners import Owner, is_touching, keep_touching, stop_touching
from layerscope.errors import ResultError

__all__ = ["SUFFIX", "Claims"]

SUFFIX = ".claim"

_SILENT_S = 30.0
"""A claim on this machine that was not touched for so long is nobody's: its process is stopped, or
gone with its container."""

_SILENT_ELSEWHERE_S = 90.0
"""The same elsewhere: file systems on a network may show for a minute what was before."""

_SILENT_LONG_S = 600.0
"""The same, by clocks of two machines, which may differ."""


class Claims:
    """Claims of this process, and its view of those of others, in one folder.

    Parameters
    ----------
    folder : Path
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._mine: set[Path] = set()
        self._seen: dict[Path, tuple[float, float]] = {}
        for path in self._all():
            self._is_held(path)  # so that their silence counts from now

    def free(self, name: str) -> bool:
        """Tell whether nobody is at a piece."""
        return not self._is_held(self._path(name))

    def taken(self) -> list[str]:
        """List the pieces that other processes are at."""
        claims = (path for path in self._all() if path not in self._mine)
        return [path.stem for path in claims if self._is_held(path)]

    @contextmanager
    def claim(self, name: str) -> Iterator[bool]:
        """Take a piece that nobody is at; False where another process is."""
        path = self._path(name)
        mine = self._take(path)
        try:
            yield mine
        finally:
            if mine:
                self._mine.discard(path)
                _release(path)

    def _all(self) -> list[Path]:
        return files.list_folder(self._folder, f"*{SUFFIX}", error=ResultError)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}{SUFFIX}"

    def _take(self, path: Path) -> bool:
        if self._is_held(path):
            return False
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if path.is_symlink():
                path.unlink(missing_ok=True)
            path.symlink_to(str(Owner.here()))
        except FileExistsError:
            # What is no link is not ours to remove; nothing is claimed then.
            return not path.is_symlink()
        except OSError:
            return True  # where no claims can be made, go on
        self._mine.add(path)
        keep_touching(path)
        return True

    def _is_held(self, path: Path) -> bool:
        """Check whether the process that claimed a piece is still at it."""
        try:
            last, mark = path.lstat().st_mtime, str(path.readlink())
        except OSError:
            return False  # there is none, it was given back just now, or it is no claim of ours
        owner = Owner.of(mark)
        if owner is None or owner.is_gone(last):
            return False
        if mark == str(Owner.here()) and not is_touching(path):
            return False  # given back, and could not be removed
        return not self._is_silent(path, owner, last)

    def _is_silent(self, path: Path, owner: Owner, last: float) -> bool:
        if owner.shares_kernel:
            return time.time() - last > _SILENT_S
        known, since = self._seen.get(path, (None, 0.0))
        now = time.monotonic()
        if known != last:
            self._seen[path], since = (last, now), now
        return now - since > _SILENT_ELSEWHERE_S or time.time() - last > _SILENT_LONG_S


def _release(path: Path) -> None:
    stop_touching(path)
    with suppress(OSError):
        # Another process may have taken it over, while this one was stopped.
        if str(path.readlink()) == str(Owner.here()):
            path.unlink()
