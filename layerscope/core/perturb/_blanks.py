"""Modules that draw themselves: which tensors they get for it, and from which numbers."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Generator, Tensor, nn

__all__ = ["below", "draws_itself", "seeded", "spare", "unfilled"]


class seeded:  # noqa: N801
    """The global CPU generator, seeded inside and as before outside."""

    def __init__(self, generator: Generator) -> None:
        self._seed = int(torch.randint(2**62, (), generator=generator))

    def __enter__(self) -> None:
        # Not torch.manual_seed, which would seed the generators of every GPU as well.
        self._before = torch.default_generator.get_state()
        torch.default_generator.manual_seed(self._seed)

    def __exit__(self, *_: object) -> None:
        torch.default_generator.set_state(self._before)


def unfilled(parameter: nn.Parameter, wanted: bool) -> nn.Parameter:
    """Make a parameter of NaN, or one without memory, on which initialisers do nothing."""
    made = torch.empty_like(parameter, device="cpu" if wanted else "meta")
    if wanted and made.is_floating_point():
        made.fill_(torch.nan)
    return nn.Parameter(made, requires_grad=False)


def spare(source: nn.Module, held: Mapping[int, Tensor]) -> None:
    """Let transformers pass over what has no memory: an initialiser takes a millisecond there."""
    custom = getattr(source, "is_custom_code", None)
    if custom is not None and not custom():  # else a module may be passed over as a whole
        for tensor in held.values():
            if tensor.is_meta:
                tensor._is_hf_initialized = True  # type: ignore[attr-defined]


def draws_itself(module: nn.Module) -> bool:
    """Check for a method that draws a module with all that is in it."""
    return callable(getattr(module, "init_weights", None))


def below(name: str, top: str) -> str:
    """Name a tensor as the module `top` does."""
    return name.removeprefix(f"{top}.") if top else name
