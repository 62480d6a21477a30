"""The cells of a sweep."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from layerscope.base import devices
from layerscope.base.tensors import named_tensors
from layerscope.base.validate import integers
from layerscope.core import layers, perturb
from layerscope.core.checkpoints import WITHOUT_A_PAST, Series
from layerscope.core.layers import Layer, LayerSelection, Norms
from layerscope.core.perturb import Perturbation, PerturbationLike
from layerscope.core.probe import Cell
from layerscope.errors import OptionError
from layerscope.results import FULL_MODEL, NO_EPOCH

__all__ = ["Grid", "perturbations_for", "recorded_epochs", "rows", "too_large"]


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


def too_large(model: nn.Module, device: torch.device, found: Sequence[Layer]) -> dict[str, str]:
    """Say of the whole network why it has no cells, where there is no memory for a second one.

    All that a row holds is made at once, on the CPU, and copied to `device` tensor by tensor.
    """
    held = named_tensors(model)
    sizes = {name: tensor.numel() * tensor.element_size() for name, tensor in held.items()}
    lent = sum(sizes.values()) if any(t.device != device for t in held.values()) else 0
    refused = {}
    for row in found:
        need = sum(sizes.get(name, 0) for name in row.tensors)
        need += max((sizes.get(name, 0) for name in row.tensors), default=0)
        for place, size in ((torch.device("cpu"), need), (device, need + lent)):
            free = devices.free_bytes(place)
            if row.name == FULL_MODEL and free is not None and size > free:
                refused[row.name] = (
                    f"it needs {size / 2**30:.2g} GiB on {place}, for all weights once more, and "
                    f"{free / 2**30:.2g} GiB are free"
                )
    return refused


def perturbations_for(
    checkpoints: Any, wanted: Sequence[PerturbationLike] | None
) -> list[Perturbation]:
    """Read the wanted perturbations, or those that are usual with or without checkpoints.

    Raises
    ------
    OptionError
        If one goes back to a checkpoint, and there is none to go back to.
    """
    past = bool(checkpoints.epochs) if isinstance(checkpoints, Series) else checkpoints is not None
    known = perturb.parse(perturb.default_names(past) if wanted is None else wanted)
    back = [each.name for each in known if each.uses_checkpoint]
    if back and not past:
        raise OptionError(
            f"{back[0]!r} takes values from a checkpoint, and there is nothing to go back to: only "
            f"the network came, with the weights that it holds. {WITHOUT_A_PAST}"
        )
    return known


def recorded_epochs(series: Series, wanted: Sequence[int] | None) -> list[int]:
    """Check that the wanted epochs were recorded; all of them if none is named.

    Raises
    ------
    CheckpointError
        If one was not.
    """
    if wanted is None:
        return list(series.epochs)
    known = integers(wanted, "epochs")
    if not known:
        raise OptionError("epochs is empty; leave it out to take every recorded epoch.")
    series.require(known)
    return sorted(set(known))
