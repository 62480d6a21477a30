"""A draft beside the file that it will be: written, made to last, read back."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from layerscope.base import files, owners
from layerscope.errors import ResultError

__all__ = ["beside", "replaceable_mode", "sync", "write"]

_LONGEST = 255
"""Bytes of a name, on almost every file system."""

_PIECE = 2**22
_BINARY = getattr(os, "O_BINARY", 0)  # Windows


def beside(target: Path, token: str | None = None) -> Path:
    """Name what stands beside a file while it is written: ``.NAME.TOKEN.tmp``.

    Parameters
    ----------
    target : Path
    token : str, optional
        12 hexadecimal digits, the same for all processes; by default the mark of this one, by which
        it is swept after a kill, and a random number.

    Examples
    --------
    >>> beside(Path("out/sweep.nc"), "0123456789ab").as_posix()
    'out/.sweep.nc.0123456789ab.tmp'
    """
    if token is None:
        return owners.draft_of(target)
    suffix = f".{token}.tmp"
    room = _LONGEST - 1 - len(suffix)
    name = os.fsencode(target.name)
    kept = target.name if len(name) <= room else name[:room].decode("utf-8", "ignore")
    return target.with_name(f".{kept}{suffix}")


def replaceable_mode(path: Path, target: Path) -> int | None:
    """Return the mode of the regular file that is there; None where there is nothing."""
    try:
        mode = target.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not stat.S_ISREG(mode):
        kind = files.kind_of(mode)
        raise ResultError(
            f"can't write {path}: it is {kind}, not a regular file. Give the name of a file."
        )
    return stat.S_IMODE(mode)


def write(draft: Path, content: bytes | memoryview, mode: int | None) -> None:
    """Write a draft so that it lasts, and read it back.

    Parameters
    ----------
    draft : Path
        Which is not there yet.
    content : bytes or memoryview of bytes
    mode : int, optional
        Of the file that it will replace.

    Raises
    ------
    OSError
        If a call fails, that of closing included, or what was read back is something else.
    """
    narrow = 0o666 if mode is None else (mode & 0o777) | stat.S_IRUSR | stat.S_IWUSR
    with _opened(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, narrow) as file:
        _write_all(file, memoryview(content))
        os.fsync(file)
    _read_back(draft, memoryview(content))
    # Some file systems have one mode for all files, and refuse to be asked.
    if mode is not None and stat.S_IMODE(draft.lstat().st_mode) != mode:
        draft.chmod(mode)


def sync(path: Path) -> None:
    """Make the content of a file last."""
    with _opened(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR) as file:
        os.fsync(file)


@contextmanager
def _opened(path: Path, flags: int, mode: int = 0o666) -> Iterator[int]:
    """Open a file for as long as the context lasts; that it can't be closed is an error."""
    file = os.open(path, flags | _BINARY, mode)
    try:
        yield file
    except BaseException:
        with suppress(OSError):  # what went wrong before says more
            os.close(file)
        raise
    os.close(file)


def _write_all(file: int, content: memoryview) -> None:
    """Write to the last byte: the system may take less than it is handed."""
    done = 0
    while done < len(content):
        taken = os.write(file, content[done : done + _PIECE])
        if taken <= 0:
            raise OSError(errno.EIO, f"only {done:,} of {len(content):,} bytes were taken")
        done += taken


def _read_back(draft: Path, content: memoryview) -> None:
    """Compare what is there with what was to be written."""
    done, same = 0, True
    with _opened(draft, os.O_RDONLY) as file:
        while piece := os.read(file, _PIECE):
            # As bytes, since views are compared element by element.
            same = same and piece == bytes(content[done : done + len(piece)])
            done += len(piece)
    if not same or done != len(content):
        raise OSError(
            errno.EIO,
            f"it reads otherwise than it was written ({done:,} of {len(content):,} bytes there)",
        )
