"""Named data sets: images in memory or in their files, and texts in tokens.

>>> from layerscope import data
>>> digits = data.load("mnist-5k")          # 5,000 real digits, nothing to download
>>> len(digits.train), len(digits.test), digits.shape
(4000, 1000, (1, 28, 28))

Images stay ``uint8`` in memory; each batch is normalised on the device it is used on.
"""

from __future__ import annotations

from layerscope.base.tensors import update_digest
from layerscope.core.batches import Batch, Examples, label_range
from layerscope.core.batches._fixed import FixedBatches
from layerscope.core.batches._forms import batches, move
from layerscope.core.batches._reading import (
    FOLLOWING,
    SAME,
    Arguments,
    BatchReader,
    alignments,
    tokens,
)
from layerscope.zoo.data._augment import AUGMENTATIONS, Augment, epoch_augmentation
from layerscope.zoo.data._in_memory import ImageData
from layerscope.zoo.data._modify import apply as changed, split
from layerscope.zoo.data._pictures import ImageStream, Pictures, RandomResizedCrop
from layerscope.zoo.data._sources import ROOT_VARIABLE, SOURCES, DataSet, Source, find_root, load
from layerscope.zoo.data._text import TextData
from layerscope.zoo.data._tokens import Tokenizer

__all__ = [
    "AUGMENTATIONS",
    "FOLLOWING",
    "ROOT_VARIABLE",
    "SAME",
    "SOURCES",
    "Arguments",
    "Augment",
    "Batch",
    "BatchReader",
    "DataSet",
    "Examples",
    "FixedBatches",
    "ImageData",
    "ImageStream",
    "Pictures",
    "RandomResizedCrop",
    "Source",
    "TextData",
    "Tokenizer",
    "alignments",
    "batches",
    "changed",
    "epoch_augmentation",
    "find_root",
    "label_range",
    "load",
    "move",
    "split",
    "tokens",
    "update_digest",
]
