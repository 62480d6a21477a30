"""Rows to perturb together: mappings for ``sweep(layers=…)``.

Each function takes the names of a network's rows in the order of the network, and returns from the
name of a group to its rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from layerscope.core import layers
from layerscope.errors import LayerError

__all__ = [
    "Groups",
    "alternating",
    "everything",
    "joint",
    "leaves",
    "prefixes",
    "stages",
    "suffixes",
]

Groups = dict[str, list[str]]


def prefixes(rows: Sequence[str]) -> Groups:
    """The first 2 rows, the first 3, and so on, short of all of them.

    Examples
    --------
    >>> prefixes(["a", "b", "c", "d"])
    {'first 2': ['a', 'b'], 'first 3': ['a', 'b', 'c']}
    """
    return {f"first {count}": list(rows[:count]) for count in range(2, len(rows))}


def suffixes(rows: Sequence[str]) -> Groups:
    """The last 2 rows, the last 3, and so on, short of all of them.

    Examples
    --------
    >>> suffixes(["a", "b", "c", "d"])
    {'last 2': ['c', 'd'], 'last 3': ['b', 'c', 'd']}
    """
    return {f"last {count}": list(rows[-count:]) for count in range(2, len(rows))}


def alternating(rows: Sequence[str]) -> Groups:
    """Every second row, from the first and from the second on; nothing below 3 rows.

    Examples
    --------
    >>> alternating(["a", "b", "c"])
    {'odd rows': ['a', 'c'], 'even rows': ['b']}
    """
    if len(rows) < 3:
        return {}
    return {"odd rows": list(rows[::2]), "even rows": list(rows[1::2])}


def everything(rows: Sequence[str]) -> Groups:
    """All of the rows at once.

    Examples
    --------
    >>> everything(["a", "b"])
    {'all 2': ['a', 'b']}
    """
    return {f"all {len(rows)}": list(rows)}


def stages(model: nn.Module, rows: Sequence[str], view: str = "leaf") -> Groups:
    """The rows of each stage of a network, where a stage has several.

    Parameters
    ----------
    model : nn.Module
    rows : sequence of str
        Of the view.
    view : str
        What makes a row, as in a sweep.

    Examples
    --------
    >>> from layerscope import models
    >>> net = models.build("vgg11-w0.125")
    >>> stages(net, ["s3b1", "s3b2", "s4b1"])
    {'s3': ['s3b1', 's3b2']}
    """
    found: Groups = {}
    for layer in layers.select(layers.find(model, view), list(rows)):
        if layer.stage:
            found.setdefault(layer.stage, []).append(layer.name)
    return {stage: members for stage, members in found.items() if len(members) > 1}


def joint(rows: Sequence[str], others: Mapping[str, Sequence[str]] | None = None) -> Groups:
    """Single rows, every second one, the last ones and all of them: one sweep for a whole figure.

    Parameters
    ----------
    rows : sequence of str
        Such as those that a sweep found robust.
    others : mapping, optional
        Further groups, such as `stages`; those that are among the groups already are left out.

    Raises
    ------
    LayerError
        If there are no rows.

    Examples
    --------
    >>> list(joint(["a", "b", "c"]))
    ['a', 'b', 'c', 'odd rows', 'even rows', 'last 2', 'first 2', 'all 3']
    >>> list(joint(["a", "b"], {"stage1": ["a", "b"]}))
    ['a', 'b', 'all 2']
    """
    if not rows:
        raise LayerError("rows is empty; name the layers to reset together.")
    single = {row: [row] for row in rows}
    if len(rows) == 1:
        return single
    together = {**alternating(rows), **suffixes(rows), **prefixes(rows), **everything(rows)}
    known = {frozenset(group) for group in (*single.values(), *together.values())}
    further = {k: list(v) for k, v in (others or {}).items() if frozenset(v) not in known}
    return {**single, **further, **together}


def leaves(model: nn.Module, rows: Sequence[str], view: str = "leaf") -> list[str]:
    """The leaves that rows of a view are made of, such as for ``Recipe(frozen=…)``.

    Parameters
    ----------
    model : torch.nn.Module
    rows : sequence of str
        Names of rows of the view.
    view : str
        ``"leaf"``, ``"component"``, ``"block"`` or ``"stage"``.

    Examples
    --------
    >>> from layerscope import models
    >>> leaves(models.build("resnet18-nonorm-w0.125"), ["s2.1"], "block")
    ['s2.1.conv1', 's2.1.conv2', 's2.1.shortcut']
    """
    return [m for row in layers.select(layers.find(model, view), list(rows)) for m in row.members]
