"""One number per training run, for statements that are judged over runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import xarray as xr

from layerscope import results, stats
from layerscope.errors import ResultError

__all__ = [
    "VERDICTS",
    "computed",
    "damage",
    "limits",
    "lower_half",
    "robust_rows",
    "runs_of",
    "tables_of",
    "untrained",
    "upper_half",
    "verdict_counts",
]

LEAST = 0.1
"""A network that is not this share better than without training has no `damage`."""

VERDICTS = (
    "robust",
    "intermediate",
    "critical",
    results.NOT_MOVED,
    results.NOT_FINITE,
    "undecided",
)


def runs_of(ds: xr.Dataset) -> list[xr.Dataset]:
    """The Dataset of each training run; of one without ``seed``, itself."""
    return [ds.sel(seed=seed) for seed in ds["seed"].values] if "seed" in ds.dims else [ds]


def untrained(ds: xr.Dataset, metric: str | None = None) -> xr.DataArray:
    """Value of the metric without training: by chance where that is known, else measured.

    For error and accuracy, from ``chance``; for all else the whole network put
    back to its initialisation, which needs the row ``fullmodel``. Along ``seed`` where `ds` has it.

    Raises
    ------
    ResultError
        If neither is known, in every run.
    """
    metric = results.metric_name(ds, metric)
    base = ds["baseline"].sel(metric=metric, drop=True)
    if _by_chance(ds, metric):
        chance: xr.DataArray = results.metric(ds, metric).by_chance(ds["chance"])
        return chance + 0 * base
    resets = results.resets(ds)
    if results.FULL_MODEL in ds["layer"].values and 0 in ds["epoch"].values and resets:
        cell = ds["value"].sel(metric=metric, layer=results.FULL_MODEL, epoch=0, drop=True)
        found = cell.sel(perturbation=resets[0], draw=0, drop=True)
        if bool(found.notnull().all()):
            return found
    raise ResultError(
        f"what {metric} is without training is not known; sweep with whole=True, and "
        "re-initialise to epoch 0."
    )


def computed(
    ds: xr.Dataset, perturbation: str | None = None, epoch: int = 0, metric: str | None = None
) -> xr.DataArray:
    """The metric of every layer perturbed in one way, draws averaged.

    Parameters
    ----------
    ds, perturbation, epoch, metric
        As for `damage`.

    Returns
    -------
    DataArray
        Dimension ``layer``, the whole network left out, and ``seed`` where `ds` has it.

    Raises
    ------
    ResultError
        If it was not computed for every layer, in every run: a statement on all layers can't be
        judged by some of them.

    Examples
    --------
    >>> from layerscope import testing
    >>> computed(testing.dataset(), epoch=1).round(2).values
    array([0.29, 0.11, 0.07, 0.05])
    """
    perturbation = results.perturbation_name(ds, perturbation)
    cell = ds["value"].sel(
        metric=results.metric_name(ds, metric),
        perturbation=perturbation,
        layer=stats.layer_order(ds, network=False),
        drop=True,
    )
    drawn = results.NO_EPOCH in cell["epoch"].values and bool(
        cell.sel(epoch=results.NO_EPOCH).notnull().any()
    )
    at = results.NO_EPOCH if drawn else epoch
    if at not in cell["epoch"].values:
        known = ", ".join(str(each) for each in cell["epoch"].values if each != results.NO_EPOCH)
        raise ResultError(
            f"{perturbation!r} was not computed at epoch {epoch}; sweep it. There is {known}."
        )
    found = cell.sel(epoch=at, drop=True).mean("draw")
    lacking = found.isnull().any([dim for dim in found.dims if dim != "layer"])
    if bool(lacking.any()):
        raise ResultError(
            f"{perturbation!r} at epoch {epoch} was not computed for "
            f"{', '.join(map(str, found['layer'].values[lacking.values]))} in every run; sweep "
            "what is missing, or take only rows that are there."
        )
    return found


def damage(
    ds: xr.Dataset,
    perturbation: str | None = None,
    epoch: int = 0,
    metric: str | None = None,
) -> xr.DataArray:
    """Measure how far a perturbed layer takes the network from trained to untrained.

    0 where the metric stays as it was, 1 where it is as without training; draws are averaged.

    Parameters
    ----------
    ds : Dataset
    perturbation : str, optional
        One of ``ds.perturbation``; by default the first that puts a checkpoint back.
    epoch : int
        Without effect for a perturbation that takes nothing from a checkpoint.
    metric : str, optional
        By default the first error.

    Returns
    -------
    DataArray
        Dimensions ``seed`` and ``layer``, the whole network left out. NaN in runs whose trained
        network is not a tenth better than the untrained, on the way to what is best: 0, or where
        higher is better the upper bound, such as 1 for accuracy; where that is not known, none.

    Raises
    ------
    ResultError
        If it was not computed for every layer, in every run, or what the metric is without
        training is not known.

    Examples
    --------
    >>> from layerscope import testing
    >>> damage(testing.dataset()).round(2).values
    array([[1.02, 0.34, 0.18, 0.11]])
    """
    metric = results.metric_name(ds, metric)
    # Over the same examples: a cell that was stopped early saw fewer than the baseline.
    moved = computed(ds.assign(value=stats.degradation(ds)), perturbation, epoch, metric)
    base = ds["baseline"].sel(metric=metric, drop=True)
    start = untrained(ds, metric)
    way = start - base
    info = results.metric(ds, metric)
    best = info.upper_bound if info.higher_is_better else 0.0
    learnt, whole = info.worse * way, abs(best - start).fillna(0)
    # Of a network that has hardly learnt, a share of what it learnt is noise.
    share = moved / way.where((learnt > 0) & (learnt >= LEAST * whole))
    if "seed" not in share.dims:
        share = share.expand_dims("seed")
    return share.transpose("seed", "layer")


def upper_half(shares: xr.DataArray) -> xr.DataArray:
    """The upper half of the layers, the middle one left out."""
    count = shares.sizes["layer"]
    return shares.isel(layer=slice(count - count // 2, None))


def lower_half(shares: xr.DataArray) -> xr.DataArray:
    """The lower half of the layers, the middle one left out."""
    return shares.isel(layer=slice(0, shares.sizes["layer"] // 2))


def limits(ds: xr.Dataset, metric: str | None = None, share: float = 0.05) -> dict[str, Any]:
    """The limits of robust and critical for `stats.classify`, in the unit of any metric.

    Robust: within `share` of the way from the trained to the untrained network. Critical: from a
    quarter of it on. Error and accuracy keep the defaults of `stats.classify`.

    Parameters
    ----------
    ds : Dataset
    metric : str, optional
    share : float
        A fraction of the way.
    """
    metric = results.metric_name(ds, metric)
    if _by_chance(ds, metric):
        return {"metric": metric}
    way = float((untrained(ds, metric) - ds["baseline"].sel(metric=metric, drop=True)).mean())
    way *= results.metric(ds, metric).worse
    return {"metric": metric, "tolerance": share * way, "critical": 0.25 * way}


def verdict_counts(
    ds: xr.Dataset, metric: str | None = None, perturbation: str | None = None
) -> pd.DataFrame:
    """Count the layers of each verdict, run by run.

    Parameters
    ----------
    ds : Dataset
    metric, perturbation : str, optional

    Returns
    -------
    DataFrame
        One row per run: ``seed``, one column for each of `VERDICTS`, "refused" where a layer can't
        be computed, ``layers`` (those that could be), and ``baseline``, the metric of the trained
        network. Intervals are over draws or examples, within the run.

    Examples
    --------
    >>> from layerscope import testing
    >>> int(verdict_counts(testing.dataset()).critical[0])
    2
    """
    metric = results.metric_name(ds, metric)
    rows = []
    for number, run in enumerate(runs_of(ds)):
        found = stats.classify(run, perturbation=perturbation, **limits(run, metric))
        count = found["verdict"].value_counts()
        there = [*VERDICTS, *([results.REFUSED] if results.REFUSED in count else [])]
        rows.append(
            {"seed": int(run["seed"]) if "seed" in run.coords else number}
            | {verdict: int(count.get(verdict, 0)) for verdict in there}
            | {
                "layers": found.attrs["judged"],
                "baseline": float(run["baseline"].sel(metric=metric)),
            }
        )
    return pd.DataFrame(rows).fillna({results.REFUSED: 0})


def tables_of(
    runs: Mapping[Any, xr.Dataset], name: str = "network", metric: str | None = None
) -> pd.DataFrame:
    """Count verdicts of several settings, under each other.

    Parameters
    ----------
    runs : mapping to Dataset
        By setting, such as a network's name or width.
    name : str
        Of the column that holds the setting.
    metric : str, optional

    Returns
    -------
    DataFrame
        As `verdict_counts`, with the setting, ``damage`` (its mean over layers), ``upper_damage``
        (over the upper half of the layers), and the shares ``robust_share`` and
        ``critical_share`` of the layers, NaN where most are undecided.
    """
    tables = []
    for setting, ds in runs.items():
        table = verdict_counts(ds, metric)
        table.insert(0, name, [setting] * len(table))
        shares = damage(ds, metric=metric)
        table["damage"] = shares.mean("layer").values
        table["upper_damage"] = upper_half(shares).mean("layer").values
        for verdict in ("robust", "critical"):
            share = table[verdict] / table["layers"]
            # Where most layers are undecided, a small count says nothing.
            table[f"{verdict}_share"] = share.where(table["undecided"] <= table["layers"] / 2)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def robust_rows(
    ds: xr.Dataset, metric: str | None = None, *, lenient: bool = True, **options: Any
) -> list[str]:
    """The rows that re-initialisation does not hurt, in the order of the network.

    Parameters
    ----------
    ds : Dataset
    metric : str, optional
    lenient : bool
        Go by the measured degradation; else by the verdict, for which the whole interval counts.
    **options
        Of `stats.classify`, such as `tolerance`.

    Examples
    --------
    >>> from layerscope import testing
    >>> robust_rows(testing.dataset(), tolerance=0.2)
    ['layer3', 'layer4']
    """
    table = stats.classify(ds, **{**limits(ds, metric), **options})
    if lenient:
        moved = table["verdict"] != results.NOT_MOVED
        return list(table["layer"][moved & (table["degradation"] <= table.attrs["tolerance"])])
    return list(table["layer"][table["verdict"] == "robust"])


def _by_chance(ds: xr.Dataset, metric: str) -> bool:
    """Check that chance is known in this metric; of sequences, earlier sweeps did not know it."""
    known = "chance" in ds and bool(ds["chance"].notnull().all())
    return known and results.metric(ds, metric).by_chance(0.0) is not None
