"""How far layers moved in training, held against how much they matter."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from functools import partial

import numpy as np
import numpy.typing as npt
import xarray as xr

from layerscope import results
from layerscope.errors import choose
from layerscope.paper import rules
from layerscope.paper.analyses._findings import UNDECIDED, Finding, by_rule
from layerscope.paper.analyses._per_run import damage

__all__ = ["distance_tells_little"]

_ORDERS = 9999
_AT_A_TIME = 500
_LEVEL = 0.05

Array = npt.NDArray[np.float64]


def distance_tells_little(
    ds: xr.Dataset, norm: str = "l2_fan_in", metric: str | None = None
) -> Finding:
    """Judge whether how far a layer moved does not tell how much it matters.

    It would tell where those that moved furthest mattered least, too: the rule has a limit to
    either side. Only pairs of layers count whose damages differ by more than what a robust layer
    may cost. No correlation is no evidence that there is none: it agrees where the interval lies
    within the limits, which an interval of few pairs never does. It disagrees only where chance
    would order the layers as well in fewer than one of twenty cases: that all runs of a network
    have an order is no evidence that distance gives it.

    Parameters
    ----------
    ds : Dataset
    norm : str
        Of the distances along ``norm``.
    metric : str, optional

    References
    ----------
    Goodman, L. A. and Kruskal, W. H. (1954). Measures of association for cross classifications.
    Journal of the American Statistical Association 49, 732–764.

    Hosmer, D. W., Lemeshow, S. and Sturdivant, R. X. (2013). Applied Logistic Regression, 3rd
    edition, p. 177. Wiley.

    Examples
    --------
    >>> from layerscope import testing
    >>> distance_tells_little(testing.dataset(layers=8)).condition
    'within 0.4 of 0'
    """
    shares = damage(ds, metric=metric).dropna("seed", how="all")
    kept = results.require(ds, "layer", "epoch", "norm", variable="distance")
    choose(norm, map(str, ds["norm"].values), "norm")
    far = kept.sel(norm=norm, epoch=int(ds["epoch"].max()), layer=shares["layer"].values)
    far = far if "seed" in far.dims else far.expand_dims("seed")
    far = far.sel(seed=shares["seed"].values) if "seed" in far.coords else far
    worse, moved = _worse(shares.values), far.transpose("seed", "layer").values
    told = _signs(worse, moved)
    pairs = (told != 0).sum(-1)
    found = by_rule(
        "distance-tells-little",
        _gamma(told),
        of=norm,
        step=2 / int(pairs[pairs > 0].min()) if pairs.any() else 0.0,
        span=(-1, 1),
    )
    return _beside_chance(found, worse, moved)


def _beside_chance(found: Finding, worse: Array, moved: Array) -> Finding:
    """Let a finding disagree only where few orders of the layers give as much."""
    from scipy.stats import permutation_test

    if not abs(found.value) > rules.DISTANCE_TELLS:
        return found
    test = permutation_test(
        (np.arange(moved.shape[-1]),),
        partial(_of_order, worse, moved),
        permutation_type="pairings",
        n_resamples=_ORDERS,
        batch=_AT_A_TIME,
        vectorized=True,
        random_state=0,
    )
    chance, p = np.abs(test.null_distribution), float(test.pvalue)
    said = f"{moved.shape[-1]} layers: p = {p:.2g} over orders of layers"
    found = replace(found, note=said)
    if math.isnan(found.p) or found.p > p:  # further runs would decide it
        return found
    # No order could give less.
    least = float(np.mean(chance >= chance.max() - 1e-12))
    verdict = UNDECIDED if p >= _LEVEL else found.verdict
    return replace(found, p=p, least=least, verdict=verdict)


def _worse(damages: Array) -> Array:
    """Sign of each pair of layers that differs in damage, else 0; shape ``(runs, pairs)``."""
    first, second = np.triu_indices(damages.shape[-1], 1)
    with np.errstate(invalid="ignore"):  # of two that are infinite neither is worse
        apart = damages[:, first] - damages[:, second]
        return np.where(abs(apart) > rules.ROBUST, np.sign(apart), 0.0)


def _signs(worse: Array, moved: Array) -> Array:
    """1 for a pair that stands in one order by both, −1 for one that does not, else 0."""
    first, second = np.triu_indices(moved.shape[-1], 1)
    return worse * np.sign(moved[..., first] - moved[..., second])


def _gamma(told: Array) -> Array:
    """Goodman and Kruskal's γ over the last dimension; NaN where there are no pairs."""
    count = (told != 0).sum(-1)
    return np.where(count > 0, told.sum(-1) / np.maximum(count, 1), np.nan)


def _of_order(worse: Array, moved: Array, order: npt.NDArray[np.intp], axis: int = -1) -> Array:
    """Mean of γ over runs with the layers' distances in other orders, shape ``(…, layers)``."""
    assert axis == -1, "the orders come last"
    runs = [_gamma(_signs(worse[at], moved[at][order])) for at in range(len(moved))]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice")
        return np.asarray(np.nanmean(runs, 0))
