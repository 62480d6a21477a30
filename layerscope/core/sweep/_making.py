"""Time that it takes to make the weights of cells, and to see how far rows moved."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, TypeVar

from layerscope.base.copies import copy_tensors
from layerscope.core import layers
from layerscope.core.checkpoints import Trail
from layerscope.core.layers import Layer
from layerscope.core.perturb import no_values
from layerscope.core.probe import Cell
from layerscope.core.sweep._distances import displacements
from layerscope.core.sweep._movement import watched_epochs
from layerscope.core.sweep._plan import Plan
from layerscope.results import FULL_MODEL

__all__ = ["Line", "Making", "swept_bytes", "time_distances", "time_making"]

T = TypeVar("T")

_TYPICAL_BYTES = 8 * 2**20
"""A layer no larger than this is read and compared, to see how long that takes."""


class Line(NamedTuple):
    """Seconds that grow with bytes."""

    fixed: float = 0.0
    each: float = 0.0

    @classmethod
    def through(cls, small: tuple[int, float], large: tuple[int, float]) -> Line:
        """Draw it through what two sizes took."""
        (less, brief), (more, long) = small, large
        each = max(long - brief, 0.0) / (more - less) if more > less else 0.0
        return cls(max(brief - each * less, 0.0), each)

    def at(self, size: int) -> float:
        """Read off what a size takes."""
        return self.fixed + self.each * size


@dataclass
class Making:
    """Seconds that the weights of cells take, by name of the perturbation.

    Attributes
    ----------
    first, again : dict
        The first time, when it is found out where values come from, and every other time.
    swap : float
        Seconds that putting one byte into the network takes.
    """

    first: dict[str, Line] = field(default_factory=dict)
    again: dict[str, Line] = field(default_factory=dict)
    swap: float = 0.0


def time_making(
    plan: Plan, cells: Sequence[Cell], size: Callable[[Cell], int], most: float = math.inf
) -> Making:
    """Make the weights of the smallest and of the largest row twice, of every perturbation.

    Parameters
    ----------
    plan : Plan
    cells : sequence of Cell
    size : callable
        From a cell to the bytes of its row.
    most : float, optional
        Of larger rows none is made, unless all are.
    """
    found = Making()
    for kind in {cell.perturbation.name: cell.perturbation for cell in cells}.values():
        own = [cell for cell in cells if cell.perturbation.name == kind.name]
        # The whole network may take minutes, and takes as long as its rows together.
        own = [cell for cell in own if cell.layer.name != FULL_MODEL] or own
        if kind.apply is no_values:
            found.first[kind.name] = found.again[kind.name] = Line()
            continue
        least = min(own, key=size)
        ends = least, max((cell for cell in own if size(cell) <= most), key=size, default=least)
        for times in (found.first, found.again):
            took = []
            for cell in ends:
                seconds, values = _timed(partial(plan.tensors.computed, cell))
                took.append((size(cell), seconds))
            times[kind.name] = Line.through(*took)
        if values and not found.swap:
            copied, _ = _timed(partial(copy_tensors, values))
            found.swap = copied / max(size(ends[1]), 1)
    return found


def time_distances(plan: Plan, sizes: Mapping[str, int], redrawn: int) -> float:
    """Read one layer at one epoch, and compare it with where it started, for how long all take.

    Parameters
    ----------
    plan : Plan
    sizes : mapping of str to int
        Bytes of every tensor.
    redrawn : int
        Bytes of layers that are drawn anew, and compared likewise.
    """
    series, epochs = plan.subject.series, watched_epochs(plan)

    def bytes_of(leaf: Layer) -> int:
        return sum(sizes[name] for name in leaf.tensors)

    leaves = layers.find(plan.subject.model)
    typical = [leaf for leaf in leaves if bytes_of(leaf) <= _TYPICAL_BYTES] or leaves
    leaf = max(typical, key=bytes_of)
    reading, start = _timed(lambda: series.read(series.first, leaf.tensors))
    own = {name: start[name] for name in leaf.parameters}

    def compare() -> None:
        displacements(own, own, plan.tensors.holders(leaf.parameters))
        for name, tensor in start.items():
            Trail(name).add(tensor, tensor)

    comparing, _ = _timed(compare)
    share = 1 / max(bytes_of(leaf), 1)
    total = swept_bytes(plan, sizes) * share
    compared = len(epochs) if series.epochs else 0
    return total * (len(epochs) * reading + compared * comparing) + (
        redrawn * share * (reading + comparing)
    )


def swept_bytes(plan: Plan, sizes: Mapping[str, int]) -> int:
    """Count the bytes of the leaves that rows are of: these are read, and compared."""
    swept = {name for row in plan.grid.rows for name in row.members}
    leaves = [leaf for leaf in layers.find(plan.subject.model) if leaf.name in swept]
    return sum(sizes[name] for leaf in leaves for name in leaf.tensors)


def _timed(act: Callable[[], T]) -> tuple[float, T]:
    began = time.perf_counter()
    found = act()
    return time.perf_counter() - began, found
