"""Values that are no numbers, though they were computed."""

from __future__ import annotations

import numpy as np
import xarray as xr

from layerscope.results._dataset import require


def not_finite(ds: xr.Dataset) -> xr.DataArray:
    """Mark values that were computed, and are NaN or infinite, or come from outputs that were.

    What is NaN in ``value`` and not marked here was not computed.

    Parameters
    ----------
    ds : Dataset
        With ``value``; ``not_finite`` and ``n_examples`` where it has them. In Datasets of earlier
        sweeps, a NaN over some examples was computed if another metric of the cell is a number.

    Returns
    -------
    DataArray of bool
        With the dimensions of ``value``. Errors are marked, too: they are plain numbers, but those
        of a network that names nothing.

    Raises
    ------
    ResultError
        If the Dataset has no such ``value``.

    Examples
    --------
    >>> from layerscope import testing
    >>> ds = testing.dataset(layers=1, draws=1)
    >>> ds.value[0, 1, 0, 0, 1] = float("inf")
    >>> found = not_finite(ds)
    >>> int(found.sum()), bool(found.sel(metric="loss").any())
    (1, True)
    """
    value = require(ds, "layer", "metric")
    found = value.isin([np.inf, -np.inf]) | (value.isnull() & _computed(ds, value))
    if "not_finite" in ds:
        found = found | (ds["not_finite"] > 0)
    return found.transpose(*value.dims).rename("not_finite").drop_attrs()


def _computed(ds: xr.Dataset, value: xr.DataArray) -> xr.DataArray:
    """Mark the cells that were computed, as far as it can be told where the value is NaN."""
    n = ds["n_examples"] if "n_examples" in ds else xr.DataArray(0)
    if "not_finite" in ds:
        return ds["not_finite"].notnull() & (n > 0)
    # Earlier sweeps count the examples of computed cells alone; one number for all tells nothing.
    if not set(value.dims) - {"metric"} <= set(n.dims):
        return xr.zeros_like(value, dtype=bool)
    return value.notnull().any("metric") & (n > 0)
