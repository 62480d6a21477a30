"""How much memory there is, asked before it is filled."""

from __future__ import annotations

import os
from pathlib import Path

from layerscope.errors import DataError

__all__ = ["available", "require"]

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


def available() -> int | None:
    """Bytes that can be taken without swapping; None where the system does not say."""
    known = [value for value in (_of_machine(), _of_group()) if value is not None]
    return min(known, default=None)


def require(need: int, what: str, instead: str) -> None:
    """Refuse what would not fit.

    Parameters
    ----------
    need : int
        Bytes.
    what : str
        What would be loaded.
    instead : str
        What to do where it does not fit: one sentence.

    Raises
    ------
    DataError
        If `need` is more than is available.
    """
    there = available()
    if there is not None and need > there:
        raise DataError(
            f"{what} needs about {need / 2**30:.1f} GiB of memory, and {there / 2**30:.1f} GiB "
            f"are available. {instead}"
        )


def _of_machine() -> int | None:
    try:
        lines = _MEMINFO.read_text(encoding="ascii").splitlines()
        (found,) = (line.split()[1] for line in lines if line.startswith("MemAvailable:"))
        return int(found) * 1024
    except (OSError, ValueError):
        pass
    try:
        # Without caches that could be given up: less than there is, never more.
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _of_group() -> int | None:
    """Bytes that a container may still take (control groups, version 2)."""
    try:
        limit = int((_CGROUP / "memory.max").read_text(encoding="ascii"))
        used = int((_CGROUP / "memory.current").read_text(encoding="ascii"))
        lines = (_CGROUP / "memory.stat").read_text(encoding="ascii").splitlines()
        # Files that were read stay in memory until something else needs the room.
        (cached,) = (line.split()[1] for line in lines if line.startswith("inactive_file "))
    except (OSError, ValueError):
        return None
    return max(limit - used + int(cached), 0)
