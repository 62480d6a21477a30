"""The sweep: layer × epoch × perturbation × draw → an xarray Dataset.

>>> import layerscope
>>> ds = layerscope.sweep(net, (images, labels), checkpoints="runs/net")    # doctest: +SKIP
>>> ds.value.sel(metric="error", perturbation="reinitialize", draw=0)       # doctest: +SKIP

Every cell is bit for bit what the plain way gives: a copy of the network with the changed weights,
in evaluation mode, on every batch at the same batch size. The network that was passed is lent for
the time of the sweep and comes back as it was, whatever happens.
"""

from __future__ import annotations

import hashlib
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from layerscope import checkpoints as checkpoints_
from layerscope import data as data_
from layerscope import devices, distances, perturb, progress, results, seeds
from layerscope import layers as layers_
from layerscope import metrics as metrics_
from layerscope._version import __version__
from layerscope.borrow import borrowed, swapped
from layerscope.checkpoints import Series
from layerscope.errors import LayerscopeError, OptionError
from layerscope.layers import Layer
from layerscope.metrics import Metric, Tally
from layerscope.perturb import Fresh, Perturbation, Site
from layerscope.results import FULL_MODEL, NO_EPOCH
from layerscope.store import Store

__all__ = ["sweep"]


def sweep(
    model: nn.Module,
    data: Any,
    *,
    checkpoints: Series | Mapping[int, Any] | str | os.PathLike[str],
    layers: Sequence[str] | Mapping[str, str | Sequence[str]] | None = None,
    perturbations: Sequence[str | Perturbation] = ("reinitialize", "rerandomize"),
    metrics: Sequence[str | Metric] = ("error", "loss"),
    draws: int = 3,
    batch_size: int = 1000,
    device: str | torch.device = "auto",
    out: str | os.PathLike[str] | None = None,
    epochs: Sequence[int] | None = None,
    seed: int = 0,
    fresh: Callable[[], nn.Module] | None = None,
    show_progress: bool = True,
) -> xr.Dataset:
    """Perturb each layer of a trained network, evaluate, and return what came out.

    Parameters
    ----------
    model : nn.Module
        The architecture; its weights are taken from the last checkpoint for the time of the
        sweep. It comes back as it was.
    data : pair of tensors, or iterable of batches
        ``(inputs, targets)`` with inputs of shape ``(n, …)`` and class indices of shape ``(n,)``,
        or batches of such pairs in a fixed order.
    checkpoints : series, mapping, or folder
        From epoch to state dict or path; the last epoch is the trained network.
    layers : sequence of str, or mapping, optional
        Names or patterns; or from the name of a group to its patterns. By default every module
        that holds parameters of its own. The row ``fullmodel`` is added in any case.
    perturbations : sequence of str or Perturbation
        ``"reinitialize"`` (to each of `epochs`), ``"rerandomize"`` (`draws` times), or your own.
    metrics : sequence of str or Metric
        ``"error"``, ``"accuracy"``, ``"loss"``, or your own.
    draws : int
        Random draws of each stochastic perturbation.
    batch_size : int
        For tensors; batches of your own keep their size.
    device : str or torch.device
        ``"auto"`` takes the first of cuda, mps and cpu that is present.
    out : path, optional
        Folder to keep every finished cell in, and the Dataset at the end. The same call goes on
        where it was stopped.
    epochs : sequence of int, optional
        Which of the recorded epochs to re-initialise to; all by default.
    seed : int
        Of the random draws.
    fresh : callable, optional
        Returns a freshly initialised network, for re-randomisation; see `perturb.Fresh` for what
        is done without.
    show_progress : bool

    Returns
    -------
    xarray.Dataset
        As `layerscope.results` describes.

    Raises
    ------
    CheckpointError
        If a checkpoint is damaged, does not fit the network, or holds NaN.
    LayerError
        If a pattern matches nothing, or a layer's initialisation is unknown.
    DataError
        If the data have not the form above.
    OptionError
        If an argument has a value that is not allowed.
    ResultError
        If `out` belongs to another sweep, or can't be written to.

    Examples
    --------
    >>> import torch
    >>> from layerscope import models
    >>> net, start = models.build("fcn-1x8", inputs=(4,), classes=2), models.build("fcn-1x8",
    ...     seed=1, inputs=(4,), classes=2)
    >>> pair = torch.randn(6, 4), torch.zeros(6, dtype=torch.long)
    >>> ds = sweep(net, pair, checkpoints={0: start.state_dict(), 5: net.state_dict()}, draws=2)
    >>> dict(ds.value.sizes)
    {'layer': 3, 'epoch': 3, 'perturbation': 2, 'draw': 2, 'metric': 2}
    """
    began = time.monotonic()
    series = checkpoints_.open_series(checkpoints).fit(model)
    place = devices.resolve(device)
    held = data_.Held(data, batch_size, place)
    if draws < 1:
        raise OptionError(f"draws is {draws}; it must be at least 1.")
    run = _Run(
        model=model,
        series=series,
        rows=_rows(model, layers),
        perturbations=perturb.chosen(perturbations),
        metrics=metrics_.chosen(metrics),
        epochs=_epochs(series, epochs),
        draws=draws,
        fresh=Fresh(model, series, fresh),
        seed=seed,
        held=held,
    )
    identity = run.identity() | {"batch_size": batch_size, "device": str(place)}
    store = Store(Path(out), identity) if out is not None else None
    if store is not None and (done := store.finished()) is not None:
        return done
    measured = _measure(run, place, store, show_progress)
    ds = _dataset(run, measured, identity | {"wall_time_s": round(time.monotonic() - began, 3)})
    if store is not None:
        store.finish(ds)
    return ds


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
class _Run:
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
    held: data_.Held

    def identity(self) -> dict[str, Any]:
        """Describe the run in plain values."""
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
            "data": {"examples": self.held.count, "sha256": self.held.fingerprint},
            "layers": sorted(row.name for row in self.rows),
            "epochs": self.epochs,
            "perturbations": [p.name for p in self.perturbations],
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

    def values(self, cell: Cell) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Return what the cell's layer holds instead of its trained tensors, and how far that is.

        Tensors equal to the trained ones are left out: a cell with none is the baseline. The
        distance is that of re-randomised parameters from the first checkpoint.
        """
        names = cell.layer.tensors
        site = Site(
            layer=cell.layer,
            trained=self.series.read(self.series.last, names),
            checkpoint=self.series.read(cell.epoch, names) if cell.epoch != NO_EPOCH else None,
            fresh=self.fresh.draw,
            generator=seeds.generator(
                self.seed, cell.layer.name, cell.perturbation.name, cell.epoch, cell.draw
            ),
        )
        values = dict(cell.perturbation.apply(site))
        strange = values.keys() - set(names)
        if strange:
            raise OptionError(
                f"the perturbation {cell.perturbation.name!r} returned {sorted(strange)[0]!r}, "
                f"which {cell.layer.name} does not hold; it holds {', '.join(names)}."
            )
        changed = {name: t for name, t in values.items() if not _equal(t, site.trained[name])}
        return changed, self._moved(cell, values)

    def _moved(self, cell: Cell, values: Mapping[str, Tensor]) -> dict[str, float]:
        if cell.perturbation.name != "rerandomize":
            return {}
        total = distances.Moved()
        start = self.series.read(self.series.epochs[0], cell.layer.parameters)
        # Module by module, since a vector's fan-in is that of the matrix beside it.
        for module in {layers_.owner(name): None for name in start}:
            before = {n: t for n, t in start.items() if layers_.owner(n) == module}
            total += distances.moved({n: values[n] for n in before}, before)
        return total.norms()


@dataclass(frozen=True)
class _Measured:
    """What was measured: rows in execution order, one record per cell, distances per row."""

    rows: list[Layer]
    baseline: dict[str, Tally]
    cells: dict[str, dict[str, Any]]
    distances: dict[tuple[str, int], dict[str, float]]
    origins: dict[str, str]


def _measure(run: _Run, device: torch.device, store: Store | None, show: bool) -> _Measured:
    # Everything that may be wrong with the input is found before the first cell.
    measured = _distances(run)
    origins = _origins(run)
    done = store.cells() if store is not None else {}
    with ExitStack() as stack:
        stack.enter_context(borrowed(run.model, device))
        stack.enter_context(swapped(run.model, run.series.read(run.series.last)))
        rows = _in_order(run)
        baseline = _baseline(run)
        try:
            for cell, record in _evaluated(run, baseline, done, show):
                done[cell.key] = record
                if store is not None:
                    store.add(cell.key, record)
        except KeyboardInterrupt as stop:
            if store is not None:
                stop.add_note(
                    f"{len(done)} finished cells are safe in {store.folder}; "
                    "the same call goes on from there."
                )
            raise
    return _Measured(rows, baseline, done, measured, origins)


def _evaluated(
    run: _Run, baseline: Mapping[str, Tally], done: Mapping[str, Any], show: bool
) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """Evaluate every cell that is not done, and yield each as it is finished."""
    cells = list(run.cells())
    open_cells = [cell for cell in cells if cell.key not in done]
    tallies = {cell.key: _tallies(run) for cell in open_cells}
    counted = 0
    with progress.bar(
        len(cells) * run.held.count,
        "sweep",
        "example",
        start=(len(cells) - len(open_cells)) * run.held.count,
        show=show,
    ) as advance:
        for chunk in run.held.chunks():
            size = sum(len(targets) for _, targets in chunk)
            counted += size
            for cell in open_cells:
                values, moved = run.values(cell)
                if not values:
                    tallies[cell.key] = dict(baseline)
                else:
                    with swapped(run.model, values):
                        _add(run, tallies[cell.key], chunk)
                if counted == run.held.count:
                    yield cell, _record(tallies[cell.key], moved)
                advance(size, layer=cell.layer.name)


def _record(tallies: Mapping[str, Tally], moved: Mapping[str, float]) -> dict[str, Any]:
    return {
        "value": {name: tally.mean for name, tally in tallies.items()},
        "standard_error": {name: tally.standard_error for name, tally in tallies.items()},
        "distance": dict(moved),
    }


def _tallies(run: _Run) -> dict[str, Tally]:
    return {metric.name: Tally() for metric in run.metrics}


def _add(run: _Run, tallies: Mapping[str, Tally], batches: Sequence[data_.Batch]) -> None:
    for inputs, targets in batches:
        metrics_.add_batch(tallies, run.metrics, metrics_.call(run.model, inputs), targets)


def _baseline(run: _Run) -> dict[str, Tally]:
    """Evaluate the trained network, after a look at whether it repeats itself."""
    inputs, _ = run.held.first
    once, again = (metrics_.logits(metrics_.call(run.model, inputs)) for _ in range(2))
    if not torch.equal(once.nan_to_num(), again.nan_to_num()):
        raise LayerscopeError(
            "the network gives different outputs for the same batch in evaluation mode, so no "
            "cell could be compared with another. Does it use dropout as a function, or sample?"
        )
    tallies = _tallies(run)
    for chunk in run.held.chunks():
        _add(run, tallies, chunk)
    return tallies


def _distances(run: _Run) -> dict[tuple[str, int], dict[str, float]]:
    """Measure how far every row moved at every epoch; read each checkpoint once, leaf by leaf."""
    first = run.series.epochs[0]
    moved: dict[tuple[str, int], distances.Moved] = {}
    for leaf in layers_.find(run.model):
        start = run.series.read(first, leaf.parameters)
        for epoch in sorted({*run.epochs, run.series.last}):
            now = run.series.read(epoch, leaf.tensors)
            checkpoints_.finite(now, f"the checkpoint of epoch {epoch}")
            moved[leaf.name, epoch] = distances.moved(now, start)
    return {
        (row.name, epoch): sum(
            (moved[leaf, epoch] for leaf in row.members), distances.Moved()
        ).norms()
        for row in run.rows
        for epoch in run.epochs
    }


def _origins(run: _Run) -> dict[str, str]:
    redrawn = any(p.name == "rerandomize" for p in run.perturbations)
    return {row.name: run.fresh.origin(row) if redrawn else "" for row in run.rows}


def _in_order(run: _Run) -> list[Layer]:
    inputs, _ = run.held.first
    whole = [row for row in run.rows if row.name == FULL_MODEL]
    parts = [row for row in run.rows if row.name != FULL_MODEL]
    leaves = layers_.execution_order(
        run.model, layers_.find(run.model), lambda: metrics_.call(run.model, inputs)
    )
    place = {leaf.name: index for index, leaf in enumerate(leaves)}
    return sorted(parts, key=lambda row: min(place[leaf] for leaf in row.members)) + whole


def _rows(
    model: nn.Module, wanted: Sequence[str] | Mapping[str, str | Sequence[str]] | None
) -> list[Layer]:
    found = layers_.find(model)
    whole = layers_.merge(FULL_MODEL, found, type(model).__name__)
    return [*layers_.select(found, wanted), whole]


def _epochs(series: Series, wanted: Sequence[int] | None) -> list[int]:
    if wanted is None:
        return list(series.epochs)
    series.require(wanted)
    return sorted(set(wanted))


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a, b)


def _dataset(run: _Run, measured: _Measured, attrs: Mapping[str, Any]) -> xr.Dataset:
    """Put everything that was measured into arrays, and those into a Dataset."""
    from_none = any(not p.uses_checkpoint for p in run.perturbations)
    epochs = [NO_EPOCH] * from_none + run.epochs
    draws = run.draws if any(p.stochastic for p in run.perturbations) else 1
    names = [row.name for row in measured.rows]
    kinds = [p.name for p in run.perturbations]
    scored = [m.name for m in run.metrics]
    norms = list(distances.NORMS)
    value = np.full((len(names), len(epochs), len(kinds), draws, len(scored)), np.nan)
    error = value.copy()
    draw_distance = np.full((len(names), draws, len(norms)), np.nan)
    for cell in run.cells():
        record = measured.cells[cell.key]
        row = names.index(cell.layer.name)
        at = row, epochs.index(cell.epoch), kinds.index(cell.perturbation.name), cell.draw
        value[at] = [record["value"][name] for name in scored]
        error[at] = [record["standard_error"][name] for name in scored]
        if cell.perturbation.name == "rerandomize":
            draw_distance[row, cell.draw] = [record["distance"][norm] for norm in norms]
    distance = np.full((len(names), len(epochs), len(norms)), np.nan)
    for (name, epoch), found in measured.distances.items():
        distance[names.index(name), epochs.index(epoch)] = [found[norm] for norm in norms]
    dims = ("layer", "epoch", "perturbation", "draw", "metric")
    return results.build(
        {
            "value": (dims, value),
            "standard_error": (dims, error),
            "baseline": (["metric"], [measured.baseline[name].mean for name in scored]),
            "baseline_standard_error": (
                ["metric"],
                [measured.baseline[name].standard_error for name in scored],
            ),
            "n_examples": ([], run.held.count),
            "chance": ([], run.held.chance),
            "distance": (["layer", "epoch", "norm"], distance),
            "draw_distance": (["layer", "draw", "norm"], draw_distance),
        },
        {
            "layer": names,
            "epoch": epochs,
            "perturbation": kinds,
            "draw": np.arange(draws),
            "metric": scored,
            "norm": norms,
            **_described(measured),
        },
        attrs,
    )


def _described(measured: _Measured) -> dict[str, Any]:
    rows = measured.rows
    whole = [row.name == FULL_MODEL for row in rows]
    return {
        "depth": ("layer", np.arange(len(rows))),
        "kind": ("layer", ["network" if all_ else "layer" for all_ in whole]),
        "module_type": ("layer", [row.module_type for row in rows]),
        "parameters": ("layer", [row.size for row in rows]),
        "initializer": ("layer", [measured.origins[row.name] for row in rows]),
    }
