"""Layout of a netCDF file, looked at before any value of it is read.

A few kilobytes of HDF5 can declare terabytes: chunks that were never written, or inflate without
end, or one string that stands in a million places. And one file can name others, which are then
read in its place. Of what is refused here no Dataset of this package has anything.
"""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import h5py  # type: ignore[import-untyped]
import numpy as np

from layerscope.errors import ResultError
from layerscope.results import _lengths as lengths
from layerscope.results._lengths import DEFLATE, FLETCHER, SHUFFLE

__all__ = ["check"]

_FREE = 2**27
"""Bytes to which any file may unfold, however short it is."""

_SWELL = 100
"""And how many times its own length beyond: outcomes are packed, and much of them is alike."""

_LONGEST_CHUNK = 2**26
_CHUNKS = 100_000
_VARIABLES = 2_000
_ATTRIBUTES = 2_000
_ATTRIBUTE = 2**24
_STRINGS = 2**26
"""Bytes of strings that are read at once to find out how long they are."""

_FILTERS = (DEFLATE, SHUFFLE, FLETCHER)
_DEFLATED = 1032
"""Times its length to which deflate unfolds at most (RFC 1951: 258 bytes in two bits)."""

_SCALES = ("DIMENSION_LIST", "REFERENCE_LIST")
"""HDF5's own: of what has no fixed length they hold references alone, one for each dimension."""

_DIMENSION = b"This is a netCDF dimension but not a netCDF variable"


def check(file: Any, opened: BinaryIO, held: int) -> None:
    """Check an open HDF5 file against its length.

    Parameters
    ----------
    file : h5py.File
    opened : file
        The same, open to be read.
    held : int
        Bytes of the file.

    Raises
    ------
    ResultError
        If it leads to other files, is packed by what is not read here, or unfolds to much more
        than it holds; says of which variable, without the path.
    """
    budget = max(_FREE, _SWELL * held)
    total = 0
    objects = list(_objects(file))
    for name, found in objects:
        _check_attributes(name, found, held)
        if not isinstance(found, h5py.Dataset):
            continue
        if _is_dimension(found):
            total += 8 * found.size  # numbered where it is asked for
        else:
            total += _check_variable(name, found, opened, held, budget)
        if total > budget:
            raise ResultError(
                f"it has {held:,} bytes and declares {total:,} up to the variable {name}, more "
                "than such a file is taken to unfold to. Where you trust its origin, open it with "
                "xarray.open_dataset and give the Dataset"
            )
    _check_texts([found for _, found in objects], file, opened, held)


def _objects(file: Any) -> Iterator[tuple[str, Any]]:
    """Yield groups and variables of a file, each once: a group may hold itself."""
    yield "the file", file
    seen, waiting = {h5py.h5o.get_info(file.id).addr}, [file]
    while waiting:
        group = waiting.pop()
        if len(seen) + len(group) > _VARIABLES:
            raise ResultError(f"it has over {_VARIABLES:,} variables, more than a Dataset has")
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise ResultError(f"{name} is a link to something else, which is not followed")
            found = group[name]
            if (place := h5py.h5o.get_info(found.id).addr) in seen:
                continue
            seen.add(place)
            yield str(found.name), found
            if isinstance(found, h5py.Group):
                waiting.append(found)


def _is_dimension(variable: Any) -> bool:
    """Tell a dimension without values, which stands there as a variable that is never read."""
    if "NAME" not in variable.attrs or variable.attrs.get_id("NAME").dtype.kind != "S":
        return False
    said = variable.attrs["NAME"]
    return isinstance(said, bytes) and said.startswith(_DIMENSION)


def _check_variable(name: str, variable: Any, opened: BinaryIO, held: int, budget: int) -> int:
    """Check one variable; return the bytes that it takes in memory."""
    if variable.is_virtual or variable.external:
        raise ResultError(f"{name} lies in other files, which are not read")
    strings = h5py.check_string_dtype(variable.dtype)
    known = strings is not None or variable.dtype.kind in "biuf"
    if not known or variable.shape is None:
        raise ResultError(f"{name} holds {variable.dtype}, neither numbers nor strings")
    width: int = max(8, variable.dtype.itemsize)  # as what it is decoded to
    size = int(math.prod(variable.shape)) * width
    if size <= budget and variable.chunks:
        _check_chunks(name, variable, held)
    if size <= budget and strings is not None and strings.length is None:
        lengths.require_values(name, variable, opened, held)
        size += _measure_strings(name, variable, held, budget)
    return size


def _check_chunks(name: str, variable: Any, held: int) -> None:
    length = math.prod(variable.chunks) * lengths.width_of(variable)
    pairs = zip(variable.shape, variable.chunks, strict=True)
    count = math.prod(-(-size // chunk) for size, chunk in pairs)
    if length > _LONGEST_CHUNK or count > max(_CHUNKS, held // 64):
        raise ResultError(
            f"{name} lies in {count:,} chunks of {length:,} bytes; expected at most "
            f"{_LONGEST_CHUNK:,} bytes each, and not so many"
        )
    packed = _is_deflated(name, variable)
    large: list[tuple[int, ...]] = []

    def look(chunk: Any) -> None:
        # Deflate makes nothing longer than by some bytes.
        if chunk.size > 1.01 * length + 1024:
            raise ResultError(f"a chunk of {name} is {chunk.size:,} bytes long, for {length:,}")
        if packed and chunk.size * _DEFLATED > _LONGEST_CHUNK:
            large.append(chunk.chunk_offset)

    variable.id.chunk_iter(look)
    for offset in large:
        _, content = variable.id.read_direct_chunk(offset)
        # HDF5 itself makes room for as much as comes.
        if len(zlib.decompressobj().decompress(content, length + 8)) > length + 4:
            raise ResultError(f"a chunk of {name} unfolds to more than its {length:,} bytes")


def _is_deflated(name: str, variable: Any) -> bool:
    """Tell whether chunks are packed by gzip; refuse all else that they may be packed by."""
    made = variable.id.get_create_plist()
    filters = [made.get_filter(at)[0] for at in range(made.get_nfilters())]
    after = filters[filters.index(DEFLATE) :] if DEFLATE in filters else []
    # Each once, and shuffled first: then what lies in the file is what deflate made.
    if not set(filters) <= set(_FILTERS) or len(set(filters)) < len(filters) or SHUFFLE in after:
        raise ResultError(
            f"{name} is packed by filters that are not read (HDF5's numbers "
            f"{', '.join(map(str, filters))}); save it with gzip, shuffle and fletcher32 alone"
        )
    return DEFLATE in filters


def _measure_strings(name: str, variable: Any, held: int, budget: int) -> int:
    """Read strings so few at once that they can't be many times the file; return their bytes."""
    longest = total = 0
    for part in _in_parts(variable, held):
        lengths = [len(each) for each in part]
        longest, total = max(longest, *lengths, 0), total + sum(lengths)
        # As an array of equally long ones, with four bytes for each character.
        if max(total, 4 * longest * variable.size) > budget:
            raise ResultError(
                f"{name} holds {variable.size:,} strings of up to {longest:,} bytes, more than a "
                f"file of {held:,} bytes is taken to unfold to"
            )
    return total


def _in_parts(variable: Any, held: int) -> Iterator[list[bytes]]:
    """Yield the strings of a variable, of which each is at most as long as the file."""
    if variable.size * held <= _STRINGS:
        yield variable[()].ravel().tolist() if variable.ndim else [variable[()]]
        return
    step = max(1, _STRINGS // held)
    *outer, inner = variable.shape or (1,)
    for place in itertools.product(*map(range, outer)):
        for start in range(0, inner, step):
            end = min(start + step, inner)
            yield list(variable[(*place, slice(start, end))]) if variable.ndim else [variable[()]]


def _check_attributes(where: str, holder: Any, held: int) -> None:
    count = h5py.h5a.get_num_attrs(holder.id)
    if count > _ATTRIBUTES:
        raise ResultError(f"{where} has {count:,} attributes; expected at most {_ATTRIBUTES:,}")
    for name in holder.attrs:
        found = holder.attrs.get_id(name)
        points, kind = found.get_space().get_simple_extent_npoints(), found.dtype
        # What has no fixed length lies elsewhere in the file, where many may share it.
        shared = kind.hasobject and points > 1 and name not in _SCALES
        if points * (held if shared else kind.itemsize) > (_STRINGS if shared else _ATTRIBUTE):
            raise ResultError(f"the attribute {name} of {where} is too long: {points:,} values")


def _check_texts(holders: Sequence[Any], file: Any, opened: BinaryIO, held: int) -> None:
    """Check attributes of no fixed length, first what they say, then what they hold together."""
    found = [
        (holder, name)
        for holder in holders
        for name in holder.attrs
        if lengths.is_of_no_fixed_length(holder.attrs.get_id(name).get_type(), name)
    ]
    variables = [holder for holder in holders if isinstance(holder, h5py.Dataset)]
    lengths.require_attributes({name for _, name in found}, variables, file, opened, held)
    total = 0
    for holder, name in found:
        if name not in _SCALES:
            values = np.asarray(holder.attrs[name], object).ravel()
            total += sum(0 if isinstance(each, h5py.Empty) else len(each) for each in values)
        if total > held:
            # Each has its own: only a forger lets many share one.
            raise ResultError(f"its attributes hold over {total:,} bytes, more than the file")
