"""Parts of a block that add to its hidden states: attention, MLP with or without experts, mixer.

Which part is which is told by structure, with names where they say it: of the modules right inside
a block that hold several leaves besides normalisation, one that counts heads attends, and one
beside it that does not is the MLP. Where the MLP is no module of its own, as of OPT, its last
matrix stands for it. Some modules add to the hidden states themselves, as those of Bloom and BERT,
which are given the residual; of these too it is the last matrix. Whether what a part gives is
added to the hidden states is found out where it is skipped, see `layerscope.core.reuse`.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from torch import nn

from layerscope.core.layers._layer import BlockPart, Layer
from layerscope.core.layers._places import block_modules
from layerscope.core.layers._tree import Leaf, Tree, lineage

__all__ = ["with_parts"]

ATTENTION, MLP, MIXER = "attention", "mlp", "mixer"

_ATTENDS = ("attn", "attention", "self_att", "mha")
_MAPS = ("mlp", "ffn", "feed_forward", "feedforward", "moe", "experts")
_HEADS = ("num_heads", "num_attention_heads", "n_heads", "n_head", "nhead")
_RESIDUALS = {"residual", "input_tensor"}


def with_parts(tree: Tree, rows: Sequence[Layer], view: str) -> list[Layer]:
    """Tell of rows which parts of blocks lie in them, and which are not to be passed over."""
    blocks = block_modules(tree)
    parts = [(block, part) for block in blocks for part in _find_parts(tree, block)]
    return [
        replace(
            row,
            parts=tuple(part for block, part in parts if _lies_in(row, block, part)),
            impassable=_impassable(tree, row, blocks) if view in ("block", "stage") else "",
        )
        for row in rows
    ]


def _lies_in(row: Layer, block: str, part: BlockPart) -> bool:
    """Tell whether a row is this part, or holds its block."""
    return part.module in row.modules or not set(row.modules).isdisjoint(lineage(block))


def _impassable(tree: Tree, row: Layer, blocks: Collection[str]) -> str:
    """Say why a row is not to be passed over as if it were a block."""
    norms = all(path in tree.held and tree.held[path].norm for path in row.modules)
    outside = not any(set(lineage(path)).intersection(blocks) for path in row.modules)
    if len(blocks) < 2 or not (row.modules and norms and outside):
        return ""
    return (
        "normalises hidden states for what stands outside of the blocks, and is none of them; in "
        "the view 'leaf' it can be passed over"
    )


def _find_parts(tree: Tree, block: str) -> list[BlockPart]:
    """Find the parts of a block, in order of registration."""
    inside = list(_called(tree, block))
    whole = {child: _role(tree, child) for child in inside if _compound(tree, child)}
    roles = {child: role for child, role in whole.items() if role}
    if ATTENTION in roles.values():
        # What stands beside attention and says nothing else maps each token.
        roles = {child: role or MLP for child, role in whole.items()}
    found = [_part(tree, child, role) for child, role in roles.items()]
    if ATTENTION in roles.values() and MLP not in roles.values():
        rest = [leaf for child in inside if child not in roles for leaf in tree.below(child)]
        last = _last_matrix(rest)
        found += [BlockPart(MLP, last.path, last.path)] if last else []
    return found


def _called(tree: Tree, path: str) -> Iterator[str]:
    """Yield the modules right inside one, those of a list in its place."""
    for child in tree.children(path):
        if tree.called(child):
            yield child
        else:
            yield from _called(tree, child)


def _compound(tree: Tree, path: str) -> bool:
    return tree.many(path) or isinstance(tree.modules[path], nn.MultiheadAttention)


def _role(tree: Tree, path: str) -> str:
    """Tell what a part is; empty where nothing says so."""
    said = f"{path.rpartition('.')[2]} {tree.kind(path).__name__}".lower()
    if any(word in said for word in _ATTENDS):
        return ATTENTION
    if any(word in said for word in _MAPS):
        return MLP
    if "mixer" in said:
        return MIXER
    return ATTENTION if _heads(tree, path) else ""


def _part(tree: Tree, path: str, role: str) -> BlockPart:
    last = _last_matrix(tree.below(path))
    adds = any(map(_is_given_residual, _modules(tree, path)))
    part = BlockPart(role, path, last.path if adds and last is not None else path)
    if role == MLP:
        return _with_experts(tree, part)
    return _with_heads(tree, part, last) if role == ATTENTION and last is not None else part


def _with_heads(tree: Tree, part: BlockPart, last: Leaf) -> BlockPart:
    """Find the heads of attention, and where the last matrix reads them."""
    heads, name = _heads(tree, part.module), f"{last.path}.weight"
    weight = getattr(last.module, "weight", None)
    if not heads or weight is None or weight.ndim != 2 or name not in last.parameters:
        return part
    axis = 0 if type(last.module).__name__ == "Conv1D" else 1
    if weight.shape[axis] % heads:
        return part
    return replace(part, output=name, axis=axis, heads=heads)


def _with_experts(tree: Tree, part: BlockPart) -> BlockPart:
    """Find the experts of an MLP, and their last projections."""
    for leaf in tree.below(part.module):
        own = {name: leaf.module.get_parameter(name.rpartition(".")[2]) for name in leaf.parameters}
        convolves = isinstance(leaf.module, nn.modules.conv._ConvNd)
        stacks = [name for name, tensor in own.items() if tensor.ndim == 3 and not convolves]
        if stacks:
            names = tuple(n for n in (stacks[-1], f"{stacks[-1]}_bias") if n in own)
            return replace(part, experts=len(own[names[0]]), downs=(names,), stacked=True)
    for path, module in tree.modules.items():
        listed = isinstance(module, nn.ModuleList) and part.module in lineage(path)
        if listed and len(tree.children(path)) > 1:
            ends = [_last_matrix(tree.below(expert)) for expert in tree.children(path)]
            downs = tuple(end.parameters for end in ends if end is not None)
            return replace(part, experts=len(downs), downs=downs)
    return part


def _modules(tree: Tree, path: str) -> Iterator[nn.Module]:
    return (module for at, module in tree.modules.items() if path in lineage(at))


def _is_given_residual(module: nn.Module) -> bool:
    return not _RESIDUALS.isdisjoint(inspect.signature(type(module).forward).parameters)


def _last_matrix(leaves: list[Leaf]) -> Leaf | None:
    """The last leaf that does not normalise."""
    return next((leaf for leaf in reversed(leaves) if not leaf.norm), None)


def _heads(tree: Tree, path: str) -> int:
    """Number of heads that a module, or one in it, says it has; 0 where none does."""
    for module in _modules(tree, path):
        for holder in (module, getattr(module, "config", None)):
            for name in _HEADS:
                count = getattr(holder, name, None)
                if isinstance(count, int) and count > 0:
                    return count
    return 0
