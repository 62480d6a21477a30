"""The rows of a sweep: a network seen tensor by tensor, leaf by leaf, or by component or block."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn

from layerscope.core.layers._layer import ROOT, Layer, common
from layerscope.core.layers._network import require_module
from layerscope.core.layers._norms import Norms
from layerscope.core.layers._parts import with_parts
from layerscope.core.layers._places import GROUPING, Place, alone, places
from layerscope.core.layers._tree import Leaf, Tree
from layerscope.errors import LayerError, choose

__all__ = ["VIEWS", "find_all", "hosts", "whole_network"]

VIEWS = ("tensor", "leaf", *GROUPING)
"""The ways to see a network, from fine to coarse."""


def find_all(
    model: nn.Module,
    view: str = "leaf",
    norms: Norms | str | Mapping[str, str] = "own",
) -> list[Layer]:
    """List every row of one view of a network, in order of registration; see `find`."""
    require_module(model)
    try:
        choose(view, VIEWS, "view")
    except ValueError as error:
        raise LayerError(str(error)) from None
    rule, tree = Norms.of(norms), Tree(model)
    where = places(model, tree)
    units = where.get(view) or {path: alone(tree, path) for path in tree.held}
    rows: dict[str, _Row] = {}
    if view == "tensor":
        return _required([_tensor(tree, where, p, n) for p in _parts(tree, rule) for n in p.own])
    for part in _parts(tree, rule):
        name = units[part.at].row
        rows.setdefault(name, _Row(name, view)).parts.append(part)
    found = _required([r.layer(tree, where, units) for r in rows.values() if r.counts(tree)])
    return with_parts(tree, found, view)


def _required(found: list[Layer]) -> list[Layer]:
    if not found:
        raise LayerError("norms keeps every layer of this network, so none is left to perturb.")
    return found


def whole_network(
    model: nn.Module, name: str, norms: Norms | str | Mapping[str, str] = "own"
) -> Layer:
    """Make one layer of everything that a network saves, save what `norms` keeps.

    Parameters
    ----------
    model : nn.Module
    name : str
        For the row.
    norms : Norms, str or mapping

    Notes
    -----
    Buffers of modules without parameters, such as BatchNorm without affine weights, are no
    layer's own; the whole network is not from an epoch without them.
    """
    tree = Tree(model)
    row = _Row(name, "leaf", _parts(tree, Norms.of(norms)))
    return Layer(
        name=name,
        parameters=row.tensors("parameters"),
        buffers=row.tensors("buffers"),
        module_type=type(model).__name__,
        size=sum(part.leaf.size for part in row.parts if part.kind == "parameters"),
        members=row.members(tree),
        modules=("",),
        aliases=row.aliases(tree),
    )


def hosts(tree: Tree) -> dict[str, str]:
    """Say which leaf each normalisation layer goes with, by path.

    Inside the module that holds it, the leaf right before, other normalisation passed over; where
    the first that the module holds normalises (pre-norm, pre-activation), the leaf right after.
    Before and after are in order of registration. Where there is none on that side, the other
    side counts; a normalisation layer without a leaf beside it goes with none and is left out.
    """
    found = {}
    for path, leaf in tree.held.items():
        if not (leaf.norm and path):
            continue
        beside = [c for c in tree.children(tree.parent(path)) if c in tree.held or tree.below(c)]
        at = beside.index(path)
        plain = {c: [leaf.path for leaf in tree.below(c) if not leaf.norm] for c in beside}
        before = next((plain[c][-1] for c in reversed(beside[:at]) if plain[c]), None)
        after = next((plain[c][0] for c in beside[at + 1 :] if plain[c]), None)
        first = beside[0]
        pre = first in tree.held and tree.held[first].norm
        host = (after or before) if pre else (before or after)
        if host is not None:
            found[path] = host
    return found


@dataclass(frozen=True)
class _Part:
    """The parameters or the buffers of a leaf, and the path of the leaf that they move with."""

    leaf: Leaf
    kind: str
    names: tuple[str, ...]
    at: str

    @property
    def own(self) -> tuple[str, ...]:
        """The parameters; a buffer is no row of its own."""
        return self.names if self.kind == "parameters" else ()


def _parts(tree: Tree, rule: Norms) -> list[_Part]:
    """List everything that can be perturbed."""
    with_ = hosts(tree)
    found = []
    for path, leaf in tree.held.items():
        for kind, names, ruled in (
            ("parameters", leaf.parameters, rule.parameters),
            ("buffers", leaf.buffers, rule.statistics),
        ):
            if names and not (leaf.norm and ruled == "kept"):
                moved = leaf.norm and ruled == "with"
                found.append(_Part(leaf, kind, names, with_.get(path, path) if moved else path))
    return found


def _tensor(tree: Tree, where: Mapping[str, Mapping[str, Place]], part: _Part, name: str) -> Layer:
    """Make a row of one parameter; no module stands for it, so that it can't be passed over."""
    return Layer(
        name=name,
        parameters=(name,),
        buffers=(),
        module_type=tree.kind(part.leaf.path).__name__,
        size=part.leaf.sizes[part.leaf.parameters.index(name)],
        members=(part.leaf.name,),
        aliases=tree.aliases.get(name, ()),
        component=where["component"][part.at].row,
        block=where["block"][part.at].row,
        stage=where["stage"][part.at].row,
    )


@dataclass
class _Row:
    """Parts of one row, while they are gathered."""

    name: str
    view: str
    parts: list[_Part] = field(default_factory=list)

    def counts(self, tree: Tree) -> bool:
        """Check that it is a row: buffers of modules without parameters alone are none."""
        return any(part.leaf.path in tree.leaves for part in self.parts)

    def tensors(self, kind: str) -> tuple[str, ...]:
        return tuple(name for part in self.parts if part.kind == kind for name in part.names)

    def aliases(self, tree: Tree) -> tuple[str, ...]:
        names = (name for part in self.parts for name in part.names)
        return tuple(alias for name in names for alias in tree.aliases.get(name, ()))

    def chief(self, tree: Tree) -> list[_Part]:
        """The parameters; where there are none, the buffers of leaves."""
        own = [part for part in self.parts if part.kind == "parameters"]
        return own or [part for part in self.parts if part.leaf.path in tree.leaves]

    def members(self, tree: Tree) -> tuple[str, ...]:
        return tuple(part.leaf.name for part in self.chief(tree))

    def layer(
        self, tree: Tree, where: Mapping[str, Mapping[str, Place]], units: Mapping[str, Place]
    ) -> Layer:
        chief = self.chief(tree)
        path = "" if self.name == ROOT else self.name
        return Layer(
            name=self.name,
            parameters=self.tensors("parameters"),
            buffers=self.tensors("buffers"),
            module_type=tree.kind(path).__name__ if path in tree.modules else self.view,
            size=sum(part.leaf.size for part in self.parts if part.kind == "parameters"),
            members=self.members(tree),
            modules=tuple(dict.fromkeys(m for p in chief for m in units[p.leaf.path].modules)),
            aliases=self.aliases(tree),
            component=common([where["component"][p.at].row for p in chief]),
            block=common([where["block"][p.at].row for p in chief]),
            stage=common([where["stage"][p.at].row for p in chief]),
        )
