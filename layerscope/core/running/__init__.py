"""A network's pass over a batch: what it is called with, and what of its outputs is read."""

from __future__ import annotations

from layerscope.core.running._calling import (
    call_and_restore,
    evaluation_mode,
    explain_mismatch,
    run_network,
    without_cache,
)
from layerscope.core.running._convention import infer_reader
from layerscope.core.running._outputs import (
    OutputFinder,
    OutputSpec,
    find_logits,
    tensor_version,
)
from layerscope.core.running._routes import (
    NOTHING,
    PASSED,
    Route,
    first_tensor,
    hidden_first,
    merged,
    with_first,
    with_hidden,
)

__all__ = [
    "NOTHING",
    "PASSED",
    "OutputFinder",
    "OutputSpec",
    "Route",
    "call_and_restore",
    "evaluation_mode",
    "explain_mismatch",
    "find_logits",
    "first_tensor",
    "hidden_first",
    "infer_reader",
    "merged",
    "run_network",
    "tensor_version",
    "with_first",
    "with_hidden",
    "without_cache",
]
