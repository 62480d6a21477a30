"""Digests of what a file holds, kept in the file and compared when it is opened.

HDF5 keeps no checksum of values: a flipped bit is another number. The digests stand in a group of
their own, which xarray leaves behind when it writes what it read: what a user changed and saved
through xarray has none, and is nobody's damage.

Scheme 1: SHA-256 of each variable as it lies in the file, before any decoding, over a line of JSON
with its type, dimensions and shape, its values in C order (numbers little-endian; of texts the
UTF-8, each after its length in eight bytes), and the digest of its attributes in the order of their
names. The file's own attributes have theirs as an attribute of the group. It is taken through h5py
alone: what versions of xarray make of one file may differ, what lies in it does not.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from layerscope.errors import ResultError

__all__ = ["GROUP", "compare", "write_digests"]

GROUP = "layerscope_digests"

_SCHEME = 1
_BLOCK = 2**24  # bytes that are read at once
_DIMENSIONS, _SCALES = "DIMENSION_LIST", "REFERENCE_LIST"
"""Attributes of HDF5 that point to other variables: places in the file, which may be others."""

_WHAT_NOW = (
    "Copy it again from where it is whole, or compute it again. Where you changed it in place "
    "yourself, save it anew: layerscope.save(xarray.load_dataset({0!r}), {0!r})."
)


@dataclass(frozen=True)
class _Digests:
    """Digests of the variables by name, coordinates among them, and of the file's attributes."""

    variables: Mapping[str, str]
    attributes: str


def write_digests(file: Any) -> None:
    """Add to an ``h5py.File``, opened to be written, the digests of what lies in it."""
    import h5py  # type: ignore[import-untyped]

    variables = {name: _of_variable(file, name) for name in _names(file)}
    group = file.create_group(GROUP)
    group.attrs.update({"scheme": _SCHEME, "attributes": _of_attributes(file.attrs)})
    for name, texts in (("variable", variables.keys()), ("sha256", variables.values())):
        group.create_dataset(name, data=list(texts), dtype=h5py.string_dtype())
    # As netCDF has its dimensions, so that any of its readers opens the group.
    group["variable"].make_scale("variable")
    group["sha256"].dims[0].attach_scale(group["variable"])


def compare(file: Any, path: str | os.PathLike[str], *, values: bool = True) -> None:
    """Compare an open ``h5py.File`` with its digests, if it was saved with any.

    Parameters
    ----------
    file : h5py.File
    path : path
        For messages.
    values : bool
        False compares the file's own attributes alone, which reads no values.

    Raises
    ------
    ResultError
        If a variable, or the attributes, are not what was saved; if the digests can't be read, or
        a newer layerscope wrote them.
    """
    if GROUP not in file:
        return
    digests = _read(file[GROUP], path)
    if _of_attributes(file.attrs) != digests.attributes:
        raise _changed(path, "its attributes are not what was saved")
    if not values:
        return
    there = set(_names(file))
    for name in sorted(digests.variables.keys() - there):
        raise _changed(path, f"the variable {name!r}, which was saved, is not there")
    for name in sorted(there - digests.variables.keys()):
        raise _changed(path, f"the variable {name!r} was not saved")
    for name, digest in digests.variables.items():
        if _of_variable(file, name) != digest:
            raise _changed(path, f"the variable {name!r} is not what was saved")


def _read(group: Any, path: str | os.PathLike[str]) -> _Digests:
    try:
        scheme = int(np.asarray(group.attrs["scheme"]).item())
        if scheme <= _SCHEME:
            names, found = (group[each].asstr()[...].tolist() for each in ("variable", "sha256"))
            return _Digests(dict(zip(names, found, strict=True)), str(group.attrs["attributes"]))
    except (LookupError, TypeError, ValueError, AttributeError, OSError, RuntimeError):
        raise _changed(path, "its digests can't be read, so that it is damaged") from None
    raise ResultError(
        f"{path} was saved by a newer layerscope, whose digests this one can't compare; "
        "upgrade layerscope, or open the file with xarray.open_dataset."
    )


def _changed(path: str | os.PathLike[str], what: str) -> ResultError:
    return ResultError(f"{path}: {what}. {_WHAT_NOW.format(str(path))}")


def _names(file: Any) -> Iterable[str]:
    """Names of the variables: all but groups."""
    return [name for name in file if file.get(name, getclass=True).__name__ == "Dataset"]


def _of_variable(file: Any, name: str) -> str:
    variable = file[name]
    dims = [_base(file[each[0]]) for each in variable.attrs.get(_DIMENSIONS, ()) if len(each)]
    about = [_type_of(variable.dtype), dims, list(variable.shape or ())]
    seen = hashlib.sha256(f"{json.dumps(about)}\n".encode())
    for block in _blocks(variable):
        _add(seen, block)
    seen.update(_of_attributes(variable.attrs).encode())
    return seen.hexdigest()


def _base(variable: Any) -> str:
    return str(variable.name).rpartition("/")[2]


def _type_of(dtype: Any) -> str:
    return "text" if dtype.hasobject else dtype.newbyteorder("<").str


def _blocks(variable: Any) -> Iterator[Any]:
    """Values piece by piece, so that no second copy of a large variable is held."""
    if not variable.shape or variable.nbytes <= _BLOCK:
        yield variable[()]
        return
    step = max(1, _BLOCK * variable.shape[0] // variable.nbytes)
    for start in range(0, variable.shape[0], step):
        yield variable[start : start + step]


def _of_attributes(attributes: Mapping[str, Any]) -> str:
    seen = hashlib.sha256()
    for name in sorted(set(attributes) - {_DIMENSIONS, _SCALES}):
        value = np.asarray(attributes[name])
        texts = value.dtype.kind in "OUS"
        _add(seen, np.asarray(f"{name} {'text' if texts else _type_of(value.dtype)} {value.shape}"))
        _add(seen, value)
    return seen.hexdigest()


def _add(seen: Any, values: Any) -> None:
    """Take in numbers as they are, and of each text its length first."""
    array = np.asarray(values)
    if array.dtype.kind not in "OUS":
        seen.update(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes())
        return
    for text in array.ravel().tolist():
        content = text if isinstance(text, bytes) else str(text).encode(errors="surrogateescape")
        seen.update(len(content).to_bytes(8, "little") + content)
