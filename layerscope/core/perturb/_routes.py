"""Other blocks at the places of blocks: repeated, exchanged, in another order, side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Generator

from layerscope.base import validate
from layerscope.core.layers import Layer
from layerscope.core.perturb._protocol import Perturbation, blocks_of, no_values
from layerscope.core.running import PASSED, Route
from layerscope.errors import LayerError

__all__ = ["parallel", "repeat", "reverse", "shuffle", "swap"]

_Routes = dict[str, Route]


def repeat(times: int = 2) -> Perturbation:
    """Let a block, or a range of blocks as a whole, run several times in a row.

    Parameters
    ----------
    times : int
        At least 2.

    Raises
    ------
    OptionError
        If `times` is no such number.
    """
    count = validate.integer(times, "times", 2, 2)

    def routes(layer: Layer, _: Generator) -> _Routes:
        blocks = tuple(blocks_of(layer))
        return {blocks[-1]: ((blocks[-1], *blocks * (count - 1)),)}

    return _route(f"repeat({count})", routes, "repeated" if count == 2 else f"run {count} times")


def swap(other: str = "") -> Perturbation:
    """Exchange two blocks: each runs at the place of the other, with its own other arguments.

    Parameters
    ----------
    other : str
        Name of the module that a row of one block is exchanged with; leave it out where the row
        is a group of two.

    Examples
    --------
    >>> swap("model.layers.5").name
    "swap('model.layers.5')"
    """
    other = str(other)

    def routes(layer: Layer, _: Generator) -> _Routes:
        blocks = [*blocks_of(layer), *([other] if other else [])]
        if len(set(blocks)) != 2 or len(blocks) != 2:
            wanted = "a row of one block, not that one" if other else "a group of two blocks"
            raise LayerError(f"is no exchange of two blocks: give {wanted}")
        return _ordered(blocks, blocks[::-1])

    name = f"swap({other!r})" if other else "swap"
    return _route(name, routes, f"swapped with {other}" if other else "swapped")


def reverse() -> Perturbation:
    """Let the blocks of a range run in the opposite order."""
    return _route("reverse", lambda row, _: _ordered(_range(row), _range(row)[::-1]), "reversed")


def shuffle() -> Perturbation:
    """Let the blocks of a range run in an order that is drawn, each of the orders as likely.

    Among them is the order that they have.
    """

    def routes(layer: Layer, generator: Generator) -> _Routes:
        blocks = _range(layer)
        order = torch.randperm(len(blocks), generator=generator).tolist()
        return _ordered(blocks, [blocks[index] for index in order])

    return _route("shuffle", routes, "shuffled", stochastic=True)


def parallel() -> Perturbation:
    """Let the blocks of a range run side by side: the mean of their outputs goes on.

    Sun et al. (2025), Transformer layers as painters, AAAI.
    """

    def routes(layer: Layer, _: Generator) -> _Routes:
        first, *others = blocks = _range(layer)
        return {first: tuple((block,) for block in blocks), **dict.fromkeys(others, PASSED)}

    return _route("parallel", routes, "run in parallel")


def _route(
    name: str,
    routes: Callable[[Layer, Generator], _Routes],
    label: str,
    *,
    stochastic: bool = False,
) -> Perturbation:
    """Make a perturbation that leaves all values as they are."""
    return Perturbation(
        name, no_values, stochastic=stochastic, settings={}, routes=routes, label=label
    )


def _range(layer: Layer) -> list[str]:
    blocks = list(blocks_of(layer))
    if len(blocks) < 2:
        raise LayerError("holds one block; give a range of several, as layers.ranges names them")
    return blocks


def _ordered(places: Sequence[str], blocks: Sequence[str]) -> _Routes:
    return {place: ((block,),) for place, block in zip(places, blocks, strict=True)}
