"""The order in which a network runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from torch import nn

from layerscope.base.tensors import owner_name
from layerscope.base.undoing import Undo
from layerscope.core.layers._layer import ROOT, Layer

__all__ = ["execution_order", "sort_by_call"]


def execution_order(
    model: nn.Module, layers: Sequence[Layer], run: Callable[[], object]
) -> list[Layer]:
    """Sort layers by when they are first called in a pass through the network.

    Parameters
    ----------
    model : nn.Module
    layers : sequence of Layer
    run : callable
        Runs the network once; the hooks that watch it are gone afterwards.

    Notes
    -----
    A module that is never called itself, such as the output projection of
    ``nn.MultiheadAttention``, counts from its nearest ancestor that is. A row of several leaves
    stands where the first of them is called.
    """
    called: dict[str, int] = {}
    paths = {module: path for path, module in model.named_modules()}

    def note(path: str, _: nn.Module, __: object) -> None:
        called.setdefault(path, len(called))

    # By the path and not by the module, which the compiler of a compiled part can't look up.
    hooks = {module: partial(note, path) for module, path in paths.items()}

    def forget() -> None:
        for module, own in hooks.items():
            for key in [key for key, hook in module._forward_pre_hooks.items() if hook is own]:
                del module._forward_pre_hooks[key]

    with Undo() as undo, undo:
        undo.add(forget)
        for module, own in hooks.items():
            module.register_forward_pre_hook(own)
        run()

    return sort_by_call(layers, called)


def sort_by_call(layers: Sequence[Layer], called: Mapping[str, int]) -> list[Layer]:
    """Sort layers by when the modules of a network were first called, as `execution_order` does."""

    def position(leaf: str) -> int:
        path = "" if leaf == ROOT else leaf
        while path and path not in called:
            path = owner_name(path)
        return called.get(path, len(called))

    return sorted(layers, key=lambda layer: min(map(position, layer.members)))
