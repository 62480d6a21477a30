"""Metrics, and evaluation without side effects.

>>> import torch
>>> from layerscope import metrics
>>> logits, targets = torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.tensor([0, 0])
>>> metrics.METRICS["error"].per_example(logits, targets)
tensor([0., 1.])

A metric of one's own is one function:

>>> margin = metrics.Metric("margin", "largest logit", lambda logits, _: logits.amax(-1))
>>> metrics.measure([margin], logits, targets)["margin"].values
tensor([2., 3.], dtype=torch.float64)
"""

from __future__ import annotations

# What is imported `as` itself is for other rooms; users need none of it.
from layerscope.core.metrics._evaluating import evaluate
from layerscope.core.metrics._named import (
    METRICS,
    NOT_FINITE,
    Metric,
    default_names as default_names,
    parse,
    predicted_class as predicted_class,
)
from layerscope.core.metrics._own import (
    Task as Task,
    chosen as chosen,
    own as own,
    within as within,
)
from layerscope.core.metrics._per_example import (
    Outcome,
    Scores as Scores,
    check_in_place as check_in_place,
    check_labels as check_labels,
    collect as collect,
    measure,
    score as score,
)
from layerscope.core.metrics._tally import Tally

__all__ = [
    "METRICS",
    "NOT_FINITE",
    "Metric",
    "Outcome",
    "Tally",
    "evaluate",
    "measure",
    "parse",
]
