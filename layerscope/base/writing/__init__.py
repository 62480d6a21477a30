"""Files that are written whole or not at all, and only where a regular file may stand.

One way for all of them: a draft beside the file, which is made to last, read back and compared,
and takes its name only then. Nothing is drafted in the temporary folder, which may be full, small
or missing where the folder of the file is none of these.

>>> import tempfile
>>> from pathlib import Path
>>> path = Path(tempfile.mkdtemp()) / "new" / "notes.txt"
>>> write_bytes(path, b"kept").read_bytes()
b'kept'
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from layerscope.base import owners
from layerscope.base.writing import _draft, _folders, _naming
from layerscope.base.writing._failing import failures, write_error

__all__ = ["failures", "make_folder", "sync_files", "sync_folder", "write_bytes", "write_error"]


def write_bytes(path: Path, content: bytes | memoryview, *, once: bool = False) -> Path:
    """Write a file through a draft beside it, so that it is never half there.

    A link stays one: what it leads to is written. A file that is replaced hands on its mode.

    Parameters
    ----------
    path : Path
    content : bytes or memoryview of bytes
    once : bool
        Leave the file that is there already, also if another process wrote it just now: of several
        that write at once, one gives the content, on file systems without hard links as well.

    Raises
    ------
    ResultError
        If the folder can't be made or written to, what is there is no regular file, or what was
        read back is not what was written. Nothing half-written stands under the name then.
    """
    with failures(path):
        target = Path(os.path.realpath(path))
        mode = _draft.replaceable_mode(path, target)
        if not once:
            owners.sweep_drafts(target.parent, [target.name])
        _folders.make(target.parent)
        draft = _draft.beside(target)
        try:
            _draft.write(draft, content, mode)
            if once:
                _naming.name_once(draft, target)
            else:
                draft.replace(target)
        finally:
            with suppress(OSError):
                draft.unlink()
    with failures(path, named=True):
        _folders.sync(target.parent)
    return path


def make_folder(folder: Path, known_as: Path | None = None) -> Path:
    """Make a folder and those above it, to last.

    Parameters
    ----------
    folder : Path
    known_as : Path, optional
        What messages call it, such as the name that a draft is to get.

    Raises
    ------
    ResultError
        If it can't be made.
    """
    with failures(known_as or folder):
        _folders.make(Path(os.path.realpath(folder)))
    return folder


def sync_folder(folder: Path) -> None:
    """Make names in a folder last, such as that of a folder that was renamed.

    Raises
    ------
    ResultError
        If the disk fails; a file system that can't do that is left to its own ways.
    """
    with failures(folder, named=True):
        _folders.sync(folder)


def sync_files(folder: Path) -> None:
    """Make files last that other libraries wrote into a folder, before it takes its name.

    Raises
    ------
    ResultError
        If that can't be done, for example on a full disk.
    """
    with failures(folder):
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.is_symlink():
                _draft.sync(path)
        for inner in [*sorted(folder.rglob("*"), reverse=True), folder]:
            if inner.is_dir() and not inner.is_symlink():
                _folders.sync(inner)
