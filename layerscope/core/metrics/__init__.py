"""What is measured, and evaluation without side effects.

>>> import torch
>>> from layerscope import metrics
>>> logits, targets = torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.tensor([0, 0])
>>> metrics.METRICS["error"].per_example(logits, targets)
tensor([0., 1.])

A metric of one's own is one function:

>>> margin = metrics.Metric("margin", "largest logit", lambda logits, _: logits.amax(-1))
>>> metrics.outcomes([margin], logits, targets)["margin"].values
tensor([2., 3.], dtype=torch.float64)
"""

from __future__ import annotations

from layerscope.core.metrics._convention import reading
from layerscope.core.metrics._named import (
    METRICS,
    NOT_COUNTED,
    NOT_FINITE,
    Metric,
    chosen,
    named_class,
    usual,
)
from layerscope.core.metrics._outputs import Output, Where, logits
from layerscope.core.metrics._per_example import Outcome, check_in_place, check_labels, outcomes
from layerscope.core.metrics._running import (
    add_batch,
    call,
    call_and_restore,
    evaluate,
    evaluating,
    matching,
)
from layerscope.core.metrics._tally import Tally

__all__ = [
    "METRICS",
    "NOT_COUNTED",
    "NOT_FINITE",
    "Metric",
    "Outcome",
    "Output",
    "Tally",
    "Where",
    "add_batch",
    "call",
    "call_and_restore",
    "check_in_place",
    "check_labels",
    "chosen",
    "evaluate",
    "evaluating",
    "logits",
    "matching",
    "named_class",
    "outcomes",
    "reading",
    "usual",
]
