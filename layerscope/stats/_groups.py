"""Values of a sweep by groups of examples, such as their classes, and the mean of these."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import xarray as xr

from layerscope import results
from layerscope.base import validate
from layerscope.errors import OptionError, choose
from layerscope.stats._arrays import Array, normal_quantile, wilson

__all__ = ["by_group"]


def by_group(
    outcomes: xr.Dataset,
    groups: npt.ArrayLike,
    *,
    metric: str | None = None,
    confidence: float = 0.95,
) -> xr.Dataset:
    """Find what each cell gives on every group of examples, and the mean over groups.

    With classes as groups, of the error: class-wise and balanced error.

    Parameters
    ----------
    outcomes : Dataset
        What every example gave: ``outcomes.nc`` of a sweep with ``outcomes=True``.
    groups : array_like
        The group of each example, such as its class, in the order of the data: numbers or names.
    metric : str, optional
        One that is a mean over examples; by default the first.
    confidence : float
        In (0, 1).

    Returns
    -------
    Dataset
        ``value``, ``lower``, ``upper`` and ``n`` (cell, group), in the unit of the metric and in
        examples; ``baseline`` (group); ``balanced``, ``balanced_lower`` and ``balanced_upper``
        (cell), the mean over groups, each group counted alike; ``balanced_baseline``. Intervals are
        over examples: Wilson's for fractions of examples with one target each, else normal. NaN for
        a cell that did not see all examples, as a stopping rule has it.

    Raises
    ------
    OptionError
        If there is not one group for every example, or no such metric.
    ResultError
        If the Dataset is none of outcomes.

    Notes
    -----
    The mean over G groups has the standard error √(Σ s²) / G (stratified sampling; Cochran 1977,
    section 5.3), with s² = Σ w²(y − ȳ)² / (Σ w)² · n / (n − 1) in each, y an example's mean and w
    the number of its targets.

    References
    ----------
    Cochran, W. G. (1977). Sampling techniques. Third edition. Wiley. Brodersen, K. H. et al.
    (2010). The balanced accuracy and its posterior distribution. ICPR, 3121–3124.

    Examples
    --------
    >>> each = np.array([[[0.0, 0.0, 0.0, 1.0]]])
    >>> ds = xr.Dataset({"outcome": (("cell", "metric", "example"), each),
    ...                  "baseline_outcome": (("metric", "example"), 0 * each[0]),
    ...                  "weight": (("metric", "example"), np.ones((1, 4)))}, {"metric": ["error"]})
    >>> found = by_group(ds, ["cat", "cat", "cat", "dog"])
    >>> found["value"].values.tolist(), float(found["balanced"][0])
    ([[0.0, 1.0]], 0.5)
    """
    for name in ("outcome", "baseline_outcome", "weight"):
        results.require(outcomes, "metric", "example", variable=name)
    known = [str(name) for name in outcomes["metric"].values]
    name = known[0] if metric is None else choose(metric, known, "metric")
    about = results.metric(outcomes, name)
    if about.logarithmic:
        raise OptionError(
            f"{name} is no mean over examples; give metric= one that is, such as 'loss'."
        )
    labels, names = _labels(groups, outcomes.sizes["example"])
    at = outcomes.sel(metric=name)
    each = at["outcome"].transpose("cell", "example").values.astype(float)
    base = at["baseline_outcome"].values[None].astype(float)
    weight = at["weight"].values.astype(float)
    z = normal_quantile(confidence)
    value, error, n = _moments(each, weight, labels, len(names))
    lower, upper = value - z * error, value + z * error
    if about.fraction_of and set(weight) <= {0, 1}:
        lower, upper = wilson(value, np.maximum(n, 1), confidence)
    baseline, _, _ = _moments(base, weight, labels, len(names))
    balanced = value.mean(1)
    apart = z * np.sqrt((error**2).sum(1)) / len(names)
    dims = ["cell", "group"]
    found = {
        "value": (dims, value),
        "lower": (dims, lower),
        "upper": (dims, upper),
        "n": (["group"], n),
        "baseline": (["group"], baseline[0]),
        "balanced": (["cell"], balanced),
        "balanced_lower": (["cell"], balanced - apart),
        "balanced_upper": (["cell"], balanced + apart),
        "balanced_baseline": ([], baseline[0].mean()),
    }
    along = {key: at[key] for key in at.coords if at[key].dims == ("cell",)}
    return xr.Dataset(found, {**along, "group": names}, {"metric": name, "confidence": confidence})


def _labels(groups: npt.ArrayLike, count: int) -> tuple[npt.NDArray[np.intp], list[str]]:
    """Number the groups; names are sorted, numbers by their size."""
    given = np.asarray(groups)
    if given.shape != (count,) or given.dtype.kind not in "iubUS":
        raise OptionError(
            f"groups is {validate.describe(groups)} of shape {given.shape} and type {given.dtype}; "
            f"give one whole number or name for each of the {count:,} examples."
        )
    names, labels = np.unique(given, return_inverse=True)
    return labels, [str(name) for name in names]


def _moments(
    sums: Array, weight: Array, labels: npt.NDArray[np.intp], groups: int
) -> tuple[Array, Array, Array]:
    """Mean of each row in each group, its standard error, and the examples with a target there."""
    counted = np.where(weight > 0, sums, 0.0)  # a cell that saw an example at all has a number
    shape = len(sums), groups
    value, error, n = np.full(shape, np.nan), np.full(shape, np.nan), np.zeros(groups)
    for group in range(groups):
        own = (labels == group) & (weight > 0)
        n[group] = own.sum()
        if n[group]:
            w = weight[own]
            value[:, group] = counted[:, own].sum(1) / w.sum()
            apart = ((counted[:, own] - value[:, [group]] * w) ** 2).sum(1) / w.sum() ** 2
            error[:, group] = np.sqrt(apart * n[group] / (n[group] - 1)) if n[group] > 1 else np.nan
    return value, error, n
