"""What a sweep computes: its rows, its cells, and the tensors that each cell puts in."""

from __future__ import annotations

import hashlib
import platform
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from layerscope._version import __version__
from layerscope.base import devices, progress, seeds
from layerscope.base.copies import changed_names, copy_modules, copy_tensors
from layerscope.base.fingerprints import fingerprint
from layerscope.base.tensors import named_tensors, owner_name, plain_name, tied_names
from layerscope.base.undoing import Undo
from layerscope.base.validate import describe, integers
from layerscope.core import batches as data, layers, metrics, running
from layerscope.core.checkpoints import Series, require_finite
from layerscope.core.layers import Layer, LayerSelection, Norms
from layerscope.core.lending import borrowed
from layerscope.core.metrics import Metric
from layerscope.core.perturb import Perturbation, Redraw, Site
from layerscope.core.reuse import Group
from layerscope.core.running import OutputFinder, OutputSpec
from layerscope.core.stopping import Decision, Tolerance
from layerscope.core.sweep import _distances as distances
from layerscope.core.sweep._sums import judged
from layerscope.errors import LayerscopeError, OptionError
from layerscope.results import FULL_MODEL, NO_EPOCH

__all__ = ["Cell", "Changed", "Plan", "ran", "reader", "recorded_epochs", "rows"]


_COUNTER = "num_batches_tracked"

_FEW = 16

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
"""What some modules say of the functions that they hold; another in every process."""

Changed = frozenset[str] | Group
"""The modules that a replay changes, and where it passes some over, those too."""


@dataclass(frozen=True)
class Cell:
    """One evaluation: a layer, what is done to it, the epoch it uses and the draw."""

    layer: Layer
    perturbation: Perturbation
    epoch: int
    draw: int

    @cached_property
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
    fresh: Redraw
    seed: int
    data: data.FixedBatches
    device: torch.device
    dtype: torch.dtype | None = None
    rule: Decision | Tolerance | None = None
    outcomes: bool = False
    view: str = "leaf"
    norms: Norms = field(default_factory=Norms)
    output: OutputFinder = field(default_factory=OutputFinder)

    def identity(self) -> dict[str, Any]:
        """Describe the sweep in plain values, as far as it can be without running the network."""
        return {
            "layerscope": __version__,
            "torch": torch.__version__,
            "platform": f"{platform.system()} {platform.machine()}",
            "threads": torch.get_num_threads(),
            "network": {
                "class": f"{type(self.model).__module__}.{type(self.model).__qualname__}",
                "parameters": sum(p.numel() for p in self.model.parameters()),
                "sha256": hashlib.sha256(_ADDRESS.sub("", repr(self.model)).encode()).hexdigest(),
                "dtypes": sorted({str(p.dtype) for p in self.model.parameters()}),
            },
            "checkpoints": {str(epoch): sha for epoch, sha in self.series.digests().items()},
            "data": {
                "name": self.data.name,
                "examples": self.data.count,
                "sha256": self.data.fingerprint,
                "order": self.data.order,
                "targets": str(self.data.reader),
            },
            "output": _described(self.output.where),
            "layers": sorted(row.name for row in self.rows),
            # Two sweeps may give one name to different groups.
            "groups": {
                row.name: list(row.members)
                for row in self.rows
                if row.members != (row.name,) and row.name != FULL_MODEL
            },
            "view": self.view,
            "norms": self.norms.describe(),
            "tied": {name: list(others) for name, others in tied_names(self.model).items()},
            "epochs": self.epochs,
            "perturbations": [p.name for p in self.perturbations],
            "perturbation_settings": {
                p.name: dict(p.settings) for p in self.perturbations if p.settings
            },
            "metrics": [m.name for m in self.metrics],
            "draws": self.draws,
            "seed": self.seed,
            "device": str(self.device),
            "dtype": str(self.dtype).removeprefix("torch.") if self.dtype else "",
            "stopping": self.rule.describe() if self.rule else {},
            "outcomes": self.outcomes,
        }

    @property
    def each(self) -> list[str]:
        """Metrics whose outcomes are needed example by example."""
        names = [metric.name for metric in self.metrics]
        if self.outcomes:
            return names
        metric = judged(self.metrics, self.rule)
        return [metric.name] if metric else []

    def halved(self, error: BaseException) -> Plan:
        """Return the same plan with batches half as large, after running out of memory.

        Raises
        ------
        LayerscopeError
            If a batch can't be made smaller.
        """
        size = self.data.size // 2
        if size < 1:
            raise LayerscopeError(
                f"there is not enough memory for a batch of one example ({error}); use another "
                "device, or dtype='bfloat16'."
            ) from error
        smaller = self.data.resized(size)
        warnings.warn(
            f"out of memory with {self.data.size} examples in a batch; starting again with {size}",
            stacklevel=3,
        )
        return replace(self, data=smaller)

    def fitted(self, outputs: Tensor, inputs: Any, targets: Any) -> Plan:
        """Return the same plan, with what can be told from the outputs of the first batch.

        Raises
        ------
        DataError
            If there is a class that the network has no output for, or it can't be told in which
            dimension classes stand.
        """
        found = self.output.fitted(outputs, inputs, targets)
        metrics.check_labels(self.metrics, found.classes_last(outputs), self.data.labels)
        return replace(self, output=found)

    def call(self, inputs: Any) -> Tensor:
        """Run the network on one batch, and find in what it returned what metrics read."""
        return self.output(ran(self.model, inputs, self.device, self.dtype))

    def few(self, inputs: Any) -> Any:
        """Some inputs of a batch, that fit whatever its size; all of a batch of the user's own."""
        some = inputs[:_FEW] if self.data.cut and torch.is_tensor(inputs) else inputs
        return tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, some)

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

        They have the trained tensors' types. Those equal to them are left out: a cell with none is
        the baseline.
        """
        trained = self.series.read(self.series.last, cell.layer.tensors)
        # Compared with the trained values below, so these themselves are handed to nobody.
        values = self._perturbed(cell, copy_tensors(trained))
        _fit(cell, values, trained)
        values = {name: t.detach().to(trained[name].dtype) for name, t in values.items()}
        return {name: t for name, t in values.items() if not torch.equal(t, trained[name])}

    def skips(self, cell: Cell) -> tuple[str, ...]:
        """Name the modules that are passed over in this cell."""
        skips = cell.perturbation.skips
        return tuple(skips(cell.layer)) if skips else ()

    def group(self, cells: Iterable[Cell]) -> Changed:
        """Name the modules that cells change and pass over, all of them at once."""
        # A module that stands in several places goes by the first of its names.
        names, find = self._names, self.model.get_submodule
        known = list(cells)
        owners = {owner_name(tensor) for cell in known for tensor in cell.layer.tensors}
        skipped = {name for cell in known for name in self.skips(cell)}
        changed = frozenset(names[find(name)] for name in owners)
        if not skipped:
            return changed
        return Group(changed, frozenset(names[find(name)] for name in skipped))

    @cached_property
    def _names(self) -> dict[nn.Module, str]:
        return {module: name for name, module in self.model.named_modules()}

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

    def draw_distance(self, cell: Cell) -> dict[str, float]:
        """Measure how far a layer that was drawn anew is from the first checkpoint recorded."""
        trained = self.series.read(self.series.last, cell.layer.tensors)
        # What a perturbation leaves out keeps its trained values.
        drawn = {**trained, **self._perturbed(cell, trained)}
        total = distances.Moved()
        # Module by module, so that little of the first checkpoint is held at a time.
        by_module: dict[str, list[str]] = {}
        for name in cell.layer.parameters:
            by_module.setdefault(owner_name(name), []).append(name)
        for names in by_module.values():
            start = self.series.read(self.series.epochs[0], names)
            total += distances.moved(drawn, start, self._holders(names))
        return total.norms()

    def distances(self, show_progress: bool = False) -> dict[tuple[str, int], dict[str, float]]:
        """Measure how far every row moved at every epoch, reading one leaf at a time.

        From the first checkpoint recorded, which need not be that before training.

        Raises
        ------
        CheckpointError
            If a checkpoint holds NaN or infinity.
        """
        first = self.series.epochs[0]
        moved: dict[tuple[str, int], distances.Moved] = {}
        epochs = sorted({*self.epochs, self.series.last})
        leaves = layers.find(self.model)
        total = len(leaves) * len(epochs)
        with progress.bar(total, "read checkpoints", "layer", show=show_progress) as advance:
            for leaf in leaves:
                start = self.series.read(first, leaf.parameters)
                holders = self._holders(start)
                for epoch in epochs:
                    now = self.series.read(epoch, leaf.tensors)
                    require_finite(now, f"the checkpoint of epoch {epoch}")
                    moved[leaf.name, epoch] = distances.moved(now, start, holders)
                    del now  # before the next is read
                    advance(1)
        return {
            (row.name, epoch): sum(
                # A row of buffers alone has no parameters that could have moved.
                (moved[leaf, epoch] for leaf in row.members if row.parameters),
                distances.Moved(),
            ).norms()
            for row in self.rows
            for epoch in self.epochs
        }

    @cached_property
    def moved(self) -> dict[str, bool]:
        """Tell which rows hold other values at the last checkpoint than at the first recorded.

        Empty with one checkpoint, which tells nothing. Batches that a layer counted are no values.
        """
        first, last = self.series.epochs[0], self.series.last
        if first == last:
            return {}

        @cache
        def changed(name: str) -> bool:
            (then,), (now,) = (self.series.read(epoch, [name]).values() for epoch in (first, last))
            return not torch.equal(then.to(now.dtype), now)

        return {
            row.name: any(changed(n) for n in row.tensors if not n.endswith(_COUNTER))
            for row in self.rows
        }

    def pieces(self) -> list[tuple[str, ...]]:
        """Cut the names of all the network's tensors into those that are read together."""
        held = {leaf.name: leaf.tensors for leaf in layers.find(self.model)}
        known = {name for names in held.values() for name in names}
        rest = tuple(name for name in named_tensors(self.model) if name not in known)
        return [*held.values(), rest]

    def origins(self) -> dict[str, str]:
        """Say where the fresh values of each row were drawn from, by `check` or later."""
        return {row.name: self.fresh.drawn_from(row) for row in self.rows}

    def _holders(self, names: Iterable[str]) -> dict[str, nn.Module]:
        """The modules that hold tensors, by name."""
        owners = dict.fromkeys(owner_name(name) for name in names)
        return {owner: self.model.get_submodule(owner) for owner in owners}

    def _perturbed(self, cell: Cell, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
        from_checkpoint = cell.epoch != NO_EPOCH
        site = Site(
            layer=cell.layer,
            trained=trained,
            checkpoint=self.series.read(cell.epoch, trained) if from_checkpoint else None,
            fresh=self.fresh.draw,
            # The same whether the network is compiled or not.
            generator=seeds.generator(
                self.seed,
                plain_name(cell.layer.name) or layers.ROOT,
                cell.perturbation.name,
                cell.epoch,
                cell.draw,
            ),
            modules=copy_modules(self._holders(trained)),
        )
        # As in the sweep, where an operation in place on a parameter needs no thought of gradients.
        with torch.no_grad():
            values = cell.perturbation.apply(site)
        if not isinstance(values, Mapping):
            raise OptionError(
                f"the perturbation {cell.perturbation.name!r} returned {describe(values)}; let it "
                "return the tensors that the layer is to hold, by name."
            )
        if (
            not values
            and not cell.perturbation.skips
            and (changed := changed_names(trained, site.modules))
        ):
            raise OptionError(
                f"the perturbation {cell.perturbation.name!r} changed {changed[0]} in place and "
                "returned nothing, so nothing would change; let it return the tensors that the "
                "layer is to hold, by name."
            )
        return dict(values)


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


def ran(model: nn.Module, inputs: Any, device: torch.device, dtype: torch.dtype | None) -> Any:
    """Run a network on one batch in a precision."""
    # Entered anew each time, since autocast remembers cast weights until it ends.
    with devices.autocast(device, dtype):
        return running.run_network(model, inputs)


def reader(
    model: nn.Module, wanted: list[Metric], device: torch.device, dtype: torch.dtype | None
) -> Callable[[Any, Any], data.BatchReader]:
    """What finds out from the first batch how all are to be read for a network."""

    def run(within: nn.Module, inputs: Any) -> Any:
        # Only where it is asked, which it is about tokens alone.
        with Undo() as undo, undo:
            undo.enter(devices.NoGradients())
            undo.enter(borrowed(model, device, "a sweep or a Session"))
            with running.explain_mismatch(inputs):
                return ran(within, inputs, device, dtype)

    return lambda inputs, targets: running.infer_reader(model, run, inputs, targets, wanted)


def _described(where: OutputSpec) -> str:
    return fingerprint(where) if callable(where) else "" if where is None else repr(where)


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
