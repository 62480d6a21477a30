"""Folders that are made, and whose names last."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from layerscope.base.writing._failing import FAULTS

__all__ = ["make", "sync"]


def make(folder: Path) -> None:
    """Make a folder and those above it; a name that was made just now lasts."""
    if folder.is_dir():
        return
    make(folder.parent)
    try:
        folder.mkdir()
    except FileExistsError:
        if not folder.is_dir():  # a file has the name
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), folder) from None
    sync(folder.parent)


def sync(folder: Path) -> None:
    """Make names in a folder last, where the system can.

    Many can't, or may not open a folder to begin with, and each says so with a number of its own;
    that the disk failed is said with few.
    """
    if os.name != "posix":
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        _pass_over(error)
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        _pass_over(error)
    finally:
        os.close(descriptor)


def _pass_over(error: OSError) -> None:
    if error.errno in FAULTS:
        raise error
