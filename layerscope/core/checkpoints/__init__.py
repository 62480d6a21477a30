"""A series of checkpoints θ⁰ … θᵀ, read lazily, one layer at a time.

>>> from layerscope import checkpoints
>>> series = checkpoints.open_series({0: "start.pt", 10: "trained.pt"})     # doctest: +SKIP
>>> series.epochs                                                           # doctest: +SKIP
(0, 10)
"""

from __future__ import annotations

# What is imported `as` itself is for other rooms; users need none of it.
from layerscope.core.checkpoints._adapter import WEIGHTS as WEIGHTS, base_of as base_of
from layerscope.core.checkpoints._audit import Audit, audit, find_copies as find_copies
from layerscope.core.checkpoints._findings import find_faults as find_faults
from layerscope.core.checkpoints._gguf import (
    GGUF as GGUF,
    load_gguf as load_gguf,
    quietly as quietly,
)
from layerscope.core.checkpoints._matching import require_finite as require_finite
from layerscope.core.checkpoints._opening import open_series
from layerscope.core.checkpoints._safe import SafeTensors as SafeTensors
from layerscope.core.checkpoints._sentences import Finding
from layerscope.core.checkpoints._series import WITHOUT_A_PAST as WITHOUT_A_PAST, Series
from layerscope.core.checkpoints._source import (
    Checkpoint,
    is_adapter_alone as is_adapter_alone,
    open_checkpoint,
)
from layerscope.core.checkpoints._trails import (
    COUNTER as COUNTER,
    History as History,
    Trail as Trail,
)
from layerscope.core.checkpoints._writer import (
    MANIFEST as MANIFEST,
    SeriesWriter,
    separate_tensors as separate_tensors,
)

__all__ = [
    "Audit",
    "Checkpoint",
    "Finding",
    "Series",
    "SeriesWriter",
    "audit",
    "open_checkpoint",
    "open_series",
]
