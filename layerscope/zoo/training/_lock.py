"""One process at a time trains a series."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from layerscope.errors import ResultError

__all__ = ["training_lock"]

_LOCK = ".lock"
_LOOK_EVERY_S = 0.2


@contextmanager
def training_lock(folder: Path) -> Iterator[None]:
    """Be the only process that trains in a folder; wait for another that does, and say so.

    The system lets go of the lock when a process ends, however that is; the file stays.

    Raises
    ------
    ResultError
        If the folder can't be made or written to, or its file system has no locks.
    """
    lock = FileLock(folder / _LOCK)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            warnings.warn(
                f"another process trains this series in {folder}; waiting for it, to take over "
                "what it recorded",
                stacklevel=4,
            )
            lock.acquire(poll_interval=_LOOK_EVERY_S)
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ResultError(
            f"can't write {folder / _LOCK}: {reason}. Choose another folder with out= (--out)."
        ) from None
    try:
        yield
    finally:
        lock.release()
