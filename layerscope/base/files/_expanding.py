"""Zip files, which are longer once they are expanded: up to a limit."""

from __future__ import annotations

import os
import struct
import zipfile
from typing import IO

from layerscope.base.files._opening import Error, Place, open_file

__all__ = ["zip_entries"]

_SLACK = 64 * 2**20  # bytes to which anything may expand
_RATIO = 10  # and how many times its own length beyond
_DIRECTORY = 16 * 2**20  # bytes that the list of a zip's entries may have

_END = b"PK\x05\x06"
_END_LENGTH = 22
_COMMENT = 2**16
_LOCATOR_64, _LOCATOR_LENGTH = b"PK\x06\x07", 20
_END_64, _END_64_LENGTH = b"PK\x06\x06", 56


def zip_entries(
    path: Place, *, error: Error, what: str = "a zip file", most: int | None = None
) -> list[zipfile.ZipInfo]:
    """List what is in a zip file whose entries, expanded, are not too long.

    Parameters
    ----------
    path : path
    error : type
        Class of what is raised.
    what : str
        What the file should be, with its article, for messages.
    most : int, optional
        Bytes of all entries once they are expanded; by default ten times the file's own length,
        and 64 MiB.

    Raises
    ------
    LayerscopeError
        Of the class `error`: as of `open_file`; it is no zip; its list of entries is too long; it
        expands to more than `most`.
    """
    with open_file(path, error=error, what=what) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            listed = _directory_length(file, size)
            if listed > min(size, _DIRECTORY):
                raise error(
                    f"{path} ({size:,} bytes) is not {what}: its list of entries is said to have "
                    f"{listed:,} bytes. Copy or save it again."
                )
            with zipfile.ZipFile(file) as opened:
                entries = opened.infolist()
        except (zipfile.BadZipFile, OSError, ValueError, struct.error, NotImplementedError) as why:
            raise error(f"{path} ({size:,} bytes) is damaged or not {what}: {why}.") from None
    expanded = sum(each.file_size for each in entries)
    limit = _SLACK + _RATIO * size if most is None else most
    if expanded > limit:
        raise error(
            f"{path} has {size:,} bytes, and expands to {expanded:,} in {len(entries):,} entries; "
            f"{what} of this length has at most {limit:,}. Where you trust its origin, save it "
            "again without compression."
        )
    return entries


def _directory_length(file: IO[bytes], size: int) -> int:
    """Bytes of the list of entries, as the end of a zip says it: Python reads so many at once."""
    file.seek(max(size - _COMMENT - _END_LENGTH - _LOCATOR_LENGTH - _END_64_LENGTH, 0))
    tail = file.read()
    file.seek(0)
    at = tail.rfind(_END)
    if at < 0 or at + _END_LENGTH > len(tail):
        raise zipfile.BadZipFile("its end is missing")
    before = at - _LOCATOR_LENGTH - _END_64_LENGTH
    long = before >= 0 and tail.startswith(_END_64, before)
    if long and tail.startswith(_LOCATOR_64, at - _LOCATOR_LENGTH):
        return int(struct.unpack_from("<Q", tail, before + 40)[0])
    return int(struct.unpack_from("<L", tail, at + 12)[0])
