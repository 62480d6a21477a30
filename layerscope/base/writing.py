"""Files that are written whole or not at all, and only where a regular file may stand."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from layerscope.errors import ResultError

__all__ = ["write_bytes"]

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFLNK: "a link that leads to itself",
}


def write_bytes(path: Path, content: bytes, *, once: bool = False) -> Path:
    """Write a file through a temporary one beside it, so that it is never half there.

    A link stays one: what it leads to is written. A file that is replaced hands on its mode.

    Parameters
    ----------
    path : Path
    content : bytes
    once : bool
        Leave the file that is there already, also if another process wrote it just now.

    Raises
    ------
    ResultError
        If the folder can't be made or written to, or what is there is no regular file.
    """
    target = Path(os.path.realpath(path))
    # Random, since processes on several machines may share the folder.
    draft = target.with_name(f".{target.name}.{secrets.token_hex(6)}.tmp")
    try:
        mode = _replaceable(path, target)
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(draft, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if mode is not None:
            draft.chmod(mode)
        if once:
            _link(draft, target)
        else:
            draft.replace(target)
        _sync_folder(target.parent)
    except OSError as error:
        raise ResultError(
            f"can't write {path}: {error.strerror}. Choose another folder with out= (--out)."
        ) from None
    finally:
        # Below a regular file there is nothing to remove, which is an error of its own.
        with suppress(OSError):
            draft.unlink()
    return path


def _replaceable(path: Path, target: Path) -> int | None:
    """Return the mode of the regular file that is there; None where there is nothing."""
    try:
        mode = target.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "no file")
        raise ResultError(
            f"can't write {path}: it is {kind}, not a regular file. Give the name of a file."
        )
    return stat.S_IMODE(mode)


def _link(draft: Path, path: Path) -> None:
    """Give a written file its name, unless there is one of that name."""
    try:
        os.link(draft, path)
    except FileExistsError:
        return
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK):
            raise
        # A file system without links: the last writer wins, with the same content.
        draft.replace(path)


def _sync_folder(folder: Path) -> None:
    """Make a new name in a folder last, where the system can."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
