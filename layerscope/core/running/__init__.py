"""A network's pass over a batch: what it is called with, and what of its outputs is read."""

from __future__ import annotations

from layerscope.core.running._calling import (
    call_and_restore,
    evaluation_mode,
    explain_mismatch,
    run_network,
)
from layerscope.core.running._convention import infer_reader
from layerscope.core.running._outputs import (
    OutputFinder,
    OutputSpec,
    find_logits,
    tensor_version,
)

__all__ = [
    "OutputFinder",
    "OutputSpec",
    "call_and_restore",
    "evaluation_mode",
    "explain_mismatch",
    "find_logits",
    "infer_reader",
    "run_network",
    "tensor_version",
]
