"""The cells of a sweep."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from layerscope.base.validate import integers
from layerscope.core import layers
from layerscope.core.checkpoints import Series
from layerscope.core.layers import Layer, LayerSelection, Norms
from layerscope.core.perturb import Perturbation
from layerscope.core.probe import Cell
from layerscope.errors import OptionError
from layerscope.results import FULL_MODEL, NO_EPOCH

__all__ = ["Grid", "recorded_epochs", "rows"]


@dataclass(frozen=True)
class Grid:
    """Rows × perturbations, each at every epoch or draw that it uses."""

    rows: list[Layer]
    perturbations: list[Perturbation]
    epochs: list[int]
    draws: int

    def cells(self) -> Iterator[Cell]:
        """Yield every cell, layer by layer."""
        for row in self.rows:
            for perturbation in self.perturbations:
                epochs = self.epochs if perturbation.uses_checkpoint else [NO_EPOCH]
                draws = self.draws if perturbation.stochastic else 1
                for epoch in epochs:
                    for draw in range(draws):
                        yield Cell(row, perturbation, epoch, draw)

    def samples(self) -> Iterator[Cell]:
        """Yield one cell of every perturbation of every row."""
        seen: set[tuple[str, str]] = set()
        for cell in self.cells():
            pair = cell.layer.name, cell.perturbation.name
            if pair not in seen:
                seen.add(pair)
                yield cell


def rows(
    model: nn.Module, wanted: LayerSelection, view: str, norms: Norms, network: bool
) -> list[Layer]:
    """List the layers or groups to sweep, and last, if `network`, all of it."""
    found = layers.find(model, view, norms, wanted)
    if any(row.name == FULL_MODEL for row in found):
        raise OptionError(f"a group can't be called {FULL_MODEL!r}, which is the whole network.")
    return [*found, layers.whole_network(model, FULL_MODEL, norms)] if network else found


def recorded_epochs(series: Series, wanted: Sequence[int] | None) -> list[int]:
    """Check that the wanted epochs were recorded; all of them if none is named."""
    if wanted is None:
        return list(series.epochs)
    known = integers(wanted, "epochs")
    if not known:
        raise OptionError("epochs is empty; leave it out to take every recorded epoch.")
    series.require(known)
    return sorted(set(known))
