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

from layerscope.core.metrics._convention import infer_reader
from layerscope.core.metrics._named import (
    METRICS,
    NO_TARGET,
    NOT_FINITE,
    Metric,
    default_names,
    parse,
    predicted_class,
)
from layerscope.core.metrics._outputs import OutputFinder, OutputSpec, find_logits
from layerscope.core.metrics._per_example import Outcome, check_in_place, check_labels, measure
from layerscope.core.metrics._running import (
    add_batch,
    call_and_restore,
    evaluate,
    evaluation_mode,
    explain_mismatch,
    run_network,
)
from layerscope.core.metrics._tally import Tally

__all__ = [
    "METRICS",
    "NOT_FINITE",
    "NO_TARGET",
    "Metric",
    "Outcome",
    "OutputFinder",
    "OutputSpec",
    "Tally",
    "add_batch",
    "call_and_restore",
    "check_in_place",
    "check_labels",
    "default_names",
    "evaluate",
    "evaluation_mode",
    "explain_mismatch",
    "find_logits",
    "infer_reader",
    "measure",
    "parse",
    "predicted_class",
    "run_network",
]
