"""Calls of this process that change files, counted; some of them fail.

>>> with writing_calls(folder, once(7, errno.EIO)) as calls:                # doctest: +SKIP
...     layerscope.sweep(net, data, out=folder)
>>> calls.seen[7]                                                           # doctest: +SKIP
'fsync parts-4/.batch-000000-rows-00000-00001.npz.….tmp'

Counted are calls of `os` by the thread that is at it, on what lies in a folder. A file that was
opened for writing in another way, as libraries do, is listed in ``calls.passed_by``.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

Fail = Callable[[int, str], int | None]
"""From the number and the name of a call to the number of the error that it is to give."""

_ON_PATHS = ("mkdir", "link", "symlink", "replace", "rename", "unlink", "remove", "rmdir", "chmod")
_ON_FILES = ("write", "fsync", "close")
BARRED = (*_ON_PATHS, "open")
"""Calls that a folder without permission, or a file system that is read only, refuses."""

_FOR_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


@dataclass
class Calls:
    """What was called, and what files would be after a power failure.

    Attributes
    ----------
    seen : list of str
    passed_by : list of str
    unsafe : list of str
        Names that were given to files whose content would not have outlived a power failure.
    fails : callable
    """

    root: Path
    fails: Fail
    seen: list[str] = field(default_factory=list)
    passed_by: list[str] = field(default_factory=list)
    unsafe: list[str] = field(default_factory=list)
    unsynced: set[int] = field(default_factory=set)
    opened: dict[int, Path] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)

    def count(self, name: str, path: Path) -> int | None:
        """Note a call; return the number of the error that it is to give."""
        said = f"{name} {path.relative_to(self.root)}" if path != self.root else f"{name} ."
        number = self.fails(len(self.seen), name)
        self.seen.append(said)
        if number is not None:
            self.failed.append(said)
        return number

    def inside(self, path: Any) -> Path | None:
        """Return a path that lies in the folder, else None."""
        if not isinstance(path, str | os.PathLike):
            return None
        found = Path(os.path.abspath(path))  # noqa: PTH100 - links stay
        return found if found.is_relative_to(self.root) else None


def never(_: int, name: str) -> None:
    """Let nothing fail."""


def once(at: int, number: int) -> Fail:
    """Let one call fail."""
    return lambda count, _: number if count == at else None


def from_on(at: int, number: int, names: tuple[str, ...] = BARRED) -> Fail:
    """Let calls of some names fail from one on."""
    return lambda count, name: number if count >= at and name in names else None


def always(number: int, *names: str) -> Fail:
    """Let every call of some names fail."""
    return lambda _, name: number if name in names else None


@contextmanager
def writing_calls(root: Path, fails: Fail = never) -> Iterator[Calls]:
    """Count calls that change what is in a folder, and let some fail.

    A call that fails has done nothing, but for two: what is not synced is lost when `fsync`
    fails, as on Linux, and `close` closes.
    """
    calls, mine = Calls(Path(os.path.realpath(root)), fails), threading.get_ident()

    def raising(number: int | None, *names: Any) -> None:
        if number is not None:
            raise OSError(number, os.strerror(number), *map(os.fspath, names))

    def on_paths(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *more: Any, **options: Any) -> Any:
            last = more[0] if name in ("link", "symlink", "replace", "rename") else path
            found = calls.inside(last)
            if found is None or threading.get_ident() != mine or options.get("dir_fd") is not None:
                return real(path, *more, **options)
            raising(calls.count(name, found), last)
            if name in ("link", "replace", "rename") and _is_unsynced(calls, Path(path)):
                calls.unsafe.append(f"{name} {found.name}")
            return real(path, *more, **options)

        return call

    def on_files(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(file: Any, *more: Any) -> Any:
            if file not in calls.opened or threading.get_ident() != mine:
                return real(file, *more)
            path = calls.opened[file]
            number = calls.count(name, path)
            if name == "close":
                del calls.opened[file]
                real(file)
                return raising(number)
            if name == "fsync":
                if number is not None and path.is_file():
                    os.truncate(path, os.fstat(file).st_size // 2)
                calls.unsynced.discard(os.fstat(file).st_ino)
            raising(number)
            if name == "write":
                calls.unsynced.add(os.fstat(file).st_ino)
            return real(file, *more)

        return call

    def open_file(path: Any, flags: int, *more: Any, **options: Any) -> int:
        found = None if threading.get_ident() != mine else calls.inside(path)
        changes = bool(flags & _FOR_WRITING)
        if found is None or not (changes or Path(path).is_dir()):
            return real_open(path, flags, *more, **options)
        raising(calls.count("open" if changes else "look at", found), path)
        file = real_open(path, flags, *more, **options)
        calls.opened[file] = found
        return file

    def other_open(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(file: Any, mode: str = "r", *more: Any, **options: Any) -> Any:
            found = calls.inside(file) if re.search("[wax+]", str(mode)) else None
            if found is None or threading.get_ident() != mine:
                return real(file, mode, *more, **options)
            raising(calls.count("open", found), file)
            calls.passed_by.append(str(found))
            return real(file, mode, *more, **options)

        return call

    real_open = os.open
    with pytest.MonkeyPatch.context() as patch:
        for name in _ON_PATHS:
            patch.setattr(os, name, on_paths(name, getattr(os, name)))
        for name in _ON_FILES:
            patch.setattr(os, name, on_files(name, getattr(os, name)))
        patch.setattr(os, "open", open_file)
        patch.setattr(io, "open", other_open(io.open))
        patch.setattr(builtins, "open", other_open(builtins.open))
        yield calls


def _is_unsynced(calls: Calls, path: Path) -> bool:
    return path.is_file() and path.stat().st_ino in calls.unsynced


@dataclass(frozen=True)
class Choice:
    """Every so-many-th of a number of calls, from one on, or from another one each time."""

    every: int
    first: int | None = None

    def of(self, count: int) -> range:
        """Choose among a number of calls."""
        return range(count % self.every if self.first is None else self.first, count, self.every)

    @property
    def few(self) -> bool:
        """Whether most calls are in no case."""
        return self.first is None


def a_few_and_all(number: int, other: int, few: int, shares: int = 1) -> list[Any]:
    """Return cases of the number of an error and of the calls that give it.

    A few calls with one number in the quick suite, and every call with either in the slow one,
    which may share them out among several cases.
    """
    names = errno.errorcode
    every = [
        pytest.param(
            each, Choice(shares, share), marks=pytest.mark.slow,
            id=f"{names[each]} at every call" + f", {share + 1} of {shares}" * (shares > 1),
        )
        for each in (number, other)
        for share in range(shares)
    ]  # fmt: skip
    return [pytest.param(number, Choice(few), id=names[number]), *every]


def fail_at(at: int, number: int) -> Fail:
    """Let one call fail; for good, where it is said that nothing may be written."""
    lasting = number in (errno.EROFS, errno.EACCES)
    return from_on(at, number) if lasting else once(at, number)


def ends_of(places: range, attempt: Callable[[int], tuple[Any, str, list[str]]]) -> dict[str, int]:
    """Count how attempts end in which the call at each of some places fails; none may be wrong."""
    ends = {"finished": 0, "told": 0}
    for at in places:
        _, ended, found = attempt(at)
        assert found == [], found
        ends[ended] += 1
    return ends
