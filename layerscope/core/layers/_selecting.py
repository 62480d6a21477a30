"""Finding the rows of a network, and selecting among them by name, pattern, group or function."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from layerscope.base.validate import describe
from layerscope.core.layers._layer import ROOT, Layer, merge
from layerscope.core.layers._norms import Norms
from layerscope.core.layers._views import find_all
from layerscope.errors import LayerError, choose

__all__ = ["LayerSelection", "find", "select"]

LayerSelection = (
    Sequence[str]
    | Mapping[str, str | Sequence[str]]
    | Callable[[str, nn.Module], str | None]
    | None
)
"""Names or patterns; groups of them; a function from a leaf to its group; or everything."""


def find(
    model: nn.Module,
    view: str = "leaf",
    norms: Norms | str | Mapping[str, str] = "own",
    wanted: LayerSelection = None,
) -> list[Layer]:
    """List the rows of one view of a network, in order of registration.

    Parameters
    ----------
    model : nn.Module
        Where it has an attribute ``layer_views``, a mapping from view to a mapping from the name
        of a row to names or patterns of leaves, that is taken; else
        what the names and types of the modules say.
    view : {"tensor", "leaf", "component", "block", "stage"}
        ``"tensor"``: every parameter by itself; buffers are in no row. ``"leaf"``: every module
        that holds parameters of its own, with its saved buffers. The tensors that parametrise
        another (``torch.nn.utils.parametrizations``) belong to the module of the latter. In the
        other views, leaves that lie together make one row.
    norms : Norms, str or mapping
        The rule for normalisation layers, see `Norms`.
    wanted : sequence of str, mapping, callable, or None
        Names or patterns of rows, or groups of them, see `select`. A function of a leaf's name
        and module returns the name of the group that the leaf belongs to, or None to leave it
        out; normalisation layers that go with another leaf follow that one.

    Returns
    -------
    list of Layer
        Of all rows, every parameter is in one, save those that `norms` keeps. One that has several
        names belongs to the first of them; the others are the row's aliases.

    Raises
    ------
    LayerError
        If the network has no parameters, or some without a shape yet; if there is no such view or
        rule; if ``layer_views`` is no partition of the leaves; if no row is left; as `select`; if
        the function returns something else, leaves every leaf out, or comes with a view other than
        ``"leaf"``.

    Examples
    --------
    >>> from torch import nn
    >>> block = lambda: nn.TransformerEncoderLayer(8, 2, 16)
    >>> net = nn.Sequential(nn.Linear(4, 8), block(), block(), nn.Linear(8, 2))
    >>> [row.name for row in find(net, view="block")]
    ['0', '1', '2', '3']
    >>> [row.name for row in find(net, view="component", norms="with")][:4]
    ['0', '1.self_attn', '1.linear1', '1.linear2']
    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Conv2d(2, 2, 3))
    >>> [row.members for row in find(net, wanted=lambda name, module: type(module).__name__)]
    [('0', '2'), ('1',)]
    """
    found = find_all(model, view, norms)
    if isinstance(wanted, (type, nn.Module)) or not callable(wanted):
        return select(found, _names(model, wanted))
    if view != "leaf":
        raise LayerError(f"a function groups leaves, but view is {view!r}; leave view out.")
    groups: dict[str, list[Layer]] = {}
    for row in found:
        group = wanted(row.name, model.get_submodule("" if row.name == ROOT else row.name))
        if group is not None and not isinstance(group, str):
            raise LayerError(
                f"the function in layers returned {group!r} for {row.name}; it must return the "
                "name of a group, or None to leave the layer out."
            )
        if group is not None:
            groups.setdefault(group, []).append(row)
    if not groups:
        raise LayerError("the function in layers leaves every layer out; it must name a group.")
    return [merge(group, members) for group, members in groups.items()]


def _names(model: nn.Module, wanted: Any) -> Any:
    """Turn names in any container into what `select` takes; say the name of a module that came.

    Raises
    ------
    LayerError
        If something else came.
    """
    if wanted is None or isinstance(wanted, str):
        return wanted
    if isinstance(wanted, Mapping):
        return {_name(model, group): _names(model, rows) for group, rows in wanted.items()}
    if not isinstance(wanted, Iterable) or isinstance(wanted, (type, nn.Module)):
        wanted = [wanted]
    return [_name(model, each) for each in wanted]


def _name(model: nn.Module, given: Any) -> str:
    if isinstance(given, str):
        return given
    if isinstance(given, Layer):
        return given.name
    own = next((name for name, module in model.named_modules() if module is given), None)
    hint = "" if own is None else f"; this one is {own or ROOT!r}"
    raise LayerError(
        f"layers holds {describe(given)}; give names or patterns of layers, as "
        f"model.named_modules() has them, such as ['0', 'features.*']{hint}."
    )


def select(
    layers: Sequence[Layer],
    wanted: Sequence[str] | Mapping[str, str | Sequence[str]] | None,
) -> list[Layer]:
    """Select layers by name or pattern, or gather them into groups.

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
