"""Opening a regular file, and reading no more of it than its kind may have."""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path, PurePosixPath, PureWindowsPath

from layerscope.errors import LayerscopeError

__all__ = [
    "SMALL",
    "Place",
    "file_beside",
    "is_file",
    "is_folder",
    "kind_of",
    "open_file",
    "read_bytes",
    "read_text",
]

Place = str | os.PathLike[str]
Error = type[LayerscopeError]

SMALL = 16 * 2**20
"""Bytes that a manifest, a configuration or another description may have."""

_FLAGS = os.O_RDONLY
for _flag in ("O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC", "O_BINARY"):
    _FLAGS |= getattr(os, _flag, 0)

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFLNK: "a link that leads to itself",
}

_HOLLOW = 64 * 2**20  # bytes from which on it matters how much of a file is there
_FILLED = 1 / 16  # the least part of such a file that lies on the disk
_EXTENTS = 10_000  # parts of a file that are looked at to find out

_LONGEST_NAME = 255  # bytes, on all file systems in use


def open_file(
    path: Place, *, error: Error, what: str = "a file", most: int | None = None
) -> BufferedReader:
    """Open a regular file for reading, without waiting for anybody.

    Its `raw` is for who reads large parts at once to where they are to stay.

    Parameters
    ----------
    path : path
    error : type
        Class of what is raised.
    what : str
        What the file should be, with its article, for messages.
    most : int, optional
        Bytes that it may have.

    Raises
    ------
    LayerscopeError
        Of the class `error`: there is no such file, it may not be read, it is a pipe, a socket, a
        device or a folder, it has more bytes than `most`, or hardly any of the bytes that its
        length says lie on the disk.
    """
    try:
        # Before it is opened: to open a device may already do something.
        _require_regular(path, os.stat(path).st_mode, error, what)  # noqa: PTH116 - any path
        file = open(os.open(path, _FLAGS), "rb")  # noqa: SIM115 - the caller closes it
    except OSError as problem:
        raise error(f"can't read {path}: {problem.strerror}.") from None
    except ValueError:  # a NUL, or half of a character
        raise error(f"can't read {str(path)!r}: no file can have this name.") from None
    try:
        found = os.fstat(file.fileno())
        _require_regular(path, found.st_mode, error, what)
        _require_size(path, found.st_size, most, error, what)
        _require_filled(path, file, found, error)
    except BaseException:
        file.close()
        raise
    return file


def read_bytes(path: Place, *, error: Error, what: str = "a file", most: int = SMALL) -> bytes:
    """Read a whole file of at most so many bytes; errors as of `open_file`."""
    with open_file(path, error=error, what=what, most=most) as file:
        # The system says of some files that they are empty, and they never end.
        room = min(most, max(os.fstat(file.fileno()).st_size, 2**16))
        try:
            content = file.read(room + 1)
        except OSError as problem:
            raise error(f"can't read {path}: {problem.strerror}.") from None
    if len(content) > room:
        raise error(f"{path} is longer than its size says; read it once nothing writes to it.")
    return content


def read_text(path: Place, *, error: Error, what: str = "a text", most: int = SMALL) -> str:
    """Read a whole file of UTF-8.

    Raises
    ------
    LayerscopeError
        As of `open_file`, and where it is not UTF-8.
    """
    content = read_bytes(path, error=error, what=what, most=most)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as problem:
        raise error(
            f"{path} is not {what}: byte {problem.start:,} is not UTF-8. Save it as UTF-8."
        ) from None


def is_file(path: Place) -> bool:
    """Check for a regular file; of a name that no file can have as well."""
    return os.path.isfile(path)  # noqa: PTH113 - Path.is_file raises for a name that is too long


def is_folder(path: Place) -> bool:
    """Check for a folder; of a name that none can have as well."""
    return os.path.isdir(path)  # noqa: PTH112 - as above


def file_beside(path: Place, name: object, *, error: Error) -> Path:
    """Find a file by the name that another, which lies in the same folder, gives it.

    What a stranger wrote may not lead out of its own folder, neither by its name nor by a link;
    but links from a snapshot of the Hugging Face hub's cache go to its blobs.

    Parameters
    ----------
    path : path
        Of the file that says the name.
    name : str
        As it says it.
    error : type
        Class of what is raised.

    Raises
    ------
    LayerscopeError
        Of the class `error`: it is no plain name, or a link that leads elsewhere.
    """
    if not isinstance(name, str) or not _is_plain(name):
        raise error(
            f"{path} names {str(name)[:_LONGEST_NAME]!r}, which is no file beside it; it must be "
            "the plain name of a file in the same folder."
        )
    folder = Path(path).parent
    root, target = (Path(os.path.realpath(each)) for each in (folder, folder / name))
    in_cache = root.parent.name == "snapshots" and target.parent == root.parents[1] / "blobs"
    if not (target.is_relative_to(root) or in_cache):
        raise error(
            f"{folder / name} is a link to {target}, out of its folder; put the file itself there, "
            "or give its path yourself."
        )
    return folder / name


def _is_plain(name: str) -> bool:
    try:
        length = len(os.fsencode(name))
    except UnicodeEncodeError:
        return False
    alone = all(kind(name).name == name for kind in (PurePosixPath, PureWindowsPath))
    return alone and name not in {"", ".", ".."} and "\0" not in name and length <= _LONGEST_NAME


def kind_of(mode: int) -> str:
    """Call what is no regular file by its kind, from its mode."""
    return _KINDS.get(stat.S_IFMT(mode), "no file")


def _require_regular(path: Place, mode: int, error: Error, what: str) -> None:
    if not stat.S_ISREG(mode):
        raise error(f"can't read {path}: it is {kind_of(mode)}, not a regular file. Give {what}.")


def _require_size(path: Place, size: int, most: int | None, error: Error, what: str) -> None:
    if most is not None and size > most:
        raise error(
            f"{path} is {size:,} bytes long; {what} has at most {most:,}. Is it another file?"
        )


def _require_filled(path: Place, file: BufferedReader, found: os.stat_result, error: Error) -> None:
    """Refuse a file that was laid out and never filled, as by a download that was broken off.

    The blocks that a file takes say so only where it was written a while ago, and not packed by the
    file system: the holes themselves are looked for.
    """
    blocks = getattr(found, "st_blocks", None)
    least = found.st_size * _FILLED
    if blocks is None or found.st_size < _HOLLOW or blocks * 512 >= least:
        return
    there = _count_filled(file.fileno(), found.st_size, int(least))
    if there < least:
        raise error(
            f"{path} is {found.st_size:,} bytes long, of which {there:,} lie on the disk; the rest "
            "is a hole, as a download leaves it that was broken off. Fetch or copy it again."
        )


def _count_filled(descriptor: int, size: int, enough: int) -> int:
    """Count the bytes of a file that are no holes, until there are enough of them."""
    at = there = 0
    try:
        for _ in range(_EXTENTS):
            start = os.lseek(descriptor, at, os.SEEK_DATA)
            at = os.lseek(descriptor, start, os.SEEK_HOLE)
            there += at - start
            if at >= size or there >= enough:
                break
        else:
            return size
    except OSError as problem:
        if problem.errno != errno.ENXIO:  # which says that nothing but a hole follows
            return size
    except AttributeError:  # no system that can tell
        return size
    finally:
        os.lseek(descriptor, 0, os.SEEK_SET)
    return there
