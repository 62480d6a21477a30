"""Emergence of critical layers: when in the training a layer became critical, and stayed so."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from layerscope import results
from layerscope.errors import ResultError
from layerscope.stats._labelled import is_network
from layerscope.stats._verdicts import classify

__all__ = ["emergence"]

_COLUMNS = ("degradation", "lower", "upper", "verdict")


def emergence(
    ds: xr.Dataset,
    metric: str | None = None,
    *,
    epoch: int = 0,
    perturbation: str | None = None,
    tolerance: float = 0.05,
    critical_share: float = 0.25,
    critical: float | None = None,
    confidence: float = 0.95,
    include_network: bool = False,
) -> xr.Dataset:
    """Tell when in the training each layer became critical.

    At every trained network of the series (``model_epoch``) layers are judged as `classify` does,
    against that network's own baseline. A layer is critical *since* the first of them from which
    on its degradation stays, to the last one, beyond both limits. The interval of its degradation,
    over examples, draws or seeds as `classify` says, gives one of that time: from when on the
    interval stays within reach of the limit, to when on all of it lies beyond. It is of each layer
    by itself, where the verdicts on the layers of one network hold at once.

    Parameters
    ----------
    ds : Dataset
        Of ``sweep(…, model_epochs=[…])``; of several tasks select one: ``ds.sel(task=…)``.
    metric, epoch, perturbation, tolerance, critical_share, critical, confidence, include_network
        As for `classify`. Early in a training the share of the way to chance is short: with
        `critical` every network is judged by the same degradation.

    Returns
    -------
    Dataset
        ``degradation``, ``lower``, ``upper``, ``verdict`` (layer, model_epoch), NaN and "" where
        nothing was computed; ``limit`` (model_epoch), from which on a layer is critical; ``since``,
        ``since_lower``, ``since_upper`` (layer), NaN where the layer is not critical at the last.

    Raises
    ------
    ResultError
        If the Dataset has no dimension ``model_epoch``, or one too many.
    OptionError
        If there is no such metric or perturbation, or no limit for "critical".

    Examples
    --------
    >>> from layerscope import results, testing
    >>> each = [({"model_epoch": e}, testing.dataset(epochs=range(e + 1))) for e in (1, 8)]
    >>> found = emergence(results.join(each))
    >>> found.since.sel(layer="layer1").item(), found.verdict.sel(layer="layer4").values.tolist()
    (1.0, ['intermediate', 'intermediate'])
    """
    metric = results.metric_name(ds, metric)
    value = results.require(ds, "layer", "epoch", "model_epoch")
    if "task" in value.dims:
        first = str(ds["task"].values[0])
        raise ResultError(f"this Dataset has several tasks; choose one: ds.sel(task={first!r}).")
    options = {
        "tolerance": tolerance,
        "critical_share": critical_share,
        "critical": critical,
        "confidence": confidence,
        "epoch": epoch,
        "perturbation": results.perturbation_name(ds, perturbation),
        "include_network": True,
    }
    epochs = [int(each) for each in ds["model_epoch"].values]
    tables = [_table(part, metric, options) for part in results.parts(ds).values()]
    kept = np.ones(ds.sizes["layer"], bool) if include_network else ~is_network(ds)
    names = [str(name) for name in ds["layer"].values[kept]]
    grids = {name: np.stack([_column(t, name, names) for t in tables], 1) for name in _COLUMNS}
    limit = np.array([np.nan if table is None else table.attrs["critical"] for table in tables])
    return _dataset(ds, names, epochs, grids, limit, tolerance).assign_attrs(
        metric=metric, **{n: v for n, v in options.items() if n in ("epoch", "perturbation")}
    )


def _table(part: xr.Dataset, metric: str, options: dict[str, Any]) -> pd.DataFrame | None:
    """Judge one trained network; None where nothing was computed, as before the checkpoint."""
    cells = part["value"].sel(perturbation=options["perturbation"], metric=metric)
    if (
        not cells.sel(epoch=cells["epoch"].isin([options["epoch"], results.NO_EPOCH]))
        .notnull()
        .any()
    ):
        return None
    return classify(part, metric, **options)


def _column(table: pd.DataFrame | None, name: str, layers: list[str]) -> npt.NDArray[Any]:
    if table is None:
        return np.full(len(layers), "" if name == "verdict" else np.nan, dtype=object)
    return np.asarray(table.set_index("layer")[name].reindex(layers).to_numpy(dtype=object))


def _dataset(
    ds: xr.Dataset,
    names: list[str],
    epochs: list[int],
    grids: dict[str, npt.NDArray[Any]],
    limit: npt.NDArray[np.float64],
    tolerance: float,
) -> xr.Dataset:
    unit = ds["model_epoch"].attrs.get("units", ds["epoch"].attrs.get("units", "epoch"))
    verdict = grids.pop("verdict").astype(str)
    worse, lower, upper = (grids[name].astype(float) for name in ("degradation", "lower", "upper"))
    within = np.where(np.isnan(upper), worse, upper)
    since = {
        "since": ("first network from which on a layer is critical", worse),
        "since_lower": ("the same, at the earliest", within),
        "since_upper": ("the same, at the latest", lower),
    }
    dims = ("layer", "model_epoch")
    found = {
        name: (dims, array, {"long_name": f"{words} of the damage", "units": "1"})
        for name, words, array in (
            ("degradation", "mean", worse), ("lower", "lower bound", lower),
            ("upper", "upper bound", upper),
        )
    } | {
        name: ("layer", _stays((array >= limit) & (array > tolerance), epochs),
               {"long_name": words, "units": unit})
        for name, (words, array) in since.items()
    }  # fmt: skip
    found["verdict"] = (dims, verdict, {"long_name": "what the layer is in that network"})
    found["limit"] = ("model_epoch", limit, {"long_name": "damage from which a layer is critical"})
    words = {"long_name": "checkpoint that counts as the trained network", "units": unit}
    return xr.Dataset(found, {"layer": names, "model_epoch": ("model_epoch", epochs, words)})


def _stays(critical: npt.NDArray[np.bool_], epochs: list[int]) -> npt.NDArray[np.float64]:
    """Find per row from when on all that follows is so; NaN where the last is not."""
    from_here = np.logical_and.accumulate(critical[:, ::-1], axis=1)[:, ::-1]
    first = np.array(epochs, float)[from_here.argmax(1)]
    return np.where(from_here[:, -1], first, np.nan)
