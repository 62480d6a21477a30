"""Rankings of layers by several tasks: whether they differ, and how sure that is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from layerscope import results
from layerscope.base.validate import describe, integer
from layerscope.errors import OptionError, ResultError, choose
from layerscope.stats._arrays import Array, check_confidence
from layerscope.stats._labelled import layer_order

_METHODS = ("spearman", "kendall")


def ranking_difference(
    outcomes: Mapping[str, xr.Dataset] | xr.Dataset,
    *,
    perturbation: str | None = None,
    epoch: int | None = None,
    metric: str | Mapping[str, str] | None = None,
    method: str = "spearman",
    confidence: float = 0.95,
    repeats: int = 1000,
    seed: int = 0,
) -> xr.Dataset:
    """Compare how two or more tasks rank the layers, with a bootstrap over examples.

    Parameters
    ----------
    outcomes : mapping of str to Dataset, or Dataset
        From each task to what every example gave, ``outcomes.nc`` in the task's folder of a sweep
        with ``outcomes=True``. Tasks over the very same data are drawn together, example by
        example; others each on their own. Or the Dataset of a sweep over several tasks, where
        what every example gave was not kept.
    perturbation : str, optional
        By default the first.
    epoch : int, optional
        Checkpoint that values come from; by default the first of the perturbation's.
    metric : str or mapping of str to str, optional
        By task; by default the first of each.
    method : {"spearman", "kendall"}
        Correlation of ranks.
    confidence : float
        In (0, 1).
    repeats : int
        How often examples are drawn anew.
    seed : int

    Returns
    -------
    Dataset
        ``damage`` (task, layer): mean change for the worse of what every example gave, draws
        averaged, in the metric's unit (of a perplexity, of the loss that it comes from); ``rank``
        (task, layer), 1 for the worst; ``correlation``, ``lower``, ``upper`` (task, other_task);
        ``reversal`` (task, other_task, layer, other_layer): the share of repeats in which the two
        layers stand in one order by one task and in the other by the other. Of layers that are
        apart by less than chance it is near ½ whatever the tasks.

        The attribute ``drawn`` says what was: "examples", or "damages".

    Raises
    ------
    OptionError
        If there are not two tasks, or something of that name is not there.
    ResultError
        If a Dataset is none of outcomes, or tasks have other layers.

    Notes
    -----
    Noise makes rankings less alike: the interval, of percentiles, is of the correlation of what
    was measured, and lies below that of the true damages where examples are few. A correlation of
    1 within it is no evidence that rankings differ; one that excludes 1 is, only where `reversal`
    of some pair of layers is near 1 as well.

    Of a Dataset without outcomes, damages are drawn as normal ones with
    ``difference_standard_error``, each layer's on its own. Layers were measured on the same
    examples, and most are hurt by the same, so that reversals are surer than this tells.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> def task(damage):
    ...     return xr.Dataset({
    ...         "outcome": (("cell", "metric", "example"), damage + rng.normal(size=(3, 1, 200))),
    ...         "baseline_outcome": (("metric", "example"), np.zeros((1, 200))),
    ...         "weight": (("metric", "example"), np.ones((1, 200)))},
    ...         {"layer": ("cell", ["a", "b", "c"]), "epoch": ("cell", [-1] * 3),
    ...          "perturbation": ("cell", ["zero"] * 3), "draw": ("cell", [0] * 3),
    ...          "metric": ["loss"]})
    >>> rising = np.array([1, 2, 3.0])[:, None, None]
    >>> found = ranking_difference({"news": task(rising), "code": task(-rising)}, repeats=200)
    >>> float(found.correlation.sel(task="news", other_task="code"))
    -1.0
    >>> float(found.reversal.sel(task="news", other_task="code", layer="a", other_layer="c"))
    1.0
    """
    if isinstance(outcomes, xr.Dataset) and outcomes.sizes.get("task", 0) > 1:
        check_confidence(confidence)
        choose(method, _METHODS, "method")
        known = _known(outcomes, metric, perturbation, epoch)
        rng = np.random.default_rng(integer(seed, "seed", 0))
        shape = integer(repeats, "repeats", 1, 1000), *known.damage.shape
        normal = known.damage + known.spread * rng.standard_normal(shape)
        compared = _compared(known.tasks, known.layers, known.damage, normal, method, confidence)
        return compared.assign_attrs(drawn="damages", **known.about)
    if not isinstance(outcomes, Mapping) or isinstance(outcomes, xr.Dataset) or len(outcomes) < 2:
        raise OptionError(
            f"outcomes is {describe(outcomes)}; give a mapping from two tasks or more to what "
            "their examples gave, such as {'news': open_dataset('out/task-news/outcomes.nc'), …}."
        )
    check_confidence(confidence)
    choose(method, _METHODS, "method")
    repeats, seed = integer(repeats, "repeats", 1, 1000), integer(seed, "seed", 0)
    names = list(outcomes)
    by_task = metric if isinstance(metric, Mapping) else dict.fromkeys(names, metric)
    columns = {
        name: _changes(name, outcomes[name], by_task.get(name), perturbation, epoch)
        for name in names
    }
    layers = next(iter(columns.values()))[0]
    if other := [name for name, found in columns.items() if found[0] != layers]:
        raise ResultError(f"tasks {names[0]!r} and {other[0]!r} have other layers.")
    damage = np.stack([sums.sum(1) / weights.sum() for _, sums, weights in columns.values()])
    drawn = _resampled(outcomes, columns, repeats, seed)
    return _compared(names, layers, damage, drawn, method, confidence).assign_attrs(
        drawn="examples"
    )


class _Known(NamedTuple):
    """Damages (task, layer) that a Dataset holds, and their standard errors over examples."""

    tasks: list[str]
    layers: list[str]
    damage: Array
    spread: Array
    about: dict[str, str | int]


def _known(
    ds: xr.Dataset,
    metric: str | Mapping[str, str] | None,
    perturbation: str | None,
    epoch: int | None,
) -> _Known:
    """Read the damages by every task; of layers that all of them measured."""
    tasks = [str(task) for task in ds["task"].values]
    by_task = metric if isinstance(metric, Mapping) else dict.fromkeys(tasks, metric)
    found, about = [], dict[str, str | int]()
    for task in tasks:
        part = results.parts(ds.sel(task=[task]))[results.words({"task": task})]
        kinds = [str(name) for name in part["perturbation"].values]
        kind = kinds[0] if perturbation is None else choose(perturbation, kinds, "perturbation")
        name = _with_mean(part, by_task.get(task), kind)
        cells = part.sel(metric=name, perturbation=kind, layer=layer_order(part, network=False))
        moved, error = (
            cells[each].mean([dim for dim in ("draw", "seed") if dim in cells[each].dims])
            for each in ("difference", "difference_standard_error")
        )
        at = _epoch_of(moved, epoch)
        found.append([moved.sel(epoch=at) * results.metric(part, name).worse, error.sel(epoch=at)])
        about = {"perturbation": kind, "epoch": at}
    damage, spread = (xr.concat(each, "task", join="inner") for each in zip(*found, strict=True))
    there = (np.isfinite(damage) & np.isfinite(spread)).all("task").values
    if there.sum() < 2:
        raise ResultError("fewer than two layers were measured by every task; nothing to rank.")
    damage, spread = damage.isel(layer=there), spread.isel(layer=there)
    layers = [str(layer) for layer in damage["layer"].values]
    return _Known(tasks, layers, damage.values, spread.values, about)


def _with_mean(part: xr.Dataset, metric: str | None, perturbation: str) -> str:
    """Choose a metric whose differences from the trained network have a mean."""
    need = ("difference", "difference_standard_error")
    if missing := [name for name in need if name not in part]:
        raise ResultError(f"this Dataset has no {missing[0]}; sweep with a layerscope that has.")
    known = part["difference_standard_error"].sel(perturbation=perturbation).notnull()
    there = [str(name) for name in part["metric"].values if bool(known.sel(metric=name).any())]
    if not there:
        raise ResultError(
            "no metric has differences from example to example; sweep with one that has, such as "
            "'loss'."
        )
    first = results.metric_name(part)
    return choose(metric or (first if first in there else there[0]), there, "metric with a mean")


def _epoch_of(moved: xr.DataArray, epoch: int | None) -> int:
    """Choose the first checkpoint there are values of, or the one wanted."""
    known = moved["epoch"].values[moved.notnull().any("layer").values].tolist()
    if not known:
        raise ResultError("no layer was measured yet.")
    return int(known[0] if epoch is None else choose(str(epoch), map(str, known), "epoch"))


def _changes(
    task: str, ds: xr.Dataset, metric: str | None, perturbation: str | None, epoch: int | None
) -> tuple[list[str], Array, Array]:
    """Layers, the change for the worse of every example (layer, example), and its weight."""
    if not isinstance(ds, xr.Dataset) or not {"outcome", "weight"} <= set(ds.data_vars):
        raise ResultError(
            f"what task {task!r} has is {describe(ds)}, without what every example gave; sweep "
            "with outcomes=True, and open outcomes.nc in the task's folder."
        )
    metrics = [str(name) for name in ds["metric"].values]
    name = metrics[0] if metric is None else choose(metric, metrics, f"metric of task {task!r}")
    held = ds.sel(metric=name)
    kinds = list(dict.fromkeys(map(str, held["perturbation"].values)))
    kind = kinds[0] if perturbation is None else choose(perturbation, kinds, "perturbation")
    epochs = held["epoch"].values[held["perturbation"].values == kind]
    wanted = epochs.min() if epoch is None else int(choose(str(epoch), map(str, epochs), "epoch"))
    cells = held.isel(cell=(held["perturbation"].values == kind) & (held["epoch"].values == wanted))
    cells = cells.isel(cell=cells["layer"].values != results.FULL_MODEL)
    layers = list(dict.fromkeys(map(str, cells["layer"].values)))
    change = (cells["outcome"] - cells["baseline_outcome"]).transpose("cell", "example").values
    change = change * results.metric(ds, name).worse
    of = cells["layer"].values
    means = np.stack([change[of == layer].mean(0) for layer in layers])
    return layers, means.astype(float), held["weight"].values.astype(float)


def _resampled(
    outcomes: Mapping[str, xr.Dataset],
    columns: Mapping[str, tuple[list[str], Array, Array]],
    repeats: int,
    seed: int,
) -> Array:
    """Damages with examples drawn anew, (repeat, task, layer)."""
    # Examples of one data set are drawn for all tasks over it alike.
    data = [results.settings(ds).get("data") for ds in outcomes.values()]
    keys = [
        str(each.get("sha256")) if isinstance(each, dict) and each.get("sha256") else f"task {n}"
        for n, each in enumerate(data)
    ]
    found = []
    for key, (_, sums, weights) in zip(keys, columns.values(), strict=True):
        rng = np.random.default_rng([seed, keys.index(key)])
        size = len(weights)
        drawn = np.empty((repeats, len(sums)))
        for repeat in range(repeats):
            counts = np.bincount(rng.integers(size, size=size), minlength=size).astype(float)
            drawn[repeat] = sums @ counts / max(float(weights @ counts), 1e-300)
        found.append(drawn)
    return np.stack(found, 1)


def _compared(
    names: list[str], layers: list[str], damage: Array, drawn: Array, method: str, confidence: float
) -> xr.Dataset:
    from scipy.stats import rankdata

    pairs = ("task", "other_task")
    shape = (len(names), len(names))
    correlation, lower, upper = (np.full(shape, np.nan) for _ in range(3))
    reversal = np.full((*shape, len(layers), len(layers)), np.nan)
    ends = (1 - confidence) / 2, (1 + confidence) / 2
    for one in range(len(names)):
        for two in range(len(names)):
            correlation[one, two] = _correlations(damage[None, one], damage[None, two], method)[0]
            each = _correlations(drawn[:, one], drawn[:, two], method)
            # Where a repeat gives all layers one damage, it has no correlation.
            if np.isfinite(each).any():
                lower[one, two], upper[one, two] = np.nanquantile(each, ends)
            first, second = (
                np.sign(drawn[:, at, :, None] - drawn[:, at, None, :]) for at in (one, two)
            )
            reversal[one, two] = (first * second < 0).mean(0)
    coords = {"task": names, "other_task": names, "layer": layers, "other_layer": layers}
    found = xr.Dataset(
        {
            "damage": (("task", "layer"), damage),
            "rank": (("task", "layer"), rankdata(-damage, axis=1)),
            "correlation": (pairs, correlation),
            "lower": (pairs, lower),
            "upper": (pairs, upper),
            "reversal": ((*pairs, "layer", "other_layer"), reversal),
        },
        coords,
    )
    return found.assign_attrs(method=method, confidence=confidence, repeats=len(drawn))


def _correlations(first: Array, second: Array, method: str) -> Array:
    """Correlate ranks row by row, (repeat, layer); NaN where a row has one value alone."""
    from scipy.stats import kendalltau, rankdata

    if method == "kendall":
        pairs = zip(first, second, strict=True)
        return np.array([_kendall(kendalltau, *pair) for pair in pairs])
    one, two = (rankdata(values, axis=1) for values in (first, second))
    one, two = (ranks - ranks.mean(1, keepdims=True) for ranks in (one, two))
    scale = np.sqrt((one**2).sum(1) * (two**2).sum(1))
    together = (one * two).sum(1)
    with np.errstate(invalid="ignore"):
        return np.asarray(together / np.where(scale > 0, scale, np.nan))


def _kendall(compute: Callable[..., Any], first: Array, second: Array) -> float:
    if len(first) < 2 or any(np.all(values == values[0]) for values in (first, second)):
        return float("nan")
    return float(compute(first, second).statistic)
