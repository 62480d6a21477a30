"""Long tables of a Dataset, in the order of the paper's figure."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from layerscope import results
from layerscope.base.validate import describe
from layerscope.errors import OptionError, choose
from layerscope.stats._arrays import Array, estimate, moments
from layerscope.stats._labelled import (
    difference_of,
    early_bounds,
    estimate_of,
    examples_of,
    interval,
    layer_order,
    marked_of,
    part_of,
    samples_of,
    way_to_chance,
    with_seed,
)


def summary(ds: xr.Dataset, metric: str | None = None, confidence: float = 0.95) -> pd.DataFrame:
    """One row per layer and column of the paper's figure, with an interval that says its kind.

    Parameters
    ----------
    ds : Dataset
        With ``value``; ``baseline``, ``n_examples`` and ``standard_error`` where it has them.
    metric : str, optional
        One of ``ds.metric``; by default the error, or the first where that was not measured.
    confidence : float
        In (0, 1).

    Returns
    -------
    DataFrame
        Of the computed cells, layers in execution order (the whole network last), columns in
        the order rand, what else takes nothing from a checkpoint, 0, 1, 2, …, what else does:

        ``layer``, ``column`` (str), ``epoch`` (int), ``perturbation`` (str)
            ``column`` is "rand" for re-randomised layers, the epoch for re-initialised ones, else
            the perturbation's name, with the epoch behind it where it takes one: "noise(0.1)",
            "interpolate(0.5) 0".
        ``value``, ``lower``, ``upper``
            Mean over draws, then over seeds, in the metric's unit. Bounds are clipped to what the
            metric can be (``ds.metric_lower_bound``, ``ds.metric_upper_bound``). Where a sweep with
            ``tolerance=`` stopped a cell early, they are its own, ``ds.lower`` and ``ds.upper``,
            which hold however often it looked, at the sweep's confidence; NaN if `confidence` is
            higher than that.
        ``spread``
            Standard deviation over seeds, over draws where there is one seed; NaN where single.
        ``n_examples``, ``n_draws``, ``n_seeds``
            Examples: of the draw and seed that has the fewest.
        ``interval_kind``
            "seeds" (Student's t over at least 2 seeds), "draws" (t over at least 2 draws of one
            seed), "examples", or "unseen examples" (of a cell that a tolerance stopped early: what
            the examples left out might change). Only "examples" covers another test set.
        ``degradation``
            ``value − baseline``, over the same examples; NaN without a baseline.
        ``damage``
            Share of the way from the trained network (0) to chance (1) that it gets worse by; NaN
            where chance is not known.
        ``not_finite``
            How many of these draws and seeds gave NaN or infinity, in this metric or in the
            network's outputs. Where this metric is NaN, so are its mean and bounds: none is left
            out. A mean of infinite values alone is known to be infinite.
        ``stopped_early``
            Only where the sweep stopped cells: whether any draw and seed did not see all examples.
            A cell stops when its mean happens to be clear, so that the value and the degradation
            of a decided one are too far from the limit, by about a tenth in simulations, and an
            interval over examples is too narrow. Trust the verdict, or the bounds of a tolerance,
            and sweep without either where the value matters.
        ``verdict``
            Only where the sweep stopped cells once they were settled: "robust", "intermediate" or
            "critical" if every draw and seed was settled to be that, else "".
        ``doubt``
            Only where the sweep audited its checkpoints: why the cell says nothing, else "".

        ``attrs`` holds how many "layers" there are, the whole network among them, and by
        perturbation how many of them can't be computed, "refused"; `results.refusals` tells why.

    Raises
    ------
    ResultError
        If the Dataset lacks a dimension, or has one too many.
    OptionError
        If there is no such metric.

    Examples
    --------
    >>> from layerscope import testing
    >>> summary(testing.dataset()).column.unique().tolist()
    ['rand', '0', '1', '2', '3', '8', '40', '90', '100']
    """
    metric = results.metric_name(ds, metric)
    samples = samples_of(ds, metric)
    bounds = interval(ds.sel(metric=[metric]), confidence).sel(metric=metric)
    lower, upper = (
        with_seed(bounds[name]).transpose(*samples.dims).sel(layer=samples["layer"].values)
        for name in bounds.data_vars
    )
    least, most, early = early_bounds(ds, metric, samples, confidence)
    lower, upper = least.where(early, lower), most.where(early, upper)
    marked = marked_of(ds, metric, samples)
    broken = (marked & samples.isnull()).values
    found = estimate_of(samples.values, lower.values, upper.values, early, broken, confidence)
    span = results.metric(ds, metric).span
    found = found._replace(lower=np.clip(found.lower, *span), upper=np.clip(found.upper, *span))
    moved = moments(moments(difference_of(ds, metric, samples).values, -1)[0], -1)[0]
    moved = np.where(broken.any((-2, -1)), np.nan, moved)
    cells = {name: array for name, array in found._asdict().items() if name != "kind"}
    cells |= {"interval_kind": found.kind, "degradation": moved, "n_examples": _fewest(ds, samples)}
    way = results.metric(ds, metric).worse / (way_to_chance(ds, metric) or np.nan)
    cells["damage"] = way * moved
    cells["not_finite"] = marked.sum(("seed", "draw")).values
    if "stopped_early" in ds:
        stopped = part_of(ds, "stopped_early", metric, samples).astype(bool)
        cells["stopped_early"] = (stopped & samples.notnull()).any(("seed", "draw")).values
    if "verdict" in ds:
        cells["verdict"] = _verdict_of_all(ds, samples)
    if "doubt" in ds.coords:
        cells["doubt"] = _doubts(ds, samples)
    frame = _long(ds, samples, cells)
    counts = frame.pop("n_examples")
    counts = counts if counts.isna().any() else counts.astype(int)
    frame.insert(list(frame).index("n_draws"), "n_examples", counts)
    refused = Counter(perturbation for _, perturbation in results.refusals(ds))
    frame.attrs |= {"layers": samples.sizes["layer"], "refused": dict(refused)}
    return frame


def distances(ds: xr.Dataset, norm: str = "l2_fan_in") -> pd.DataFrame:
    """How far each layer lies from its initial value, one row per layer and column.

    Parameters
    ----------
    ds : Dataset
        With ``distance``; the column "rand" is there if it has ``draw_distance``.
    norm : str
        One of ``ds.norm``.

    Returns
    -------
    DataFrame
        ``layer``, ``column``, ``epoch``, ``perturbation`` and the order of rows as in `summary`;
        ``value`` in the unit of the weights (mean over draws, then seeds), ``spread`` (standard
        deviation over seeds, over draws where there is one seed), ``n_draws``, ``n_seeds``.

    Raises
    ------
    ResultError
        If the Dataset lacks a dimension or variable.
    OptionError
        If there is no such norm.

    Examples
    --------
    >>> from layerscope import testing
    >>> table = distances(testing.dataset(), norm="linf")
    >>> float(table.query("layer == 'layer1' and column == '0'").value.iloc[0])
    0.0
    """
    kept = results.require(ds, "layer", "epoch", "norm", variable="distance")
    choose(norm, map(str, ds["norm"].values), "norm")
    parts = [kept.sel(norm=norm).expand_dims(perturbation=[results.RESET], draw=[0])]
    if "draw_distance" in ds:
        drawn = results.draw_distance(ds).sel(norm=norm)
        parts.append(drawn.expand_dims(epoch=[results.NO_EPOCH]))
    frames = []
    for part in parts:
        samples = with_seed(part).transpose("layer", "epoch", "perturbation", "seed", "draw")
        unknown = np.full(samples.shape, np.nan)
        found = estimate(samples.values, unknown, unknown, confidence=0.95)
        names = ("value", "spread", "n_draws", "n_seeds")
        frames.append(_long(ds, samples, {name: getattr(found, name) for name in names}))
    return _in_order(pd.concat(frames, ignore_index=True), layer_order(ds))


def column_order(table: pd.DataFrame) -> list[str]:
    """List the columns of `summary` or `distances` in the paper's order: rand, 0, 1, ….

    Examples
    --------
    >>> from layerscope import testing
    >>> column_order(summary(testing.dataset(epochs=(0, 1, 10))))
    ['rand', '0', '1', '10']
    """
    if not isinstance(table, pd.DataFrame) or "column" not in table:
        raise OptionError(f"table is {describe(table)}; give what summary(ds) returns.")
    once = table.drop_duplicates("column").assign(layer="")
    return [str(column) for column in _in_order(once, [""])["column"]]


def _fewest(ds: xr.Dataset, samples: xr.DataArray) -> Array:
    """Fewest examples of any draw and seed that was computed, (layer, epoch, perturbation)."""
    n = samples.where(samples.isnull(), examples_of(ds, samples))
    return np.asarray(n.min(("seed", "draw")).values)


def _doubts(ds: xr.Dataset, samples: xr.DataArray) -> npt.NDArray[np.str_]:
    """Reasons not to trust cells, (layer, epoch, perturbation).

    That the last checkpoint is the trained network is no doubt.
    """
    doubt = ds["doubt"].reset_coords(drop=True).sel(layer=samples["layer"].values)
    words = doubt.transpose("layer", "epoch").values.astype(str)
    last = samples["epoch"].values == _trained_epoch(ds)
    words = np.where(last & (words == results.AS_TRAINED), "", words)
    return np.repeat(words[:, :, None], samples.sizes["perturbation"], axis=2)


def _trained_epoch(ds: xr.Dataset) -> int:
    """Last checkpoint of the series, which need not be among those of the sweep."""
    if "model_epoch" in ds.coords and ds["model_epoch"].ndim == 0:
        return int(ds["model_epoch"])
    about = results.settings(ds)
    runs = [run for run in about.get("runs") or [] if isinstance(run, dict)]
    known = [each["checkpoints"] for each in (about, *runs) if each.get("checkpoints")]
    return max(map(int, known[0])) if known else int(ds["epoch"].max())


def _verdict_of_all(ds: xr.Dataset, samples: xr.DataArray) -> npt.NDArray[np.str_]:
    """Verdict that all computed draws and seeds agree on, (layer, epoch, perturbation)."""
    verdict = with_seed(ds["verdict"]).sel(layer=samples["layer"].values)
    verdict, computed = xr.broadcast(verdict, samples.notnull())
    verdict, computed = (each.transpose(*samples.dims) for each in (verdict, computed))
    names = ("robust", "intermediate", "critical")
    agreed = [((verdict == name) | ~computed).all(("seed", "draw")).values for name in names]
    return np.select(agreed, names, "")


def _long(
    ds: xr.Dataset, samples: xr.DataArray, cells: dict[str, npt.NDArray[Any]]
) -> pd.DataFrame:
    """Put (layer, epoch, perturbation) arrays into one table of the computed cells."""
    names = ("layer", "epoch", "perturbation")
    index = np.argwhere(cells["n_seeds"] > 0)
    where = {name: samples[name].values[index[:, axis]] for axis, name in enumerate(names)}
    infos = {name: results.perturbation(ds, str(name)) for name in samples["perturbation"].values}
    frame = pd.DataFrame(
        {
            "layer": where["layer"].astype(object),
            "column": [
                infos[perturbation].column_at(int(epoch))
                for perturbation, epoch in zip(where["perturbation"], where["epoch"], strict=True)
            ],
            "epoch": where["epoch"].astype(int),
            "perturbation": where["perturbation"].astype(object),
        }
        | {name: array[tuple(index.T)] for name, array in cells.items()}
    )
    return _in_order(frame, list(samples["layer"].values))


def _in_order(frame: pd.DataFrame, layers: list[Any]) -> pd.DataFrame:
    """Sort by layer, then rand, what takes no epoch, 0, 1, …, then what else takes one."""
    places = {results.RAND: 0} | {str(epoch): 1 for epoch in frame["epoch"]}
    keys = pd.DataFrame(
        {
            "layer": frame["layer"].map({name: place for place, name in enumerate(layers)}),
            "from": frame["epoch"] != results.NO_EPOCH,
            "perturbation": frame["column"].map(lambda name: places.get(name, 2)),
            "name": frame["perturbation"].map(_by_number),
            "epoch": frame["epoch"],
        }
    )
    return frame.loc[keys.sort_values(list(keys.columns)).index].reset_index(drop=True)


def _by_number(name: str) -> tuple[tuple[float, str], ...]:
    """Sort names with numbers by the numbers: noise(2) before noise(10)."""
    parts = re.split(r"(\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)", name)
    # Numbers stand at the odd places, whatever the name.
    return tuple((float(part), "") if at % 2 else (0.0, part) for at, part in enumerate(parts))
