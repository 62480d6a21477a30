"""The loop over batches, layers and cells.

Batches are the outer loop: each is decoded and moved once, what runs before a perturbed layer is
computed once per batch, and every cell has an estimate after the first one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from layerscope import layers, metrics, progress
from layerscope.borrow import borrowed, swapped
from layerscope.data import Batch
from layerscope.engine.plan import Cell, Plan
from layerscope.errors import LayerscopeError
from layerscope.layers import Layer
from layerscope.metrics import Tally
from layerscope.results import FULL_MODEL
from layerscope.reuse import Recorder
from layerscope.store import Store

__all__ = ["BASELINE", "Measured", "measure"]

BASELINE = "baseline"
"""Stands for the key of a cell in which nothing is changed."""

_REMEMBERED_BYTES = 4 * 2**30
_KEPT_WEIGHTS_BYTES = 64 * 2**20
_SAVE_EVERY_S = 30.0

Tallies = dict[str, dict[str, Tally]]
"""By key of the cell and name of the metric."""


@dataclass
class Measured:
    """What was measured.

    Attributes
    ----------
    rows : list of Layer
        In execution order, the whole network last.
    tallies : dict
        By key of the cell and name of the metric; `BASELINE` for the unperturbed network.
    draw_distances : dict
        By key of the cell, for re-randomised layers.
    distances : dict
        By row and epoch.
    origins : dict
        By row, where re-randomised values are drawn from.
    about : dict
        How much was reused, for the attributes.
    """

    rows: list[Layer]
    distances: dict[tuple[str, int], dict[str, float]]
    origins: dict[str, str]
    tallies: Tallies = field(default_factory=dict)
    draw_distances: dict[str, dict[str, float]] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)


def measure(plan: Plan, device: torch.device, store: Store | None, show: bool) -> Measured:
    """Evaluate every cell of a plan.

    Raises
    ------
    LayerscopeError
        If the network does not repeat itself on the same batch.
    """
    # Everything that may be wrong with the input is found before the first cell.
    measured = Measured([], plan.distances(), plan.origins())
    cells = list(plan.cells())
    for cell in cells:
        if cell.perturbation.name == "rerandomize":
            measured.draw_distances[cell.key] = plan.draw_distance(cell)
    done, measured.tallies = store.partial() if store is not None else (0, {})
    with ExitStack() as stack:
        stack.enter_context(borrowed(plan.model, device))
        stack.enter_context(swapped(plan.model, plan.series.read(plan.series.last), owned=True))
        _check_repeats(plan)
        measured.rows = _in_order(plan)
        recorder = stack.enter_context(Recorder(plan.model, budget=_REMEMBERED_BYTES))
        _evaluate(
            plan, recorder, _by_group(plan, measured.rows, cells), done, measured, store, show
        )
    measured.about = {
        "reuse": {
            "passes": dict(recorder.passes),
            "plain_modules": recorder.plain_modules,
            "plain_groups": {"+".join(sorted(g)): why for g, why in recorder.plain_groups.items()},
            "refusal": recorder.refusal,
        }
    }
    return measured


def _evaluate(
    plan: Plan,
    recorder: Recorder,
    groups: Sequence[tuple[frozenset[str], list[Cell]]],
    done: int,
    measured: Measured,
    store: Store | None,
    show: bool,
) -> None:
    """Add every batch that is not done to the tallies; keep them at times, and when stopped."""
    weights = _Weights(plan)
    count = sum(len(cells) for _, cells in groups) + 1
    saved = time.monotonic()
    total = count * plan.data.count
    with progress.bar(total, "sweep", "example", show=show) as advance:
        try:
            for index, batch in enumerate(plan.data):
                size = len(batch[1])
                if index < done:
                    advance(size * count)
                    continue
                fresh: Tallies = {}
                for key, outputs in _outputs(plan, recorder, weights, groups, batch):
                    fresh[key] = {metric.name: Tally() for metric in plan.metrics}
                    metrics.add_batch(fresh[key], plan.metrics, outputs, batch[1])
                    advance(size)
                # Only now, so that what is kept always ends with a whole batch.
                _merge(measured.tallies, fresh)
                done = index + 1
                if store is not None and time.monotonic() - saved > _SAVE_EVERY_S:
                    store.keep(done, measured.tallies)
                    saved = time.monotonic()
        except BaseException as stop:
            if store is not None:
                store.keep(done, measured.tallies)
                stop.add_note(
                    f"what {done} batches gave is safe in {store.folder}; "
                    "the same call goes on from there."
                )
            raise


class _Weights:
    """The tensors of each cell: kept for the next batch while they are small, else made anew."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._kept: dict[str, dict[str, Tensor]] = {}
        self._left = _KEPT_WEIGHTS_BYTES

    def of(self, cell: Cell) -> dict[str, Tensor]:
        """Return what the cell's layer holds instead of its trained tensors."""
        if cell.key in self._kept:
            return self._kept[cell.key]
        values = self._plan.values(cell)
        size = sum(t.numel() * t.element_size() for t in values.values())
        if size <= self._left:
            self._kept[cell.key] = values
            self._left -= size
        return values


def _outputs(
    plan: Plan,
    recorder: Recorder,
    weights: _Weights,
    groups: Sequence[tuple[frozenset[str], list[Cell]]],
    batch: Batch,
) -> Iterator[tuple[str, Any]]:
    """Yield the key of every cell with the network's outputs for one batch."""
    inputs, _ = batch
    waiting = dict(groups)

    def call() -> Any:
        return metrics.call(plan.model, inputs)

    baseline = recorder.record(call, waiting)
    yield BASELINE, baseline
    while waiting:
        for group in list(recorder.remembered):
            for cell in waiting.pop(group):
                values = weights.of(cell)
                if not values:
                    yield cell.key, baseline
                    continue
                with swapped(plan.model, values):
                    outputs = recorder.replay(call, group)
                yield cell.key, outputs
            recorder.forget(group)
        if waiting:
            recorder.record(call, waiting)


def _by_group(
    plan: Plan, rows: Sequence[Layer], cells: Sequence[Cell]
) -> list[tuple[frozenset[str], list[Cell]]]:
    """Gather cells by the modules they change, in execution order."""
    # A module that stands in several places goes by the first of its names.
    names = {module: name for name, module in plan.model.named_modules()}
    gathered: dict[frozenset[str], list[Cell]] = {}
    for row in rows:
        owners = {layers.owner(name) for name in row.tensors}
        modules = frozenset(names[plan.model.get_submodule(owner)] for owner in owners)
        gathered.setdefault(modules, []).extend(c for c in cells if c.layer.name == row.name)
    return list(gathered.items())


def _merge(into: Tallies, fresh: Mapping[str, Mapping[str, Tally]]) -> None:
    for key, tallies in fresh.items():
        known = into.setdefault(key, {name: Tally() for name in tallies})
        for name, tally in tallies.items():
            known[name] += tally


def _check_repeats(plan: Plan) -> None:
    inputs, _ = plan.data.first
    once, again = (metrics.logits(metrics.call(plan.model, inputs)) for _ in range(2))
    if not torch.equal(once.nan_to_num(), again.nan_to_num()):
        raise LayerscopeError(
            "the network gives different outputs for the same batch in evaluation mode, so no "
            "cell could be compared with another. Does it use dropout as a function, or sample?"
        )


def _in_order(plan: Plan) -> list[Layer]:
    inputs, _ = plan.data.first
    leaves = layers.execution_order(
        plan.model, layers.find(plan.model), lambda: metrics.call(plan.model, inputs)
    )
    place = {leaf.name: index for index, leaf in enumerate(leaves)}
    whole = [row for row in plan.rows if row.name == FULL_MODEL]
    parts = [row for row in plan.rows if row.name != FULL_MODEL]
    return sorted(parts, key=lambda row: min(place[leaf] for leaf in row.members)) + whole
