"""Measures of a network's size and weights without perturbing anything; its generalisation gap."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from layerscope.base import devices
from layerscope.core import metrics
from layerscope.core.checkpoints import Series
from layerscope.paper.analyses._findings import Finding, by_rule
from layerscope.zoo import models

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["gap", "goes_with_more", "rank_with", "weight_measures"]


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


def rank_with(
    table: pd.DataFrame,
    target: str,
    by: str = "seed",
    *,
    within: str | None = None,
    held: str | None = None,
) -> pd.DataFrame:
    """Spearman's rank correlation of every measure with one of them, run by run.

    Parameters
    ----------
    table : DataFrame
        One row per network and run.
    target : str
        The column to correlate with, such as ``"gap"``.
    by : str
        The column that holds the run.
    within : str, optional
        A column, such as of tasks: correlations are taken among the rows of each of its values, and
        averaged over these.
    held : str, optional
        A measure that is held fixed: partial rank correlations, its own is NaN.

    Returns
    -------
    DataFrame
        One row per run: the column `by`, and the correlation for every other numeric column,
        in [-1, 1]. NaN where a column or the target does not vary, and 0 within a task where the
        measure alone does not: it tells nothing there. Infinite values rank last.

    Examples
    --------
    >>> import pandas as pd
    >>> table = pd.DataFrame({"seed": [0, 0, 0], "gap": [1, 2, 3], "size": [4, 9, 16]})
    >>> rank_with(table, "gap")
       seed  size
    0     0   1.0
    """
    import pandas as pd

    left_out = (by, target, within)
    numbers = [c for c in table.select_dtypes("number").columns if c not in left_out]
    rows = []
    for run, part in table.groupby(by, sort=True):
        tasks = [each for _, each in part.groupby(within)] if within else [part]
        found = pd.DataFrame([_correlated(each, numbers, target, held) for each in tasks])
        if within:
            varied = [each[target].nunique() > 1 for each in tasks]
            found = found[varied].fillna({name: 0.0 for name in numbers if name != held})
        rows.append({by: run} | found.mean().to_dict())
    return pd.DataFrame(rows, columns=[by, *numbers])


def goes_with_more(table: pd.DataFrame, better: str, worse: str) -> Finding:
    """Judge whether one measure goes with the generalisation gap more than another does.

    Rank correlations are taken over networks within each task and averaged over tasks and runs:
    over tasks the gap grows with the share of random labels, whatever the network is. Runs of the
    same networks are no further networks, so that the interval is over networks: Student's t of
    Tukey's pseudo-values, each of which leaves out one network with all of its runs.

    Parameters
    ----------
    table : DataFrame
        One row per network, task and run, with the columns ``network``, ``random labels``,
        ``seed``, ``gap`` and the two measures.
    better, worse : str
        Of `rules.MEASURES`.

    References
    ----------
    Tukey, J. W. (1958). Bias and confidence in not-quite large samples (abstract). Annals of
    Mathematical Statistics 29, 614.

    Efron, B. and Stein, C. (1981). The jackknife estimate of variance. Annals of Statistics 9,
    586–596.

    Examples
    --------
    >>> import pandas as pd
    >>> table = pd.DataFrame({"network": list("abcd"), "random labels": 0.0, "seed": 0,
    ...     "gap": [1, 2, 3, 4], "critical": [1, 2, 3, 4], "parameters": [4, 3, 2, 1]})
    >>> found = goes_with_more(table, "critical", "parameters")
    >>> found.value, found.unit, found.verdict
    (2.0, 'network', 'agrees')
    """

    def more(part: pd.DataFrame) -> float:
        ranks = rank_with(part, "gap", within="random labels")
        return float((ranks[better] - ranks[worse]).mean())

    networks = list(dict.fromkeys(table["network"]))
    whole, count = more(table), len(networks)
    left = [more(table[table["network"] != each]) for each in networks] if count > 3 else []
    values = [count * whole - (count - 1) * each for each in left]
    return by_rule(f"{better}-over-{worse}", values, span=(-2, 2))


def _correlated(
    part: pd.DataFrame, numbers: list[str], target: str, held: str | None
) -> dict[str, float]:
    """Rank correlation of each column with the target, with one of them held fixed."""
    ranks = part[[*numbers, target]].rank()
    varied = ranks.std() > 0
    found = {
        name: float(ranks[name].corr(ranks[target]))
        if varied[name] and varied[target]
        else math.nan
        for name in numbers
    }
    if held is None:
        return found
    partial = {}
    for name, plain in found.items():
        beside = float(ranks[name].corr(ranks[held])) if varied[name] and varied[held] else math.nan
        left = (1 - found[held] ** 2) * (1 - beside**2)
        partial[name] = (
            (plain - found[held] * beside) / math.sqrt(left) if left > 1e-9 else math.nan
        )
    return partial


def _norm(tensors: list[Tensor]) -> float:
    return math.sqrt(sum(float(tensor.double().square().sum()) for tensor in tensors))


def _spectral(weight: Tensor) -> float:
    return float(torch.linalg.matrix_norm(weight.double().flatten(1), 2))
