"""Requests to `sweep`, turned into plans."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from layerscope.core import metrics as metrics_
from layerscope.core.batches import HELD_BYTES
from layerscope.core.checkpoints import Series
from layerscope.core.layers import LayerSelection, Norms
from layerscope.core.measures import Measure
from layerscope.core.metrics import Metric
from layerscope.core.perturb import Perturbation, Redraw
from layerscope.core.probe import CellTensors, Subject
from layerscope.core.running import OutputSpec
from layerscope.core.stopping import Decision, Tolerance
from layerscope.core.sweep._agreeing import Agreement
from layerscope.core.sweep._grid import Grid, recorded_epochs, rows, too_large
from layerscope.core.sweep._ground import Ground
from layerscope.core.sweep._outer import folder_of, naming, trained_epochs
from layerscope.core.sweep._plan import Plan
from layerscope.core.sweep._single import SingleSweep
from layerscope.core.sweep._sums import metric_of
from layerscope.core.sweep._tasks import Wanted, metrics_by_task, tasks_of
from layerscope.results import Place

__all__ = ["Request"]


@dataclass(frozen=True)
class Request:
    """Arguments of `layerscope.sweep` that its values depend on, by the same names.

    `perturbations` are those found by name, and `rule` is what `decide` or `tolerance` stands for;
    `workers` are those of `client`.
    """

    model: nn.Module
    data: Any
    checkpoints: Series | Mapping[int, Any] | str | os.PathLike[str] | None
    layers: LayerSelection
    view: str
    norms: Norms
    perturbations: Sequence[Perturbation]
    metrics: Sequence[str | Metric] | None
    draws: int
    batch_size: int
    device: str | torch.device
    dtype: str | torch.dtype | None
    epochs: Sequence[int] | None
    model_epochs: Sequence[int] | None
    seed: int
    fresh: Callable[[], nn.Module] | None
    output: OutputSpec
    whole: bool
    rule: Decision | Tolerance | None
    outcomes: bool
    measures: Sequence[Measure]
    workers: Agreement | None = None

    def parts(
        self, folder: Path | None, call: Mapping[str, Any], began: float
    ) -> list[tuple[Place, SingleSweep]]:
        """Plan a sweep for every data set and every trained network, each with its place.

        Parameters
        ----------
        folder : Path, optional
            Of the whole; parts have folders of their own in it.
        call : mapping
            In plain values.
        began : float
            When it was called.
        """
        found = []
        # Tasks have the same cells, but for the network that counts as trained.
        grounds: defaultdict[Any, Ground] = defaultdict(Ground)
        for place, plan in self._plans():
            if place:
                call = {name: value for name, value in call.items() if name != "model_epochs"}
            with naming(place):
                part = SingleSweep(
                    plan,
                    folder=folder_of(folder, place),
                    batch_size=self.batch_size,
                    call=call,
                    fresh=self.fresh,
                    # Each part takes the time that it takes.
                    began=None if place else began,
                    workers=self.workers,
                    ground=grounds[place.get("model_epoch")],
                )
            found.append((place, part))
        return found

    def _plans(self) -> Iterator[tuple[Place, Plan]]:
        tasks = tasks_of(self.model, self.data, self.metrics)
        if tasks is None:
            yield from self._over_epochs({}, self._subject(self.data, self.metrics))
            return
        wanted = metrics_by_task(tasks, self.metrics)
        series: Series | None = None
        first: dict[Any, Plan] = {}
        for task, data in tasks.items():
            with naming({"task": task}):
                subject = self._subject(data, wanted[task], series, HELD_BYTES // len(tasks))
            series = subject.series
            for place, plan in self._over_epochs({"task": task}, subject):
                known = first.setdefault(place.get("model_epoch"), plan)
                # What was made of weights for one data set is there for the next.
                yield place, replace(plan, grid=known.grid, tensors=known.tensors)

    def _over_epochs(self, place: Place, subject: Subject) -> Iterator[tuple[Place, Plan]]:
        series, asked = subject.series, (self.epochs, self.perturbations)
        for trained in trained_epochs(series, self.model_epochs, *asked):
            if trained is None:
                yield place, self._plan(subject, recorded_epochs(series, self.epochs))
                continue
            past = series.until(trained)
            # All of what was asked for must be there, and what comes later is for other parts.
            epochs = [epoch for epoch in recorded_epochs(series, self.epochs) if epoch <= trained]
            there = {**place, "model_epoch": trained}
            yield there, self._plan(replace(subject, series=past), epochs)

    def _subject(
        self, data: Any, wanted: Wanted, series: Series | None = None, limit: int = HELD_BYTES
    ) -> Subject:
        # Before the data are read, which may take long.
        metric_of(self.rule, metrics_.chosen(data, wanted))
        subject = Subject.of(
            self.model,
            data,
            checkpoints=self.checkpoints if series is None else series,
            metrics=wanted,
            batch_size=self.batch_size,
            device=self.device if self.workers is None else self.workers.here,
            dtype=self.dtype,
            output=self.output,
            shuffle_seed=self.seed if self.rule else None,
            limit=limit,
        )
        metric_of(self.rule, subject.metrics)
        # Also where an earlier data set has made a series of it.
        return replace(subject, alone=self.checkpoints is None)

    def _plan(self, subject: Subject, epochs: list[int]) -> Plan:
        model, series = subject.model, subject.series
        source = Redraw(model, series, self.fresh)
        found = rows(model, self.layers, self.view, self.norms, self.whole)
        tensors = CellTensors(model, series, source, self.seed, subject.device)
        tensors.too_large = too_large(model, subject.device, found)
        return Plan(
            subject,
            Grid(found, list(self.perturbations), epochs, self.draws),
            tensors,
            seed=self.seed,
            rule=self.rule,
            outcomes=self.outcomes,
            measures=self.measures,
            view=self.view,
            norms=self.norms,
        )
