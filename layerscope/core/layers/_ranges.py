"""Ranges: contiguous runs of blocks, to be perturbed together."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from torch import nn

from layerscope.base.validate import integers
from layerscope.core.layers._layer import Layer
from layerscope.core.layers._norms import Norms
from layerscope.core.layers._places import true_blocks
from layerscope.core.layers._tree import Tree
from layerscope.core.layers._views import find_all
from layerscope.errors import LayerError, choose

__all__ = ["NO_BLOCK", "blocks", "cumulative", "ranges", "spans"]

NO_BLOCK = (-1, 0)
"""First block and number of blocks of a row that is no range of whole blocks."""


def ranges(
    model: nn.Module,
    lengths: int | Iterable[int] | None = None,
    *,
    view: str = "block",
    norms: Norms | str | Mapping[str, str] = "own",
) -> dict[str, list[str]]:
    """Name every contiguous range of blocks, as ``sweep(layers=…, view="block")`` takes them.

    Parameters
    ----------
    model : nn.Module
    lengths : int or iterable of int, optional
        Numbers of blocks in a range; by default all from one to all blocks, of L blocks
        L (L + 1) / 2 ranges.
    view : {"block", "stage", "component", "leaf"}
        What ranges are of; sweep them in the same view. Of blocks only those of several leaves
        count, where there are such: not embeddings, final normalisation or head.
    norms : Norms, str or mapping
        The rule for normalisation layers that the sweep has, see `Norms`.

    Returns
    -------
    dict of str to list of str
        From the name of a range, such as ``"model.layers.3-5"``, to its rows, in order of
        registration, since nothing is run here; by length, then from the first block on. A range
        of one block has its name. A sweep says of each (``first_block``, ``n_blocks``) whether its
        blocks are executed one after the other, too.

    Raises
    ------
    LayerError
        If a length is below one or above the number of blocks, or as `find`.

    Examples
    --------
    >>> net = nn.Sequential(*(nn.TransformerEncoderLayer(8, 2, 16) for _ in range(3)))
    >>> ranges(net, 2)
    {'0-1': ['0', '1'], '1-2': ['1', '2']}
    >>> len(ranges(net))
    6
    """
    names = [row.name for row in blocks(model, view=view, norms=norms)]
    wanted = range(1, len(names) + 1) if lengths is None else _lengths(lengths, len(names), view)
    starts = ((first, n) for n in wanted for first in range(len(names) - n + 1))
    return _named(names[first : first + n] for first, n in starts)


def cumulative(
    model: nn.Module,
    from_: str = "below",
    *,
    view: str = "block",
    norms: Norms | str | Mapping[str, str] = "own",
) -> dict[str, list[str]]:
    """Name the ranges that grow block by block from one end of the network to all of it.

    Parameters
    ----------
    model : nn.Module
    from_ : {"below", "above"}
        The end that they start from: the first block, or the last.
    view, norms
        As for `ranges`.

    Returns
    -------
    dict of str to list of str
        As of `ranges`, shortest first.

    Raises
    ------
    LayerError
        As `ranges`.

    Examples
    --------
    >>> net = nn.Sequential(*(nn.TransformerEncoderLayer(8, 2, 16) for _ in range(3)))
    >>> list(cumulative(net)), list(cumulative(net, "above"))
    (['0', '0-1', '0-2'], ['2', '1-2', '0-2'])
    """
    try:
        choose(from_, ("below", "above"), "end of a network")
    except ValueError as error:
        raise LayerError(str(error)) from None
    names = [row.name for row in blocks(model, view=view, norms=norms)]
    counts = range(1, len(names) + 1)
    return _named(names[:n] if from_ == "below" else names[-n:] for n in counts)


def blocks(
    model: nn.Module, *, view: str = "block", norms: Norms | str | Mapping[str, str] = "own"
) -> list[Layer]:
    """List what a network repeats or strings together, without what lies before and behind.

    Of blocks those of several leaves, and of stages those that hold such; where a network has none,
    as one of a few linear layers, every row.
    """
    rows = find_all(model, view, norms)
    if view not in ("block", "stage"):
        return rows
    known = true_blocks(model, Tree(model))
    # A stage of several blocks lies in none.
    return [row for row in rows if not known or not row.block or row.block in known]


def spans(rows: Iterable[Layer], units: Sequence[Layer]) -> dict[str, tuple[int, int]]:
    """Tell which of the rows are ranges of whole blocks: from their name to first block and number.

    The others are at `NO_BLOCK`.
    """
    place = {leaf: at for at, unit in enumerate(units) for leaf in unit.members}
    sizes = [len(unit.members) for unit in units]
    return {row.name: _span(row, place, sizes) for row in rows}


def _span(row: Layer, place: Mapping[str, int], sizes: Sequence[int]) -> tuple[int, int]:
    at = {place.get(leaf, -1) for leaf in row.members}
    first, last = min(at), max(at)
    whole = first >= 0 and len(row.members) == sum(sizes[first : last + 1])
    return (first, last - first + 1) if whole and len(at) == last - first + 1 else NO_BLOCK


def _lengths(lengths: int | Iterable[int], most: int, view: str) -> list[int]:
    wanted = integers([lengths] if isinstance(lengths, int) else lengths, "lengths")
    if not wanted or not all(1 <= n <= most for n in wanted):
        raise LayerError(
            f"lengths is {lengths!r}; this network has {most} {view}s in a row, so give numbers "
            f"from 1 to {most}, or leave it out for all."
        )
    return list(dict.fromkeys(wanted))


def _named(runs: Iterable[Sequence[str]]) -> dict[str, list[str]]:
    return {_name(run[0], run[-1]): list(run) for run in runs}


def _name(first: str, last: str) -> str:
    """Name a range by its ends; where these differ in their last number alone, by both numbers."""
    if first == last:
        return first
    number = re.search(r"\d*$", last)
    assert number is not None
    same = re.sub(r"\d+$", "", first) == last[: number.start()] != last
    return f"{first}-{number[0] if same else last}"
