"""Equivalence within a margin, and how large a difference a number of runs can show."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from layerscope.base import validate
from layerscope.errors import OptionError
from layerscope.stats._arrays import Array, check_confidence, moments

AGREES, DIFFERS, UNDECIDED = "agrees", "differs", "undecided"

_MOST_RUNS = 10_000


class Equivalence(NamedTuple):
    """Differences from a reference with bounds, in the unit of the samples.

    ``verdict`` is "agrees" where the whole interval lies within the margin, "differs" where all of
    it lies beyond, else "undecided". ``detectable`` is the difference that a test of so many runs
    with so much spread would have found; ``kept`` the smallest margin that would have held it all.
    """

    difference: Array
    lower: Array
    upper: Array
    verdict: npt.NDArray[np.str_]
    detectable: Array
    kept: Array


def equivalence(
    samples: npt.ArrayLike,
    margin: npt.ArrayLike,
    reference: npt.ArrayLike = 0.0,
    *,
    reference_spread: npt.ArrayLike = 0.0,
    reference_n: npt.ArrayLike = np.inf,
    axis: int = -1,
    confidence: float = 0.95,
    power: float = 0.8,
) -> Equivalence:
    """Test whether a mean equals a reference within a margin.

    "Not found to be different" is no agreement: few runs find nothing different. Here a mean agrees
    only if its whole interval lies within ``reference ± margin``, so that few or scattered runs
    leave it undecided. This is two one-sided tests at half of ``1 − confidence`` each.

    Parameters
    ----------
    samples : array_like
        One value per run along `axis`; NaN means "not computed" and is left out.
    margin : array_like
        Largest difference that counts as none, above 0, in the unit of `samples`.
    reference : array_like
        Broadcast against the means. By default 0: then `samples` are differences themselves, such
        as damages ("costs little").
    reference_spread, reference_n : array_like
        Standard deviation of the reference over so many runs, where it is an estimate itself. By
        default it is exact. Spreads are not taken to be equal (Welch).
    axis : int
    confidence : float
        In (0, 1).
    power : float
        In (0, 1): how often ``detectable`` would have been found.

    Returns
    -------
    Equivalence
        Arrays without `axis`. A single sample decides nothing: its bounds are NaN.

    Raises
    ------
    OptionError
        If a margin is not above 0, or another argument has a value that is not allowed.

    Notes
    -----
    The interval is Student's t. At the margin itself normal runs agree in 2.5 % of cases, but
    strongly skewed ones (log-normal, σ = 1), as damages near 0 may be, in 16 % with three, five and
    ten runs alike (``benchmarks/coverage.py``): of those, compare logarithms.

    References
    ----------
    Schuirmann, D. J. (1987). A comparison of the two one-sided tests procedure and the power
    approach for assessing the equivalence of average bioavailability. Journal of Pharmacokinetics
    and Biopharmaceutics 15, 657–680.

    Welch, B. L. (1947). The generalization of "Student's" problem when several different population
    variances are involved. Biometrika 34, 28–35.

    Examples
    --------
    >>> found = equivalence([[0.010, 0.012, 0.011], [0.0, 0.08, 0.01]], margin=0.05)
    >>> found.verdict.tolist(), found.detectable.round(3).tolist()
    (['agrees', 'undecided'], [0.003, 0.142])
    """
    check_confidence(confidence)
    (values,) = validate.arrays(samples=samples)
    if not -values.ndim <= validate.integer(axis, "axis") < max(values.ndim, 1):
        raise OptionError(f"axis is {axis}; samples of shape {values.shape} have no such axis.")
    mean, spread, count = moments(np.atleast_1d(values), axis)
    mean, spread, n, limit, other, other_spread, other_n = validate.arrays(
        mean=mean, spread=spread, n=count, margin=margin, reference=reference,
        reference_spread=reference_spread, reference_n=reference_n,
    )  # fmt: skip
    _check_reference(limit, other_spread, other_n)
    error, freedom = _welch(spread, n, other_spread, other_n)
    difference = mean - other
    half = _student_quantile(freedom, confidence) * error
    lower, upper = difference - half, difference + half
    verdict = np.select(
        [(lower >= -limit) & (upper <= limit), (lower > limit) | (upper < -limit)],
        [AGREES, DIFFERS],
        UNDECIDED,
    )
    detectable = _noncentrality(freedom, power, confidence) * error
    kept = np.maximum(np.abs(lower), np.abs(upper))
    return Equivalence(difference, lower, upper, verdict, detectable, kept)


def detectable_difference(
    spread: npt.ArrayLike,
    n: npt.ArrayLike,
    *,
    power: float = 0.8,
    confidence: float = 0.95,
    further: bool = False,
) -> Array:
    """Difference from 0 or another known number that `n` runs would find.

    Parameters
    ----------
    spread : array_like
        Standard deviation over runs, in any unit.
    n : array_like
        Number of runs, broadcast against it.
    power : float
        In (0, 1): in what share of repetitions of all runs it would be found.
    confidence : float
        In (0, 1), of the two-sided test.
    further : bool
        By the interval of one more run in place of the mean's.

    Returns
    -------
    ndarray
        In the unit of `spread`; NaN below two runs.

    Raises
    ------
    OptionError
        If an argument has a value that is not allowed.

    References
    ----------
    Johnson, N. L. and Welch, B. L. (1940). Applications of the non-central t-distribution.
    Biometrika 31, 362–389.

    Examples
    --------
    >>> detectable_difference(0.04, [3, 5, 10]).round(3).tolist()
    [0.131, 0.067, 0.04]
    """
    deviation, runs = validate.arrays(spread=spread, n=n)
    if np.any(deviation < 0) or np.any(runs < 0):
        raise OptionError("spread or n is negative; give a standard deviation and a number.")
    error, freedom = _welch(deviation, runs, np.zeros_like(runs), np.full_like(runs, np.inf))
    # The interval of one more run is √(n + 1) times as wide as the mean's.
    width = np.sqrt(np.where(np.isnan(freedom), np.nan, freedom + 2)) if further else 1.0
    return _noncentrality(freedom, power, confidence, width) * error


def runs_needed(
    difference: float,
    spread: float,
    *,
    power: float = 0.8,
    confidence: float = 0.95,
    further: bool = False,
) -> int:
    """Smallest number of runs that would find a difference.

    Parameters
    ----------
    difference : float
        True distance from 0 or from the limit in question, in the unit of `spread`; not 0.
    spread : float
        Standard deviation over runs.
    power, confidence, further
        As for `detectable_difference`.

    Returns
    -------
    int
        At least 2.

    Raises
    ------
    OptionError
        If more than 10,000 would be needed, or an argument has a value that is not allowed.

    Examples
    --------
    >>> runs_needed(0.05, 0.04)
    8
    """
    wanted = abs(validate.number(difference, "difference", "(-inf, inf)", 0.05))
    deviation = validate.number(spread, "spread", "[0, inf)", 0.04)

    def found(runs: int) -> bool:
        least = detectable_difference(
            deviation, runs, power=power, confidence=confidence, further=further
        )
        return bool(least <= wanted)

    if wanted == 0 or not found(_MOST_RUNS):
        raise OptionError(
            f"a difference of {difference} with a spread of {spread} needs more than "
            f"{_MOST_RUNS:,} runs; ask for a larger difference."
        )
    few, enough = 1, _MOST_RUNS
    while enough - few > 1:
        middle = (few + enough) // 2
        few, enough = (few, middle) if found(middle) else (middle, enough)
    return enough


def _check_reference(margin: Array, spread: Array, n: Array) -> None:
    if np.any(margin <= 0):
        raise OptionError(f"margin is {np.nanmin(margin):g}; give differences above 0.")
    if np.any(spread < 0) or np.any(n < 2):
        raise OptionError(
            "reference_spread is negative or reference_n below 2; leave both out where the "
            "reference's own spread is not known."
        )


def _welch(spread: Array, n: Array, other: Array, other_n: Array) -> tuple[Array, Array]:
    """Standard error of a difference of means, and its degrees of freedom."""
    with np.errstate(invalid="ignore", divide="ignore"):
        first, second = spread**2 / n, other**2 / other_n
        total = first + second
        squares = first**2 / (n - 1) + np.where(second > 0, second**2 / (other_n - 1), 0.0)
        # Samples without spread have no chance in them, whatever their number.
        freedom = np.where(total > 0, total**2 / squares, n - 1)
    known = n >= 2
    return np.where(known, np.sqrt(total), np.nan), np.where(known, freedom, np.nan)


def _student_quantile(freedom: Array, confidence: float) -> Array:
    from scipy.stats import t

    return np.asarray(t.ppf((1 + confidence) / 2, freedom))


def _noncentrality(
    freedom: Array, power: float, confidence: float, width: npt.ArrayLike = 1.0
) -> Array:
    """Differences in standard errors found with this power by intervals so much wider."""
    validate.number(power, "power", "(0, 1)", 0.8)
    check_confidence(confidence)
    pairs = np.stack([np.ravel(freedom), np.ravel(np.broadcast_to(width, np.shape(freedom)))])
    levels, back = np.unique(pairs, axis=1, return_inverse=True)
    found = [_noncentrality_at(at, each, power, confidence) for at, each in levels.T.tolist()]
    return np.asarray(found, float)[back].reshape(np.shape(freedom))


def _noncentrality_at(freedom: float, width: float, power: float, confidence: float) -> float:
    from scipy.optimize import brentq
    from scipy.stats import nct, t

    if np.isnan(freedom):
        return float("nan")
    limit = width * float(t.ppf((1 + confidence) / 2, freedom))

    def missing(shift: float) -> float:
        # Found on the wrong side, a difference is not found.
        return float(nct.sf(limit, freedom, shift)) - power

    # Even without a difference a test finds one, as often as it is wrong.
    if missing(0.0) >= 0:
        return 0.0
    high = limit + 4.0
    while missing(high) < 0:
        high *= 2
    return float(brentq(missing, 0.0, high))
