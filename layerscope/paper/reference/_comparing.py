"""Cell by cell: what the paper prints, and where one more run of ours would lie."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from layerscope import results
from layerscope.errors import ResultError, choose
from layerscope.paper import rules
from layerscope.paper.reference._printed import (
    BASE,
    COLOUR_ERROR,
    DISTANCE,
    ERROR,
    FINAL,
    READING_ERROR,
    Printed,
    norms,
)

__all__ = [
    "cell_of",
    "closeness",
    "distances",
    "errors",
    "papers_own",
    "printed_network",
    "tables",
    "verdict",
]


@dataclass(frozen=True)
class _Prediction:
    """Prediction of new runs of ours: the mean, and a 95 % prediction interval.

    ``known`` is False where too few of several runs have a number for an interval.
    """

    mean: float
    lower: float
    upper: float
    known: bool = True


def errors(ds: xr.Dataset, network: str) -> pd.DataFrame:
    """Set measured test errors beside the paper's, cell by cell.

    Parameters
    ----------
    ds : Dataset
        With dimension ``seed``, or of one run.
    network : str
        One of `ERROR`; of any other the paper prints nothing, and the table is empty.

    Returns
    -------
    DataFrame
        One row per printed cell that `ds` has: ``layer``, ``column``, ``paper``, ``measured`` (mean
        over seeds), ``lower`` and ``upper`` (where 95 % of new runs would lie: Student's t with
        the spread of the runs times √(1 + 1/n); over seeds, for ``rand`` over seeds and draws),
        ``difference``, ``agrees``, and ``told``, whether so wide an interval tells anything.

    Raises
    ------
    ResultError
        If no row of `ds` has the name of a layer of the paper's.

    Notes
    -----
    A cell agrees if the paper's number, give or take `READING_ERROR` (or `COLOUR_ERROR`), lies in
    the interval: the paper's is one more run. ``≥`` agrees if the interval reaches that far up;
    ``base`` if the difference from the trained network of the same run can be as small as the
    reading error. Few or scattered runs agree with any number: a cell is ``told`` only where the
    interval reaches no further than `rules.PRINTED_MARGIN` to either side, or the number lies
    outside all the same; of distances, no further than that share of our mean. Where all but one of
    several runs lack a cell it has no interval, and is not told either.
    """
    values = results.require(ds, "layer", "epoch", "perturbation", "draw", "metric")
    values = values.sel(metric="error", drop=True)
    base = results.require(ds, "metric", variable="baseline").sel(metric="error", drop=True)
    rows, slack = [], COLOUR_ERROR.get(network, READING_ERROR)
    several = ds.sizes.get("seed", 1)
    for layer, cells in _shared(ds, ERROR.get(network, {})).items():
        for column, paper in cells.items():
            cell = cell_of(values.sel(layer=layer), column)
            if cell is None:
                continue
            seen = _predict(cell.values.ravel(), several)
            over = _predict((cell - base).values.ravel(), several)
            rows.append(_row(layer, column, paper, seen, over, 1.0, slack, rules.PRINTED_MARGIN))
    return pd.DataFrame(rows, columns=_COLUMNS)


def distances(ds: xr.Dataset, network: str, norm: str) -> pd.DataFrame:
    """Set measured distances beside the paper's, as `errors` does for errors.

    Parameters
    ----------
    ds : Dataset
    network : str
        A network of `DISTANCE`.
    norm : str
        ``"l2_fan_in"``, whose unit in the paper is unknown: one factor, fitted to the ``rand``
        column alone, carries ours into it (in ``attrs["factor"]``); or ``"linf"``, compared as
        it is.
    """
    known = DISTANCE[choose(network, DISTANCE, "network in the reference")]
    printed = _shared(ds, known[choose(norm, known, "norm in the reference")])
    factor = _factor(ds, printed) if norm == "l2_fan_in" else 1.0
    rows = []
    for layer, cells in printed.items():
        for column, paper in cells.items():
            found = _distance(ds, layer, column, norm)
            if found is None:
                continue
            seen = _predict(found * factor, ds.sizes.get("seed", 1))
            margin = rules.PRINTED_MARGIN * seen.mean
            rows.append(_row(layer, column, paper, seen, seen, math.inf, READING_ERROR, margin))
    table = pd.DataFrame(rows, columns=_COLUMNS)
    table.attrs["factor"] = factor
    return table


def tables(
    runs: Mapping[str, xr.Dataset], data: str = "", meant: str = ""
) -> dict[str, pd.DataFrame]:
    """Every comparison with the numbers that the paper prints for networks, by what it is of.

    Parameters
    ----------
    runs : mapping of str to Dataset
        By network, also of less width: it is compared with what the paper prints of the full one,
        see `printed_network`. Of those that the paper prints no numbers of there is no table.
    data, meant : str
        Names of the data set, and of the one that the paper's numbers are of.

    Returns
    -------
    dict of str to DataFrame
        In ``attrs["reduced"]`` stands in words what is smaller than in the paper; empty where
        nothing is.

    Examples
    --------
    >>> from layerscope import testing
    >>> found = tables({"fcn-3x256": testing.dataset()}, "mnist-5k", "mnist")
    >>> list(found)[0], found["test errors of fcn-3x256"].attrs["reduced"]
    ('test errors of fcn-3x256', 'mnist-5k instead of mnist')
    """
    found: dict[str, pd.DataFrame] = {}
    for network, ds in runs.items():
        printed = printed_network(network)
        if printed is None:
            continue
        here = "" if network == printed else f", here {network}"
        smaller = [f"{data} instead of {meant}"] if data != meant else []
        smaller += [f"{network} instead of {printed}"] if here else []
        each = {f"test errors of {printed}{here}": errors(ds, printed)}
        for norm in norms(printed):
            what = f"distances from the initial values ({norm}) of {printed}{here}"
            each[what] = distances(ds, printed, norm)
        for table in each.values():
            table.attrs["reduced"] = ", ".join(smaller)
        found |= {what: table for what, table in each.items() if len(table)}
    return found


def printed_network(network: str) -> str | None:
    """Name the network of the paper's figures that a network is a form of, of whatever width.

    Those with another normalisation are not, and of ResNets the figure of one depth stands for
    all.

    Examples
    --------
    >>> [printed_network(name) for name in ("vgg11-w0.25", "vgg11-bn", "resnet18-w0.25")]
    ['vgg11', None, 'resnet50']
    """
    plain = re.sub(r"-w[\d.]+$", "", network)
    plain = "resnet50" if re.fullmatch(r"resnet\d+", plain) else plain
    return plain if plain in ERROR else None


def verdict(table: pd.DataFrame) -> str:
    """Sum a comparison up in one line.

    Examples
    --------
    >>> table = pd.DataFrame({"agrees": [True, False], "told": True, "difference": [0.0, 0.2]})
    >>> verdict(table)
    '1 of 2 cells agree; root mean square difference 0.141'
    """
    if table.empty:
        return "the paper prints no such numbers for this network"
    met = table["agrees"].astype(bool)
    untold = int((~table["told"].astype(bool)).sum())
    wide = f", {untold} have intervals too wide to tell" if untold else ""
    return (
        f"{int((met & table['told']).sum())} of {len(table)} cells agree{wide}; "
        f"root mean square difference {_rms(table):.3f}"
    )


def closeness(ds: xr.Dataset, network: str) -> dict[str, float]:
    """Measure how far a recipe's results are from the paper's: root mean square differences.

    Parameters
    ----------
    ds : Dataset
    network : str
        A network of `ERROR`.

    Returns
    -------
    dict of str to float
        ``final``, the trained network's test error; ``errors``, the difference over the printed
        test errors; for networks in `DISTANCE` ``linf rand``, over the ∞-norms of fresh random
        values, which no training enters, and ``linf``, over those of the trained network; for
        each layer ``LAYER moved``, its 2-norm distance at the last checkpoint as a multiple of
        that of fresh random values, which is free of the unknown unit.
    """
    found = {
        "final": float(ds["baseline"].sel(metric="error").mean()),
        "errors": _rms(errors(ds, network)),
    }
    if "linf" in norms(network):
        table = distances(ds, network, "linf")
        random = table["column"] == "rand"
        found |= {"linf rand": _rms(table[random]), "linf": _rms(table[~random])}
    return found | {f"{layer} moved": _moved(ds, layer) for layer in _printed_moves(network)}


def papers_own(network: str) -> dict[str, float]:
    """Return what `closeness` would give for the paper itself."""
    exact = {"final": FINAL.get(network, math.nan), "errors": 0.0}
    exact |= {"linf rand": 0.0, "linf": 0.0} if "linf" in norms(network) else {}
    return exact | {f"{layer} moved": moved for layer, moved in _printed_moves(network).items()}


def _printed_moves(network: str) -> dict[str, float]:
    cells = DISTANCE.get(network, {}).get("l2_fan_in", {})
    return {layer: float(row["100"]) / float(row["rand"]) for layer, row in cells.items()}


def _moved(ds: xr.Dataset, layer: str) -> float:
    last = ds["distance"].sel(layer=layer, norm="l2_fan_in").isel(epoch=-1)
    return float(last.mean() / _redrawn(ds).sel(layer=layer, norm="l2_fan_in").mean())


def _redrawn(ds: xr.Dataset) -> xr.DataArray:
    return results.draw_distance(ds).sel(perturbation=results.REDRAWN)


def _rms(table: pd.DataFrame) -> float:
    return float(np.sqrt(np.mean(np.square(table["difference"])))) if len(table) else math.nan


_COLUMNS = ["layer", "column", "paper", "measured", "lower", "upper", "difference"]
_COLUMNS += ["agrees", "told"]


def _row(
    layer: str,
    column: str,
    paper: float | str,
    seen: _Prediction,
    over: _Prediction,
    top: float,
    slack: float,
    margin: float,
) -> tuple[Any, ...]:
    """Compare one cell: `seen` with the paper's number, `over` (over the baseline) with base."""
    agrees = _agrees(paper, seen, over, slack)
    compared = over if paper == BASE else seen
    return (
        layer,
        column,
        paper if isinstance(paper, str) else f"{paper:g}",
        seen.mean,
        max(seen.lower, 0.0),
        min(seen.upper, top),
        _difference(paper, seen.mean, over.mean),
        agrees,
        compared.known and (not agrees or compared.upper - compared.mean <= margin),
    )


def cell_of(values: xr.DataArray, column: str) -> xr.DataArray | None:
    """Return the runs of one cell, (seed, draw); None where it was not computed."""
    redrawn = column == results.RAND
    name = results.REDRAWN if redrawn else results.RESET
    epoch = results.NO_EPOCH if redrawn else int(column)
    if name not in values["perturbation"] or epoch not in values["epoch"]:
        return None
    cell = values.sel(perturbation=name, epoch=epoch)
    return None if bool(cell.isnull().all()) else cell


def _shared(ds: xr.Dataset, printed: Printed) -> Printed:
    """Printed numbers of the layers that a Dataset has."""
    names = [str(name) for name in ds["layer"].values]
    found = {layer: cells for layer, cells in printed.items() if layer in names}
    if printed and not found:
        raise ResultError(
            f"the Dataset has the layers {', '.join(names)}; the paper prints "
            f"{', '.join(printed)}. "
            'Where layers hold modules of their own, sweep with view="block", norms="with".'
        )
    return found


def _distance(ds: xr.Dataset, layer: str, column: str, norm: str) -> np.ndarray | None:
    if column == "rand":
        return np.asarray(_redrawn(ds).sel(layer=layer, norm=norm)).ravel()
    if int(column) not in ds["epoch"]:
        return None
    return np.asarray(ds["distance"].sel(layer=layer, norm=norm, epoch=int(column))).ravel()


def _factor(ds: xr.Dataset, printed: Printed) -> float:
    """Least-squares factor from our ``rand`` column to the paper's, in logarithms."""
    logs = []
    for layer, cells in printed.items():
        ours = _distance(ds, layer, "rand", "l2_fan_in")
        assert ours is not None
        logs.append(math.log(float(cells["rand"]) / float(np.nanmean(ours))))
    return math.exp(sum(logs) / len(logs))


def _predict(runs: np.ndarray, several: int = 1) -> _Prediction:
    """Predict where one more run lies with probability 0.95 (Student's t, normal runs).

    Of so many runs as `several` says there may be numbers of fewer, and of some several draws.
    """
    from scipy.stats import t

    known = runs[~np.isnan(runs)]
    mean = float(known.mean())
    if len(known) < 2:
        # One run says nothing about the next: only the number itself is known.
        return _Prediction(mean, mean, mean, known=several < 2)
    spread = float(known.std(ddof=1)) * math.sqrt(1 + 1 / len(known))
    half = float(t.ppf(0.975, len(known) - 1)) * spread
    return _Prediction(mean, mean - half, mean + half)


def _agrees(paper: float | str, seen: _Prediction, over: _Prediction, slack: float) -> bool:
    if paper == BASE:
        return over.lower <= slack
    if isinstance(paper, str):
        return seen.upper >= float(paper.removeprefix("≥")) - slack
    return seen.lower - slack <= paper <= seen.upper + slack


def _difference(paper: float | str, seen: float, over: float) -> float:
    if paper == BASE:
        return over
    if isinstance(paper, str):
        return min(seen - float(paper.removeprefix("≥")), 0.0)
    return seen - paper
