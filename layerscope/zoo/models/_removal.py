"""Networks without some of their layers."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from layerscope.core.layers import ROOT
from layerscope.errors import LayerError, OptionError, choose
from layerscope.zoo.models._family import Config, leaves

__all__ = ["remove"]

Model = TypeVar("Model", bound=nn.Module)


def remove(model: Model, layers: str | Sequence[str], example: Tensor | None = None) -> Model:
    """Copy a network without some of its layers: in their place is the identity.

    Parameters
    ----------
    model : nn.Module
        Left as it is.
    layers : str or sequence of str
        Dotted names of modules, or rows of one of the network's views, such as ``"layer2"``,
        ``"s5b2"`` or ``"s4.2"``.
    example : Tensor, optional
        A batch that the network takes, on any device; needed for a network that layerscope did
        not build.

    Returns
    -------
    nn.Module
        A copy with the other layers' values. What it declares (`config`, `initializers`,
        `layer_views`) fits, so that a manifest can hold it and `build` can build it again.

    Raises
    ------
    LayerError
        If there is no such layer, or if what goes into it has another shape than what comes out.

    Notes
    -----
    Around a residual block the shortcut stays, so removing it skips it. Inside a residual branch
    the identity passes on what comes in: remove whole blocks where that is not meant.

    Examples
    --------
    >>> from layerscope import models
    >>> net = models.build("fcn-3x16", inputs=(4,), classes=2)
    >>> models.remove(net, "layer2").layer2
    Identity()
    """
    wanted = [layers] if isinstance(layers, str) else list(layers)
    if not wanted:
        raise LayerError("layers is empty; name the layers to remove.")
    config = getattr(model, "config", None)
    if example is None:
        if not isinstance(config, Config):
            raise OptionError(
                f"this {type(model).__name__} does not say what it takes; pass example=, a batch "
                "of inputs."
            )
        example = config.example()
    names = _outermost(name for layer in wanted for name in _modules(model, layer))
    _check_shapes(model, names, example)
    lighter = copy.deepcopy(model)
    for name in names:
        path, _, own = name.rpartition(".")
        setattr(lighter.get_submodule(path), own, nn.Identity())
    if isinstance(config, Config):
        _update_declarations(lighter, config, wanted)
    return lighter


def _modules(model: nn.Module, layer: str) -> list[str]:
    """Names of the modules that make up a layer: itself, or a row of a view."""
    there = [name for name, module in model.named_modules() if name and _has_parameters(module)]
    if layer in there:
        return [layer]
    views = getattr(model, "layer_views", {})
    for rows in views.values():
        if layer in rows:
            return _largest_modules(model, there, rows[layer])
    rows = dict.fromkeys(row for view in views.values() for row in view)
    try:
        choose(layer, dict.fromkeys((*there, *rows)), "layer to remove")
    except OptionError as error:
        raise LayerError(str(error)) from None
    raise AssertionError


def _has_parameters(module: nn.Module) -> bool:
    """Check for parameters in a module."""
    return next(module.parameters(), None) is not None


def _largest_modules(model: nn.Module, there: Iterable[str], members: Sequence[str]) -> list[str]:
    """The largest modules that hold these leaves and no others, such as whole blocks."""
    if ROOT in members:
        raise LayerError("the network's own parameters can't be removed; name other layers.")
    inside = {name: leaves(model.get_submodule(name)) for name in there}
    return [
        name
        for name, held in inside.items()
        if all((name if leaf == ROOT else f"{name}.{leaf}") in members for leaf in held)
    ]


def _outermost(names: Iterable[str]) -> list[str]:
    unique = list(dict.fromkeys(names))
    return [n for n in unique if not any(n.startswith(f"{other}.") for other in unique)]


def _check_shapes(model: nn.Module, names: Sequence[str], example: Tensor) -> None:
    """Run the network without values, and see what goes into each module and comes out."""
    # Shapes alone: on meta a pass costs nothing, whatever the size of the network.
    outline = copy.deepcopy(model).to("meta").eval()
    seen: dict[str, list[tuple[Any, Any]]] = {name: [] for name in names}
    for name in names:

        def note(_: nn.Module, ins: tuple[Any, ...], out: Any, name: str = name) -> None:
            seen[name].append((ins[0] if len(ins) == 1 else ins, out))

        outline.get_submodule(name).register_forward_hook(note)
    with torch.no_grad():
        outline(example.to("meta"))
    for name, calls in seen.items():
        _check_calls(name, calls)


def _check_calls(name: str, calls: Sequence[tuple[Any, Any]]) -> None:
    if not calls:
        raise LayerError(f"{name} is not called on its own in a pass, so it can't be removed.")
    for ins, out in calls:
        if not (isinstance(ins, Tensor) and isinstance(out, Tensor)):
            raise LayerError(f"{name} does not turn one tensor into one, so it can't be removed.")
        if (ins.shape, ins.dtype) != (out.shape, out.dtype):
            raise LayerError(
                f"{name} can't be removed: it turns {_describe_shape(ins)} into "
                f"{_describe_shape(out)}, and the identity would keep the shape. Choose layers "
                "that keep it."
            )


def _describe_shape(tensor: Tensor) -> str:
    kind = "" if tensor.is_floating_point() else f" {str(tensor.dtype).removeprefix('torch.')}"
    return f"{tuple(tensor.shape[1:])}{kind}"


def _update_declarations(lighter: Any, config: Config, wanted: Sequence[str]) -> None:
    """Let a network say what it is now."""
    removed = tuple(dict.fromkeys((*config.removed, *wanted)))
    lighter.config = dataclasses.replace(config, removed=removed)  # type: ignore[type-var]
    left, kept = set(leaves(lighter)), dict(lighter.named_parameters())
    lighter.initializers = {n: i for n, i in lighter.initializers.items() if n in kept}
    lighter.layer_views = {
        view: _keep_rows(rows, left) for view, rows in lighter.layer_views.items()
    }


def _keep_rows(rows: Mapping[str, tuple[str, ...]], left: set[str]) -> dict[str, tuple[str, ...]]:
    kept = {row: tuple(leaf for leaf in members if leaf in left) for row, members in rows.items()}
    return {row: members for row, members in kept.items() if members}
