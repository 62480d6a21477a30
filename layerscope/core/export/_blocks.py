"""The blocks that are to be left out, said in any form in which a user may know them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import xarray as xr
from torch import nn

from layerscope import results, stats
from layerscope.base import validate
from layerscope.base.tensors import owner_name
from layerscope.core import layers, perturb
from layerscope.errors import LayerError, OptionError, ResultError

__all__ = ["SKIP", "BlockList", "left_out", "list_of", "values_in", "values_of"]

SKIP = perturb.skip().name
"""The perturbation that tells what a network is without a block."""


class BlockList:
    """The list in which all blocks of a network stand, one after the other.

    Attributes
    ----------
    path : str
        Of the ``nn.ModuleList`` or ``nn.Sequential``.
    names : list of str
        Of the blocks, in their order.
    """

    def __init__(self, path: str, names: Sequence[str]) -> None:
        self.path, self.names = path, list(names)

    def kept(self, without: Iterable[str]) -> list[int]:
        """Places of the blocks that stay."""
        gone = set(without)
        return [at for at, name in enumerate(self.names) if name not in gone]

    def renamed(self, tensor: str, kept: Sequence[int]) -> str | None:
        """Say what a tensor is called once the others are gone; None if it goes with them."""
        start = f"{self.path}." if self.path else ""
        old, dot, rest = tensor.removeprefix(start).partition(".")
        if not tensor.startswith(start) or not old.isdigit():
            return tensor
        return f"{start}{kept.index(int(old))}{dot}{rest}" if int(old) in kept else None


def list_of(model: nn.Module) -> BlockList:
    """Find the list in which a network's blocks stand.

    Raises
    ------
    LayerError
        If there is no one list that holds the blocks and nothing else.
    """
    names = [block.name for block in layers.blocks(model)]
    parents = {owner_name(name) for name in names}
    parent = next(iter(parents))
    holder = model.get_submodule(parent) if len(parents) == 1 else None
    held = [f"{parent}.{child}" if parent else child for child, _ in _children(holder)]
    if held != names:
        raise LayerError(
            f"the {len(names)} blocks of this {type(model).__name__} ({names[0]} to {names[-1]}) "
            "are not all that one ModuleList or Sequential holds, so none can be left out of it; "
            "build the smaller network yourself, and read the other blocks into it."
        )
    return BlockList(parent, names)


def _children(module: nn.Module | None) -> list[tuple[str, nn.Module]]:
    return (
        list(module.named_children()) if isinstance(module, (nn.ModuleList, nn.Sequential)) else []
    )


def left_out(
    model: nn.Module, without: Any, blocks: BlockList, margin: float | None, metric: str | None
) -> list[str]:
    """Name the blocks that are to go, in their order.

    Raises
    ------
    LayerError
        If there are none, nothing would be left, or a name is no block.
    ResultError
        If a Dataset has several rows, and no margin says which of them count.
    """
    if isinstance(without, xr.Dataset):
        named = _of_dataset(model, without, blocks, margin, metric)
    elif margin is not None:
        raise OptionError("margin goes with a Dataset of a sweep; blocks by name need none.")
    else:
        named = _by_name(model, without, blocks)
    if not named:
        raise LayerError("no block is to be left out, so there is nothing to export.")
    if len(named) == len(blocks.names):
        raise LayerError(f"all {len(named)} blocks are to be left out; leave at least one.")
    return [name for name in blocks.names if name in named]


def _by_name(model: nn.Module, without: Any, blocks: BlockList) -> set[str]:
    names = [without] if isinstance(without, str) else without
    if not isinstance(names, Iterable) or not all(isinstance(name, str) for name in names):
        raise LayerError(
            f"without is {validate.describe(without)}; give names of blocks, such as "
            f"{blocks.names[:2]}, of a range, or the row of a Dataset."
        )
    known = layers.ranges(model)  # those of one block are the blocks
    known = _by_number(blocks.names) | known  # where blocks are called by numbers, these count
    for name in names:
        if name not in known:
            raise LayerError(_no_block(name, known, blocks.names))
    return {block for name in names for block in known[name]}


def _no_block(name: str, known: Iterable[str], blocks: Sequence[str]) -> str:
    """Say which names are nearest; all ranges would be hundreds."""
    near = difflib.get_close_matches(name, known, n=3)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    return (
        f"there is no block or range {name!r}.{hint} There are {len(blocks)} blocks, {blocks[0]} "
        f"to {blocks[-1]}; name them, give their numbers from 0, or a range of these, such as "
        f"0-{len(blocks) - 1}."
    )


def _by_number(names: Sequence[str]) -> dict[str, list[str]]:
    """Name blocks and ranges of them by places, counted from 0: "3", "20-24"."""
    ends = ((first, last) for first in range(len(names)) for last in range(first, len(names)))
    return {
        f"{first}-{last}" if last > first else f"{first}": [*names[first : last + 1]]
        for first, last in ends
    }


def _of_dataset(
    model: nn.Module, ds: xr.Dataset, blocks: BlockList, margin: float | None, metric: str | None
) -> set[str]:
    if _is_path(ds):
        return _of_path(ds, margin, metric)
    if "n_blocks" not in ds.coords:
        raise ResultError(
            "the Dataset does not say which blocks its rows are (n_blocks), since it is of an "
            "earlier version; name the blocks."
        )
    if margin is not None:
        return _dispensable(ds, margin, metric)
    row = ds.squeeze()
    if "layer" in row.dims or "layer" not in row.coords:
        raise ResultError(
            "without is a Dataset of several rows; give one, ds.sel(layer='…'), or margin=, for "
            "every block that is robust within it."
        )
    named = layers.ranges(model).get(str(row.layer.item()))
    if named is not None and int(row.n_blocks):
        return set(named)
    first, count = int(row.first_block), int(row.n_blocks)
    if not count or first + count > len(blocks.names):
        raise LayerError(
            f"{row.layer.item()} is no range of this network's {len(blocks.names)} blocks; sweep "
            "layers.ranges(model) in the view 'block'."
        )
    return set(blocks.names[first : first + count])


def _dispensable(ds: xr.Dataset, margin: float, metric: str | None) -> set[str]:
    """Blocks of which each by itself is robust: the whole interval lies at or below the margin."""
    one = ds.isel(layer=(ds["n_blocks"] == 1).values)
    if not one.sizes["layer"]:
        raise ResultError("no row of the Dataset is a single block; name the range instead.")
    beyond = abs(margin) * 2 + 1
    # A margin is asked of each block by itself; what several cost together, the caller measures.
    table = stats.classify(
        one, metric, tolerance=margin, critical=beyond, perturbation=SKIP, correction="none",
        include_network=True,
    )  # fmt: skip
    known = set(table[table["verdict"] == "robust"]["layer"])
    if not known:
        least = table.sort_values("upper").to_dict("records")[0]
        raise LayerError(
            f"no block is robust within {margin}; {least['layer']} comes nearest, with a "
            f"degradation of {least['degradation']:.3g} ({least['lower']:.3g} to "
            f"{least['upper']:.3g})."
        )
    return known


def _is_path(ds: xr.Dataset) -> bool:
    """Recognise what `layerscope.prune` returns."""
    return "removed" in ds.coords and "step" in ds.coords


def _of_path(ds: xr.Dataset, margin: float | None, metric: str | None) -> set[str]:
    """Blocks of all steps of a path; with a margin, of those up to the last one within it."""
    if "step" not in ds.dims:
        raise ResultError(
            f"without is one step of a path, which says what this step removes; give all up to it: "
            f"path.sel(step=slice({int(ds.step)}))."
        )
    removed = [str(name) for name in ds["removed"].values]
    if margin is None:
        return {*removed} - {""}
    upper = ds["upper"].sel(metric=results.metric_name(ds, metric)).values
    within = np.flatnonzero(upper <= margin)
    if not len(within) or not removed[within[-1]]:
        raise LayerError(
            f"no step of the path stays within {margin}; the first, without {removed[1]}, may cost "
            f"{upper[1]:.3g}."
        )
    return {*removed[: within[-1] + 1]} - {""}


def values_of(ds: xr.Dataset, blocks: BlockList, names: Sequence[str]) -> dict[str, float]:
    """Read what a sweep gave for the network without these blocks; empty where it did not ask."""
    if _is_path(ds):
        return values_in(ds["value"].isel(step=len(names)))
    first = blocks.names.index(names[0])
    in_a_row = blocks.names[first : first + len(names)] == list(names)
    if not in_a_row or "n_blocks" not in ds.coords or SKIP not in ds["perturbation"]:
        return {}
    rows = ds if "layer" in ds.dims else ds.expand_dims("layer")
    at = (rows["first_block"] == first) & (rows["n_blocks"] == len(names))
    known = rows["value"].isel(layer=np.atleast_1d(at.values))
    return values_in(known.isel(layer=0)) if known.sizes["layer"] else {}


def values_in(row: xr.DataArray) -> dict[str, float]:
    """Read the one cell of a row in which it is skipped, by metric; empty where there are more."""
    for dim, wanted in {"perturbation": SKIP, "epoch": results.NO_EPOCH, "draw": 0}.items():
        row = row.sel({dim: wanted}) if dim in row.dims else row
    if row.dims != ("metric",):
        return {}
    return {str(name): float(row.sel(metric=name)) for name in row["metric"].values}
