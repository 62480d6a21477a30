"""Several tasks, or several trained networks of one series, set side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from layerscope import plots, results, stats
from layerscope.errors import ResultError

__all__ = ["Across", "across", "differing"]

_MOST_NAMED = 3


class Across(NamedTuple):
    """Sections on what the parts of one result say together."""

    name: str
    sentences: list[str]
    figures: list[Any]


def across(
    name: str, ds: xr.Dataset, metrics: Mapping[str, str], critical: float | None
) -> Iterator[Across]:
    """Set the parts of a result side by side: tasks first, then trained networks.

    Parameters
    ----------
    name : str
    ds : Dataset
    metrics : mapping of str to str
        What each of `results.parts` is judged by.
    critical : float, optional
        As `stats.classify` takes it.
    """
    if "task" in ds.dims and ds.sizes["task"] > 1:
        last = ds.isel(model_epoch=-1) if "model_epoch" in ds.dims else ds
        said = f", model_epoch {int(last['model_epoch'])}" if last is not ds else ""
        yield _tasks(f"{name}{said}: by task", last, set(metrics.values()))
    if "model_epoch" in ds.dims and ds.sizes["model_epoch"] > 1:
        for task in ds["task"].values if "task" in ds.dims else [None]:
            one = ds if task is None else ds.sel(task=task)
            said = "" if task is None else f", task {task}"
            first = next(
                m for words, m in metrics.items() if task is None or f"task {task}" in words
            )
            yield from _networks(f"{name}{said}: over training", one, first, critical)


def _tasks(name: str, ds: xr.Dataset, metrics: set[str]) -> Across:
    shared = metrics.pop() if len(metrics) == 1 else None
    drawn: list[Any] = [plots.tasks(ds, shared)]
    try:
        found = stats.ranking_difference(ds, metric=_with_mean(ds, shared))
    except ResultError as error:
        return Across(name, [f"How differently tasks rank the layers is not known: {error}"],
                      drawn)  # fmt: skip
    drawn.append(plots.rankings(found))
    return Across(name, differing(found), drawn)


def _with_mean(ds: xr.Dataset, metric: str | None) -> str | None:
    """Keep a metric by which layers can be ranked with an interval."""
    if metric is None or "difference" not in ds:
        return None
    return metric if bool(ds["difference"].sel(metric=metric).notnull().any()) else None


def _networks(name: str, ds: xr.Dataset, metric: str, critical: float | None) -> Iterator[Across]:
    if critical is None and results.metric(ds, metric).by_chance(0.0) is None:
        return
    known = ds["epoch"].values[ds["epoch"].values != results.NO_EPOCH]
    epoch = int(known.min()) if len(known) else 0
    found = stats.emergence(ds, metric, epoch=epoch, critical=critical)
    since = found["since"].dropna("layer")
    unit = found["model_epoch"].attrs.get("units", "epoch")
    order = since.sortby(since)
    each = [f"{layer} since {unit} {int(at)}" for layer, at in
            zip(order["layer"].values, order.values, strict=True)]  # fmt: skip
    said = (
        f"Critical to the last: {', '.join(each)}." if each else "No layer is critical to the last."
    )
    figure = plots.emergence(ds, metric, epoch=epoch, critical=critical)
    yield Across(name, [said], [figure])


def differing(found: xr.Dataset) -> list[str]:
    """Say how differently tasks rank the layers, and how sure that is.

    Parameters
    ----------
    found : Dataset
        As `stats.ranking_difference` returns it.

    Returns
    -------
    list of str
        A sentence or two for each two tasks.

    Examples
    --------
    >>> from layerscope import testing
    >>> each = [({"task": name}, testing.dataset()) for name in ("news", "code")]
    >>> differing(stats.ranking_difference(results.join(each), repeats=50))
    ['By news and by code layers rank alike as far as can be told: Spearman 1.00 \
(95 % interval 1.00 to 1.00), and no two of 4 layers change places in 95 % of repeats or more.']
    """
    tasks = [str(task) for task in found["task"].values]
    pairs = [(one, two) for at, one in enumerate(tasks) for two in tasks[at + 1 :]]
    return [_sentence(found.sel(task=one, other_task=two), one, two) for one, two in pairs]


def _sentence(pair: xr.Dataset, one: str, two: str) -> str:
    share = f"{100 * pair.attrs['confidence']:g} %"
    known = ", ".join(f"{float(pair[name]):.2f}" for name in ("correlation", "lower", "upper"))
    value, low, up = known.split(", ")
    interval = f"{pair.attrs['method'].capitalize()} {value} ({share} interval {low} to {up})"
    names = [str(layer) for layer in pair["layer"].values]
    often = np.triu(pair["reversal"].values, 1)
    sure = sorted(
        np.argwhere(often >= pair.attrs["confidence"]).tolist(), key=lambda at: -often[*at]
    )
    if not sure:
        return (
            f"By {one} and by {two} layers rank alike as far as can be told: {interval}, and no "
            f"two of {len(names)} layers change places in {share} of repeats or more."
        )
    told = [f"{names[a]} and {names[b]}" for a, b in sure[:_MOST_NAMED]]
    more = f", and {len(sure) - _MOST_NAMED} more" if len(sure) > _MOST_NAMED else ""
    count = f"{len(sure)} pair{'s' if len(sure) > 1 else ''}"
    return (
        f"{one} and {two} rank the layers differently: {interval}. {count} of layers change places "
        f"in {share} of repeats or more, each by itself: {', '.join(told)}{more}."
    )
