"""Sequences of tokens: which targets count, and at which position each is to be looked up.

Hugging Face's causal models take ``labels = input_ids`` and shift them inside, so that each
position is held against the token that comes next. Metrics compare a position with the target that
stands there. `alignments` tells which of the two a batch was made for, and a `BatchReader` brings
its targets to where the network predicts them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from layerscope.core.batches._examples import NO_TARGET, Batch
from layerscope.errors import DataError

__all__ = [
    "FOLLOWING",
    "IDS",
    "SAME",
    "Arguments",
    "BatchReader",
    "alignments",
    "is_padding",
    "tokens",
]

IDS, MASK, LABELS = "input_ids", "attention_mask", "labels"

SAME, FOLLOWING = "the tokens at their own positions", "the tokens that follow"
"""What targets may be."""


GUESSED = (
    "targets equal the tokens, and the network's own loss holds each position against the token "
    "after it; so do the metrics. Given among the network's arguments, as 'labels', they say that "
    "this is meant."
)


class Arguments(dict[str, Any]):
    """Arguments by name, from a batch that held its labels beside them, as Hugging Face's do."""


@dataclass(frozen=True)
class BatchReader:
    """Reads the batches of a data set for a network.

    Parameters
    ----------
    masked : bool
        Targets at padding, where the attention mask is 0, do not count.
    shifted : bool
        The target at t moves to t − 1, where a causal network predicts it.
    named : bool
        Two inputs are passed by the names ``input_ids`` and ``attention_mask``, since their places
        differ between networks.
    beside : bool
        The network gets the targets too, as ``labels``: of two sequences it predicts the second,
        and makes the decoder's input of them.
    expected : str
        What the targets of every batch are, `SAME` or `FOLLOWING`; empty where it does not matter.
    """

    masked: bool = False
    shifted: bool = False
    named: bool = False
    beside: bool = False
    expected: str = ""

    @property
    def guessed(self) -> bool:
        """True if targets were shifted that nobody called the network's labels."""
        return self.shifted and self.expected == SAME

    def __str__(self) -> str:
        if self.guessed:
            return GUESSED
        where = "labels of the network, which it shifts itself" if self.shifted else "as given"
        return where + (", none at padding" if self.masked else "")

    def __call__(self, inputs: Any, targets: Any) -> Batch:
        """Read one batch.

        Raises
        ------
        DataError
            If its targets are not what those of the first one were.
        """
        if self.named:
            inputs = dict(zip((IDS, MASK), inputs, strict=True))
        mask = _mask(inputs, targets) if self.masked else None
        targets = _where(mask, targets)
        if self.expected and self.expected not in (seen := alignments(inputs, targets)):
            raise DataError(
                f"the targets of the first batch are {self.expected}, and those of a later one are "
                f"{' and '.join(seen) or 'neither these nor the ones beside them'}; all must stand "
                "in the same place."
            )
        if self.shifted:
            targets = _where(mask, _earlier(targets))
        if self.beside:
            named = inputs if isinstance(inputs, Mapping) else {IDS: inputs}
            inputs = {**named, LABELS: targets}
        return inputs, targets


def tokens(inputs: Any, targets: Any) -> Tensor | None:
    """The tokens that targets of shape ``(n, T)`` stand at; None where there are none.

    >>> tokens({"input_ids": torch.ones(1, 3).long()}, torch.zeros(1, 3).long())
    tensor([[1, 1, 1]])
    """
    if not _whole(targets) or targets.ndim != 2:
        return None
    if isinstance(inputs, Mapping):
        given = [inputs[IDS]] if IDS in inputs else [v for k, v in inputs.items() if k != MASK]
    else:
        given = list(inputs[:1]) if isinstance(inputs, (tuple, list)) else [inputs]
    return next((each for each in given if _whole(each) and each.shape == targets.shape), None)


def alignments(inputs: Any, targets: Any) -> tuple[str, ...]:
    """Say which of `SAME` and `FOLLOWING` every target that counts is; nothing without tokens.

    >>> ids = torch.tensor([[4, 5, 6]])
    >>> alignments(ids, torch.tensor([[5, 6, -100]]))
    ('the tokens that follow',)
    """
    found = tokens(inputs, targets)
    if found is None:
        return ()
    found, counted = found.to(targets.device), targets != NO_TARGET
    same = bool((found == targets)[counted].all())
    following = bool((found[:, 1:] == targets[:, :-1])[counted[:, :-1]].all())
    return (SAME,) * same + (FOLLOWING,) * following


def is_padding(mask: Any, ids: Any) -> bool:
    """Recognise a mask: 1 for tokens, 0 for what fills a row up, at one end and all the same."""
    if not (_whole(ids) and torch.is_tensor(mask) and mask.shape == ids.shape and ids.ndim == 2):
        return False
    if not bool(((mask == 0) | (mask == 1)).all()):
        return False
    on = mask.bool()
    at_one_end = bool(((on[:, 1:] != on[:, :-1]).sum(1) <= 1).all()) and bool(on.any(1).all())
    fill = ids[~on]
    return at_one_end and bool((fill == fill[:1]).all())


def _mask(inputs: Any, targets: Any) -> Tensor | None:
    """The attention mask, if targets have its shape."""
    found = inputs.get(MASK) if isinstance(inputs, Mapping) else None
    if not _whole(targets) or not isinstance(found, Tensor) or found.is_floating_point():
        return None
    return found if found.shape == targets.shape else None


def _where(mask: Tensor | None, targets: Any) -> Any:
    return (
        targets if mask is None else torch.where(mask.to(targets.device) != 0, targets, NO_TARGET)
    )


def _earlier(targets: Tensor) -> Tensor:
    """Every target at the position before its own."""
    moved = torch.full_like(targets, NO_TARGET)
    moved[:, :-1] = targets[:, 1:]
    return moved


def _whole(value: Any) -> bool:
    """Recognise a tensor of whole numbers that can be −100."""
    return torch.is_tensor(value) and value.dtype in (torch.int64, torch.int32, torch.int16)
