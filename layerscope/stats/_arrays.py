"""Intervals and means of plain arrays, without names."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from layerscope.base import validate
from layerscope.errors import OptionError

Array = npt.NDArray[np.floating[Any]]


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
    p, n = validate.arrays(errors=errors, n=n)
    if np.any((p < 0) | (p > 1)):
        raise OptionError(
            f"proportions from {np.nanmin(p):g} to {np.nanmax(p):g} came; give fractions in "
            "[0, 1]: divide counts by n, and percentages by 100."
        )
    if np.any(n <= 0):
        raise OptionError(f"n = {np.min(n):g} came; each proportion needs at least one example.")
    z = normal_quantile(confidence)
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
    correlate positively: applied to them, the interval is conservative (too wide). Where it is
    known how often they differ, `paired_proportions` is narrower.

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
    p1, n1, p0, n0 = validate.arrays(p1=p1, n1=n1, p0=p0, n0=n0)
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

    check_confidence(confidence)
    (known,) = validate.arrays(samples=samples)
    if not -known.ndim <= validate.integer(axis, "axis") < max(known.ndim, 1):
        raise OptionError(f"axis is {axis}; samples of shape {known.shape} have no such axis.")
    mean, deviation, count = moments(np.atleast_1d(known), axis)
    with np.errstate(invalid="ignore", divide="ignore"):
        quantile = distributions.t.ppf((1 + confidence) / 2, count - 1)
        half = quantile * deviation / np.sqrt(count)
    return mean, mean - half, mean + half


class Estimate(NamedTuple):
    """Means with bounds; what `kind` of chance they cover is "seeds", "draws" or "examples"."""

    value: Array
    lower: Array
    upper: Array
    spread: Array
    n_draws: npt.NDArray[np.int64]
    n_seeds: npt.NDArray[np.int64]
    kind: npt.NDArray[np.str_]


def estimate(samples: Array, lower: Array, upper: Array, confidence: float) -> Estimate:
    """Reduce (…, seed, draw) to means, with an interval over seeds, else draws, else examples.

    `lower` and `upper` are the bounds over examples of each sample.
    """
    per_seed, _, draws = moments(samples, -1)
    value, seed_spread, n_seeds = moments(per_seed, -1)
    n_draws = draws.max(axis=-1, initial=0)
    # Where a single seed has data, flattening leaves that seed's draws; likewise a single draw.
    flat = samples.reshape(*samples.shape[:-2], -1)
    draw_spread = moments(flat, -1)[1]
    # Where all are infinite there is no spread, and nothing that is unknown.
    endless = np.isinf(value) & (np.isinf(flat) | np.isnan(flat)).all(-1)
    kinds = [endless, n_seeds >= 2, n_draws >= 2]
    by_seed, by_draw = student(per_seed, -1, confidence), student(flat, -1, confidence)
    alone = [moments(bound.reshape(flat.shape), -1)[0] for bound in (lower, upper)]
    return Estimate(
        value,
        np.select(kinds, [value, by_seed[1], by_draw[1]], alone[0]),
        np.select(kinds, [value, by_seed[2], by_draw[2]], alone[1]),
        np.select(kinds[1:], [seed_spread, draw_spread], np.nan),
        n_draws,
        n_seeds,
        np.select(kinds[1:], ["seeds", "draws"], "examples"),
    )


def moments(samples: Array, axis: int) -> tuple[Array, Array, npt.NDArray[np.int64]]:
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


def normal_quantile(confidence: float) -> float:
    """How many standard deviations the interval reaches to either side."""
    from statistics import NormalDist

    check_confidence(confidence)
    return NormalDist().inv_cdf((1 + confidence) / 2)


def check_confidence(confidence: float) -> None:
    """Refuse what is no probability strictly between 0 and 1."""
    validate.number(confidence, "confidence", "(0, 1)", 0.95)
