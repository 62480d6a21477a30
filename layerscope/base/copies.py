"""Tensors for a user's function: copies of its own, so that it may work in place."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from layerscope.errors import LayerError

__all__ = ["LazyCopies", "changed_names", "copy_modules", "copy_tensors", "uncopied"]

T = TypeVar("T")


class LazyCopies(Mapping[str, T]):
    """Copies by name, each made when it is first asked for and the same from then on.

    Most functions look at a part of what they could see; the rest takes no memory.

    Attributes
    ----------
    originals : mapping
    taken : dict
        The copies that were asked for.
    """

    def __init__(self, originals: Mapping[str, T], copied: Callable[[T], T]) -> None:
        self.originals, self._copied = originals, copied
        self.taken: dict[str, T] = {}

    def __getitem__(self, name: str) -> T:
        if name not in self.taken:
            self.taken[name] = self._copied(self.originals[name])
        return self.taken[name]

    def __contains__(self, name: object) -> bool:
        return name in self.originals  # Mapping's own would make a copy to find out

    def __iter__(self) -> Iterator[str]:
        return iter(self.originals)

    def __len__(self) -> int:
        return len(self.originals)

    # As a dict has it.
    def __or__(self, other: Mapping[str, T]) -> dict[str, T]:
        return {**self, **other}

    def __ror__(self, other: Mapping[str, T]) -> dict[str, T]:
        return {**other, **self}


def copy_tensors(originals: Mapping[str, Tensor]) -> LazyCopies[Tensor]:
    """Hand out copies of tensors."""
    return LazyCopies(originals, Tensor.clone)


def copy_modules(originals: Mapping[str, nn.Module]) -> LazyCopies[nn.Module]:
    """Hand out copies of modules; what two of them share, their copies share."""
    memo: dict[int, Any] = {}
    return LazyCopies(uncopied(originals), lambda module: _copied(module, memo))


def uncopied(given: Mapping[str, T]) -> Mapping[str, T]:
    """Return what was handed out, not copied: for functions of ours, which change nothing."""
    return given.originals if isinstance(given, LazyCopies) else given


def changed_names(*given: Mapping[str, Any]) -> list[str]:
    """Name the tensors that were changed where they had been handed out, also inside modules."""
    names = []
    for each in given:
        taken = each.taken if isinstance(each, LazyCopies) else {}
        for name, copied in taken.items():
            own, now = _held(name, uncopied(each)[name]), _held(name, copied)
            names += [n for n, tensor in now.items() if not _same(own.get(n), tensor)]
    return names


def _held(name: str, value: Any) -> dict[str, Tensor]:
    if not isinstance(value, nn.Module):
        return {name: value}
    prefix = f"{name}." if name else ""
    return {f"{prefix}{key}": tensor for key, tensor in value.state_dict().items()}


def _same(own: Tensor | None, now: Tensor) -> bool:
    return own is not None and torch.equal(own.nan_to_num(), now.nan_to_num())


def _copied(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    for inner in module.modules():
        for value in vars(inner).values():
            # PyTorch itself copies no tensor that was computed from others, as weight_norm's.
            if isinstance(value, Tensor) and not value.is_leaf:
                memo.setdefault(id(value), value.detach().clone())
    try:
        return copy.deepcopy(module, memo)
    except Exception as error:
        raise LayerError(
            f"a {type(module).__name__} can't be copied ({error}). A perturbation is handed copies "
            "of modules, so that it can't change the network; let it do with site.layer and "
            "site.trained."
        ) from error
