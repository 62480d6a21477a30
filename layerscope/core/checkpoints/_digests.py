"""Digests of files, each taken once in a process."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

from layerscope.base import files
from layerscope.errors import CheckpointError

__all__ = ["file_digest"]

_SETTLED_NS = 2 * 10**9
"""Age from which on a file that is written to gets another time: clocks of some are coarse."""

_KNOWN: dict[tuple[Path, int, int, int], str] = {}


def file_digest(path: Path) -> str:
    """Take the SHA-256 of a file, or remember it where size, time and inode are what they were.

    A file that was written a moment ago is read each time: what follows within one tick of the
    file system's clock would go unnoticed, as in Git's index.
    """
    found = path.stat()
    stamp = path.resolve(), found.st_size, found.st_mtime_ns, found.st_ino
    if stamp in _KNOWN:
        return _KNOWN[stamp]
    with files.open_file(path, error=CheckpointError, what="a checkpoint") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if time.time_ns() - max(found.st_mtime_ns, found.st_ctime_ns) > _SETTLED_NS:
        _KNOWN[stamp] = digest
    return digest
