"""The paper's statements about a heat map, each judged by one number per training run.

The paper words most of them without numbers; the limits are this package's and stand in the
finding beside what was measured. Damage is 0 where a reset changes nothing and 1 where the network
is as good as untrained, see `damage`.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import xarray as xr

from layerscope import stats
from layerscope.analyses.findings import Finding, finding
from layerscope.analyses.per_run import damage, depth_correlation
from layerscope.errors import ResultError

__all__ = [
    "bottom_critical",
    "differs",
    "distance_tells_little",
    "first_epoch_worse",
    "not_jointly_robust",
    "random_fails",
    "some_survive",
    "stage_starts_matter",
    "upper_robust",
]

TOLD = 0.8
"""Rank correlation from which on distance would tell robust layers from critical ones."""


def random_fails(ds: xr.Dataset, metric: str = "error") -> Finding:
    """Whether re-randomising any one layer ruins the network: the least damage over layers.

    Examples
    --------
    >>> from layerscope import testing
    >>> found = random_fails(testing.dataset())
    >>> found.condition, round(found.value, 1)
    ('above 0.5', 0.9)
    """
    least = damage(ds, "rerandomize", metric=metric).min("layer")
    claim = "re-randomising any one layer takes the network to chance"
    return finding(claim, "least damage over layers", least.values, above=0.5)


def bottom_critical(ds: xr.Dataset, metric: str = "error") -> Finding:
    """Whether the network can't do without the training of its lowest layer.

    Examples
    --------
    >>> from layerscope import testing
    >>> round(bottom_critical(testing.dataset()).value, 2)
    1.02
    """
    first = damage(ds, metric=metric).isel(layer=0)
    claim = "the lowest layer is critical"
    measured = f"damage of re-initialising {first['layer'].item()}"
    return finding(claim, measured, first.values, above=0.25)


def upper_robust(ds: xr.Dataset, rows: str = "*", metric: str = "error") -> Finding:
    """Whether upper layers are more robust than lower ones, to re-initialisation.

    Parameters
    ----------
    ds : Dataset
    rows : str
        Pattern of the rows that count, such as ``"block*"``.
    metric : str

    Examples
    --------
    >>> from layerscope import testing
    >>> upper_robust(testing.dataset()).value
    -1.0
    """
    names = stats.layer_order(ds, network=False)
    chosen = fnmatch.filter(names, rows)
    if not chosen:
        raise ResultError(f"no row matches {rows!r}; there is {', '.join(names)}.")
    # The whole network stays: of some metrics it tells what is untrained.
    kept = [n for n in map(str, ds["layer"].values) if n in chosen or n not in names]
    correlation = depth_correlation(ds.sel(layer=kept), metric)
    claim = "upper layers are more robust than lower ones"
    return finding(claim, "rank correlation of depth and damage", correlation, below=0)


def distance_tells_little(
    ds: xr.Dataset, norm: str = "l2_fan_in", metric: str = "error"
) -> Finding:
    """Whether how far a layer moved does not tell how much it matters.

    Examples
    --------
    >>> from layerscope import testing
    >>> distance_tells_little(testing.dataset(layers=8)).condition
    'below 0.8'
    """
    found = np.atleast_1d(stats.rank_correlation(ds, norm, metric)["correlation"].values)
    claim = "the distance from the start alone does not tell robust layers from critical ones"
    return finding(claim, f"rank correlation of distance ({norm}) and damage", found, below=TOLD)


def stage_starts_matter(ds: xr.Dataset, metric: str = "error") -> Finding:
    """Whether the first block of each stage of a ResNet matters more than the other blocks.

    Parameters
    ----------
    ds : Dataset
        Of the view ``"block"``, rows named such as ``s2.1``.

    Raises
    ------
    ResultError
        If there are no such rows.
    """
    shares = damage(ds, metric=metric)
    names = [str(name) for name in shares["layer"].values]
    first = [name for name in names if fnmatch.fnmatch(name, "s[0-9].1")]
    others = [name for name in names if fnmatch.fnmatch(name, "s[0-9].*") and name not in first]
    if not first or not others:
        raise ResultError(
            f"the rows {', '.join(names)} are no blocks of a ResNet; sweep with view='block'."
        )
    more = shares.sel(layer=first).mean("layer") - shares.sel(layer=others).mean("layer")
    claim = "critical blocks are spread over depth, at the beginnings of stages"
    measured = "mean damage of first blocks less that of the others"
    return finding(claim, measured, more.values, above=0)


def not_jointly_robust(ds: xr.Dataset, single: Sequence[str], together: str) -> Finding:
    """Whether rows that are robust one by one are not so together.

    Parameters
    ----------
    ds : Dataset
        Of a sweep over groups, see `joint`.
    single : sequence of str
        Rows of one layer each.
    together : str
        The row in which all of them are reset.
    """
    shares = damage(ds)
    more = shares.sel(layer=together) - shares.sel(layer=list(single)).max("layer")
    claim = "layers that are robust one by one are not robust together"
    measured = "damage of all at once less the largest of one"
    # One layer alone says nothing about several.
    return finding(claim, measured, more.values if len(single) > 1 else [], above=0)


def some_survive(ds: xr.Dataset, together: str) -> Finding:
    """Whether every second of the rows can be reset where all of them can't.

    Parameters
    ----------
    ds : Dataset
        Of a sweep over groups, see `joint`; with fewer than 3 rows the finding is undecided.
    together : str
        The row in which all are reset.
    """
    shares = damage(ds)
    halves = [row for row in ("odd rows", "even rows") if row in shares["layer"].values]
    if halves:
        less = (shares.sel(layer=halves).min("layer") - shares.sel(layer=together)).values
    else:
        less = np.array([])
    claim = "every second of them can be reset together, all of them can't"
    return finding(claim, "damage of every second row less that of all", less, below=0)


def first_epoch_worse(ds: xr.Dataset) -> Finding:
    """Whether some layer is worse off at checkpoint 1 than at its initialisation.

    Examples
    --------
    >>> from layerscope import testing
    >>> first_epoch_worse(testing.dataset()).value < 0
    True
    """
    more = (damage(ds, epoch=1) - damage(ds, epoch=0)).max("layer")
    claim = "going back to checkpoint 1 can hurt a layer more than going back to checkpoint 0"
    return finding(claim, "largest difference of the damages over layers", more.values, above=0)


def differs(
    claim: str,
    measured: str,
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    *,
    more: bool = True,
) -> Finding:
    """Judge whether a second setting gives more than a first, run by run with the same seed.

    Parameters
    ----------
    claim, measured : str
    first, second : array_like
        Shape ``(runs,)``, paired by seed.
    more : bool
        False where the second is said to give less.

    Examples
    --------
    >>> differs("wider: more robust", "robust layers", [1, 2, 1], [3, 4, 3]).verdict
    'agrees'
    """
    change = np.asarray(second, float) - np.asarray(first, float)
    limit = {"above": 0.0} if more else {"below": 0.0}
    return finding(claim, measured, change, **limit)
