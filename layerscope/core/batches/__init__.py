"""Data in any form a user may hold it, turned into batches that stay the same from pass to pass."""

from __future__ import annotations

from layerscope.core.batches._examples import Batch, Examples, label_range, update_digest
from layerscope.core.batches._forms import Cuttable, batches, move
from layerscope.core.batches._held import FixedBatches
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
    "SAME",
    "Arguments",
    "Batch",
    "BatchReader",
    "Cuttable",
    "Examples",
    "FixedBatches",
    "alignments",
    "batches",
    "label_range",
    "move",
    "tokens",
    "update_digest",
]
