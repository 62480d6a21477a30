"""Lengths that texts in a netCDF file say they have, read before HDF5 makes room for them.

A text of no fixed length stands in HDF5 as its length, in four bytes, and where it lies (file
format 3.0, VIII.B). HDF5 makes room for as much as is said, and only then looks: two gigabytes for
a file of two kilobytes. So these bytes are read here without it: of a variable from where it says
its values lie, of an attribute from its message (IV.A.2.m), which is searched for in all that is no
variable's values, by its name.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, BinaryIO

import h5py  # type: ignore[import-untyped]
import numpy as np

from layerscope.errors import ResultError

__all__ = [
    "DEFLATE",
    "FLETCHER",
    "SHUFFLE",
    "is_of_no_fixed_length",
    "require_attributes",
    "require_values",
    "width_of",
]

DEFLATE, SHUFFLE, FLETCHER = 1, 2, 3
"""HDF5's numbers of the ways to pack that are read."""

_PIECE, _OVERLAP = 2**22, 2**12
_LONGEST_NAME = 1024
_LARGE = 2**20  # bytes from which on values are not searched for messages
_STALE = 2**24
"""Bytes that an attribute may say it has in a shorter file: what was removed may still stand there,
from when the file was longer."""

_VARIABLE_LENGTH = 9  # class of such a type
_HEADS = ((1, 8, 8), (2, 8, 1), (3, 9, 1))
"""Versions of the message, with the length of its head and what its parts are padded to."""


def is_of_no_fixed_length(kind: Any, name: str) -> bool:
    """Tell whether an attribute of some HDF5 type is a text, or a list, of no fixed length.

    Raises
    ------
    ResultError
        If there is one in the middle of the type.
    """
    if isinstance(kind, h5py.h5t.TypeStringID):
        return bool(kind.is_variable_str())
    outer = isinstance(kind, h5py.h5t.TypeVlenID)
    inner = kind.get_super() if outer else kind
    if any(inner.detect_class(each) for each in (h5py.h5t.STRING, h5py.h5t.VLEN)):
        raise ResultError(f"the attribute {name} holds {kind.dtype}, neither numbers nor strings")
    return outer


def width_of(variable: Any) -> int:
    """Return how many bytes a value of a variable takes in the file."""
    kind = h5py.check_string_dtype(variable.dtype)
    if kind is None or kind.length is not None:
        return int(variable.dtype.itemsize)
    return _entry(variable).itemsize


def require_values(name: str, variable: Any, opened: BinaryIO, held: int) -> None:
    """Refuse a variable of texts one of which says that it is longer than the file."""
    made = variable.id.get_create_plist()
    if made.get_layout() == h5py.h5d.COMPACT:
        raise ResultError(f"{name} holds strings beside its description, where none are looked for")
    if made.fill_value_defined() == h5py.h5d.FILL_VALUE_USER_DEFINED:
        raise ResultError(f"{name} says itself what stands where no string was written")
    entry = _entry(variable)
    for content in _stored(variable, opened, entry.itemsize):
        if (longest := _longest(content, entry)) > held:
            raise ResultError(f"{name} holds a string of {longest:,} bytes, more than the file")


def require_attributes(
    names: Iterable[str], variables: Sequence[Any], file: Any, opened: BinaryIO, held: int
) -> None:
    """Refuse attributes of no fixed length that say they are longer than the file.

    Parameters
    ----------
    names : iterable of str
        Of those of the file and of all in it.
    variables : sequence of h5py.Dataset
        All of the file.
    file : h5py.File
    opened : file
        The same, open to be read.
    held : int
        Bytes of the file.

    Raises
    ------
    ResultError
        If one is too long, or its message is not found.
    """
    wanted = {name.encode(errors="surrogateescape"): name for name in names}
    if too_long := [name for name in wanted if len(name) > _LONGEST_NAME]:
        raise ResultError(f"an attribute has a name of {len(too_long[0]):,} bytes")
    most, entry = max(held, _STALE), _entry(file)
    for found, place, count in _messages(wanted, variables, opened, held, entry.itemsize):
        opened.seek(place)
        if (longest := _longest(opened.read(count * entry.itemsize), entry)) > most:
            raise ResultError(
                f"the attribute {found.decode(errors='replace')} holds a string of {longest:,} "
                "bytes, more than the file"
            )
        wanted.pop(found, None)
    if wanted:
        raise ResultError(
            f"the attribute {min(wanted.values())} does not lie in the file as HDF5 writes it"
        )


def _entry(holder: Any) -> np.dtype[Any]:
    """Return how a text of no fixed length stands in a file."""
    address = holder.file.id.get_create_plist().get_sizes()[0]
    return np.dtype([("length", "<u4"), ("place", f"V{address + 4}")])


def _longest(content: bytes, entry: np.dtype[Any]) -> int:
    whole = len(content) - len(content) % entry.itemsize
    return int(np.frombuffer(content[:whole], entry)["length"].max(initial=0))


# Variables


def _stored(variable: Any, opened: BinaryIO, width: int) -> Iterator[bytes]:
    """Yield what a variable has in the file itself, unpacked."""
    if variable.chunks is None:
        if (place := variable.id.get_offset()) is not None:
            opened.seek(place)
            yield opened.read(width * variable.size)
        return
    made = variable.id.get_create_plist()
    filters = [made.get_filter(at)[0] for at in range(made.get_nfilters())]
    for _, _, offset in _chunks(variable):
        mask, content = variable.id.read_direct_chunk(offset)
        used = [each for at, each in enumerate(filters) if not mask >> at & 1]
        yield _unpacked(content, used, width, math.prod(variable.chunks) * width)


def _unpacked(content: bytes, filters: Sequence[int], width: int, length: int) -> bytes:
    for each in reversed(filters):
        # A sum, which HDF5 takes of no strings, would stand behind them.
        if each == DEFLATE:
            content = zlib.decompressobj().decompress(content, length + 8)
        elif each == SHUFFLE:
            count = len(content) // width
            columns = np.frombuffer(content[: count * width], np.uint8).reshape(width, count)
            content = columns.T.tobytes()
    return content


def _chunks(variable: Any) -> list[tuple[int, int, tuple[int, ...]]]:
    """List where the chunks of a variable lie, how long each is, and of which values it is."""
    found: list[tuple[int, int, tuple[int, ...]]] = []
    variable.id.chunk_iter(
        lambda each: found.append((each.byte_offset, each.size, each.chunk_offset))
    )
    return found


# Attributes


def _messages(
    names: Collection[bytes], variables: Sequence[Any], opened: BinaryIO, held: int, width: int
) -> Iterator[tuple[bytes, int, int]]:
    """Yield names of attributes, where their values lie, and how many each has."""
    if not names:
        return
    sought, size = frozenset(names), width.to_bytes(4, "little")
    for start, piece in _beside_values(variables, opened, held):
        at = piece.find(size)
        while at >= 0:
            if at >= 4 and piece[at - 4] & 0x0F == _VARIABLE_LENGTH:
                for name, place, count in _messages_at(piece, at - 4, sought):
                    yield name, start + place, count
            at = piece.find(size, at + 1)


def _beside_values(
    variables: Sequence[Any], opened: BinaryIO, held: int
) -> Iterator[tuple[int, bytes]]:
    """Yield all of a file that is not many values, piece by piece, with where each begins."""
    taken: list[tuple[int, int]] = []
    for variable in variables:
        length = variable.id.get_storage_size()
        if length >= _LARGE and variable.chunks:
            taken += [(place, size) for place, size, _ in _chunks(variable)]
        elif length >= _LARGE and (place := variable.id.get_offset()) is not None:
            taken.append((place, length))
    at = 0
    for stop, length in [*sorted(taken), (held, 0)]:
        while at < stop:
            opened.seek(at)
            end = min(at + _PIECE, stop)
            yield at, opened.read(end - at)
            at = end - _OVERLAP if end < stop else stop
        at = max(at, stop + length)


def _messages_at(
    piece: bytes, place: int, names: Collection[bytes]
) -> Iterator[tuple[bytes, int, int]]:
    """Yield what attributes a type may belong to that stands at some place."""
    for length in {len(name) + 1 for name in names}:
        for version, head, pad in _HEADS:
            start = place - _padded(length, pad) - head
            if start < 0 or piece[start] != version or _short(piece, start + 2) != length:
                continue
            name = piece[start + head : start + head + length - 1]
            space = place + _padded(_short(piece, start + 4), pad)
            if name in names and space < len(piece):
                values = space + _padded(_short(piece, start + 6), pad)
                yield name, values, _count(piece[space:values])


def _padded(length: int, pad: int) -> int:
    return -(-length // pad) * pad


def _short(piece: bytes, at: int) -> int:
    return int.from_bytes(piece[at : at + 2], "little")


def _count(space: bytes) -> int:
    """Return how many values a dataspace has (file format 3.0, IV.A.2.b)."""
    version, rank, _, kind = space[:4].ljust(4, b"\0")
    if version == 2 and kind == 2:
        return 0
    first = 8 if version == 1 else 4
    sizes = [space[at : at + 8] for at in range(first, first + 8 * rank, 8)]
    return min(math.prod(int.from_bytes(each, "little") for each in sizes), 2**20)
