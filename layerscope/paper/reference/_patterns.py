"""The order in which layers matter, not how much: the paper's figure beside ours."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import xarray as xr

from layerscope import results, stats
from layerscope.errors import ResultError, choose
from layerscope.paper import analyses
from layerscope.paper.analyses import Finding
from layerscope.paper.reference._comparing import cell_of
from layerscope.paper.reference._printed import BASE, ERROR

__all__ = ["pattern", "same_layers_matter"]


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

    theirs, ours = _both(ds, network, column)
    # Of layers that all give the same there is no order.
    ordered = [len(theirs) > 2 and np.ptp(theirs) > 0 and np.ptp(each) > 0 for each in ours]
    found = [
        spearmanr(theirs, each).statistic if there else np.nan
        for each, there in zip(ours, ordered, strict=True)
    ]
    return xr.DataArray(found, dims="seed", name="rank correlation with the paper")


def same_layers_matter(ds: xr.Dataset, network: str) -> Finding:
    """Judge whether the layers that hurt in the paper's figure are those that hurt here.

    That runs of one network give the same order is no evidence that it is the paper's: four layers
    have 24 orders, of which one is the paper's, however many runs there are. So the statement
    agrees where the order is above chance both over runs (Student's t) and among all orders of the
    layers (`stats.order_test`); the larger p-value counts. The finding's note says which values the
    correlation can take, and what depth alone would give.

    Parameters
    ----------
    ds : Dataset
    network : str
        One of `ERROR`; its column of checkpoint 0 is compared, see `pattern`.

    Examples
    --------
    >>> from layerscope import testing
    >>> found = same_layers_matter(testing.dataset(), "fcn-3x256")
    >>> found.condition, round(found.least, 3)
    ('above 0', 0.042)
    """
    theirs, ours = _both(ds, network, "0")
    found = analyses.by_rule(
        "same-layers",
        pattern(ds, network),
        of=network,
        step=analyses.rank_step(len(theirs)),
        span=(-1, 1),
    )
    if len(theirs) < 3:
        return found
    # Depth from below: the paper's order is near to that of depth, which many networks follow.
    test = stats.order_test(theirs, ours, -np.arange(len(theirs)))
    found = replace(found, least=test.smallest, note=_words(test))
    if found.verdict != analyses.AGREES:
        return found
    p = max(found.p, test.p_value)
    return replace(found, p=p, verdict=found.verdict if p < 0.05 else analyses.UNDECIDED)


def _words(test: stats.OrderTest) -> str:
    """Say how coarse a rank correlation is, how seldom chance gives it, and what depth gives."""
    least = f"{test.smallest:.2g} at the least" if test.exact else "of orders that were drawn"
    said = (
        f"{test.n_layers} layers: steps of {test.step:.2g}, p = {test.p_value:.2g} over orders of"
    )
    said += f" layers, {least}; depth alone {test.rival:.2f}"
    if np.isnan(test.partial):
        return said
    return f"{said}, with depth held fixed {test.partial:.2f}, p = {test.p_partial:.2g}"


def _both(
    ds: xr.Dataset, network: str, column: str
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Printed numbers, by layer, and ours, (seed, layer); none where there are too few."""
    printed = _rows(network, column)
    values = results.require(ds, "layer", "epoch", "perturbation", "draw", "metric")
    values = values.sel(metric="error", drop=True)
    if "seed" not in values.dims:
        values = values.expand_dims("seed")
    names = [name for name in map(str, values["layer"].values) if name in printed]
    cell = cell_of(values.sel(layer=names), column)
    if cell is None or len(names) < 3:
        return np.empty(0), np.empty((values.sizes["seed"], 0))
    ours = cell.mean("draw").transpose("seed", "layer").values
    known = ~np.isnan(ours).any(0)
    if lacking := [name for name, there in zip(names, known, strict=True) if not there]:
        raise ResultError(
            f"{lacking[0]} was not computed at {column} in every run; sweep it, or leave its "
            "row out of all."
        )
    return np.array([printed[name] for name in names]), ours


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
