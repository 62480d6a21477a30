"""Numbers that the paper prints, and what was measured beside them.

The numbers were read off the figures of Zhang, Bengio and Singer, "Are All Layers Created Equal?"
(JMLR 2022), to within ±0.01; a figure says ``≥0.91`` where its colour bar ends, and ``base``
where a cell can't be told from the trained network.

>>> from layerscope import reference
>>> reference.ERROR["fcn-3x256"]["layer1"]
{'rand': 0.89, '0': 0.38, '1': 0.06, '2': 0.03, '3': 0.03}
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from layerscope import results
from layerscope.errors import choose

__all__ = [
    "COLOUR_ERROR",
    "DISTANCE",
    "ERROR",
    "FINAL",
    "READING_ERROR",
    "closeness",
    "distances",
    "errors",
    "norms",
    "papers_own",
    "pattern",
    "verdict",
]

READING_ERROR = 0.01
"""How far a number may have been misread from a figure, in the unit of that figure."""

COLOUR_ERROR: Mapping[str, float] = {"vgg11": 0.04, "resnet50": 0.04}
"""The same for test errors that were read off colours, by network."""

Printed = Mapping[str, Mapping[str, float | str]]

BASE = "base"

ERROR: Mapping[str, Printed] = {
    "fcn-3x256": {
        "layer1": {"rand": 0.89, "0": 0.38, "1": 0.06, "2": 0.03, "3": 0.03},
        "layer2": {"rand": 0.90, "0": 0.07, "1": 0.03, "2": BASE, "3": BASE},
        "layer3": {"rand": "≥0.91", "0": 0.03, "1": BASE, "2": BASE, "3": BASE},
        "layer4": {"rand": 0.83, "0": 0.06, "1": BASE, "2": BASE, "3": BASE},
        "fullmodel": {"rand": "≥0.91", "0": "≥0.91", "1": 0.05, "2": 0.04, "3": 0.03},
    },
    "fcn-5x256": {
        "layer1": {"rand": 0.85, "0": 0.57, "1": 0.09, "2": 0.05},
        "layer2": {"0": 0.05},
        "layer3": {"0": BASE},
        "layer4": {"0": BASE},
        "layer5": {"0": BASE},
        "layer6": {"0": 0.05},
    },
    "vgg11": {
        name: dict(zip(("rand", "0", "1", "10"), cells, strict=True))
        for name, cells in {
            "s1b1": (0.88, 0.70, 0.50, 0.15),
            "s2b1": (0.90, 0.72, 0.68, 0.17),
            "s3b1": (0.90, 0.89, 0.88, 0.17),
            "s3b2": (0.88, 0.76, 0.70, 0.16),
            "s4b1": (0.90, 0.49, 0.42, 0.14),
            "s4b2": (0.89, 0.22, 0.24, 0.13),
            "s5b1": (0.90, 0.15, 0.13, 0.13),
            "s5b2": (0.85, 0.15, 0.13, 0.12),
            "fc1": (0.86, 0.13, 0.13, 0.12),
            "fc2": (0.90, 0.12, 0.12, 0.12),
            "final": (0.74, 0.13, 0.12, 0.12),
        }.items()
    },
    "resnet50": {
        name: {"0": cell}
        for name, cell in {
            "stage0": 1.00,
            "s1.1": 0.98,
            "s1.2": 0.355,
            "s1.3": 0.377,
            "s2.1": 0.99,
            "s2.2": 0.353,
            "s2.3": 0.353,
            "s2.4": 0.353,
            "s3.1": 1.00,
            "s3.2": 0.358,
            "s3.3": 0.361,
            "s3.4": 0.358,
            "s3.5": 0.374,
            "s3.6": 0.391,
            "s4.1": 1.00,
            "s4.2": 0.437,
            "s4.3": 0.545,
            "final_linear": 0.99,
        }.items()
    },
}
"""Test error by network, layer and column: of ``fcn`` on MNIST, ``vgg11`` on CIFAR-10, and
``resnet50`` on ImageNet.

Colours in the middle of the figures of ``vgg11`` and ``resnet50`` were read to ±0.04 only.
"""

FINAL: Mapping[str, float] = {"fcn-3x256": 0.025, "vgg11": 0.125, "resnet50": 0.347}
"""Test error of the trained network."""

DISTANCE: Mapping[str, Mapping[str, Printed]] = {
    "fcn-3x256": {
        "l2_fan_in": {
            "layer1": {"rand": 0.385, "1": 0.03, "100": 0.13},
            "layer2": {"rand": 0.66, "1": 0.02, "100": 0.09},
            "layer3": {"rand": 0.66, "1": 0.02, "100": 0.08},
            "layer4": {"rand": 0.137, "1": 0.105, "100": 0.48},
        },
        "linf": {
            "layer1": {"rand": 0.142, "100": 0.23},
            "layer2": {"rand": 0.247, "100": 0.21},
            "layer3": {"rand": 0.247, "100": 0.18},
            "layer4": {"rand": 0.236, "100": 0.51},
        },
    },
}
"""Distance to the initial value by network, norm, layer and column.

What the paper divides its 2-norm by is not known; its ``rand`` column, which no training enters,
is proportional to the norm per √fan_in.
"""


@dataclass(frozen=True)
class _Seen:
    """What new runs of ours would give: the mean, and a 95 % prediction interval."""

    mean: float
    lower: float
    upper: float


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
        One row per printed cell: ``layer``, ``column``, ``paper``, ``measured`` (mean over seeds),
        ``lower`` and ``upper`` (where 95 % of new runs would lie: Student's t with the spread of
        the runs times √(1 + 1/n); over seeds, for ``rand`` over seeds and draws), ``difference``
        and ``agrees``.

    Notes
    -----
    A cell agrees if the paper's number, give or take `READING_ERROR` (or `COLOUR_ERROR`), lies in
    the interval: the paper's is one more run. ``≥`` agrees if the interval reaches that far up;
    ``base`` if the difference from the trained network of the same run can be as small as the
    reading error.
    """
    values = results.require(ds, "layer", "epoch", "perturbation", "draw", "metric")
    values = values.sel(metric="error", drop=True)
    base = results.require(ds, "metric", variable="baseline").sel(metric="error", drop=True)
    rows, slack = [], COLOUR_ERROR.get(network, READING_ERROR)
    for layer, cells in ERROR.get(network, {}).items():
        for column, paper in cells.items():
            cell = _cell(values.sel(layer=layer), column)
            if cell is None:
                continue
            seen = _predicted(cell.values.ravel())
            over = _predicted((cell - base).values.ravel())
            rows.append(_row(layer, column, paper, seen, over, 1.0, slack))
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
    printed = known[choose(norm, known, "norm in the reference")]
    factor = _factor(ds, printed) if norm == "l2_fan_in" else 1.0
    rows = []
    for layer, cells in printed.items():
        for column, paper in cells.items():
            found = _distance(ds, layer, column, norm)
            if found is None:
                continue
            seen = _predicted(found * factor)
            rows.append(_row(layer, column, paper, seen, seen, top=math.inf, slack=READING_ERROR))
    table = pd.DataFrame(rows, columns=_COLUMNS)
    table.attrs["factor"] = factor
    return table


def norms(network: str) -> list[str]:
    """List the norms in which the paper prints distances for a network; often none."""
    return list(DISTANCE.get(network, {}))


def verdict(table: pd.DataFrame) -> str:
    """Sum a comparison up in one line.

    Examples
    --------
    >>> verdict(pd.DataFrame({"agrees": [True, False], "difference": [0.0, 0.2]}))
    '1 of 2 cells agree; root mean square difference 0.141'
    """
    if table.empty:
        return "the paper prints no such numbers for this network"
    return (
        f"{int(table['agrees'].sum())} of {len(table)} cells agree; "
        f"root mean square difference {_rms(table):.3f}"
    )


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
        dimension ``seed``. NaN where fewer than 3 layers have the same name.

    Examples
    --------
    >>> from layerscope import testing
    >>> float(pattern(testing.dataset(), "fcn-3x256")[0].round(2))
    0.8
    """
    from scipy.stats import spearmanr

    printed = ERROR[choose(network, ERROR, "network in the reference")]
    values = results.require(ds, "layer", "epoch", "perturbation", "draw", "metric")
    values = values.sel(metric="error", drop=True)
    if "seed" not in values.dims:
        values = values.expand_dims("seed")
    names = [
        name
        for name in map(str, values["layer"].values)
        if isinstance(printed.get(name, {}).get(column), float) and name != results.FULL_MODEL
    ]
    cell = _cell(values.sel(layer=names), column)
    found = np.full(values.sizes["seed"], np.nan)
    if cell is not None and len(names) > 2:
        ours = cell.mean("draw").transpose("seed", "layer").values
        theirs = [float(printed[name][column]) for name in names]
        # Of layers that all give the same there is no order.
        found = np.array(
            [spearmanr(theirs, each).statistic if np.ptp(each) else np.nan for each in ours]
        )
    return xr.DataArray(found, dims="seed", name="rank correlation with the paper")


def closeness(ds: xr.Dataset, network: str) -> dict[str, float]:
    """How far a recipe's results are from the paper's: root mean square differences.

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
    return float(last.mean() / ds["draw_distance"].sel(layer=layer, norm="l2_fan_in").mean())


def _rms(table: pd.DataFrame) -> float:
    return float(np.sqrt(np.mean(np.square(table["difference"])))) if len(table) else math.nan


_COLUMNS = ["layer", "column", "paper", "measured", "lower", "upper", "difference", "agrees"]


def _row(
    layer: str, column: str, paper: float | str, seen: _Seen, over: _Seen, top: float, slack: float
) -> tuple[Any, ...]:
    """Compare one cell: `seen` with the paper's number, `over` (over the baseline) with base."""
    return (
        layer,
        column,
        paper if isinstance(paper, str) else f"{paper:g}",
        seen.mean,
        max(seen.lower, 0.0),
        min(seen.upper, top),
        _difference(paper, seen.mean, over.mean),
        _agrees(paper, seen, over, slack),
    )


def _cell(values: xr.DataArray, column: str) -> xr.DataArray | None:
    """Return the runs of one cell, (seed, draw); None where it was not computed."""
    redrawn = column == "rand"
    name = "rerandomize" if redrawn else "reinitialize"
    epoch = results.NO_EPOCH if redrawn else int(column)
    if name not in values["perturbation"] or epoch not in values["epoch"]:
        return None
    cell = values.sel(perturbation=name, epoch=epoch)
    return None if bool(cell.isnull().all()) else cell


def _distance(ds: xr.Dataset, layer: str, column: str, norm: str) -> np.ndarray | None:
    if column == "rand":
        return np.asarray(ds["draw_distance"].sel(layer=layer, norm=norm)).ravel()
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


def _predicted(runs: np.ndarray) -> _Seen:
    """Where one more run would lie with probability 0.95 (Student's t, normal runs)."""
    from scipy.stats import t

    known = runs[~np.isnan(runs)]
    mean = float(known.mean())
    if len(known) < 2:
        # One run says nothing about the next: only the number itself is known.
        return _Seen(mean, mean, mean)
    spread = float(known.std(ddof=1)) * math.sqrt(1 + 1 / len(known))
    half = float(t.ppf(0.975, len(known) - 1)) * spread
    return _Seen(mean, mean - half, mean + half)


def _agrees(paper: float | str, seen: _Seen, over: _Seen, slack: float) -> bool:
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
