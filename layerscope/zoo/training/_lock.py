"""One process at a time trains a series."""

from __future__ import annotations

import errno
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from layerscope.base.writing import make_folder, write_error

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
    make_folder(folder)
    try:
        try:
            lock.acquire(blocking=False)
        except Timeout:
            warnings.warn(
                f"another process trains this series in {folder}; waiting for it, to take over "
                "what it recorded",
                stacklevel=4,
            )
            lock.acquire(poll_interval=_LOOK_EVERY_S)
    except NotImplementedError as error:
        raise write_error(folder / _LOCK, OSError(errno.ENOSYS, str(error))) from None
    except OSError as error:
        raise write_error(folder / _LOCK, error) from None
    try:
        yield
    finally:
        # What can't be closed is closed all the same.
        with suppress(OSError):
            lock.release()
