"""Named data sets: images in memory or in their files, and texts in tokens.

>>> from layerscope import data
>>> digits = data.load("mnist-5k")          # 5,000 real digits, nothing to download
>>> len(digits.train), len(digits.test), digits.shape
(4000, 1000, (1, 28, 28))

Images stay ``uint8`` in memory; each batch is normalised on the device it is used on.
"""

from __future__ import annotations

from layerscope.core.batches import Examples
from layerscope.core.metrics import Task
from layerscope.zoo.data._augment import AUGMENTATIONS, Augment, epoch_augmentation
from layerscope.zoo.data._harness import HarnessTask, harness_task
from layerscope.zoo.data._in_memory import ImageData
from layerscope.zoo.data._pictures import ImageStream, Pictures, RandomResizedCrop
from layerscope.zoo.data._rows import tokenize
from layerscope.zoo.data._sources import ROOT_VARIABLE, SOURCES, load
from layerscope.zoo.data._text import TextData
from layerscope.zoo.data._tokens import Tokenizer

__all__ = [
    "AUGMENTATIONS",
    "ROOT_VARIABLE",
    "SOURCES",
    "Augment",
    "Examples",
    "HarnessTask",
    "ImageData",
    "ImageStream",
    "Pictures",
    "RandomResizedCrop",
    "Task",
    "TextData",
    "Tokenizer",
    "epoch_augmentation",
    "harness_task",
    "load",
    "tokenize",
]
