"""netCDF that is made and read once for each content.

Most of the time of a tiny sweep goes into HDF5, which here works in memory or only reads: neither
is a call that these tests let fail, or a moment of interest to be killed at. So what is made of a
content, and what is read from it, is remembered; files are written and looked at as ever.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from layerscope.results import _files

_made: dict[Any, bytes] = {}
_read: dict[tuple[bool, bytes], xr.Dataset] = {}


@contextmanager
def remembered_netcdf() -> Iterator[None]:
    """Make and read netCDF once for each content; forks remember what this process did."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_files, "_as_netcdf", _making(_files._as_netcdf))
        patch.setattr(_files, "_opened", _reading(_files._opened))
        yield
    _made.clear()
    _read.clear()


def _making(make: Callable[..., memoryview]) -> Callable[..., memoryview]:
    def remembered(ds: xr.Dataset, encoding: Any) -> memoryview:
        ds = ds.assign_attrs({name: _steady(name, value) for name, value in ds.attrs.items()})
        key = _content(ds), repr(encoding)
        if key not in _made:
            _made[key] = bytes(make(ds, encoding))
        return memoryview(_made[key])

    return remembered


def _reading(opened: Callable[..., Any]) -> Callable[..., Any]:
    @contextmanager
    def remembered(path: Path, *, values: bool = True) -> Iterator[xr.Dataset]:
        key = values, _bytes_of(path)
        if key not in _read:
            with opened(path, values=values) as ds:
                found = ds.load()
            if not key[1] or _bytes_of(path) != key[1]:  # replaced by another process meanwhile
                yield found
                return
            _read[key] = found
        yield _read[key].copy(deep=True)

    return remembered


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _steady(name: str, value: Any) -> Any:
    """Return an attribute without how long it took and what was reused: no two were alike."""
    if name == "wall_time_s":
        return 0.0
    if name == "reuse":
        value = re.sub(r'"(\w+_bytes)": \d+', r'"\1": 0', value)
        return re.sub(r'"passes": \{[^}]*\}', '"passes": {}', value)
    return value


def _content(ds: xr.Dataset) -> Any:
    variables = [
        (str(name), each.dims, _plain(each.values), _attributes(each.attrs), repr(each.encoding))
        for name, each in ds.variables.items()
    ]
    return tuple(variables), _attributes(ds.attrs)


def _attributes(attrs: Any) -> Any:
    return tuple((name, _plain(value)) for name, value in attrs.items())


def _plain(value: Any) -> Any:
    if not isinstance(value, np.ndarray):
        return type(value).__name__, repr(value)
    held = repr(value.tolist()) if value.dtype == object else value.tobytes()
    return value.dtype.str, value.shape, held
