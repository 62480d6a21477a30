"""How much memory there is, asked before it is filled."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from layerscope.errors import DataError

__all__ = ["available", "require"]

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")


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
    """Bytes that a container, or a job of a cluster, may still take (control groups, 1 and 2)."""
    left = [room for room in map(_room, _groups()) if room is not None]
    return min(left, default=None)


def _groups() -> list[tuple[Path, tuple[str, str, str]]]:
    """List this process's control groups and those around them, each with the files that say it."""
    two = ("memory.max", "memory.current", "inactive_file ")
    one = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file ")
    # Inside a container its own group may stand at the top, whatever its name is outside.
    found = {_CGROUP: two, _CGROUP / "memory": one}
    with suppress(OSError, ValueError):
        for line in _OWN_GROUPS.read_text(encoding="utf-8").splitlines():
            _, kinds, path = line.split(":", 2)
            if kinds and "memory" not in kinds.split(","):
                continue
            top = _CGROUP / "memory" if kinds else _CGROUP
            inner = top / path.strip("/")
            for group in (inner, *inner.parents):
                if group.is_relative_to(top):
                    found[group] = one if kinds else two
    return list(found.items())


def _room(group: tuple[Path, tuple[str, str, str]]) -> int | None:
    folder, (most, now, idle) = group
    try:
        limit = int((folder / most).read_text(encoding="ascii"))
        used = int((folder / now).read_text(encoding="ascii"))
        lines = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
        # Files that were read stay in memory until something else needs the room.
        (cached,) = (line.split()[1] for line in lines if line.startswith(idle))
    except (OSError, ValueError):
        return None
    return max(limit - used + int(cached), 0)
