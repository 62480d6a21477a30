"""Outputs that metrics read, in what a network returned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from layerscope.core.batches import tokens
from layerscope.errors import DataError, OptionError

__all__ = ["OutputFinder", "OutputSpec", "find_logits", "tensor_version"]

OutputSpec = str | int | Callable[[Any], Tensor] | None
"""A name, a place, or a function of what the network returned; None looks for logits."""


def find_logits(outputs: Any) -> Tensor:
    """Find the logits in what a network returned.

    Parameters
    ----------
    outputs : Tensor, mapping with ``"logits"``, object with ``.logits``, or tuple
        Of a tuple, the first tensor.

    Raises
    ------
    DataError
        If there are none.
    """
    found: Any = outputs.get("logits") if isinstance(outputs, Mapping) else None
    found = found if found is not None else getattr(outputs, "logits", None)
    if found is None and isinstance(outputs, (tuple, list)) and outputs:
        found = outputs[0]
    found = outputs if torch.is_tensor(outputs) else found
    # A single number is a loss, which some networks return alone or before their logits.
    if not torch.is_tensor(found) or found.ndim == 0:
        raise DataError(
            f"the network returned a {_told(outputs)}, and no logits in it; it must "
            "return a tensor, a tuple that starts with one, or something with 'logits'. Else say "
            "what metrics are to read: output='name', output=1, or a function of what it returned."
        )
    return found


@dataclass(frozen=True)
class OutputFinder:
    """Finds the outputs that metrics read, with classes in the last dimension.

    Parameters
    ----------
    where : str, int or callable, optional
        The key or attribute, the place, or a function of what the network returned, which gives a
        tensor of shape ``(n, …, classes)`` and changes nothing in place. By default the logits.
    classes_first : bool
        What was found has shape ``(n, classes, …)``, as torch's own losses take it.

    Examples
    --------
    >>> OutputFinder("scores")({"boxes": None, "scores": torch.ones(2, 3)}).shape
    torch.Size([2, 3])
    """

    where: OutputSpec = None
    classes_first: bool = False

    def __post_init__(self) -> None:
        given = self.where
        if given is not None and not callable(given) and not isinstance(given, (str, int)):
            raise OptionError(
                f"output is {given!r}; give the name or the place of what metrics are to read, or "
                "a function that takes what the network returned."
            )

    def __call__(self, outputs: Any) -> Tensor:
        """Find them.

        Raises
        ------
        DataError
            If they are not there.
        """
        return self.classes_last(
            find_logits(outputs) if self.where is None else self._found(outputs)
        )

    def classes_last(self, found: Tensor) -> Tensor:
        """Move the classes to the last axis: shape ``(n, …, classes)``."""
        return found.movedim(1, -1) if self.classes_first else found

    def fitted(self, found: Tensor, inputs: Any, targets: Any) -> OutputFinder:
        """Find out from the first batch in which dimension the classes stand.

        Parameters
        ----------
        found : Tensor
            What `self` found.
        inputs, targets

        Raises
        ------
        DataError
            If it can't be told.
        """
        last, first = found.shape[:-1], (*found.shape[:1], *found.shape[2:])
        # A function says itself what it gives, and tokens stand in the order of their targets.
        known = callable(self.where) or tokens(inputs, targets) is not None
        indices = torch.is_tensor(targets) and not targets.is_floating_point()
        several = found.ndim > 2 and found.shape[1] > 1
        if known or not indices or not several or targets.shape != first:
            return self
        if targets.shape == last:
            raise DataError(
                f"outputs of shape {tuple(found.shape)} came with targets of shape "
                f"{tuple(targets.shape)}, so that classes may stand in the second dimension or in "
                "the last. Say where: output=lambda out: out.movedim(1, -1) if in the second, "
                "output=lambda out: out if in the last."
            )
        return replace(self, classes_first=True)

    def _found(self, outputs: Any) -> Tensor:
        where = self.where
        found: Any
        if callable(where):
            found = _untouched(where, outputs)
        elif isinstance(where, int) and isinstance(outputs, (tuple, list)):
            found = outputs[where] if -len(outputs) <= where < len(outputs) else None
        elif isinstance(outputs, Mapping) and where in outputs:
            found = outputs[where]
        else:
            found = getattr(outputs, where, None) if isinstance(where, str) else None
        if not torch.is_tensor(found) or found.ndim == 0:
            raise DataError(
                f"output={where!r} gave a {type(found).__name__} of the {_told(outputs)} that the "
                "network returned; expected a tensor with one entry per example."
            )
        return found


def _untouched(where: Callable[[Any], Any], outputs: Any) -> Any:
    """Call a function on outputs that others read after it; refuse one that changed them."""
    given = [leaf for leaf in tree_leaves(outputs) if torch.is_tensor(leaf)]
    before = [tensor_version(tensor) for tensor in given]
    found = where(outputs)
    if [tensor_version(tensor) for tensor in given] != before:
        raise OptionError(
            "output= changes in place what the network returned, of which other cells are made; "
            "let it work on a copy, such as out.logits.clone()."
        )
    return found


def tensor_version(tensor: Any) -> int:
    """Count of PyTorch's changes to a tensor; nobody counts for those of inference mode."""
    return tensor._version if torch.is_tensor(tensor) and not tensor.is_inference() else 0


def _told(outputs: Any) -> str:
    """The type of what a network returned, and what is in it."""
    single = torch.is_tensor(outputs) and outputs.ndim == 0
    kind = "single number" if single else type(outputs).__name__
    if isinstance(outputs, Mapping) and outputs:
        return f"{kind} with {', '.join(map(str, outputs))}"
    several = isinstance(outputs, (tuple, list)) and len(outputs) > 0
    return f"{kind} of {len(outputs)}" if several else kind
