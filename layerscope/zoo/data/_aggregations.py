"""Scores of lm-eval as metrics: those whose aggregate is a mean over documents."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from layerscope.core.metrics import Metric

__all__ = ["metrics_of"]

_HITS = ("acc", "acc_norm", "acc_bytes", "exact_match")
"""Scores that are 1 where a document is answered rightly, and 0 elsewhere."""


@dataclass(frozen=True)
class _Score:
    """One of lm-eval's scores of every document."""

    name: str

    def __call__(self, outputs: Tensor, targets: Any) -> Tensor:
        return torch.tensor([float(each[self.name]) for each in targets.scores(outputs)]).double()


@dataclass(frozen=True)
class _Surprise:
    """Negative log-likelihood of every document."""

    name: str

    def __call__(self, outputs: Tensor, targets: Any) -> Tensor:
        return torch.tensor([-each[self.name] for each in targets.scores(outputs)]).double()


@dataclass(frozen=True)
class _PerUnit:
    """Negative log-likelihood of every document, and how many words or bytes it has."""

    name: str
    scale: float = 1.0

    def __call__(self, outputs: Tensor, targets: Any) -> Tensor:
        pairs = [each[self.name] for each in targets.scores(outputs)]
        sums = [-total / self.scale for total, _ in pairs]
        return torch.tensor([sums, [float(count) for _, count in pairs]]).double()


def metrics_of(task: Any, scores: Mapping[str, Any]) -> tuple[list[Metric], dict[str, str]]:
    """Make a metric of each score that is a mean over documents.

    Parameters
    ----------
    task : lm_eval Task
    scores : mapping
        Of one document.

    Returns
    -------
    list of Metric
    dict of str to str
        Scores that are left out, with the reason.
    """
    higher, found, left = task.higher_is_better(), [], {}
    for name, aggregate in task.aggregation().items():
        if name not in scores:
            left[name] = "is not given by the task's documents"
            continue
        metric = _metric(name, getattr(aggregate, "__name__", str(aggregate)), scores[name], higher)
        if isinstance(metric, Metric):
            found.append(metric)
        else:
            left[name] = metric
    return found, left


def _metric(name: str, aggregate: str, score: Any, higher: Mapping[str, Any]) -> Metric | str:
    if aggregate == "perplexity":
        return _exponential(Metric(name, f"{name} of lm-eval", _Surprise(name)))
    if aggregate == "weighted_perplexity":
        return _exponential(Metric(name, f"{name} of lm-eval", _PerUnit(name), weighted=True))
    if aggregate == "bits_per_byte":
        each = _PerUnit(name, math.log(2))
        return Metric(name, f"{name} of lm-eval", each, unit="bits", weighted=True)
    if aggregate != "mean":
        return f"is no mean over documents, but {aggregate} of all"
    if isinstance(score, (str, bytes)) or not hasattr(score, "__float__"):
        return f"is no number, but {type(score).__name__}"
    is_hit = name in _HITS
    return Metric(
        name,
        f"{name} of lm-eval",
        _Score(name),
        higher_is_better=bool(higher.get(name, True)),
        bounds=(0.0, 1.0) if is_hit else None,
        fraction_of="hits" if is_hit else "",
    )


def _exponential(metric: Metric) -> Metric:
    from dataclasses import replace

    return replace(metric, finish=_exp, slope=_exp, logarithmic=True)


def _exp(mean: float) -> float:
    return math.exp(mean) if mean < 709 else math.inf
