"""The name of a file given once: of several processes that write it, exactly one gives the content.

A hard link does it: it is made only where there is no such name yet, on network file systems too.
Where there are none (FAT, many shares, file systems in user space), folders elect: each process
moves its draft into a folder of its own, its ballot, and renames that to the one name of the booth.
A folder takes the place of an empty one or of none, never that of one with something in it, and it
comes with what is in it. So there is one ballot in the booth, whoever looks sees the same, and
whoever looks may publish it: none has to wait for another, which may be dead.

Only what was in the booth *before* the name was seen to be free may be published. Then nothing has
been published yet, nobody has taken that ballot away, and none but it ever will be published. Seen
in the other order, another file may have been published and its ballot removed in between, and
what is in the booth may be that of one who came too late.
"""

from __future__ import annotations

import errno
import hashlib
import os
from contextlib import suppress
from pathlib import Path

from layerscope.base.writing._draft import beside
from layerscope.base.writing._failing import FAULTS

__all__ = ["name_once"]

_TURNS = 1000
"""Of an election: two are enough, unless others remove the file all the time."""


def name_once(draft: Path, target: Path) -> None:
    """Give a draft its name, unless there is a file of that name.

    Raises
    ------
    OSError
        If that fails.
    """
    try:
        os.link(draft, target)
    except FileExistsError:
        return
    except OSError:
        if _has_links(draft, target):
            # It failed for once. Electing beside others who link would let two win.
            with suppress(FileExistsError):
                os.link(draft, target)
            return
    else:
        return
    _elect(draft, target)


def _has_links(draft: Path, target: Path) -> bool:
    """Check whether the file system has hard links, with a name that nobody else uses."""
    other = beside(target)
    try:
        os.link(draft, other)
    except OSError as error:
        if error.errno in FAULTS:
            raise
        return False
    with suppress(OSError):
        other.unlink()
    return True


def _elect(draft: Path, target: Path) -> None:
    """Agree with other processes on whose draft takes the name."""
    booth = beside(target, hashlib.sha256(os.fsencode(target.name)).hexdigest()[:12])
    ballot = beside(target)
    ballot.mkdir()
    try:
        draft.rename(ballot / draft.name)
        for _ in range(_TURNS):
            _hand_in(ballot, booth)
            if _publish(booth, target):
                return
        raise OSError(errno.EBUSY, f"{booth} is changed by others all the time")
    finally:
        _take_away(draft.name, ballot, booth)


def _hand_in(ballot: Path, booth: Path) -> None:
    """Put a ballot into the booth, unless there is one in it."""
    if not ballot.is_dir():
        return  # handed in before
    try:
        ballot.rename(booth)
    except OSError as error:
        # Windows refuses with another number, also where the booth is empty.
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) and not booth.is_dir():
            raise


def _publish(booth: Path, target: Path) -> bool:
    """Give the name to the draft in the booth; True once there is a file of that name."""
    try:
        inside = list(booth.iterdir())
    except FileNotFoundError:
        inside = []
    if os.path.lexists(target):
        return True
    for draft in inside:
        with suppress(FileNotFoundError):  # another process has just published it
            draft.rename(target)
    if not inside:
        with suppress(OSError):
            booth.rmdir()
    return False


def _take_away(name: str, ballot: Path, booth: Path) -> None:
    """Remove what was handed in, where it was not elected, and folders that are empty."""
    for folder in (ballot, booth):
        with suppress(OSError):
            (folder / name).unlink()
        with suppress(OSError):
            folder.rmdir()
