"""Measures of a network's size and weights without perturbing anything; its generalisation gap."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from layerscope.base import devices
from layerscope.core import metrics
from layerscope.core.checkpoints import Series
from layerscope.zoo import models

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["gap", "rank_with", "weight_measures"]


def weight_measures(series: Series) -> dict[str, float]:
    """Parameter count and norm measures of the trained network.

    Parameters
    ----------
    series : Series
        With the initial and the trained parameters.

    Returns
    -------
    dict of str to float
        ``parameters``, their number; ``frobenius``, ‖θᵀ‖₂ over all parameters; ``distance``,
        ‖θᵀ − θ⁰‖₂; ``log_spectral``, Σ log₂ ‖W‖ with the largest singular value of every weight
        laid out as a matrix of outputs by inputs; ``log_frobenius``, the same with the Frobenius
        norm. The last two are the logarithms of products that bounds on the gap are made of
        (Neyshabur, Bhojanapalli, McAllester and Srebro, 2017).
    """
    model = models.rebuild(series)
    names = [name for name, _ in model.named_parameters()]
    trained, start = (series.read(epoch) for epoch in (series.last, series.epochs[0]))
    weights = [trained[name] for name in names if trained[name].ndim > 1]
    return {
        "parameters": float(sum(trained[name].numel() for name in names)),
        "frobenius": _norm([trained[name] for name in names]),
        "distance": _norm([trained[name] - start[name] for name in names]),
        "log_spectral": sum(math.log2(_spectral(weight)) for weight in weights),
        "log_frobenius": sum(math.log2(_norm([weight])) for weight in weights),
    }


def gap(
    model: nn.Module, data: Any, device: str = "auto", random_labels: float = 0.0
) -> dict[str, float]:
    """Generalisation gap: the error on test data minus that on training data.

    Parameters
    ----------
    model : nn.Module
        Trained.
    data : data set
        With the parts `train` and `test`.
    device : str
    random_labels : float
        Share s of the training labels that are random. The test data must have the same
        distribution, so ``test`` is the expected error where as many of their k classes' labels
        are drawn anew: (1 − s) · error + s · (1 − 1/k), whatever the network answers.

    Returns
    -------
    dict of str to float
        ``train``, ``test`` and ``gap``, their difference.
    """
    place = devices.resolve(device)
    model = model.to(place)
    train, test = (
        metrics.evaluate(model, part, ["error"], device=place)["error"].mean
        for part in (data.train, data.test)
    )
    if random_labels:
        test = (1 - random_labels) * test + random_labels * (1 - 1 / data.classes)
    return {"train": train, "test": test, "gap": test - train}


def rank_with(table: pd.DataFrame, target: str, by: str = "seed") -> pd.DataFrame:
    """Spearman's rank correlation of every measure with one of them, run by run.

    Parameters
    ----------
    table : DataFrame
        One row per network and run.
    target : str
        The column to correlate with, such as ``"gap"``.
    by : str
        The column that holds the run.

    Returns
    -------
    DataFrame
        One row per run: the column `by`, and the correlation for every other numeric column,
        in [-1, 1]. NaN where a column or the target does not vary. Infinite values rank last.

    Examples
    --------
    >>> import pandas as pd
    >>> table = pd.DataFrame({"seed": [0, 0, 0], "gap": [1, 2, 3], "size": [4, 9, 16]})
    >>> rank_with(table, "gap")
       seed  size
    0     0   1.0
    """
    import pandas as pd

    numbers = [c for c in table.select_dtypes("number").columns if c not in (by, target)]
    rows = []
    for run, part in table.groupby(by, sort=True):
        ranks = part[[*numbers, target]].rank()
        varied = ranks.std() > 0
        rows.append(
            {by: run}
            | {
                name: ranks[name].corr(ranks[target])
                if varied[name] and varied[target]
                else float("nan")
                for name in numbers
            }
        )
    return pd.DataFrame(rows)


def _norm(tensors: list[Tensor]) -> float:
    return math.sqrt(sum(float(tensor.double().square().sum()) for tensor in tensors))


def _spectral(weight: Tensor) -> float:
    return float(torch.linalg.matrix_norm(weight.double().flatten(1), 2))
