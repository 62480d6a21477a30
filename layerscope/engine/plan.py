"""What a sweep computes: its rows, its cells, and the tensors that each cell puts in."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from layerscope import data, distances, layers, seeds
from layerscope._version import __version__
from layerscope.checkpoints import Series, finite
from layerscope.errors import OptionError
from layerscope.layers import Layer
from layerscope.metrics import Metric
from layerscope.perturb import Fresh, Perturbation, Site
from layerscope.results import FULL_MODEL, NO_EPOCH

__all__ = ["Cell", "Plan", "recorded_epochs", "rows"]


@dataclass(frozen=True)
class Cell:
    """One evaluation: a layer, what is done to it, the epoch it uses and the draw."""

    layer: Layer
    perturbation: Perturbation
    epoch: int
    draw: int

    @property
    def key(self) -> str:
        """A file name that is the same whatever else is swept."""
        parts = (self.layer.name, self.perturbation.name, self.epoch, self.draw)
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Plan:
    """Everything that the values of a sweep depend on."""

    model: nn.Module
    series: Series
    rows: list[Layer]
    perturbations: list[Perturbation]
    metrics: list[Metric]
    epochs: list[int]
    draws: int
    fresh: Fresh
    seed: int
    data: data.Held

    def identity(self) -> dict[str, Any]:
        """Describe the sweep in plain values."""
        return {
            "layerscope": __version__,
            "torch": torch.__version__,
            "platform": f"{platform.system()} {platform.machine()}",
            "threads": torch.get_num_threads(),
            "network": {
                "class": f"{type(self.model).__module__}.{type(self.model).__qualname__}",
                "parameters": sum(p.numel() for p in self.model.parameters()),
                "sha256": hashlib.sha256(repr(self.model).encode()).hexdigest(),
                "dtypes": sorted({str(p.dtype) for p in self.model.parameters()}),
            },
            "checkpoints": {str(epoch): sha for epoch, sha in self.series.digests().items()},
            "data": {
                "name": self.data.name,
                "examples": self.data.count,
                "sha256": self.data.fingerprint,
            },
            "layers": sorted(row.name for row in self.rows),
            "epochs": self.epochs,
            "perturbations": [p.name for p in self.perturbations],
            "perturbation_settings": {
                p.name: dict(p.settings) for p in self.perturbations if p.settings
            },
            "metrics": [m.name for m in self.metrics],
            "draws": self.draws,
            "seed": self.seed,
            "rule": "a layer's own parameters and saved buffers move together",
        }

    def cells(self) -> Iterator[Cell]:
        """Yield every cell, layer by layer."""
        for row in self.rows:
            for perturbation in self.perturbations:
                epochs = self.epochs if perturbation.uses_checkpoint else [NO_EPOCH]
                draws = self.draws if perturbation.stochastic else 1
                for epoch in epochs:
                    for draw in range(draws):
                        yield Cell(row, perturbation, epoch, draw)

    def values(self, cell: Cell) -> dict[str, Tensor]:
        """Return what the cell's layer holds instead of its trained tensors, on the CPU.

        Tensors equal to the trained ones are left out: a cell with none is the baseline.
        """
        names = cell.layer.tensors
        trained = self.series.read(self.series.last, names)
        values = self._perturbed(cell, trained)
        _fit(cell, values, trained)
        return {name: t for name, t in values.items() if not _equal(t, trained[name])}

    def skips(self, cell: Cell) -> tuple[str, ...]:
        """Name the modules that are passed over in this cell."""
        skips = cell.perturbation.skips
        return tuple(skips(cell.layer)) if skips else ()

    def check(self) -> None:
        """Try every perturbation on every row once, for what is wrong to be found beforehand.

        Raises
        ------
        OptionError
            If a perturbation returns what its layer can't hold.
        LayerError
            If a perturbation can't be applied to a row.
        """
        tried: set[tuple[str, str]] = set()
        for cell in self.cells():
            pair = (cell.layer.name, cell.perturbation.name)
            if pair not in tried:
                tried.add(pair)
                self.values(cell)
                self.skips(cell)

    def draw_distance(self, cell: Cell) -> dict[str, float]:
        """Measure how far a re-randomised layer is from the first checkpoint."""
        start = self.series.read(self.series.epochs[0], cell.layer.parameters)
        drawn = self._perturbed(cell, self.series.read(self.series.last, cell.layer.tensors))
        total = distances.Moved()
        # Module by module, since a vector's fan-in is that of the matrix beside it.
        for module in {layers.owner(name): None for name in start}:
            before = {name: t for name, t in start.items() if layers.owner(name) == module}
            total += distances.moved({name: drawn[name] for name in before}, before)
        return total.norms()

    def distances(self) -> dict[tuple[str, int], dict[str, float]]:
        """Measure how far every row moved at every epoch, reading one leaf at a time.

        Raises
        ------
        CheckpointError
            If a checkpoint holds NaN or infinity.
        """
        first = self.series.epochs[0]
        moved: dict[tuple[str, int], distances.Moved] = {}
        for leaf in layers.find(self.model):
            start = self.series.read(first, leaf.parameters)
            for epoch in sorted({*self.epochs, self.series.last}):
                now = self.series.read(epoch, leaf.tensors)
                finite(now, f"the checkpoint of epoch {epoch}")
                moved[leaf.name, epoch] = distances.moved(now, start)
        return {
            (row.name, epoch): sum(
                (moved[leaf, epoch] for leaf in row.members), distances.Moved()
            ).norms()
            for row in self.rows
            for epoch in self.epochs
        }

    def origins(self) -> dict[str, str]:
        """Say where the re-randomised values of each row are drawn from."""
        redrawn = any(p.name == "rerandomize" for p in self.perturbations)
        return {row.name: self.fresh.origin(row) if redrawn else "" for row in self.rows}

    def _perturbed(self, cell: Cell, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
        from_checkpoint = cell.epoch != NO_EPOCH
        owners = dict.fromkeys(layers.owner(name) for name in trained)
        site = Site(
            layer=cell.layer,
            trained=trained,
            checkpoint=self.series.read(cell.epoch, trained) if from_checkpoint else None,
            fresh=self.fresh.draw,
            generator=seeds.generator(
                self.seed, cell.layer.name, cell.perturbation.name, cell.epoch, cell.draw
            ),
            modules={owner: self.model.get_submodule(owner) for owner in owners},
        )
        return dict(cell.perturbation.apply(site))


def _fit(cell: Cell, values: Mapping[str, Tensor], trained: Mapping[str, Tensor]) -> None:
    """Refuse what the cell's layer can't hold, in the name of the perturbation."""
    what = f"the perturbation {cell.perturbation.name!r} returned"
    for name, value in values.items():
        if name not in trained:
            raise OptionError(
                f"{what} {name!r}, which {cell.layer.name} does not hold; it holds "
                f"{', '.join(trained)}."
            )
        if not isinstance(value, Tensor):
            raise OptionError(f"{what} a {type(value).__name__} for {name}, expected a tensor.")
        own = trained[name]
        if value.shape != own.shape:
            raise OptionError(
                f"{what} {name} of shape {tuple(value.shape)}, expected {tuple(own.shape)}."
            )
        # Another precision is converted, as from a checkpoint that was saved in it; so are counters
        # among the buffers, which a function of one's own may have scaled with all the rest.
        is_parameter = name in cell.layer.parameters
        if is_parameter and _number_kind(value) != _number_kind(own):
            raise OptionError(
                f"{what} {name} of type {value.dtype}, expected {own.dtype}; convert it with "
                f".to({own.dtype})."
            )


def _number_kind(tensor: Tensor) -> tuple[bool, bool, bool]:
    """Tell truth values, complex, real and whole numbers apart."""
    return tensor.dtype == torch.bool, tensor.is_complex(), tensor.is_floating_point()


def rows(
    model: nn.Module, wanted: Sequence[str] | Mapping[str, str | Sequence[str]] | None
) -> list[Layer]:
    """List the layers or groups to sweep, and last the whole network."""
    if isinstance(wanted, Mapping) and FULL_MODEL in wanted:
        raise OptionError(f"a group can't be called {FULL_MODEL!r}, which is the whole network.")
    found = layers.find(model)
    whole = layers.merge(FULL_MODEL, found, type(model).__name__)
    # Buffers of modules without parameters, such as BatchNorm without affine weights, are no
    # layer's own; the whole network is not from an epoch without them.
    held = layers.tensors(model)
    known = {id(held[name]) for name in whole.tensors}
    rest = tuple(name for name, tensor in held.items() if id(tensor) not in known)
    return [*layers.select(found, wanted), replace(whole, buffers=whole.buffers + rest)]


def recorded_epochs(series: Series, wanted: Sequence[int] | None) -> list[int]:
    """Check that the wanted epochs were recorded; all of them if none is named."""
    if wanted is None:
        return list(series.epochs)
    if isinstance(wanted, (str, int)) or not all(isinstance(e, Integral) for e in wanted):
        raise OptionError(f"epochs is {wanted!r}; give whole numbers, such as [0, 1].")
    if not wanted:
        raise OptionError("epochs is empty; leave it out to take every recorded epoch.")
    series.require(wanted)
    return sorted(set(wanted))


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a, b)
