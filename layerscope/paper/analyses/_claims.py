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
import pandas as pd
import xarray as xr

from layerscope import results, stats
from layerscope.errors import OptionError, ResultError
from layerscope.paper.analyses._findings import Finding, finding, rank_step
from layerscope.paper.analyses._per_run import computed, damage, depth_correlation

__all__ = [
    "bottom_critical",
    "differs",
    "distance_tells_little",
    "extremes_differ",
    "first_epoch_worse",
    "norms_matter",
    "not_jointly_robust",
    "random_fails",
    "some_survive",
    "stage_starts_matter",
    "upper_robust",
]

DISTANCE_TELLS = 0.8
"""Rank correlation from which on distance would tell robust layers from critical ones."""

CHANCE_MARGIN = 0.1
"""Share of the way from trained to chance that a network "at chance" may still be short of it.

Fixed on 2026-11-28. A tenth of the way is 9 points of error among ten classes: a network that still
knows something of one class of ten is not counted as ruined, one that guesses unevenly is.
"""

ROBUST, CRITICAL = 0.05, 0.25
"""Damage up to which a row survives, and from which on it does not; as for `stats.classify`."""


def random_fails(ds: xr.Dataset, metric: str | None = None) -> Finding:
    """Judge whether re-randomising any one layer takes the network to chance.

    The least damage over layers is held against chance, damage 1, and not against half the way. One
    may be short of chance by `CHANCE_MARGIN`; to be worse than chance is no objection.

    Parameters
    ----------
    ds : Dataset
        With a perturbation that draws layers anew.
    metric : str, optional

    Examples
    --------
    >>> from layerscope import testing
    >>> found = random_fails(testing.dataset())
    >>> found.condition, round(found.value, 1)
    ('above 0.9', 0.9)
    """
    redrawn = results.redraws(ds)
    if not redrawn:
        raise ResultError("no layer was drawn anew here; sweep with 'rerandomize'.")
    least = damage(ds, redrawn[0], metric=metric).min("layer")
    claim = "re-randomising any one layer takes the network to chance"
    return finding(claim, "least damage over layers", least.values, above=1 - CHANCE_MARGIN)


def bottom_critical(ds: xr.Dataset, metric: str | None = None) -> Finding:
    """Judge whether the network can't do without the training of its lowest layer.

    Parameters
    ----------
    ds : Dataset
    metric : str, optional

    Examples
    --------
    >>> from layerscope import testing
    >>> round(bottom_critical(testing.dataset()).value, 2)
    1.02
    """
    first = damage(ds, metric=metric).isel(layer=0)
    claim = "the lowest layer is critical"
    measured = f"damage of re-initialising {first['layer'].item()}"
    return finding(claim, measured, first.values, above=CRITICAL)


def upper_robust(ds: xr.Dataset, rows: str = "*", metric: str | None = None) -> Finding:
    """Judge whether upper layers are more robust than lower ones, to re-initialisation.

    Parameters
    ----------
    ds : Dataset
    rows : str
        Pattern of the rows that count, such as ``"block*"``.
    metric : str, optional

    Examples
    --------
    >>> from layerscope import testing
    >>> upper_robust(testing.dataset()).value
    -1.0
    """
    kept = _only(ds, rows)
    correlation = depth_correlation(kept, metric)
    step = rank_step(len(stats.layer_order(kept, network=False)))
    claim = "upper layers are more robust than lower ones"
    what = "rank correlation of depth and damage"
    return finding(claim, what, correlation, below=0, step=step, span=(-1, 1))


def distance_tells_little(
    ds: xr.Dataset, norm: str = "l2_fan_in", metric: str | None = None
) -> Finding:
    """Judge whether how far a layer moved does not tell how much it matters.

    It would tell where those that moved furthest mattered least, too: the sign does not count.

    Parameters
    ----------
    ds : Dataset
    norm : str
        Of the distances along ``norm``.
    metric : str, optional

    Examples
    --------
    >>> from layerscope import testing
    >>> distance_tells_little(testing.dataset(layers=8)).condition
    'below 0.8'
    """
    computed(ds, metric=metric)  # refuses a layer that is missing
    found = stats.rank_correlation(ds, norm, metric)
    claim = "the distance from the start alone does not tell robust layers from critical ones"
    return finding(
        claim,
        f"rank correlation of distance ({norm}) and damage, without its sign",
        abs(np.atleast_1d(found["correlation"].values)),
        below=DISTANCE_TELLS,
        step=rank_step(int(found["n_layers"])),
        span=(0, 1),
    )


def stage_starts_matter(ds: xr.Dataset, metric: str | None = None) -> Finding:
    """Judge whether the first block of each stage of a ResNet is the one that matters in it.

    The first stage does not count: a network whose lowest layers are the critical ones has them
    there, too. In every later one the first block must do more damage than the others by what
    makes a layer critical.

    Parameters
    ----------
    ds : Dataset
        Of the view ``"block"``, rows named such as ``s2.1``.
    metric : str, optional

    Raises
    ------
    ResultError
        If no stage but the first has such rows.
    """
    shares = damage(ds, metric=metric)
    names = [str(name) for name in shares["layer"].values]
    later: list[xr.DataArray] = []
    for stage in range(2, 10):
        first = f"s{stage}.1"
        others = [n for n in fnmatch.filter(names, f"s{stage}.*") if n != first]
        if first in names and others:
            later.append(
                shares.sel(layer=first, drop=True) - shares.sel(layer=others).mean("layer")
            )
    if not later:
        raise ResultError(
            f"the rows {', '.join(names)} are no blocks of a ResNet with several stages; sweep one "
            "with view='block'."
        )
    claim = "critical blocks are spread over depth, at the beginnings of stages"
    measured = (
        "damage of a stage's first block less the mean of its others, least over the stages above "
        "the first"
    )
    return finding(claim, measured, xr.concat(later, "stage").min("stage").values, above=CRITICAL)


def not_jointly_robust(ds: xr.Dataset, single: Sequence[str], together: str) -> Finding:
    """Judge whether rows that are robust one by one are not so together.

    Parameters
    ----------
    ds : Dataset
        Of a sweep over groups, see `joint`.
    single : sequence of str
        Rows of one layer each, robust ones; with fewer than 2 the finding is undecided.
    together : str
        The row in which all of them are reset.
    """
    claim = "layers that are robust one by one are not robust together"
    measured = "damage of all at once less the largest of one"
    shares = damage(ds)
    # One layer alone says nothing about several.
    if len(single) < 2:
        return finding(claim, measured, [], above=ROBUST)
    more = shares.sel(layer=together) - shares.sel(layer=list(single)).max("layer")
    return finding(claim, measured, more.values, above=ROBUST)


def some_survive(ds: xr.Dataset, single: Sequence[str]) -> Finding:
    """Judge whether every second of the rows that are robust one by one can be reset together.

    Both halves count, since the better of two is no fair sample of them.

    Parameters
    ----------
    ds : Dataset
        Of a sweep over groups of them, see `joint`.
    single : sequence of str
        The robust rows; with fewer than 4 a half of them is one row or none, and the finding is
        undecided.
    """
    shares = damage(ds)
    halves = ["odd rows", "even rows"] if len(single) >= 4 else []
    claim = "every second of them can be reset together"
    measured = "mean damage of the odd and of the even rows"
    found: npt.ArrayLike = shares.sel(layer=halves).mean("layer").values if halves else []
    return finding(claim, measured, found, below=CRITICAL)


def norms_matter(
    ds: xr.Dataset, kept: xr.Dataset, rows: str = "*", metric: str | None = None
) -> Finding:
    """Judge whether a part of the damage comes from normalisation layers.

    Parameters
    ----------
    ds : Dataset
        Of a sweep in which normalisation goes back with its row (``norms="with"``).
    kept : Dataset
        Of the same networks, where it keeps what it learnt (``norms="kept"``).
    rows : str
        Pattern of the rows that count, such as ``"block*"``.
    metric : str, optional

    Raises
    ------
    ResultError
        If no row matches, or the two differ in their rows or runs.

    Examples
    --------
    >>> from layerscope import testing
    >>> norms_matter(testing.dataset(), testing.dataset()).value
    0.0
    """
    shares = [damage(_only(each, rows), metric=metric) for each in (ds, kept)]
    try:
        first, second = xr.align(*shares, join="exact")
    except ValueError:
        names = [", ".join(map(str, each["layer"].values)) for each in shares]
        raise ResultError(
            f"the sweeps are of {names[0]} and of {names[1]}, or of other runs; sweep the same "
            "networks and rows twice."
        ) from None
    claim = "a part of the damage comes from normalisation"
    measured = "mean damage of a row with its normalisation less that without"
    return finding(claim, measured, (first - second).mean("layer").values, above=0)


def first_epoch_worse(ds: xr.Dataset) -> Finding:
    """Judge whether some layer is worse off at checkpoint 1 than at its initialisation.

    Of many layers without a difference one comes out worse by chance. So each run is judged by
    the layer that the *other* runs find the worst off: without a difference that is 0 on average.

    Examples
    --------
    >>> from layerscope import testing
    >>> first_epoch_worse(testing.dataset()).runs                     # there is no other run
    0
    """
    more = (damage(ds, epoch=1) - damage(ds, epoch=0)).dropna("seed").values
    others = more.sum(0) - more
    found = more[np.arange(len(more)), others.argmax(1)] if len(more) > 1 else []
    claim = "going back to checkpoint 1 can hurt a layer more than going back to checkpoint 0"
    measured = "difference of the damages, of the layer that is worst off in the other runs"
    return finding(claim, measured, found, above=0)


def differs(
    claim: str,
    measured: str,
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    *,
    more: bool = True,
    step: float = 0.0,
    span: tuple[float, float] = (-np.inf, np.inf),
) -> Finding:
    """Judge whether a second setting gives more than a first, run by run with the same seed.

    Parameters
    ----------
    claim, measured : str
    first, second : array_like
        Shape ``(runs,)``, paired by seed.
    more : bool
        False where the second is said to give less.
    step, span : float, pair of float
        Of the difference, as for `finding`.

    Raises
    ------
    OptionError
        If the two are not of the same runs.

    Examples
    --------
    >>> differs("wider: more robust", "robust layers", [1, 2, 1], [3, 4, 3], step=1).verdict
    'agrees'
    """
    low, high = np.asarray(first, float), np.asarray(second, float)
    if low.shape != high.shape:
        raise OptionError(
            f"first has the shape {low.shape} and second {high.shape}; give one number per run, "
            "of the same runs."
        )
    above, below = (0.0, None) if more else (None, 0.0)
    return finding(claim, measured, high - low, above=above, below=below, step=step, span=span)


def extremes_differ(
    table: pd.DataFrame, setting: str, column: str, claim: str, *, more: bool = True
) -> Finding:
    """Judge whether the largest setting gives more than the smallest, paired by seed.

    Parameters
    ----------
    table : DataFrame
        As `tables_of` makes it.
    setting : str
        The column of settings, such as ``"width"``; with one setting the finding is undecided.
    column : str
        What is compared, such as ``"upper_damage"`` or ``"robust_share"``.
    claim : str
    more : bool
        False where the largest is said to give less.

    Examples
    --------
    >>> import pandas as pd
    >>> table = pd.DataFrame({"width": [8, 8, 16, 16], "seed": [0, 1, 1, 0],
    ...     "damage": [0.5, 0.4, 0.1, 0.2]})
    >>> round(extremes_differ(table, "width", "damage", "less", more=False).value, 2)
    -0.3
    """
    wide = table.pivot(index="seed", columns=setting, values=column)
    low, high = wide[wide.columns.min()], wide[wide.columns.max()]
    if wide.shape[1] == 1:
        low, high = low[:0], high[:0]
    # A share of few layers takes few values; the coarser of the two settings counts.
    share = column.endswith("_share")
    step = 1 / float(table["layers"].min()) if share else 0.0
    span = (-1.0, 1.0) if share else (-np.inf, np.inf)
    measured = f"{_WORDS.get(column, column)}, largest {setting} less smallest"
    return differs(claim, measured, low, high, more=more, step=step, span=span)


_WORDS = {
    "damage": "mean damage of a layer",
    "upper_damage": "mean damage of a layer in the upper half",
    "robust_share": "share of robust layers",
    "critical_share": "share of critical layers",
}


def _only(ds: xr.Dataset, rows: str) -> xr.Dataset:
    """The rows that match a pattern, and what is no row of its own."""
    names = stats.layer_order(ds, network=False)
    chosen = fnmatch.filter(names, rows)
    if not chosen:
        raise ResultError(f"no row matches {rows!r}; there is {', '.join(names)}.")
    # The whole network stays: of some metrics it tells what is untrained.
    return ds.sel(layer=[n for n in map(str, ds["layer"].values) if n in chosen or n not in names])
