"""The order in which layers matter, not how much: the paper's figure beside ours."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import xarray as xr

from layerscope import results
from layerscope.errors import ResultError, choose
from layerscope.paper import analyses
from layerscope.paper.analyses import Finding
from layerscope.paper.reference._comparing import cell_of
from layerscope.paper.reference._printed import BASE, ERROR

__all__ = ["pattern", "same_layers_matter"]

_MOST_ORDERED = 8  # ranks whose orders are all looked at


def pattern(ds: xr.Dataset, network: str, column: str = "0") -> xr.DataArray:
    """Compare which layers matter, not how much: a rank correlation with the paper's figure.

    Parameters
    ----------
    ds : Dataset
        Of any width or data; its rows are compared with those of `network` of the same name.
    network : str
        One of `ERROR`.
    column : str
        "rand", or an epoch.

    Returns
    -------
    DataArray
        Spearman's rank correlation over layers, the whole network left out, in [-1, 1]; with the
        dimension ``seed``. NaN where fewer than 3 layers have the same name. ``base`` ranks below
        every number that is printed and ``≥`` above; cells that print the same rank the same.

    Raises
    ------
    ResultError
        If a layer was not computed in every run.

    Examples
    --------
    >>> from layerscope import testing
    >>> float(pattern(testing.dataset(), "fcn-3x256")[0].round(2))
    0.8
    """
    from scipy.stats import spearmanr

    printed = _rows(network, column)
    values = results.require(ds, "layer", "epoch", "perturbation", "draw", "metric")
    values = values.sel(metric="error", drop=True)
    if "seed" not in values.dims:
        values = values.expand_dims("seed")
    names = [name for name in map(str, values["layer"].values) if name in printed]
    cell = cell_of(values.sel(layer=names), column)
    found = np.full(values.sizes["seed"], np.nan)
    if cell is not None and len(names) > 2:
        ours = cell.mean("draw").transpose("seed", "layer").values
        lacking = [
            name for name, known in zip(names, ~np.isnan(ours).any(0), strict=True) if not known
        ]
        if lacking:
            raise ResultError(
                f"{lacking[0]} was not computed at {column} in every run; sweep it, or leave its "
                "row out of all."
            )
        theirs = np.array([printed[name] for name in names])
        # Of layers that all give the same there is no order.
        ordered = [len(set(theirs)) > 1 and np.ptp(each) > 0 for each in ours]
        found = np.array(
            [
                spearmanr(theirs, each).statistic if there else np.nan
                for each, there in zip(ours, ordered, strict=True)
            ]
        )
    return xr.DataArray(found, dims="seed", name="rank correlation with the paper")


def same_layers_matter(ds: xr.Dataset, network: str) -> Finding:
    """Judge whether the layers that hurt in the paper's figure are those that hurt here.

    Parameters
    ----------
    ds : Dataset
    network : str
        One of `ERROR`; its column of checkpoint 0 is compared, see `pattern`.

    Examples
    --------
    >>> from layerscope import testing
    >>> same_layers_matter(testing.dataset(), "fcn-3x256").condition
    'above 0.9'
    """
    names = [str(name) for name in ds["layer"].values]
    count = sum(row in names for row in _rows(network, "0"))
    return analyses.by_rule(
        "same-layers",
        pattern(ds, network),
        of=network,
        above=by_chance(count),
        step=analyses.rank_step(count),
        span=(-1, 1),
    )


def by_chance(count: int) -> float:
    """Rank correlation that at most one in twenty orders without any relation exceeds.

    Up to 8 ranks by all their orders, midway between the last value that more than one in twenty
    reach and the next; beyond by Student's t with ``count − 2`` degrees of freedom.

    Examples
    --------
    >>> [round(by_chance(count), 2) for count in (3, 4, 6, 11)]
    [1.0, 0.9, 0.8, 0.52]
    """
    from scipy.stats import t

    if count > _MOST_ORDERED:
        level = float(t.isf(0.05, count - 2))
        return round(level / math.sqrt(count - 2 + level**2), 3)
    ranks = np.arange(count)
    squares = [int(((np.array(order) - ranks) ** 2).sum()) for order in permutations(ranks)]
    sums, counts = np.unique(squares, return_counts=True)
    few = int((np.cumsum(counts) / len(squares) <= 0.05).sum())
    if few == 0 or count < 2:
        return 1.0
    return round(1 - 6 * float(sums[few - 1] + sums[few]) / 2 / (count**3 - count), 3)


def _rows(network: str, column: str) -> dict[str, float]:
    """Printed number of each layer, for ranks alone."""
    printed = ERROR[choose(network, ERROR, "network in the reference")]
    return {
        name: _place(cells[column])
        for name, cells in printed.items()
        if column in cells and name != results.FULL_MODEL
    }


def _place(paper: float | str) -> float:
    if paper == BASE:
        return -math.inf
    return math.inf if isinstance(paper, str) else paper
