"""Data in any form a user may hold it, turned into batches that stay the same from pass to pass."""

from __future__ import annotations

from layerscope.core.batches._examples import (
    NO_TARGET,
    Batch,
    Examples,
    Grouped,
    by_batch,
    label_range,
    normalise,
)
from layerscope.core.batches._fixed import HELD_BYTES, FixedBatches
from layerscope.core.batches._forms import (
    Cuttable,
    batches,
    first_examples,
    iterate_tensors,
    move,
)
from layerscope.core.batches._reading import (
    FOLLOWING,
    SAME,
    Arguments,
    BatchReader,
    alignments,
    tokens,
)

__all__ = [
    "FOLLOWING",
    "HELD_BYTES",
    "NO_TARGET",
    "SAME",
    "Arguments",
    "Batch",
    "BatchReader",
    "Cuttable",
    "Examples",
    "FixedBatches",
    "Grouped",
    "alignments",
    "batches",
    "by_batch",
    "first_examples",
    "iterate_tensors",
    "label_range",
    "move",
    "normalise",
    "tokens",
]
