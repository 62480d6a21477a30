"""Bounds over examples of how much a cell is worse than the unperturbed network."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import xarray as xr

from layerscope import results
from layerscope.stats._arrays import Array, newcombe, normal_quantile
from layerscope.stats._labelled import baseline_of, early_bounds, examples_of, part_of
from layerscope.stats._paired import discordant, paired_proportions


def difference_bounds(
    ds: xr.Dataset, metric: str, cell: xr.DataArray, moved: xr.DataArray, confidence: float
) -> tuple[xr.DataArray, xr.DataArray, xr.DataArray]:
    """Bounds over examples of ``cell − baseline``, and which cells were stopped early."""
    error = part_of(ds, "difference_standard_error", metric, cell)
    half = normal_quantile(confidence) * error
    apart = _unpaired_bounds(ds, metric, cell, confidence)
    bounds = [
        each.fillna(other) for each, other in zip((moved - half, moved + half), apart, strict=True)
    ]
    if results.metric(ds, metric).fraction_of:
        n = examples_of(ds, cell)
        worse, better = _apply(discordant, part_of(ds, "difference", metric, cell), error, n)
        paired = _apply(paired_proportions, worse, better, n, confidence=confidence)
        bounds = [each.fillna(other) for each, other in zip(paired, bounds, strict=True)]
    # What is not computed has no bounds, whatever else stands there.
    lower, upper = (bound.where(cell.notnull()) for bound in bounds)
    least, most, early = early_bounds(ds, metric, cell, confidence)
    below, above = _baseline_bounds(ds, metric, confidence)
    return (least - above).where(early, lower), (most - below).where(early, upper), early


def _baseline_bounds(
    ds: xr.Dataset, metric: str, confidence: float
) -> tuple[xr.DataArray, xr.DataArray]:
    """Bounds of the baseline's mean over all examples, where a tolerance stopped the sweep."""
    baseline = baseline_of(ds, metric, required=True)
    if "baseline_lower" not in ds:
        return baseline, baseline
    below, above = (ds[f"baseline_{end}"].reset_coords(drop=True) for end in ("lower", "upper"))
    rule = results.settings(ds).get("stopping") or {}
    # Each of two bounds may miss, the cell's and this one.
    enough = (below == above) | (confidence <= 2 * rule.get("confidence", 1.0) - 1)
    return below.where(enough), above.where(enough)


def _unpaired_bounds(
    ds: xr.Dataset, metric: str, cell: xr.DataArray, confidence: float
) -> tuple[xr.DataArray, xr.DataArray]:
    """Bounds of a difference without knowing how single examples differ."""
    baseline = baseline_of(ds, metric, required=True)
    n = examples_of(ds, cell)
    if results.metric(ds, metric).fraction_of and n.notnull().any():
        lower, upper = _apply(newcombe, cell, n, baseline, n, confidence=confidence)
        return lower, upper
    half = normal_quantile(confidence) * np.hypot(
        part_of(ds, "standard_error", metric, cell),
        part_of(ds, "baseline_standard_error", metric, baseline),
    )
    return cell - baseline - half, cell - baseline + half


def _apply(
    function: Callable[..., tuple[Array, Array]], *arrays: xr.DataArray, **options: float
) -> tuple[xr.DataArray, xr.DataArray]:
    lower, upper = xr.apply_ufunc(
        function, *arrays, kwargs=options, output_core_dims=[[], []], join="exact"
    )
    return lower, upper
