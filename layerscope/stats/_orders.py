"""Orders of layers: a permutation test of a rank correlation, with a rival held fixed."""

from __future__ import annotations

from math import factorial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from layerscope.base import validate
from layerscope.errors import OptionError, choose
from layerscope.stats._arrays import Array

_WAYS = ("greater", "less", "two-sided")
_EXACT = 50_000


class OrderTest(NamedTuple):
    """Rank correlation of layers with what chance alone would give.

    ``correlation`` is the mean over runs; ``step`` the distance of its neighbouring values, and
    ``smallest`` the least p-value that so few layers can give. ``partial``, ``p_partial`` and
    ``rival`` (the rival's own correlation) are NaN without a rival.
    """

    correlation: float
    p_value: float
    partial: float
    p_partial: float
    rival: float
    n_layers: int
    n_runs: int
    step: float
    smallest: float
    exact: bool

    def words(self) -> str:
        """Say what was found, and how finely so few layers can tell.

        Examples
        --------
        >>> order_test([1, 2, 3, 4], [1, 2, 4, 3]).words()
        'ρ = 0.80 (4 layers, 1 run, steps of 0.2), p = 0.167, at the least 0.042'
        """
        runs = f"{self.n_runs} run{'s' if self.n_runs > 1 else ''}"
        told = f"ρ = {self.correlation:.2f} ({self.n_layers} layers, {runs}, steps of "
        told += f"{self.step:.2g}), p = {self.p_value:.3f}, at the least {self.smallest:.2g}"
        if np.isnan(self.rival):
            return told
        beside = f"; the rival alone {self.rival:.2f}; with it held fixed {self.partial:.2f}"
        return f"{told}{beside}, p = {self.p_partial:.3f}"


def order_test(
    expected: npt.ArrayLike,
    found: npt.ArrayLike,
    rival: npt.ArrayLike | None = None,
    *,
    alternative: str = "greater",
    permutations: int = 9999,
    seed: int = 0,
) -> OrderTest:
    """Test whether layers stand in an expected order more than chance would put them there.

    Spearman's rank correlation of each run, averaged over runs. Chance is that the layers were
    called by other names, in all runs alike: runs of one network are no independent evidence of an
    order, so that four layers never give a p-value below 1/24, however many runs there are. With a
    `rival`, such as depth alone, the partial rank correlation is tested, too: what of the order is
    left where the rival is held fixed.

    Parameters
    ----------
    expected : array_like
        One value per layer, shape ``(layers,)``, or per run, ``(runs, layers)``; such as the
        printed damages, or distances.
    found : array_like
        Likewise, such as damages. What is infinite ranks as largest. Layers with a NaN in any run
        are left out.
    rival : array_like, optional
        Likewise, such as ``range(layers)``.
    alternative : {"greater", "less", "two-sided"}
    permutations : int
        How many orders are drawn where all of them are more than 50,000: from nine layers on.
    seed : int
        Of these.

    Returns
    -------
    OrderTest
        Correlations in [−1, 1]; NaN, with a p-value of 1, below three layers and where a side does
        not vary, as the partial one does not where the rival gives the expected order itself.

    Raises
    ------
    OptionError
        If shapes do not go together, or an argument has a value that is not allowed.

    Notes
    -----
    With a rival, residuals of ranks on the rival's ranks are permuted, which is exact only
    asymptotically (Freedman and Lane): orders that follow the rival and nothing else of each other
    pass at 5 % in 5 to 7 % of cases with 4 to 20 layers (``benchmarks/coverage.py``), and in 6, 22
    and 98 % with 4, 6 and 11 layers where the rival is not held fixed.

    References
    ----------
    Spearman, C. (1904). The proof and measurement of association between two things. American
    Journal of Psychology 15, 72–101.

    Freedman, D. and Lane, D. (1983). A nonstochastic interpretation of reported significance
    levels. Journal of Business and Economic Statistics 1, 292–298.

    Phipson, B. and Smyth, G. K. (2010). Permutation p-values should never be zero. Statistical
    Applications in Genetics and Molecular Biology 9, 39. (For orders that are drawn.)

    Examples
    --------
    >>> test = order_test([1, 2, 3, 4, 5], [[1, 2, 3, 5, 4], [1, 2, 3, 4, 5]])
    >>> round(test.correlation, 2), round(test.p_value, 3), test.exact
    (0.95, 0.017, True)
    """
    choose(alternative, _WAYS, "alternative")
    permutations = validate.integer(permutations, "permutations", 1, 9999)
    seed = validate.integer(seed, "seed", 0)
    first, second, third = _runs(expected, found, rival)
    ranks = [_ranks(each) for each in (first, second, third)]
    layers, n_runs = first.shape[1], max(len(first), len(second))
    exact = layers < 13 and factorial(layers) <= max(_EXACT, permutations)
    options = (alternative, None if exact else permutations, seed)
    whole, p_value = _tested(ranks[0], ranks[1], *options)
    partial, p_partial, alone = float("nan"), float("nan"), float("nan")
    if rival is not None:
        left = [_residuals(each, ranks[2]) for each in ranks[:2]]
        partial, p_partial = _tested(left[0], left[1], *options)
        alone = _correlation(ranks[2], ranks[1])
    step = 12 / (layers * (layers**2 - 1)) / n_runs if layers > 1 else float("nan")
    smallest = 1 / factorial(layers) if exact else 1 / (permutations + 1)
    smallest *= 2 if alternative == "two-sided" and exact and layers > 1 else 1
    return OrderTest(
        whole, p_value, partial, p_partial, alone, layers, n_runs, step, smallest, exact
    )


def _runs(
    expected: npt.ArrayLike, found: npt.ArrayLike, rival: npt.ArrayLike | None
) -> tuple[Array, Array, Array]:
    """Bring all to (runs, layers), without layers that any of them lacks."""
    given = (expected, found, expected if rival is None else rival)
    arrays = [np.atleast_2d(np.asarray(each, float)) for each in given]
    shapes = [each.shape for each in arrays]
    counts = {shape[0] for shape in shapes} - {1}
    if any(each.ndim != 2 for each in arrays) or len({s[1] for s in shapes}) > 1 or len(counts) > 1:
        raise OptionError(
            f"expected, found and rival of shape {', '.join(map(str, shapes))} came; give (layers,)"
            " or (runs, layers), of the same layers and runs."
        )
    known = ~np.any([np.isnan(each).any(0) for each in arrays], axis=0)
    first, second, third = (each[:, known] for each in arrays)
    return first, second, third


def _ranks(values: Array) -> Array:
    """Ranks along the last axis, less their mean."""
    from scipy.stats import rankdata

    ranks = np.asarray(rankdata(values, axis=-1), float) if values.shape[-1] else values
    return np.asarray(ranks - ranks.mean(-1, keepdims=True) if values.shape[-1] else ranks)


def _residuals(ranks: Array, rival: Array) -> Array:
    """Take from ranks what a straight line through the rival's explains of them."""
    squares = (rival**2).sum(-1, keepdims=True)
    slope = (ranks * rival).sum(-1, keepdims=True) / np.where(squares > 0, squares, 1.0)
    left = ranks - slope * rival
    # What rounding leaves of an order that the rival gives is no order.
    return np.where(np.abs(left) > 1e-9, left, 0.0)


def _correlation(first: Array, second: Array) -> float:
    """Mean over runs of the correlation of centred rows; NaN where one does not vary."""
    return float(_correlations(first, _unit(second)))


def _correlations(first: Array, unit: Array) -> Array:
    return np.asarray((_unit(first) * unit).sum(-1).mean(-1))


def _unit(rows: Array) -> Array:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(rows / np.sqrt((rows**2).sum(-1, keepdims=True)))


def _tested(
    first: Array, second: Array, alternative: str, permutations: int | None, seed: int
) -> tuple[float, float]:
    """Correlation and p-value where layers of `first` are called by other names."""
    from scipy.stats import permutation_test

    layers = first.shape[1]
    there = _correlation(first, second) if layers > 2 else float("nan")
    if np.isnan(there):
        return there, 1.0
    # The mean over runs of correlations with one vector is that with the mean of the unit vectors.
    rows, unit = _unit(first), _unit(second)
    size = max(len(rows), len(unit))
    table = np.broadcast_to(rows, (size, layers)).T @ np.broadcast_to(unit, (size, layers)) / size
    places = np.arange(layers)

    def statistic(names: npt.NDArray[np.int64], axis: int = -1) -> Array:
        # Rounding must not part orders that are equal.
        order = np.moveaxis(np.asarray(names), axis, -1)
        return np.asarray(table[order, places].sum(-1).round(9))

    found = permutation_test(
        (places,),
        statistic,
        permutation_type="pairings",
        vectorized=True,
        n_resamples=np.inf if permutations is None else permutations,
        batch=10_000,
        alternative=alternative,
        rng=np.random.default_rng(seed),
    )
    return there, float(found.pvalue)
