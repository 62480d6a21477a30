"""Data in any form a user may hold it, turned into batches that stay the same from pass to pass."""

from __future__ import annotations

from layerscope.core.batches._examples import Batch, Examples, digest, label_range
from layerscope.core.batches._forms import Cuttable, batches, move
from layerscope.core.batches._held import Held
from layerscope.core.batches._reading import FOLLOWING, SAME, Arguments, Reading, evidence, tokens

__all__ = [
    "FOLLOWING",
    "SAME",
    "Arguments",
    "Batch",
    "Cuttable",
    "Examples",
    "Held",
    "Reading",
    "batches",
    "digest",
    "evidence",
    "label_range",
    "move",
    "tokens",
]
