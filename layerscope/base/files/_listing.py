"""List a folder that other processes fill, empty and remove."""

from __future__ import annotations

import os
from fnmatch import fnmatchcase
from pathlib import Path

from layerscope.errors import LayerscopeError

__all__ = ["list_folder"]


def list_folder(
    folder: str | os.PathLike[str], pattern: str = "*", *, error: type[LayerscopeError]
) -> list[Path]:
    """List what is in a folder, in no order; nothing where it is missing or was just removed.

    Not by `Path.glob`, which looks for the folder first and, before Python 3.13, raises if it is
    removed before it is read; and which says nothing of one that may not be read.

    Parameters
    ----------
    folder : path
    pattern : str
        Of the names, as of a shell; a star also takes a dot at the beginning.
    error : type
        Class of what is raised.

    Raises
    ------
    LayerscopeError
        Of the class `error`: the folder is there and can't be read.
    """
    try:
        names = os.listdir(folder)  # noqa: PTH208 - names alone
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as problem:
        raise error(
            f"can't read the folder {os.fspath(folder)}: {problem.strerror}. "
            "Allow reading it, or choose another."
        ) from None
    return [Path(folder, name) for name in names if fnmatchcase(name, pattern)]
