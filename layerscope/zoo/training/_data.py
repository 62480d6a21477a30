"""Training data: which forms there are, how they are cut into steps, how they are scored."""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch

from layerscope.core import metrics
from layerscope.core.batches import Cuttable, Examples
from layerscope.errors import OptionError
from layerscope.zoo.training._recipe import Recipe

__all__ = ["Data", "few_tokens", "is_cuttable", "scoring_batch_size", "scoring_metrics", "steps_of"]

_SCORED_IN = 1000
_FEW_TOKENS = 512
_STREAM = ("__iter__", "__len__", "set_epoch", "fingerprint")


class Data(Protocol):
    """Data to train on: `layerscope.data.ImageData`, or anything with these attributes.

    Attributes
    ----------
    name : str
    train : Examples, Pictures or another `Cuttable` with a ``fingerprint``, or stream of batches
        A stream is iterated once per epoch after its ``set_epoch(epoch)`` was called, which fixes
        the order; has a length, in batches, and a ``fingerprint``.
    test : anything that `layerscope.evaluate` takes
    shape : tuple of int
        Of one input; for networks by name.
    classes : int
        Outputs; for networks by name.
    """

    @property
    def name(self) -> str:
        """Name that series and results get."""
        ...

    @property
    def train(self) -> Any:
        """Examples that are trained on."""
        ...

    @property
    def test(self) -> Any:
        """Examples that are scored on."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        ...

    @property
    def classes(self) -> int:
        """Number of outputs."""
        ...


def is_cuttable(part: Any) -> bool:
    """Tell training data that are cut into batches here from a stream, which sets its own order."""
    return isinstance(part, Cuttable) and not hasattr(part, "set_epoch")


def steps_of(data: Data, recipe: Recipe) -> int:
    """Steps in an epoch.

    Raises
    ------
    OptionError
        If the training part is neither examples nor a stream whose order is known.
    """
    cuttable = is_cuttable(data.train)
    needed = ("fingerprint",) if cuttable else _STREAM
    if lacking := [name for name in needed if not hasattr(data.train, name)]:
        raise OptionError(
            f"the training data are a {type(data.train).__name__} without {', '.join(lacking)}; "
            "give Examples, or a stream of batches with a length, a fingerprint, and "
            "set_epoch(epoch), which makes its order depend on the epoch alone."
        )
    count = len(data.train)
    if count == 0:
        raise OptionError(f"{data.name} has no training examples; there must be at least one.")
    return math.ceil(count / recipe.batch_size) if cuttable else count


def scoring_metrics(part: Any) -> tuple[str, ...]:
    """Metrics that every checkpoint is scored by."""
    targets = getattr(part, "targets", None)
    return metrics.default_names(positions=torch.is_tensor(targets) and targets.ndim > 1)


def scoring_batch_size(part: Any, batch_size: int) -> int:
    """Examples in a batch when a checkpoint is scored.

    What an example takes in memory is small for images of a few pixels, and not for large pictures
    or for a guess at each of many tokens: these come in the batches that were trained in.
    """
    small = isinstance(part, Examples) and part.targets.ndim == 1
    return _SCORED_IN if small else min(_SCORED_IN, batch_size)


def few_tokens(inputs: Any) -> bool:
    """Tell whether a batch has some hundred tokens an example: pictures, and texts as short."""
    if not torch.is_tensor(inputs):
        return False
    return inputs.ndim == 4 or (inputs.ndim == 2 and inputs.shape[1] <= _FEW_TOKENS)
