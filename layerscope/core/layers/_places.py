"""The component, block and stage that each leaf lies in.

A network may declare it, as ``model.layer_views``; what it does not is found from the modules.

Blocks
    The outermost modules whose class occurs at least twice in the network and that hold at least
    two leaves besides normalisation (``nn.MultiheadAttention`` counts as one). ``nn.Sequential``,
    ``nn.ModuleList`` and ``nn.ModuleDict`` themselves only gather; so does a module three quarters
    of whose parameters lie in such modules of one class that a container holds for it (a dense
    block, a stage of ConvNeXt, one tower of two), or in modules that gather in this sense. Where
    two blocks or more stand side by side, other modules beside them with two leaves or more are
    blocks too, though their class occurs once (Inception's ``Mixed_6a``). Every other leaf is a
    block of its own.
Stages
    The modules that hold the blocks, where there are several (``layer1`` … ``layer4`` of a
    ResNet); else ``stage1``, ``stage2``, …: the row of blocks, from the first to the last, split
    where the resolution falls, by a pooling or a convolution with a step. A network of
    convolutions without blocks (VGG) is split in the same way, up to its last convolution. What
    lies outside, such as stem and head, stays by itself.
Components
    The children of each block; of a list, or of an ``nn.Sequential`` that holds more than half of
    the block, its children. Outside of blocks, leaves.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from layerscope.base.tensors import owner_name, plain_name
from layerscope.core.layers._layer import ROOT
from layerscope.core.layers._tree import Tree, conv_like, lineage, pooling
from layerscope.errors import LayerError

__all__ = ["GROUPING", "Place", "alone", "block_modules", "places", "true_blocks"]

GROUPING = ("component", "block", "stage")
"""The views in which a row may hold several leaves."""

_SHARE = 0.75


@dataclass(frozen=True)
class Place:
    """The row of a view that a leaf lies in, and the module that stands for it."""

    row: str
    modules: tuple[str, ...]


def places(model: nn.Module, tree: Tree) -> dict[str, dict[str, Place]]:
    """Find for each view where every leaf lies, by path.

    Raises
    ------
    LayerError
        If what the network declares is no partition of its leaves.
    """
    declared = getattr(model, "layer_views", {})
    if not isinstance(declared, Mapping) or set(declared) - set(GROUPING):
        raise LayerError(
            f"layer_views is {declared!r}; it must map {', '.join(GROUPING)}, or some of them, to "
            "groups of leaves."
        )
    blocks = _blocks(tree)
    found = {
        "component": {path: _component(tree, blocks, path) for path in tree.held},
        "block": {
            path: _in(tree, blocks[path]) if path in blocks else alone(tree, path)
            for path in tree.held
        },
        "stage": _stages(tree, blocks),
    }
    return found | {view: _declared(tree, view, groups) for view, groups in declared.items()}


def block_modules(tree: Tree) -> list[str]:
    """List the paths of the modules that are blocks of several leaves, in order of registration."""
    return list(dict.fromkeys(_blocks(tree).values()))


def true_blocks(model: nn.Module, tree: Tree) -> set[str]:
    """Name the rows of the view block that hold several leaves.

    The others are a leaf each, such as a head; and so is for this purpose what holds nothing but
    embeddings, such as those of tokens and positions.
    """
    found = {
        path: block
        for path, block in _blocks(tree).items()
        if not all(isinstance(leaf.module, nn.Embedding) for leaf in tree.below(block))
    }
    declared = getattr(model, "layer_views", {})
    if "block" not in declared:
        return set(found.values())
    rows = _declared(tree, "block", declared["block"])
    return {place.row for path, place in rows.items() if path in found}


def _in(tree: Tree, path: str) -> Place:
    """The place of what lies in a module, which stands for it."""
    return Place(path, (path,) if tree.called(path) else tuple(_called(tree, path)))


def alone(tree: Tree, path: str) -> Place:
    """The place of a leaf by itself; its module stands for it unless it holds other leaves."""
    within = [leaf.path for leaf in tree.below(path)]
    return Place(path or ROOT, (path,) if within in ([], [path]) else ())


def _called(tree: Tree, path: str) -> list[str]:
    inside = [child for child in tree.children(path) if tree.below(child)]
    return [p for c in inside for p in ([c] if tree.called(c) else _called(tree, c))]


# Blocks


def _blocks(tree: Tree) -> dict[str, str]:
    """Map the path of everything that lies in a block of several leaves to that block."""
    roots: list[str] = []
    _visit(tree, "", roots)
    known = set(roots)
    return {
        path: next(above for above in lineage(path) if above in known)
        for path in tree.held
        if known.intersection(lineage(path))
    }


def _visit(tree: Tree, path: str, found: list[str]) -> None:
    inside = list(dict.fromkeys(child for child, _ in tree.through(path)))
    here: list[str] = []
    rest: list[str] = []
    for child in inside:
        block = tree.counts[tree.kind(child)] > 1 and tree.many(child) and not _gathers(tree, child)
        (here if block else rest).append(child)
    found += here
    for child in rest:
        inner: list[str] = []
        _visit(tree, child, inner)
        beside = len(here) > 1 and tree.many(child)
        is_block = beside and sum(map(tree.size, inner)) < _SHARE * tree.size(child)
        found += [child] if is_block else inner


def _gathers(tree: Tree, path: str) -> bool:
    """Recognise a module that is no more than a row of blocks."""
    size, inside = tree.size(path), list(tree.through(path))
    listed = isinstance(tree.modules[path], (nn.Sequential, nn.ModuleList, nn.ModuleDict))
    shares: dict[object, int] = {}
    for child, parent in inside:
        if not tree.below(child):
            continue
        kind = tree.kind(child)
        if (parent != path or listed) and tree.counts[kind] > 1 and tree.many(child):
            shares[kind] = shares.get(kind, 0) + tree.size(child)
        elif tree.many(child) and _gathers(tree, child):
            shares[None] = shares.get(None, 0) + tree.size(child)
    return max(shares.values(), default=0) >= _SHARE * max(size, 1)


# Components


def _component(tree: Tree, blocks: Mapping[str, str], path: str) -> Place:
    block = blocks.get(path)
    if block is None or path == block:
        return alone(tree, path)
    below = [p for p in lineage(path) if p.startswith(f"{block}." if block else "") and p]
    child = below[0]
    sequential = tree.kind(child) is nn.Sequential
    opened = sequential and 2 * tree.size(child) > tree.size(block)
    if len(below) > 1 and (opened or not tree.called(child)):
        child = below[1]
    return _in(tree, child)


# Stages


def _stages(tree: Tree, blocks: Mapping[str, str]) -> dict[str, Place]:
    parents = {block: _around(tree, block, set(blocks.values())) for block in blocks.values()}
    several = {parent for parent in parents.values() if parent}
    if len(several) < 2:
        return _runs(tree, blocks)
    found = {}
    for path in tree.held:
        above = [p for p in lineage(path) if p in several]
        within = above[0] if above else blocks.get(path)
        found[path] = alone(tree, path) if within is None else _in(tree, within)
    return found


def _around(tree: Tree, block: str, blocks: set[str]) -> str:
    """The module that holds a block, or what that module is most of."""
    parent = tree.parent(block)
    above = tree.parent(parent) if parent else ""
    if parent and tree.container(parent) and above and not tree.container(above):
        beside = [c for c in tree.children(above) if any(c in lineage(b) for b in blocks)]
        if beside == [parent] and tree.counts[tree.kind(above)] > 1:
            return above
    return parent


def _runs(tree: Tree, blocks: Mapping[str, str]) -> dict[str, Place]:
    """Split the row of blocks where the resolution falls."""
    rows = {path: blocks.get(path, path) for path in tree.held}
    span = _span(tree, blocks)
    numbers: dict[str, int] = {}
    stage, fallen, known = 1, False, set(blocks.values())
    for path, module in tree.modules.items():
        row = rows.get(path) or next((p for p in lineage(path) if p in known), None)
        if row is None:
            fallen |= pooling(module)
        elif row in span and row not in numbers:
            stage += bool(numbers) and (fallen or tree.reduces(row))
            fallen = False
            numbers[row] = stage
    places_ = {
        path: _in(tree, blocks[path]) if path in blocks else alone(tree, path) for path in rows
    }
    standing: dict[int, dict[str, None]] = {}
    for path, row in rows.items():
        if row in numbers:
            standing.setdefault(numbers[row], {}).update(dict.fromkeys(places_[path].modules))
    return {
        path: Place(f"stage{numbers[row]}", tuple(standing[numbers[row]]))
        if row in numbers
        else places_[path]
        for path, row in rows.items()
    }


def _span(tree: Tree, blocks: Mapping[str, str]) -> set[str]:
    """The rows from the first block to the last, or to the last convolution where none are."""
    order = list(dict.fromkeys(blocks.get(path, path) for path in tree.held))
    chosen = set(blocks.values()) or {p for p in tree.leaves if conv_like(tree.modules[p])}
    at = [index for index, row in enumerate(order) if row in chosen]
    if not at:
        return set()
    last = at[-1] + 1
    if not blocks:
        while last < len(order) and tree.held[order[last]].norm:
            last += 1
    return set(order[at[0] : last])


# Declared views


def _declared(tree: Tree, view: str, groups: Any) -> dict[str, Place]:
    if not isinstance(groups, Mapping) or not groups:
        raise LayerError(f"layer_views[{view!r}] is {groups!r}; it must map names to leaves.")
    # What a network declares holds for it compiled, too.
    paths = {(plain_name(path) or ROOT): path for path in tree.held}
    # A module may hold nothing but other names of what lies elsewhere, as a tied head does.
    tied = {
        plain_name(owner_name(alias)) or ROOT
        for others in tree.aliases.values()
        for alias in others
    }
    found: dict[str, Place] = {}
    for group, patterns in groups.items():
        listed = [patterns] if isinstance(patterns, str) else patterns
        members = _members(view, group, listed, [*paths, *(tied - paths.keys())])
        inside = [path for name, path in paths.items() if name in members]
        place = Place(group, _standing(tree, group, inside))
        for path in inside:
            if path in found:
                raise LayerError(
                    f"layer_views[{view!r}] names {path or ROOT} in {found[path].row!r} and in "
                    f"{group!r}; every leaf must be in one group."
                )
            found[path] = place
    absent = [leaf.name for path, leaf in tree.leaves.items() if path not in found]
    if absent:
        raise LayerError(
            f"layer_views[{view!r}] leaves out {', '.join(absent[:3])}"
            f"{f' and {len(absent) - 3} more' if len(absent) > 3 else ''}; every leaf must be in "
            "one group."
        )
    return found


def _members(view: str, group: str, patterns: Sequence[str], names: Sequence[str]) -> set[str]:
    members: set[str] = set()
    for pattern in patterns:
        matched = [pattern] if pattern in names else fnmatch.filter(names, pattern)
        if not matched:
            raise LayerError(
                f"layer_views[{view!r}][{group!r}] names {pattern!r}, which is no leaf of the "
                f"network; there is {', '.join(names[:20])}{', …' if len(names) > 20 else ''}."
            )
        members.update(matched)
    return members


def _standing(tree: Tree, group: str, inside: Sequence[str]) -> tuple[str, ...]:
    """The module that a group is named after, if they hold the same; else the leaves."""
    wanted = [tree.leaves[path] for path in inside if path in tree.leaves]
    if group in tree.modules and tree.called(group) and tree.below(group) == wanted:
        return (group,)
    return tuple(dict.fromkeys(p for leaf in wanted for p in alone(tree, leaf.path).modules))
