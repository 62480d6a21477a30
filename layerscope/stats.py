"""Degradation, intervals and verdicts: arrays first, then the same with named dimensions.

Three kinds of chance can move a number, and `summary` says which of them an interval covers:

``"examples"``
    another test set of the same size; Wilson's interval for fractions, else normal.
``"draws"``
    another random draw for the perturbed layer, same network; Student's t.
``"seeds"``
    another training run; Student's t. It contains the other two, so it is used where it can be.

>>> from layerscope import stats, testing
>>> table = stats.classify(testing.dataset())
>>> list(table.verdict)
['critical', 'intermediate', 'intermediate', 'intermediate']
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from layerscope import results
from layerscope.errors import OptionError, ResultError, choose

__all__ = [
    "classify",
    "column_order",
    "degradation",
    "distances",
    "interval",
    "layer_order",
    "newcombe",
    "rank_correlation",
    "student",
    "summary",
    "wilson",
]

FRACTIONS = ("error", "accuracy")
"""Metrics that are counts of examples divided by `n_examples`."""

HIGHER_IS_BETTER = ("accuracy", "agreement")
"""Metrics that fall when a network gets worse."""

_DIMS = ("layer", "epoch", "perturbation", "draw", "metric")

Array = npt.NDArray[np.floating[Any]]


# Arrays


def wilson(
    errors: npt.ArrayLike, n: npt.ArrayLike, confidence: float = 0.95
) -> tuple[Array, Array]:
    """Score interval for a proportion.

    Parameters
    ----------
    errors : array_like
        Observed proportions, fractions in [0, 1]; NaN stays NaN.
    n : array_like
        Number of examples of each, broadcast against `errors`.
    confidence : float
        In (0, 1).

    Returns
    -------
    lower, upper : ndarray
        Fractions in [0, 1] that enclose `errors`.

    Raises
    ------
    OptionError
        If a proportion lies outside [0, 1], or an `n` is not positive.

    References
    ----------
    Wilson, E. B. (1927). Probable inference, the law of succession, and statistical inference.
    Journal of the American Statistical Association 22, 209–212.

    Examples
    --------
    >>> lower, upper = wilson(0.0, 10)
    >>> float(lower), round(float(upper), 4)
    (0.0, 0.2775)
    """
    p, n = np.asarray(errors, float), np.asarray(n, float)
    if np.any((p < 0) | (p > 1)):
        raise OptionError(
            f"proportions from {np.nanmin(p):g} to {np.nanmax(p):g} came; give fractions in "
            "[0, 1]: divide counts by n, and percentages by 100."
        )
    if np.any(n <= 0):
        raise OptionError(f"n = {np.min(n):g} came; each proportion needs at least one example.")
    z = _normal_quantile(confidence)
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    # At p = 0 and p = 1 one bound equals p exactly; rounding must not push it past.
    return np.clip(np.minimum(centre - half, p), 0, 1), np.clip(np.maximum(centre + half, p), 0, 1)


def newcombe(
    p1: npt.ArrayLike,
    n1: npt.ArrayLike,
    p0: npt.ArrayLike,
    n0: npt.ArrayLike,
    confidence: float = 0.95,
) -> tuple[Array, Array]:
    """Hybrid score interval for the difference ``p1 - p0`` of two independent proportions.

    The perturbed and the unperturbed network see the same examples, so that their errors
    correlate positively: applied to them, the interval is conservative (too wide).

    Parameters
    ----------
    p1, p0 : array_like
        Observed proportions, fractions in [0, 1].
    n1, n0 : array_like
        Number of examples of each.
    confidence : float
        In (0, 1).

    Returns
    -------
    lower, upper : ndarray
        In [−1, 1].

    Raises
    ------
    OptionError
        As `wilson`.

    References
    ----------
    Newcombe, R. G. (1998). Interval estimation for the difference between independent
    proportions: comparison of eleven methods. Statistics in Medicine 17, 873–890; method 10.

    Examples
    --------
    >>> [round(float(bound), 4) for bound in newcombe(56 / 70, 70, 48 / 80, 80)]
    [0.0524, 0.3339]
    """
    p1, p0 = np.asarray(p1, float), np.asarray(p0, float)
    lower1, upper1 = wilson(p1, n1, confidence)
    lower0, upper0 = wilson(p0, n0, confidence)
    difference = p1 - p0
    return (
        difference - np.hypot(p1 - lower1, upper0 - p0),
        difference + np.hypot(upper1 - p1, p0 - lower0),
    )


def student(
    samples: npt.ArrayLike, axis: int = -1, confidence: float = 0.95
) -> tuple[Array, Array, Array]:
    """Mean of samples with Student's t interval.

    Parameters
    ----------
    samples : array_like
        NaN means "not computed" and is left out.
    axis : int
        Along which the samples lie; it is reduced.
    confidence : float
        In (0, 1).

    Returns
    -------
    mean, lower, upper : ndarray
        In the unit of `samples`. The bounds of a single sample are NaN: its spread is unknown,
        not nil. So is the mean of none.

    Examples
    --------
    >>> [round(float(part), 2) for part in student([1.0, 2.0, 3.0])]
    [2.0, -0.48, 4.48]
    """
    from scipy import stats as distributions

    _check_confidence(confidence)
    mean, deviation, count = _moments(np.asarray(samples, float), axis)
    with np.errstate(invalid="ignore", divide="ignore"):
        quantile = distributions.t.ppf((1 + confidence) / 2, count - 1)
        half = quantile * deviation / np.sqrt(count)
    return mean, mean - half, mean + half


# Labelled


def degradation(ds: xr.Dataset) -> xr.DataArray:
    """How much the metric moved: ``value − baseline``.

    Above 0 is worse for error, loss and perplexity; below 0 is worse for accuracy and agreement.

    Parameters
    ----------
    ds : Dataset
        With ``value`` and ``baseline``.

    Returns
    -------
    DataArray
        Dimensions and unit of ``value``; NaN where that is.

    Raises
    ------
    ResultError
        If the Dataset lacks a dimension or variable.

    Examples
    --------
    >>> from layerscope import testing
    >>> worse = degradation(testing.dataset())
    >>> round(float(worse.sel(layer="layer1", epoch=0, metric="error").max()), 2)
    0.88
    """
    value = results.require(ds, "layer", "metric")
    moved = (value - results.require(ds, "metric", variable="baseline")).rename("degradation")
    return moved.transpose(*value.dims).assign_attrs(
        long_name="metric of the perturbed network minus that of the unperturbed", units="1"
    )


def interval(ds: xr.Dataset, confidence: float = 0.95) -> xr.Dataset:
    """Bounds of every value over examples: what another test set of this size might give.

    Wilson's interval for "error" and "accuracy", ``value ± z · standard_error`` for the others.

    Parameters
    ----------
    ds : Dataset
        With ``value``, and ``n_examples`` or ``standard_error``.
    confidence : float
        In (0, 1).

    Returns
    -------
    Dataset
        ``lower`` and ``upper``, each with the dimensions of ``value``; NaN where the value is
        NaN, or where the Dataset holds nothing to tell its uncertainty from.

    Raises
    ------
    ResultError
        If the Dataset lacks a dimension or variable.

    Examples
    --------
    >>> from layerscope import testing
    >>> bounds = interval(testing.dataset())
    >>> list(bounds.data_vars), bounds.lower.dims == testing.dataset().value.dims
    (['lower', 'upper'], True)
    """
    value = results.require(ds, "layer", "metric")
    parts = [
        _example_bounds(ds, value.sel(metric=[name]), confidence) for name in value["metric"].values
    ]
    bounds = xr.concat(parts, dim="metric", join="exact").transpose(*value.dims)
    for name, bound in bounds.data_vars.items():
        bound.attrs |= {"long_name": f"{name} bound of value over examples", "units": "1"}
    return bounds.assign_attrs(confidence=confidence)


def summary(ds: xr.Dataset, metric: str = "error", confidence: float = 0.95) -> pd.DataFrame:
    """One row per layer and column of the paper's figure, with an interval that says its kind.

    Parameters
    ----------
    ds : Dataset
        With ``value``; ``baseline``, ``n_examples`` and ``standard_error`` where it has them.
    metric : str
        One of ``ds.metric``.
    confidence : float
        In (0, 1).

    Returns
    -------
    DataFrame
        Of the computed cells, layers in execution order (the whole network last), columns in
        the order rand, 0, 1, 2, …:

        ``layer``, ``column`` (str), ``epoch`` (int), ``perturbation`` (str)
            ``column`` is "rand" for re-randomised layers, else the epoch.
        ``value``, ``lower``, ``upper``
            Mean over draws, then over seeds, in the metric's unit. Bounds of error and accuracy
            are clipped to [0, 1].
        ``spread``
            Standard deviation over seeds, over draws where there is one seed; NaN where single.
        ``n_examples``, ``n_draws``, ``n_seeds``
        ``interval_kind``
            "seeds" (Student's t over at least 2 seeds), "draws" (t over at least 2 draws of one
            seed; it does not cover another test set) or "examples".
        ``degradation``
            ``value − baseline``, NaN without a baseline.

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
    samples = _samples(ds, metric)
    bounds = interval(ds.sel(metric=[metric]), confidence).sel(metric=metric)
    lower, upper = (_with_seed(bounds[name]).transpose(*samples.dims) for name in bounds.data_vars)
    found = _estimate(samples.values, lower.values, upper.values, confidence)
    if metric in FRACTIONS:
        found = found._replace(lower=np.clip(found.lower, 0, 1), upper=np.clip(found.upper, 0, 1))
    moved = _moments(_moments((samples - _baseline(ds, metric)).values, -1)[0], -1)[0]
    cells = {name: array for name, array in found._asdict().items() if name != "kind"}
    frame = _long(samples, cells | {"interval_kind": found.kind, "degradation": moved})
    frame.insert(8, "n_examples", _n_examples(ds))
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
    parts = [kept.sel(norm=norm).expand_dims(perturbation=["reinitialize"], draw=[0])]
    if "draw_distance" in ds:
        drawn = results.require(ds, "layer", "draw", "norm", variable="draw_distance")
        drawn = drawn.sel(norm=norm)
        parts.append(drawn.expand_dims(perturbation=["rerandomize"], epoch=[results.NO_EPOCH]))
    frames = []
    for part in parts:
        samples = _with_seed(part).transpose("layer", "epoch", "perturbation", "seed", "draw")
        unknown = np.full(samples.shape, np.nan)
        found = _estimate(samples.values, unknown, unknown, confidence=0.95)
        names = ("value", "spread", "n_draws", "n_seeds")
        frames.append(_long(samples, {name: getattr(found, name) for name in names}))
    return _in_order(pd.concat(frames, ignore_index=True), layer_order(ds))


def classify(
    ds: xr.Dataset,
    metric: str = "error",
    *,
    tolerance: float = 0.02,
    critical_share: float = 0.5,
    critical: float | None = None,
    confidence: float = 0.95,
    epoch: int = 0,
    perturbation: str = "reinitialize",
    include_network: bool = False,
) -> pd.DataFrame:
    """Which layers are robust, which critical.

    A layer is

    - *robust* if the whole interval of its degradation lies at or below `tolerance`,
    - *critical* if the whole interval lies at or above `critical`, which is
      ``critical_share × (chance − baseline)`` unless given,
    - *intermediate* if the whole interval lies strictly between the two,
    - *undecided* otherwise: more examples, draws or seeds would tell. So is a layer that was
      not computed, one whose interval is unknown, and every layer where `critical` is not above
      `tolerance`, as in a network that is hardly better than chance.

    The paper gives no numbers; these limits are defaults of this package.

    The interval is Student's t over seeds with at least two of them (of each seed's degradation,
    draws averaged), else Student's t over at least two draws, else over examples: `newcombe` for
    fractions (conservative, since both networks see the same examples), the normal one of the
    difference otherwise. Over draws it does not cover the choice of the test set.

    Parameters
    ----------
    ds : Dataset
        With ``value``, ``baseline``, and ``chance`` where `critical` is not given.
    metric : str
        One of ``ds.metric``.
    tolerance : float
        Degradation that counts as none, in the metric's unit.
    critical_share : float
        Share of the way from baseline to chance, in (0, 1].
    critical : float, optional
        Degradation from which a layer is critical, in the metric's unit. Needed for metrics
        other than error and accuracy, whose value by chance is not known.
    confidence : float
        In (0, 1).
    epoch : int
        Checkpoint that the weights come from; without effect for a perturbation that takes
        nothing from a checkpoint.
    perturbation : str
        One of ``ds.perturbation``.
    include_network : bool
        Keep the row of the whole network, too.

    Returns
    -------
    DataFrame
        ``layer``, ``degradation``, ``lower``, ``upper``, ``interval_kind``, ``verdict``. Above 0
        is worse for every metric here. ``attrs`` holds the limits "tolerance" and "critical".

    Raises
    ------
    ResultError
        If the Dataset lacks a dimension or variable, or nothing was computed there.
    OptionError
        If there is no such metric, epoch or perturbation, or no limit for "critical".

    Examples
    --------
    >>> from layerscope import testing
    >>> table = classify(testing.dataset(layers=2), tolerance=0.1)
    >>> dict(zip(table.layer, table.verdict, strict=True))
    {'layer1': 'critical', 'layer2': 'intermediate'}
    """
    samples = _samples(ds, metric)
    cell = _one_cell(samples, epoch, perturbation)
    limit = _critical_limit(ds, metric, critical_share) if critical is None else critical
    baseline = _baseline(ds, metric, required=True)
    lower, upper = _difference_bounds(ds, metric, cell, baseline, confidence)
    sign = -1 if metric in HIGHER_IS_BETTER else 1
    if sign < 0:
        lower, upper = -upper, -lower
    worse = (sign * (cell - baseline)).transpose("layer", "seed", "draw").values
    found = _estimate(worse, lower, upper, confidence)
    frame = pd.DataFrame(
        {
            "layer": [str(name) for name in samples["layer"].values],
            "degradation": found.value,
            "lower": found.lower,
            "upper": found.upper,
            "interval_kind": found.kind,
            "verdict": _verdicts(found.lower, found.upper, tolerance, limit),
        }
    )
    frame.attrs |= {"tolerance": float(tolerance), "critical": float(limit)}
    keep = np.ones(len(frame), bool) if include_network else ~_is_network(samples)
    return frame[keep].reset_index(drop=True)


def rank_correlation(ds: xr.Dataset, norm: str = "l2_fan_in", metric: str = "error") -> xr.Dataset:
    """Tell whether the layers that moved furthest matter most.

    Spearman's rank correlation over layers, the whole network left out, between the distance at
    the last checkpoint and the degradation at re-initialisation to epoch 0.

    Parameters
    ----------
    ds : Dataset
        With ``value``, ``baseline`` and ``distance``.
    norm : str
        One of ``ds.norm``.
    metric : str
        One of ``ds.metric``.

    Returns
    -------
    Dataset
        ``correlation`` in [−1, 1], with the dimension ``seed`` where `ds` has it, and its
        ``mean``; ``n_layers``. NaN below 3 layers, and where all values are the same.

    Raises
    ------
    ResultError
        If the Dataset lacks a dimension or variable, or nothing was computed there.
    OptionError
        If there is no such norm or metric.

    Examples
    --------
    >>> from layerscope import testing
    >>> found = rank_correlation(testing.dataset(layers=8))
    >>> bool(-1 <= found.correlation <= 1), int(found.n_layers)
    (True, 8)
    """
    samples = _samples(ds, metric)
    cell = _one_cell(samples, 0, "reinitialize") - _baseline(ds, metric, required=True)
    sign = -1 if metric in HIGHER_IS_BETTER else 1
    worse = sign * cell.mean("draw")
    kept = results.require(ds, "layer", "epoch", "norm", variable="distance")
    choose(norm, map(str, ds["norm"].values), "norm")
    moved = _with_seed(kept.sel(norm=norm, epoch=int(ds["epoch"].max())))
    layers = ~_is_network(samples)
    pairs = [
        _spearman(worse.sel(seed=seed).values[layers], moved.sel(seed=seed).values[layers])
        for seed in worse["seed"].values
    ]
    correlation = xr.DataArray(pairs, {"seed": worse["seed"].values}, dims="seed")
    return xr.Dataset(
        {
            "correlation": correlation
            if "seed" in ds.dims
            else correlation.isel(seed=0, drop=True),
            "mean": correlation.mean("seed"),
            "n_layers": int(layers.sum()),
        },
        attrs={"norm": norm, "metric": metric},
    )


def layer_order(ds: xr.Dataset, network: bool = True) -> list[str]:
    """List the layers as they stand in the Dataset, which is execution order, the network last.

    Parameters
    ----------
    ds : Dataset
    network : bool
        Whether to list the row in which every layer is perturbed at once.

    Returns
    -------
    list of str

    Examples
    --------
    >>> from layerscope import testing
    >>> layer_order(testing.dataset(layers=2))
    ['layer1', 'layer2', 'fullmodel']
    """
    whole = _is_network(ds)
    names = [*ds["layer"].values[~whole], *(ds["layer"].values[whole] if network else ())]
    return [str(name) for name in names]


def column_order(table: pd.DataFrame) -> list[str]:
    """List the columns of `summary` or `distances` in the paper's order: rand, 0, 1, ….

    Examples
    --------
    >>> from layerscope import testing
    >>> column_order(summary(testing.dataset(epochs=(0, 1, 10))))
    ['rand', '0', '1', '10']
    """
    once = table.drop_duplicates("column").assign(layer="")
    return [str(column) for column in _in_order(once, [""])["column"]]


# The steps of the above


class _Estimate(NamedTuple):
    value: Array
    lower: Array
    upper: Array
    spread: Array
    n_draws: npt.NDArray[np.int64]
    n_seeds: npt.NDArray[np.int64]
    kind: npt.NDArray[np.str_]


def _estimate(samples: Array, lower: Array, upper: Array, confidence: float) -> _Estimate:
    """Reduce (…, seed, draw) to means, with the widest kind of interval there is data for.

    `lower` and `upper` are the bounds over examples of each sample.
    """
    per_seed, _, draws = _moments(samples, -1)
    value, seed_spread, n_seeds = _moments(per_seed, -1)
    n_draws = draws.max(axis=-1, initial=0)
    # Where a single seed has data, flattening leaves that seed's draws; likewise a single draw.
    flat = samples.reshape(*samples.shape[:-2], -1)
    draw_spread = _moments(flat, -1)[1]
    kinds = [n_seeds >= 2, n_draws >= 2]
    by_seed, by_draw = student(per_seed, -1, confidence), student(flat, -1, confidence)
    alone = [_moments(bound.reshape(flat.shape), -1)[0] for bound in (lower, upper)]
    return _Estimate(
        value,
        np.select(kinds, [by_seed[1], by_draw[1]], alone[0]),
        np.select(kinds, [by_seed[2], by_draw[2]], alone[1]),
        np.select(kinds, [seed_spread, draw_spread], np.nan),
        n_draws,
        n_seeds,
        np.select(kinds, ["seeds", "draws"], "examples"),
    )


def _moments(samples: Array, axis: int) -> tuple[Array, Array, npt.NDArray[np.int64]]:
    """Mean, standard deviation (n − 1) and number of what is not NaN; NaN where undefined."""
    known = ~np.isnan(samples)
    count = known.sum(axis=axis)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.sum(samples, axis=axis, where=known) / np.where(count, count, np.nan)
        # Of infinite values the distance to their mean is NaN, and so is the deviation.
        squares = (samples - np.expand_dims(mean, axis)) ** 2
        total = np.sum(squares, axis=axis, where=known)
        deviation = np.sqrt(total / np.where(count > 1, count - 1, np.nan))
    return mean, deviation, count


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise OptionError(f"confidence is {confidence!r}; give a number in (0, 1), such as 0.95.")


def _normal_quantile(confidence: float) -> float:
    from statistics import NormalDist

    _check_confidence(confidence)
    return NormalDist().inv_cdf((1 + confidence) / 2)


def _example_bounds(ds: xr.Dataset, value: xr.DataArray, confidence: float) -> xr.Dataset:
    """Bounds of the values of one metric, which keep their dimension ``metric``."""
    metric = str(value["metric"].values[0])
    if metric in FRACTIONS and "n_examples" in ds:
        lower, upper = xr.apply_ufunc(
            wilson,
            value,
            ds["n_examples"],
            kwargs={"confidence": confidence},
            output_core_dims=[[], []],
        )
        return xr.Dataset({"lower": lower, "upper": upper})
    error = ds["standard_error"].sel(metric=[metric]) if "standard_error" in ds else np.nan
    half = _normal_quantile(confidence) * error
    # Infinite perplexity has no standard error; inf − inf would warn on the way to NaN.
    with np.errstate(invalid="ignore"):
        return xr.Dataset({"lower": value - half, "upper": value + half})


def _difference_bounds(
    ds: xr.Dataset,
    metric: str,
    cell: xr.DataArray,
    baseline: xr.DataArray,
    confidence: float,
) -> tuple[Array, Array]:
    """Bounds over examples of ``cell − baseline``, (layer, seed, draw)."""
    if metric in FRACTIONS and "n_examples" in ds:
        n = ds["n_examples"]
        bounds = xr.apply_ufunc(
            newcombe,
            *(cell, n, baseline, n),
            kwargs={"confidence": confidence},
            output_core_dims=[[], []],
        )
    else:
        half = _normal_quantile(confidence) * np.hypot(
            _standard_error(ds, "standard_error", metric, cell),
            _standard_error(ds, "baseline_standard_error", metric, baseline),
        )
        bounds = (cell - baseline - half, cell - baseline + half)
    lower, upper = (bound.transpose("layer", "seed", "draw").values for bound in bounds)
    return lower, upper


def _standard_error(ds: xr.Dataset, name: str, metric: str, like: xr.DataArray) -> xr.DataArray:
    """Look up the standard error of a part of ``value``, NaN where the Dataset has none."""
    if name not in ds:
        return xr.full_like(like, np.nan)
    error = _with_seed(ds[name].sel(metric=metric))
    return error.sel({dim: like[dim] for dim in ("epoch", "perturbation") if dim in error.dims})


def _verdicts(
    lower: Array, upper: Array, tolerance: float, critical: float
) -> npt.NDArray[np.str_]:
    if critical <= tolerance:
        return np.full(lower.shape, "undecided")
    return np.select(
        [upper <= tolerance, lower >= critical, (lower > tolerance) & (upper < critical)],
        ["robust", "critical", "intermediate"],
        "undecided",
    )


def _critical_limit(ds: xr.Dataset, metric: str, share: float) -> float:
    if metric not in FRACTIONS:
        raise OptionError(
            f"what chance gives is not known for {metric!r}; say from which degradation on a "
            "layer is critical: critical=…, in the metric's unit."
        )
    if not 0 < share <= 1:
        raise OptionError(f"critical_share is {share!r}; give a number in (0, 1], such as 0.5.")
    baseline = _baseline(ds, metric, required=True)
    error = baseline if metric == "error" else 1 - baseline
    return share * float((results.require(ds, variable="chance") - error).mean())


def _samples(ds: xr.Dataset, metric: str) -> xr.DataArray:
    """``value`` of one metric as (layer, epoch, perturbation, seed, draw), the network last."""
    value = results.require(ds, *_DIMS)
    choose(metric, map(str, ds["metric"].values), "metric")
    extra = [str(dim) for dim in value.dims if dim not in (*_DIMS, "seed")]
    if extra:
        raise ResultError(
            f"'value' also has the dimension {', '.join(extra)}; choose one: "
            f".sel({extra[0]}={ds[extra[0]].values.tolist()[0]!r})."
        )
    samples = _with_seed(value.sel(metric=metric))
    samples = samples.transpose("layer", "epoch", "perturbation", "seed", "draw")
    return samples.sel(layer=layer_order(ds))


def _with_seed(array: xr.DataArray) -> xr.DataArray:
    return (
        array
        if "seed" in array.dims
        else array.drop_vars("seed", errors="ignore").expand_dims(seed=[0])
    )


def _is_network(ds: xr.Dataset | xr.DataArray) -> npt.NDArray[np.bool_]:
    """Which rows have every layer perturbed at once."""
    if "kind" in ds.coords:
        return np.asarray(ds["kind"].values == "network")
    return np.asarray(ds["layer"].values == results.FULL_MODEL)


def _baseline(ds: xr.Dataset, metric: str, required: bool = False) -> xr.DataArray:
    """Look up the baseline, per seed where it differs; NaN where the Dataset has none."""
    if "baseline" not in ds and not required:
        return xr.DataArray(np.nan)
    baseline = results.require(ds, "metric", variable="baseline").sel(metric=metric, drop=True)
    # The baseline of a single run holds for the dimension seed that `_samples` adds.
    return baseline if "seed" in baseline.dims else baseline.drop_vars("seed", errors="ignore")


def _n_examples(ds: xr.Dataset) -> float | int:
    return int(ds["n_examples"].min()) if "n_examples" in ds else np.nan


def _one_cell(samples: xr.DataArray, epoch: int, perturbation: str) -> xr.DataArray:
    """(layer, seed, draw) at one epoch and perturbation."""
    names = [str(name) for name in samples["perturbation"].values]
    chosen = samples.sel(perturbation=choose(perturbation, names, "perturbation"))
    done = [int(each) for each in chosen["epoch"].values if chosen.sel(epoch=each).notnull().any()]
    if done == [results.NO_EPOCH]:
        epoch = results.NO_EPOCH
    if epoch not in done:
        raise ResultError(
            f"{perturbation!r} was not computed at epoch {epoch}; it was at "
            f"{', '.join(map(str, done)) or 'none'}. Choose one of these with epoch=."
        )
    return chosen.sel(epoch=epoch)


def _spearman(first: Array, second: Array) -> float:
    from scipy.stats import rankdata

    both = ~(np.isnan(first) | np.isnan(second))
    ranks = [rankdata(values[both]) for values in (first, second)]
    if both.sum() < 3 or any(np.ptp(rank) == 0 for rank in ranks):
        return float("nan")
    return float(np.corrcoef(*ranks)[0, 1])


def _long(samples: xr.DataArray, cells: dict[str, npt.NDArray[Any]]) -> pd.DataFrame:
    """Put (layer, epoch, perturbation) arrays into one table of the computed cells."""
    names = ("layer", "epoch", "perturbation")
    index = np.argwhere(cells["n_seeds"] > 0)
    where = {name: samples[name].values[index[:, axis]] for axis, name in enumerate(names)}
    frame = pd.DataFrame(
        {
            "layer": where["layer"].astype(object),
            "column": [
                _column(str(perturbation), int(epoch))
                for perturbation, epoch in zip(where["perturbation"], where["epoch"], strict=True)
            ],
            "epoch": where["epoch"].astype(int),
            "perturbation": where["perturbation"].astype(object),
        }
        | {name: array[tuple(index.T)] for name, array in cells.items()}
    )
    return _in_order(frame, list(samples["layer"].values))


def _column(perturbation: str, epoch: int) -> str:
    """Name a column of the figure; the paper's two perturbations have its short names."""
    if epoch == results.NO_EPOCH:
        return "rand" if perturbation == "rerandomize" else perturbation
    return str(epoch) if perturbation == "reinitialize" else f"{perturbation} {epoch}"


def _in_order(frame: pd.DataFrame, layers: list[Any]) -> pd.DataFrame:
    """Sort by layer, then rand, 0, 1, …, then what the paper has not."""
    ours = {"rerandomize": 0, "reinitialize": 1}
    keys = pd.DataFrame(
        {
            "layer": frame["layer"].map({name: place for place, name in enumerate(layers)}),
            "from": frame["epoch"] != results.NO_EPOCH,
            "perturbation": frame["perturbation"].map(lambda name: ours.get(name, 2)),
            "name": frame["perturbation"],
            "epoch": frame["epoch"],
        }
    )
    return frame.loc[keys.sort_values(list(keys.columns)).index].reset_index(drop=True)
