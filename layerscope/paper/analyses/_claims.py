"""The paper's statements about a heat map, each judged by one number per training run.

The paper words most of them without numbers; the limits are this package's, and stand with their
reasons in `layerscope.paper.rules`. Damage is 0 where a reset changes nothing and 1 where the
network is as good as untrained, see `damage`.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from layerscope import results, stats
from layerscope.errors import ResultError
from layerscope.paper.analyses._findings import Finding, by_rule
from layerscope.paper.analyses._per_run import damage, lower_half, upper_half
from layerscope.paper.analyses._simultaneous import by_rule_of_all

__all__ = [
    "bottom_critical",
    "costs_little",
    "extremes_differ",
    "first_epoch_worse",
    "no_upper_critical",
    "norms_matter",
    "not_jointly_robust",
    "others_survive",
    "random_fails",
    "some_survive",
    "stage_starts_matter",
    "upper_robust",
]


def random_fails(ds: xr.Dataset, metric: str | None = None) -> Finding:
    """Judge whether re-randomising any one layer takes the network to chance.

    The damage of every layer is held against chance, damage 1, and not against half the way. It
    may be short of chance by `rules.CHANCE_MARGIN`; to be worse than chance is no objection.

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
    return by_rule_of_all("random-fails", damage(ds, redrawn[0], metric=metric))


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
    return by_rule("lowest-critical", first.values, of=str(first["layer"].item()))


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
    >>> round(upper_robust(testing.dataset()).value, 2)
    -0.54
    """
    shares = damage(_only(ds, rows), metric=metric)
    halves = [half(shares).mean("layer") for half in (upper_half, lower_half)]
    return by_rule("upper-more-robust", (halves[0] - halves[1]).values, of=_among(rows))


def no_upper_critical(ds: xr.Dataset, rows: str = "*", metric: str | None = None) -> Finding:
    """Judge whether no layer of the upper half is critical.

    Parameters
    ----------
    ds, rows, metric
        As for `upper_robust`.

    Examples
    --------
    >>> from layerscope import testing
    >>> round(no_upper_critical(testing.dataset()).value, 2)
    0.18
    """
    shares = upper_half(damage(_only(ds, rows), metric=metric))
    return by_rule_of_all("no-upper-critical", shares, of=_among(rows))


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
    later: dict[str, xr.DataArray] = {}
    for stage in range(2, 10):
        first = f"s{stage}.1"
        others = [n for n in fnmatch.filter(names, f"s{stage}.*") if n != first]
        if first in names and others:
            rest = shares.sel(layer=others).mean("layer")
            later[first] = shares.sel(layer=first, drop=True) - rest
    if not later:
        raise ResultError(
            f"the rows {', '.join(names)} are no blocks of a ResNet with several stages; sweep one "
            "with view='block'."
        )
    more = xr.concat(later.values(), "layer").assign_coords(layer=list(later))
    return by_rule_of_all("stage-starts", more)


def others_survive(ds: xr.Dataset, metric: str | None = None) -> Finding:
    """Judge whether blocks of a ResNet that are not the first of a stage survive random values.

    Parameters
    ----------
    ds : Dataset
        Of the view ``"block"``, with a perturbation that draws layers anew.
    metric : str, optional

    Raises
    ------
    ResultError
        If there are no such blocks, or no layer was drawn anew.
    """
    redrawn, names = results.redraws(ds), list(map(str, ds["layer"].values))
    later = [name for name in names if "." in name and not name.endswith(".1")]
    if not redrawn or not later:
        raise ResultError(
            "no block but the first of a stage was drawn anew here; sweep a ResNet with "
            "view='block' and 'rerandomize'."
        )
    shares = damage(ds, redrawn[0], metric=metric).sel(layer=later)
    return by_rule("others-survive", shares.median("layer").values)


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
    shares = damage(ds)
    # One layer alone says nothing about several.
    if len(single) < 2:
        return by_rule("not-jointly-robust", [])
    more = shares.sel(layer=together) - shares.sel(layer=list(single)).max("layer")
    return by_rule("not-jointly-robust", more.values)


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
    found: npt.ArrayLike = shares.sel(layer=halves).mean("layer").values if halves else []
    return by_rule("halves-survive", found)


def costs_little(table: pd.DataFrame, variant: str, *, known: bool = True) -> Finding:
    """Judge whether training without the robust layers, or with them frozen, costs little.

    Parameters
    ----------
    table : DataFrame
        As `experiments.retrain` returns it.
    variant : {"frozen", "removed"}
    known : bool
        False where no layer was robust; then the finding is undecided.

    Examples
    --------
    >>> table = pd.DataFrame({"variant": ["full", "frozen"] * 2, "seed": [0, 0, 1, 1],
    ...     "layers": ["", "fc1"] * 2, "error": [0.1, 0.11, 0.12, 0.12]})
    >>> round(costs_little(table, "frozen").value, 3)
    0.005
    """
    errors = table.pivot(index="seed", columns="variant", values="error")
    layers = table.loc[table["variant"] == variant, "layers"].iloc[0]
    more: npt.ArrayLike = errors[variant] - errors["full"] if known else []
    return by_rule(f"{variant}-costs-little", more, of=layers)


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
    return by_rule("norms-matter", (first - second).mean("layer").values, of=_among(rows))


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
    return by_rule("first-epoch-worse", found)


def extremes_differ(table: pd.DataFrame, setting: str, column: str, rule: str) -> Finding:
    """Judge whether the largest setting gives more than the smallest, or less, paired by seed.

    Parameters
    ----------
    table : DataFrame
        As `tables_of` makes it.
    setting : str
        The column of settings, such as ``"width"``; with one setting the finding is undecided.
    column : str
        What is compared, such as ``"upper_damage"`` or ``"robust_share"``.
    rule : str
        Of `rules.RULES`; it says which of the two is said.

    Examples
    --------
    >>> import pandas as pd
    >>> table = pd.DataFrame({"width": [8, 8, 16, 16], "seed": [0, 1, 1, 0],
    ...     "damage": [0.5, 0.4, 0.1, 0.2]})
    >>> round(extremes_differ(table, "width", "damage", "width-damage").value, 2)
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
    more = np.asarray(high, float) - np.asarray(low, float)
    return by_rule(rule, more, step=step, span=span)


def _among(rows: str) -> str:
    return "" if rows == "*" else f"{rows} alone"


def _only(ds: xr.Dataset, rows: str) -> xr.Dataset:
    """The rows that match a pattern, and what is no row of its own."""
    names = stats.layer_order(ds, network=False)
    chosen = fnmatch.filter(names, rows)
    if not chosen:
        raise ResultError(f"no row matches {rows!r}; there is {', '.join(names)}.")
    # The whole network stays: of some metrics it tells what is untrained.
    return ds.sel(layer=[n for n in map(str, ds["layer"].values) if n in chosen or n not in names])
