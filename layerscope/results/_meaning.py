"""Meaning of a Dataset's metrics and perturbations: written here, and read here.

It stands in coordinates along ``metric`` and ``perturbation``, so that nobody who reads a Dataset
has to know their names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import xarray as xr

from layerscope.base.validate import describe
from layerscope.errors import OptionError, choose
from layerscope.results._dataset import NO_EPOCH, require, stamp
from layerscope.results._infos import (
    KNOWN_PERTURBATIONS,
    RAND,
    REDRAWN,
    MeasureInfo,
    MetricInfo,
    PerturbationInfo,
    known_metric,
)

_Info = TypeVar("_Info", MetricInfo, PerturbationInfo, MeasureInfo)


_METRIC = {
    "metric_long_name": "long_name",
    "metric_unit": "unit",
    "higher_is_better": "higher_is_better",
    "metric_lower_bound": "lower_bound",
    "metric_upper_bound": "upper_bound",
    "fraction_of": "fraction_of",
    "logarithmic": "logarithmic",
}
_PERTURBATION = {
    "perturbation_label": "label",
    "perturbation_column": "column",
    "perturbation_sign": "sign",
    "stochastic": "stochastic",
    "redraws": "redraws",
    "uses_checkpoint": "uses_checkpoint",
    "towards": "towards",
    "alpha": "alpha",
}
_MEASURE = {
    "measure_long_name": "long_name",
    "measure_unit": "unit",
    "measure_lower_bound": "lower_bound",
    "measure_upper_bound": "upper_bound",
    "measure_logarithmic": "logarithmic",
    "higher_matters": "higher_matters",
}
"""From the name of a coordinate to that of what it holds."""


def coordinates(
    metrics: Iterable[MetricInfo] = (),
    perturbations: Iterable[PerturbationInfo] = (),
    measures: Iterable[MeasureInfo] = (),
) -> dict[str, tuple[str, list[Any]]]:
    """Write what is known as coordinates along ``metric``, ``perturbation`` and ``measure``."""
    return {
        coordinate: (dim, [getattr(info, held) for info in infos])
        for dim, infos, names in (
            ("metric", list(metrics), _METRIC),
            ("perturbation", list(perturbations), _PERTURBATION),
            ("measure", list(measures), _MEASURE),
        )
        for coordinate, held in names.items()
        if infos
    }


def fill_in(ds: xr.Dataset) -> xr.Dataset:
    """Write out what goes by the names alone of a Dataset that was saved before it was written.

    A name that is not known leaves the coordinates out: then nothing is said that nobody knows.

    Examples
    --------
    >>> from layerscope import testing
    >>> fill_in(testing.dataset()).redraws.values
    array([False,  True])
    """
    if "value" not in ds:
        return ds
    metrics = [known_metric(name) for name in _along(ds, "metric")]
    perturbations = [KNOWN_PERTURBATIONS.get(name) for name in _along(ds, "perturbation")]
    known = coordinates(_all_known(metrics), _all_known(perturbations))
    new = {name: coordinate for name, coordinate in known.items() if name not in ds.coords}
    ds = ds.assign_coords(new)
    stamp(ds, new)
    return ds


def _along(ds: xr.Dataset, dim: str) -> list[str]:
    there = dim in ds.coords and ds[dim].dims == (dim,)
    return [str(name) for name in ds[dim].values] if there else []


def _all_known(infos: Sequence[_Info | None]) -> list[_Info]:
    known = [info for info in infos if info is not None]
    return known if len(known) == len(infos) else []


def default_metric(metrics: Iterable[MetricInfo]) -> str:
    """Name the metric to look at where nobody says which: the first error, else the first."""
    infos = list(metrics)
    return next((info.name for info in infos if info.fraction_of == "errors"), infos[0].name)


def metric_name(runs: xr.Dataset | Iterable[xr.Dataset], wanted: Any = None) -> str:
    """Name the metric to look at: the wanted one, else the first error, else the first.

    Parameters
    ----------
    runs : Dataset or iterable of Dataset
        Of several, all must have it.
    wanted : str or Metric, optional

    Raises
    ------
    ResultError
        If one is no Dataset, or has no metrics.
    OptionError
        If not all have it, or they have none in common.

    Examples
    --------
    >>> from layerscope import testing
    >>> ds = testing.dataset()
    >>> metric_name(ds), metric_name(ds.sel(metric=["loss"]))
    ('error', 'loss')
    """
    each = [runs] if isinstance(runs, xr.Dataset) or not isinstance(runs, Iterable) else list(runs)
    there = [[str(name) for name in require(ds, "metric")["metric"].values] for ds in each]
    shared = [name for name in there[0] if all(name in names for names in there)]
    if wanted is not None:
        name = wanted if isinstance(wanted, str) else getattr(wanted, "name", None)
        if not isinstance(name, str):
            came = describe(wanted)
            raise OptionError(f"metric is {came}; give its name: {', '.join(shared)}.")
        return choose(name, shared, "metric in all of these results" if there[1:] else "metric")
    if not shared:
        raise OptionError("these results have no metric in common; look at them one by one.")
    return default_metric(metric(each[0], name) for name in shared)


def metric(ds: xr.Dataset | None, name: str) -> MetricInfo:
    """Read what a Dataset says of a metric, or what goes by its name where it says nothing.

    Parameters
    ----------
    ds : Dataset or None
        None for a metric that no Dataset tells of.
    name : str
        Its coordinate along ``metric``.

    Examples
    --------
    >>> from layerscope import testing
    >>> metric(testing.dataset(), "error").fraction_of
    'errors'
    >>> ds = testing.dataset().assign_coords(higher_is_better=("metric", [True, False]))
    >>> metric(ds, "error").worse
    -1
    """
    return _read(ds, "metric", known_metric(name) or MetricInfo(name), _METRIC)


def measure(ds: xr.Dataset, name: str) -> MeasureInfo:
    """Read what a Dataset says of a measure.

    Parameters
    ----------
    ds : Dataset
        With ``measure_value``.
    name : str
        Its coordinate along ``measure``.

    Raises
    ------
    ResultError
        If it has no measures.
    OptionError
        If there is no such measure.
    """
    names = require(ds, "layer", "measure", variable="measure_value")["measure"].values
    return _read(ds, "measure", MeasureInfo(choose(name, map(str, names), "measure")), _MEASURE)


def perturbation(ds: xr.Dataset | None, name: str) -> PerturbationInfo:
    """Read what a Dataset says of a perturbation, or what goes by its name where it says nothing.

    Parameters
    ----------
    ds : Dataset or None
        None for a perturbation that no Dataset tells of.
    name : str
        Its coordinate along ``perturbation``.

    Examples
    --------
    >>> from layerscope import testing
    >>> perturbation(testing.dataset(), "rerandomize").label
    're-randomised'
    """
    info = KNOWN_PERTURBATIONS.get(name, PerturbationInfo(name))
    return _read(ds, "perturbation", info, _PERTURBATION)


def perturbation_name(ds: xr.Dataset, wanted: str | None = None) -> str:
    """Name the perturbation to look at: the wanted one, else the first that resets, else the first.

    Raises
    ------
    ResultError
        If the Dataset has no perturbations.
    OptionError
        If there is no such perturbation.

    Examples
    --------
    >>> from layerscope import testing
    >>> perturbation_name(testing.dataset())
    'reinitialize'
    """
    names = [str(name) for name in require(ds, "perturbation")["perturbation"].values]
    if wanted is not None:
        return choose(wanted, names, "perturbation")
    return next(iter(resets(ds)), names[0])


def resets(ds: xr.Dataset) -> list[str]:
    """List the perturbations that put a checkpoint back."""
    return [info.name for info in _perturbations(ds) if info.resets]


def redraws(ds: xr.Dataset) -> list[str]:
    """List the perturbations that draw a layer anew, from its own initialiser first."""
    infos = [info for info in _perturbations(ds) if info.redraws]
    return [info.name for info in sorted(infos, key=lambda info: info.column != RAND)]


def act(ds: xr.Dataset) -> str:
    """Name what is done to layers, in a word: "reset", or "perturbed" where nothing puts back."""
    return "reset" if resets(ds) or redraws(ds) else "perturbed"


def _perturbations(ds: xr.Dataset) -> list[PerturbationInfo]:
    return [perturbation(ds, str(name)) for name in ds["perturbation"].values.ravel()]


def draw_distance(ds: xr.Dataset) -> xr.DataArray:
    """Read how far redrawn layers are, with the dimension that earlier versions left out."""
    found = require(ds, "layer", "draw", "norm", variable="draw_distance")
    return found if "perturbation" in found.dims else found.expand_dims(perturbation=[REDRAWN])


def _read(ds: xr.Dataset | None, dim: str, info: _Info, names: Mapping[str, str]) -> _Info:
    if ds is None or dim not in ds.coords or info.name not in ds[dim]:
        return info
    said = {held: ds[coordinate] for coordinate, held in names.items() if coordinate in ds.coords}
    found = {
        held: (each.sel({dim: info.name}) if dim in each.dims else each).item()
        for held, each in said.items()
    }
    if isinstance(info, PerturbationInfo) and not said:
        found = _infer(ds, info.name)
    return replace(info, **found)


def _infer(ds: xr.Dataset, name: str) -> dict[str, bool]:
    """Tell from where there are values whether a perturbation draws, and uses checkpoints."""
    if not {"perturbation", "epoch", "draw"} <= set(ds.get("value", ds).dims):
        return {}
    known = ds["value"].sel(perturbation=name).notnull()
    draws = known.any([dim for dim in known.dims if dim != "draw"])
    epochs = known.any([dim for dim in known.dims if dim != "epoch"])
    return {
        "stochastic": bool(draws.isel(draw=slice(1, None)).any()),
        "uses_checkpoint": bool(epochs.where(epochs["epoch"] != NO_EPOCH, False).any()),
    }
