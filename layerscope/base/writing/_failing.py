"""Errors of files that can't be written: which file, what is safe, and what to do."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from layerscope.errors import ResultError

__all__ = ["FAULTS", "failures", "write_error"]

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_BARRED = {errno.EACCES, errno.EPERM, errno.EROFS}
_NO_PLACE = {
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP, errno.EILSEQ),
    *(errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP),
}

FAULTS = {errno.EIO, errno.ESTALE, errno.EROFS} | _FULL
"""Numbers of errors that say that something went wrong, and never that a system lacks a call."""

_OTHER_PLACE = "choose another folder with out= (--out)"


def write_error(
    path: str | os.PathLike[str], error: OSError, *, named: bool = False
) -> ResultError:
    """Say of a file that it can't be written, why, what is safe and what to do.

    Parameters
    ----------
    path : path
    error : OSError
    named : bool
        It has its name already, and what failed came after.

    Examples
    --------
    >>> write_error("a/sweep.nc", OSError(errno.EIO, "Input/output error"))
    ResultError("can't write a/sweep.nc: Input/output error. Nothing half-written stands under \
that name. Make the same call again once the disk, or the connection to it, is sound.")
    """
    safe = "Nothing half-written stands under that name."
    if named:
        safe = "It is there, whole, but a power failure may take it away."
    why = error.strerror or str(error)
    return ResultError(f"can't write {os.fspath(path)}: {why}. {safe} {_advice(error.errno)}")


def _advice(number: int | None) -> str:
    if number in _FULL:
        return f"Make room and make the same call again, or {_OTHER_PLACE}."
    if number in _BARRED:
        return f"Allow writing there and make the same call again, or {_OTHER_PLACE}."
    if number in _NO_PLACE:
        return f"{_OTHER_PLACE[0].upper()}{_OTHER_PLACE[1:]}."
    if number == errno.ENAMETOOLONG:
        return "Give a shorter name."
    if number in (errno.EMFILE, errno.ENFILE):
        return "Too many files are open: close some, then make the same call again."
    return "Make the same call again once the disk, or the connection to it, is sound."


@contextmanager
def failures(path: str | os.PathLike[str], *, named: bool = False) -> Iterator[None]:
    """Turn errors of the system into one of ours that names a file.

    Parameters
    ----------
    path : path
        As the user knows it.
    named : bool
        It has its name already.
    """
    try:
        if "\0" in os.fspath(path):
            raise ResultError(
                f"can't write {os.fspath(path)!r}: no file has a NUL in its name. Give another."
            )
        yield
    except OSError as error:
        raise write_error(path, error, named=named) from None
    except UnicodeEncodeError as error:
        raise ResultError(
            f"can't write {os.fspath(path)!r}: {error.reason}. Give a name that a file can have."
        ) from None
