"""Steps of a sweep before its first cell, and while an engine computes the cells."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from torch import Tensor

from layerscope.base import devices, progress
from layerscope.base.undoing import Undo
from layerscope.core import layers
from layerscope.core.layers import Layer
from layerscope.core.measures import Measured, measure_rows
from layerscope.core.probe import Cell, Probe
from layerscope.core.reuse import Group
from layerscope.core.sweep._cluster import Cluster, Workers
from layerscope.core.sweep._costing import costs_here
from layerscope.core.sweep._fragments import Fragments
from layerscope.core.sweep._ground import Ground, Groundwork
from layerscope.core.sweep._here import Here
from layerscope.core.sweep._plan import Plan
from layerscope.core.sweep._refusals import refused_cells
from layerscope.core.sweep._store import FinishedElsewhere, Parts
from layerscope.core.sweep._sums import Sums, largest_weight, metric_of
from layerscope.core.sweep._tile import Part
from layerscope.errors import LayerscopeError
from layerscope.results import FULL_MODEL

__all__ = ["SweepState", "by_group", "measure"]

_SAVE_EVERY_S = 30.0
_SHOW_EVERY_S = 0.5

Show = Callable[["SweepState"], object]


@dataclass
class SweepState:
    """A sweep as far as it is known.

    Attributes
    ----------
    rows : list of Layer
        In execution order, the whole network last.
    cells : list of Cell
        Those that can be computed.
    refused : dict
        By row and perturbation, why there is no such cell.
    fragments : Fragments
    ground : Groundwork
        What was found of the rows beforehand.
    spans : dict
        By row but that of the whole network, its first block and its number of blocks.
    about : dict
        How much was reused, for the attributes.
    measured : Measured
        Measures of one pass.
    """

    rows: list[Layer]
    cells: list[Cell]
    refused: dict[tuple[str, str], str]
    fragments: Fragments
    ground: Groundwork
    spans: dict[str, tuple[int, int]]
    about: dict[str, Any] = field(default_factory=dict)
    measured: Measured = field(default_factory=Measured)

    @property
    def sums(self) -> Sums:
        """Sums of what is known."""
        return self.fragments.sums


class Engine(Protocol):
    """Whoever computes the fragments of a sweep that are missing."""

    def steps(self, fragments: Fragments) -> Iterator[None]:
        """Record fragment after fragment until none is missing; yield where it may be looked at."""
        ...

    def reuse(self) -> dict[str, Any]:
        """Say how much was reused, and what could not be, in plain values."""
        ...


def measure(
    plan: Plan,
    parts: Parts | None = None,
    show: Show | None = None,
    save: Show | None = None,
    show_progress: bool = True,
    between: Callable[[], object] | None = None,
    cluster: Cluster | None = None,
    ground: Ground | None = None,
    probe: Probe | None = None,
) -> SweepState:
    """Evaluate every cell of a plan.

    Parameters
    ----------
    plan : Plan
    parts : Parts, optional
        Where to keep what is done, and find what was done before.
    show, save : callable, optional
        Called at times with what is known so far; `save` also when the sweep is stopped.
    show_progress : bool
    between : callable, optional
        Called before every cell; what it raises stops the sweep.
    cluster : Cluster, optional
        Whose workers are to compute the cells.
    ground : Ground, optional
        Of the same cells, where it may be done already.
    probe : Probe, optional
        Of the plan's subject, where the network is lent already.

    Raises
    ------
    LayerscopeError
        If the network does not repeat itself on the same batch.
    """
    known = (ground or Ground()).find(plan, show_progress)
    with Undo() as undo, undo:
        sent = None if cluster is None else cluster.send(plan)
        if sent is not None:
            undo.add(sent.close)
        undo.enter(devices.NoGradients())
        probe = probe or undo.enter(Probe(plan.subject))
        most = _largest_weight(plan, *probe.fit())
        rows = probe.in_order(plan.grid.rows)
        cells = list(plan.grid.cells())
        refused = refused_cells(probe, plan.tensors, cells)
        cells = [c for c in cells if (c.layer.name, c.perturbation.name) not in refused]
        groups = by_group(plan, rows, cells)
        alone = parts is None and cluster is None
        cut = [Part(groups)] if alone else [Part([each]) for each in groups]
        fragments = Fragments(plan, cut, parts, most)
        blocks = probe.in_order(layers.blocks(plan.subject.model, norms=plan.norms))
        spans = layers.spans([row for row in rows if row.name != FULL_MODEL], blocks)
        state = SweepState(rows, cells, refused, fragments, known, spans)
        if plan.measures:
            state.measured = measure_rows(probe, rows, plan.measures, show_progress)

        engine: Engine = Here(plan, probe, between)
        if sent is not None:
            price = partial(costs_here, plan, probe, dict(groups))
            engine = Workers(sent, plan, probe.subject.output, between, price)

        def report(how: Show | None) -> None:
            if how is not None:
                state.about = _about(engine, parts)
                how(state)

        _run(fragments, engine, lambda: report(show), lambda: report(save), show_progress)
        state.about = _about(engine, parts)
    return state


def _largest_weight(plan: Plan, outputs: Tensor, targets: Any) -> float:
    heaviest, metric = plan.subject.data.heaviest, metric_of(plan.rule, plan.subject.metrics)
    return largest_weight(metric, outputs, targets, heaviest) if metric else 1.0


def _run(
    fragments: Fragments,
    engine: Engine,
    show: Callable[[], None],
    save: Callable[[], None],
    bar: bool,
) -> None:
    """Let an engine compute what is missing, and show and save at times what is known."""
    shown, saved = -math.inf, time.monotonic()
    total = sum(fragments.lengths) * sum(len(part.keys) for part in fragments.parts)
    with progress.bar(total, "sweep", "example", show=bar) as fragments.folded:
        try:
            for _ in engine.steps(fragments):
                now = time.monotonic()
                if now - shown > _SHOW_EVERY_S:
                    show()
                    shown = now
                if now - saved > _SAVE_EVERY_S:
                    save()
                    saved = now
        except BaseException as stop:
            if fragments.store is not None and not isinstance(stop, FinishedElsewhere):
                with suppress(LayerscopeError):  # a full disk, for example
                    save()
                stop.add_note(
                    f"{len(fragments.store)} finished parts are safe in "
                    f"{fragments.store.store.folder}; the same call goes on from there."
                )
            raise


def by_group(
    plan: Plan, rows: Sequence[Layer], cells: Sequence[Cell]
) -> list[tuple[Group, list[Cell]]]:
    """Gather cells by the modules they change and pass over, in execution order."""
    by_row: dict[str, list[Cell]] = {row.name: [] for row in rows}
    for cell in cells:
        by_row[cell.layer.name].append(cell)
    gathered: dict[Group, list[Cell]] = {}
    for row in rows:
        for cell in by_row[row.name]:
            gathered.setdefault(plan.tensors.group([cell]), []).append(cell)
    return list(gathered.items())


def _about(engine: Engine, parts: Parts | None) -> dict[str, Any]:
    damaged = {"damaged_parts": parts.damaged} if parts is not None and parts.damaged else {}
    return {"reuse": engine.reuse()} | damaged
