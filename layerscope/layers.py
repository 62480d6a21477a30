"""What counts as a layer of a network.

By default a layer is every module that holds parameters of its own; buffers that are saved with
it, such as BatchNorm's running statistics, belong to it.

>>> from layerscope import layers, models
>>> [layer.name for layer in layers.find(models.build("fcn-2x16"))]
['layer1', 'layer2', 'layer3']
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from layerscope.errors import LayerError, choose

__all__ = ["Layer", "execution_order", "find", "merge", "owner", "select", "tensors"]

ROOT = "(root)"
"""Name of the layer that holds parameters of the network itself."""


@dataclass(frozen=True)
class Layer:
    """One layer, or a group of layers that is perturbed as one.

    Parameters
    ----------
    name : str
        Dotted name of its module, or the name of the group.
    parameters, buffers : tuple of str
        Dotted names of the tensors that move with it.
    module_type : str
        Class name of its module.
    size : int
        Number of parameters.
    members : tuple of str
        Names of the leaf layers in it; itself for a leaf.
    """

    name: str
    parameters: tuple[str, ...]
    buffers: tuple[str, ...]
    module_type: str
    size: int
    members: tuple[str, ...]

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of everything that is saved with the layer."""
        return self.parameters + self.buffers


def find(model: nn.Module) -> list[Layer]:
    """List every module that holds parameters of its own, in order of registration.

    A parameter that several modules share belongs to the first of them; the layer moves for all.

    Raises
    ------
    LayerError
        If the network has no parameters, or some without a shape yet.
    """
    found = []
    seen: set[int] = set()
    for path, module in model.named_modules():
        own = {k: p for k, p in module._parameters.items() if p is not None and id(p) not in seen}
        seen |= {id(p) for p in own.values()}
        if not own:
            continue
        if any(nn.parameter.is_lazy(p) for p in own.values()):
            raise LayerError(
                f"{path or ROOT} has no shape yet; run the network on one batch before the sweep."
            )
        prefix = f"{path}." if path else ""
        kept = [
            name
            for name, buffer in module._buffers.items()
            if buffer is not None and name not in module._non_persistent_buffers_set
        ]
        found.append(
            Layer(
                name=path or ROOT,
                parameters=tuple(prefix + name for name in own),
                buffers=tuple(prefix + name for name in kept),
                module_type=type(module).__name__,
                size=sum(p.numel() for p in own.values()),
                members=(path or ROOT,),
            )
        )
    if not found:
        raise LayerError(f"the {type(model).__name__} has no parameters, so no layer to perturb.")
    return found


def select(
    layers: Sequence[Layer],
    wanted: Sequence[str] | Mapping[str, str | Sequence[str]] | None,
) -> list[Layer]:
    """Pick layers by name or pattern, or gather them into groups.

    Parameters
    ----------
    layers : sequence of Layer
    wanted : sequence of str, mapping, or None
        Names or shell patterns (``"features.*"``), each of which must match; a mapping from a
        group's name to its patterns gives one row per group; None takes every layer.

    Raises
    ------
    LayerError
        If a pattern matches nothing.
    """
    if wanted is None:
        return list(layers)
    if not wanted:
        raise LayerError("layers is empty; leave it out to take every layer.")
    if isinstance(wanted, Mapping):
        return [
            merge(name, _matching(layers, [patterns] if isinstance(patterns, str) else patterns))
            for name, patterns in wanted.items()
        ]
    return _matching(layers, [wanted] if isinstance(wanted, str) else wanted)


def merge(name: str, members: Sequence[Layer], module_type: str = "group") -> Layer:
    """Make one layer of several, to be perturbed together.

    Raises
    ------
    LayerError
        If there are none.
    """
    if not members:
        raise LayerError(f"the group {name!r} holds no layers; give it names or patterns.")
    return Layer(
        name=name,
        parameters=tuple(tensor for layer in members for tensor in layer.parameters),
        buffers=tuple(tensor for layer in members for tensor in layer.buffers),
        module_type=module_type,
        size=sum(layer.size for layer in members),
        members=tuple(leaf for layer in members for leaf in layer.members),
    )


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and saved buffer by the name that it has in the state dict."""
    return {name: t for name, t in model.state_dict(keep_vars=True).items() if torch.is_tensor(t)}


def owner(name: str) -> str:
    """Name of the module that holds the tensor `name`."""
    return name.rpartition(".")[0]


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
    ``nn.MultiheadAttention``, counts from its nearest ancestor that is.
    """
    called: dict[str, int] = {}
    paths = {module: path for path, module in model.named_modules()}

    def note(module: nn.Module, _: object) -> None:
        called.setdefault(paths[module], len(called))

    handles = []
    try:
        handles += [module.register_forward_pre_hook(note) for module in paths]
        run()
    finally:
        for handle in handles:
            handle.remove()

    def position(layer: Layer) -> int:
        path = "" if layer.name == ROOT else layer.name
        while path and path not in called:
            path = owner(path)
        return called.get(path, len(called))

    return sorted(layers, key=position)


def _matching(layers: Sequence[Layer], patterns: Iterable[str]) -> list[Layer]:
    wanted: set[str] = set()
    names = [layer.name for layer in layers]
    for pattern in patterns:
        # A name is taken literally before it is read as a pattern: names may hold brackets.
        matched = [pattern] if pattern in names else fnmatch.filter(names, pattern)
        if not matched:
            inside = fnmatch.filter(names, f"{pattern}.*")
            if inside:
                raise LayerError(
                    f"{pattern!r} holds no parameters of its own, but {len(inside)} layers inside "
                    f"do; to take them all, write '{pattern}.*'."
                )
            try:
                choose(pattern, names, "layer that matches")
            except ValueError as error:
                raise LayerError(str(error)) from None
        wanted.update(matched)
    return [layer for layer in layers if layer.name in wanted]
