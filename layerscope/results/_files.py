"""Datasets in files: saved and opened."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

import xarray as xr

from layerscope.base import files, validate
from layerscope.base.writing import write_bytes
from layerscope.errors import ResultError
from layerscope.results import _schema as schema
from layerscope.results._dataset import settings
from layerscope.results._digests import compare, write_digests
from layerscope.results._kept import KEPT
from layerscope.results._meaning import fill_in

OUTCOMES = "outcomes.nc"
"""The file below a sweep's folder that holds what every example gave."""


def save(
    ds: xr.Dataset,
    path: str | os.PathLike[str],
    encoding: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    once: bool = False,
) -> Path:
    """Write a Dataset as netCDF, completely or not at all.

    A link stays one: what it leads to is written. A file that is replaced hands on its mode. The
    digest of every variable goes into the file, which `open_dataset` compares.

    Parameters
    ----------
    ds : Dataset
    path : path
    encoding : mapping, optional
        By variable, how it is laid out in the file, as xarray takes it.
    once : bool
        Leave the file that is there already.

    Raises
    ------
    ResultError
        If the place is not writable, or what is there is no regular file.
    """
    path = validate.path(path, "path", "sweep.nc")
    if not isinstance(ds, xr.Dataset):
        raise ResultError(f"expected an xarray Dataset, got {validate.describe(ds)}.")
    return write_bytes(path, _as_netcdf(ds, encoding), once=once)


def _as_netcdf(ds: xr.Dataset, encoding: Mapping[str, Mapping[str, Any]] | None) -> memoryview:
    """Return a Dataset as a netCDF file in memory.

    Where HDF5 itself can't write a file to its end, such as on a full disk, it can't close it
    either, and takes the process with it. And not through ``ds.to_netcdf``, which asks the Dask
    cluster, where there is one, for a lock.
    """
    import h5netcdf
    import h5py  # type: ignore[import-untyped]
    from xarray.backends import H5NetCDFStore

    draft = io.BytesIO()
    try:
        with h5netcdf.File(draft, "w") as file:
            # In full: what Dask has yet to compute would be left out.
            ds.compute().dump_to_store(H5NetCDFStore(file), encoding=encoding)
        with h5py.File(draft, "r+") as file:
            write_digests(file)
    except (TypeError, ValueError, h5netcdf.CompatibilityError) as error:
        raise ResultError(
            f"the Dataset can't be written as netCDF: {error}. Its attributes have to be numbers, "
            "strings or lists of one kind of them, its names strings."
        ) from None
    # Not closed: views of it live on in the traceback of an error, and it goes with the last one.
    return draft.getbuffer()


def open_dataset(path: str | os.PathLike[str]) -> xr.Dataset:
    """Read a saved Dataset into memory, leaving the file closed.

    Every variable is compared with the digest that `save` left; what has none, as a file of an
    earlier layerscope or one that xarray wrote, is opened as it is. What its metrics and
    perturbations mean is filled in where it was saved before that was written.

    Raises
    ------
    ResultError
        If there is no such file, it is not a Dataset, or it holds other than was saved: names the
        variable.
    """
    path = validate.path(path, "path", "sweep.nc")
    if files.is_folder(path):
        # What every example gave lies beside the Dataset of a sweep.
        found = sorted(each for each in path.glob("*.nc") if each.name not in (OUTCOMES, KEPT))
        if not found:
            raise ResultError(
                f"{path} holds no Dataset (*.nc); a sweep writes it once it is finished, and the "
                "same call goes on with one that was stopped."
            )
        if len(found) > 1:
            raise ResultError(f"{path} holds {len(found)} Datasets (*.nc); name one of them.")
        path = found[0]
    with _opened(path) as ds:
        schema.check(ds.load(), path)
        return fill_in(ds)


def read_settings(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the settings of a saved Dataset, as `settings` does, without its values.

    Of the digests that of the attributes alone is compared.

    Raises
    ------
    ResultError
        As for `open_dataset`.
    """
    with _opened(Path(path), values=False) as ds:
        return settings(ds)


@contextmanager
def _opened(path: Path, *, values: bool = True) -> Iterator[xr.Dataset]:
    if not os.path.exists(path):  # noqa: PTH110 - also of names that no file can have
        raise ResultError(f"there is no Dataset at {path}; give a .nc file that a sweep wrote.")
    import h5py

    from layerscope.results import _layout as layout

    # Opened once: by its name it may be another file the next time, which a process put there.
    with files.open_file(path, error=ResultError, what="a Dataset (.nc)") as opened:
        held = os.fstat(opened.fileno()).st_size
        try:
            # First without xarray, which leaves complaints behind where a file is cut short.
            with h5py.File(opened, "r") as file:
                layout.check(file, opened, held)
                compare(file, path, values=values)
            with _dataset(opened) if values else _attributes(opened) as ds:
                yield ds
        # Of a damaged file HDF5, h5netcdf and xarray raise whatever comes of it.
        except Exception as error:
            if isinstance(error, ResultError) and str(path) in str(error):
                raise
            raise ResultError(f"{path} ({held:,} bytes) is no Dataset: {error}") from None


def _dataset(opened: BufferedReader) -> AbstractContextManager[xr.Dataset]:
    opened.seek(0)
    return xr.open_dataset(opened, engine="h5netcdf")


@contextmanager
def _attributes(opened: BufferedReader) -> Iterator[xr.Dataset]:
    """Open a Dataset without variables: looking at each takes most of the time of opening one."""
    import h5netcdf
    from xarray.backends import H5NetCDFStore

    with h5netcdf.File(opened, "r") as file:
        store = H5NetCDFStore(file)
        yield xr.Dataset(attrs=store.get_attrs())  # type: ignore[no-untyped-call]
