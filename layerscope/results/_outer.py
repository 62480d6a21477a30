"""Outer dimensions: several data sets, or several trained networks of one series, in one Dataset.

Each part is a sweep of its own, and is found again as one.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from layerscope.errors import ResultError
from layerscope.results._dataset import plain_attribute, require, settings, stamp

OUTER = ("task", "model_epoch")
"""Dimensions over which whole sweeps are joined, the outermost first."""

Place = Mapping[str, str | int]
"""Where in the outer dimensions a sweep stands."""

_PART = "part"
"""In the settings of one of several sweeps, where it stands."""

_OF_WEIGHTS = {"task": ("distance", "draw_distance"), "model_epoch": ("distance",)}
"""Variables that do not depend on what is joined."""

_GROWING = ("model_epoch", "epoch", "draw", "metric")
"""Dimensions of which some parts have more than others."""


def join(parts: Sequence[tuple[Place, xr.Dataset]]) -> xr.Dataset:
    """Join sweeps along the outer dimensions that their places name.

    What only some of them have, such as a metric, is NaN (of flags False, of words empty) in the
    others. A coordinate that differs between them gets the dimension.

    Parameters
    ----------
    parts : sequence of (place, Dataset)
        All places name the same dimensions.

    Raises
    ------
    ResultError
        If a metric or perturbation means something else in one of them.
    """
    told = [_told(place, ds) for place, ds in parts]
    joined = _join([(dict(place), ds) for place, ds in parts])
    joined.attrs["runs"] = json.dumps(told)
    return joined


def parts(ds: xr.Dataset) -> dict[str, xr.Dataset]:
    """Cut a Dataset into the sweeps that it was joined of, by the words that say where each stands.

    A part has the metrics, the epochs and the attributes that it had on its own.

    Returns
    -------
    dict of str to Dataset
        One, under no words, where the Dataset has no outer dimension.

    Examples
    --------
    >>> from layerscope import testing
    >>> from layerscope.results import join
    >>> each = testing.dataset()
    >>> both = join([({"task": "news"}, each), ({"task": "code"}, each)])
    >>> list(both.value.dims)[0], list(parts(both)), parts(both)["task news"].equals(each)
    ('task', ['task news', 'task code'], True)
    """
    return {words(place): _part(ds, place) for place in places(ds)}


def places(ds: xr.Dataset) -> list[Place]:
    """List where the parts of a Dataset stand; one place without a name where it has no parts."""
    dims = [dim for dim in OUTER if dim in require(ds).dims]
    values = [ds[dim].values.tolist() for dim in dims]
    return [dict(zip(dims, each, strict=True)) for each in itertools.product(*values)]


def words(place: Place) -> str:
    """Say where a part stands.

    >>> words({"task": "news", "model_epoch": 8})
    'task news, model_epoch 8'
    """
    return ", ".join(f"{dim} {value}" for dim, value in place.items())


def _join(parts: Sequence[tuple[dict[str, Any], xr.Dataset]]) -> xr.Dataset:
    """Join along the innermost dimension first."""
    dims = [dim for dim in OUTER if dim in parts[0][0]]
    if not dims:
        return parts[0][1]
    outermost = dims[0]
    by_value: dict[Any, list[tuple[dict[str, Any], xr.Dataset]]] = {}
    for place, ds in parts:
        inner = {dim: value for dim, value in place.items() if dim != outermost}
        by_value.setdefault(place[outermost], []).append((inner, ds))
    return _along(outermost, {value: _join(inner) for value, inner in by_value.items()})


def _along(dim: str, each: Mapping[Any, xr.Dataset]) -> xr.Dataset:
    """Join Datasets along one new dimension."""
    for name in ("layer", "perturbation", "norm"):
        held = [ds[name].values.tolist() for ds in each.values() if name in ds.coords]
        if any(other != held[0] for other in held):
            raise ResultError(f"parts can't be joined along {dim}: they differ in {name}.")
    full, shared = _extended(list(each.values()))
    variables = {
        str(name): _variable(str(name), dim, full)
        for name in dict.fromkeys(name for ds in full for name in ds.data_vars)
    }
    coords = {
        str(name): shared[str(name)] if name in shared else _variable(str(name), dim, full)
        for name in dict.fromkeys(name for ds in each.values() for name in ds.coords)
    }
    coords[dim] = xr.Variable((dim,), np.array(list(each)))
    joined = xr.Dataset(variables, coords, _common([ds.attrs for ds in full]))
    unit = joined["epoch"].attrs.get("units", "epoch") if "epoch" in joined.coords else "epoch"
    stamp(joined, [dim], {"model_epoch": ("checkpoint that counts as the trained network", unit)})
    return joined


def _extended(each: list[xr.Dataset]) -> tuple[list[xr.Dataset], dict[str, xr.Variable]]:
    """Extend Datasets to what any of them has along some dimensions, and say what stands there."""
    labels = {dim: _labels(dim, each) for dim in _GROWING if any(dim in ds.dims for ds in each)}
    shared = {
        name: _by_label(str(name), str(dims[0]), labels[str(dims[0])], each)
        for name, dims in {n: c.dims for ds in each for n, c in ds.coords.items()}.items()
        if len(dims) == 1 and dims[0] in labels
    }
    full = []
    for ds in each:
        bare = ds.drop_vars([name for name in shared if name in ds.coords and name not in ds.dims])
        fill = {name: _nothing(held.dtype) for name, held in bare.variables.items()}
        full.append(
            bare.reindex({dim: labels[dim] for dim in labels if dim in bare.dims}, fill_value=fill)
        )
    return full, {str(name): variable for name, variable in shared.items()}


def _labels(dim: str, each: Sequence[xr.Dataset]) -> list[Any]:
    """List what any has along a dimension: numbers in order, names as they come."""
    found = dict.fromkeys(
        label for ds in each if dim in ds.dims for label in ds[dim].values.tolist()
    )
    return list(found) if dim == "metric" else sorted(found)


def _by_label(
    name: str, dim: str, labels: Sequence[Any], each: Sequence[xr.Dataset]
) -> xr.Variable:
    """Put what a coordinate says of each label together."""
    said: dict[Any, Any] = {}
    for ds in each:
        if name not in ds.coords:
            continue
        for label, value in zip(ds[dim].values.tolist(), ds[name].values.tolist(), strict=True):
            if not _same(said.setdefault(label, value), value):
                raise ResultError(
                    f"{label!r} differs in {name} between the parts ({said[label]!r} and "
                    f"{value!r}); give one of them another name."
                )
    first = next(ds[name] for ds in each if name in ds.coords)
    values = np.array([said.get(label, _nothing(first.dtype)) for label in labels])
    return xr.Variable((dim,), values, first.attrs)


def _same(a: Any, b: Any) -> bool:
    return bool(a == b) or (a != a and b != b)


def _variable(name: str, dim: str, each: Sequence[xr.Dataset]) -> xr.Variable:
    """Put a variable, or a coordinate, of all Datasets together along the dimension if need be."""
    held = [ds[name].variable for ds in each if name in ds.variables]
    first = held[0]
    if name in _OF_WEIGHTS[dim]:
        for other in held[1:]:
            first = first.copy(data=np.where(np.isnan(first.values), other.values, first.values))
        return first
    same = len(held) == len(each) and all(xr.DataArray(first).equals(xr.DataArray(o)) for o in held)
    # Coordinates alone: a value that happens to be the same is still one of each.
    if same and name in each[0].coords:
        return first
    # One that is alike in all inner parts of some, and not of others, has a dimension less there.
    widest = max(held, key=lambda variable: variable.ndim)
    sizes = dict(widest.sizes)
    empty = widest.copy(data=np.full(widest.shape, _nothing(widest.dtype), widest.dtype))
    like = xr.DataArray(empty)
    full = [xr.DataArray(ds[name].variable if name in ds.variables else empty) for ds in each]
    values = np.stack([array.broadcast_like(like).transpose(*sizes).values for array in full])
    return xr.Variable((dim, *sizes), values, first.attrs)


def _nothing(dtype: np.dtype[Any]) -> Any:
    """Value that stands for none."""
    return {"b": False, "U": "", "O": "", "S": b""}.get(
        dtype.kind, 0 if dtype.kind in "iu" else np.nan
    )


def _common(each: Sequence[Mapping[Any, Any]]) -> dict[Any, Any]:
    """Attributes that all have alike."""
    first, *others = each
    return {
        key: value
        for key, value in first.items()
        if all(key in other and _same(other[key], value) for other in others)
    }


def _told(place: Place, ds: xr.Dataset) -> dict[str, Any]:
    return settings(ds) | {_PART: dict(place)}


def _part(ds: xr.Dataset, place: Place) -> xr.Dataset:
    if not place:
        return ds
    found = ds.sel(place).drop_vars(list(place))
    attrs = _attributes(settings(ds), place)
    found.attrs = {name: plain_attribute(value) for name, value in attrs.items()}
    found = found.sel(metric=_metrics_of(found, attrs))
    if place.get("model_epoch") == attrs.get("distance_from", 0):
        # One checkpoint does not tell which layers move.
        found = found.drop_vars("moved", errors="ignore")
    if "model_epoch" in place and "epoch" in found.dims:
        found = found.sel(epoch=found["epoch"] <= place["model_epoch"])
    return found


def _metrics_of(ds: xr.Dataset, about: Mapping[str, Any]) -> list[str]:
    """List the metrics that a part was measured by, as it says, else those it has a value of."""
    names = [str(name) for name in ds["metric"].values]
    said = about.get("metrics")
    if isinstance(said, list) and (found := [name for name in names if name in said]):
        return found
    known = ds["value"].notnull()
    known = known.any([dim for dim in known.dims if dim != "metric"])
    return [name for name in names if known.sel(metric=name)] or names


def _attributes(about: Mapping[str, Any], place: Place) -> dict[str, Any]:
    """Attributes of one part: what it said itself, in each of the runs that were joined later."""
    runs = [run for run in about.get("runs") or [] if isinstance(run, dict)]
    own = next((run for run in runs if run.get(_PART) == dict(place)), None)
    if own is not None:
        return {name: value for name, value in own.items() if name != _PART}
    inner = [_attributes(run, place) if run.get("runs") else run for run in runs]
    return {**about, "runs": inner} if inner else dict(about)
