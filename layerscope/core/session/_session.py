"""The session: a network lent for as long as somebody asks."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from layerscope.base import devices, validate
from layerscope.base.undoing import Undo
from layerscope.core import layers, perturb
from layerscope.core.batches import Batch, FixedBatches
from layerscope.core.checkpoints import Series, find_copies, require_finite
from layerscope.core.layers import Layer, Norms
from layerscope.core.metrics import Metric
from layerscope.core.networks import network_of
from layerscope.core.perturb import Redraw
from layerscope.core.probe import Cell, CellTensors, Probe, Question, Seen, Subject
from layerscope.core.running import OutputSpec, Route
from layerscope.core.session._estimate import Estimate
from layerscope.core.session._states import changes
from layerscope.core.session._sums import Answer, Sums, answer
from layerscope.core.sweep import metrics_by_task, tasks_of
from layerscope.errors import (
    LayerError,
    LayerscopeError,
    OptionError,
    SweepWarning,
    choose,
)
from layerscope.results import FULL_MODEL, NO_EPOCH, NOTHING_LEFT

__all__ = ["Session"]

# Number of a batch that is not of the data: never the first, which is watched.
_FOREIGN = -1


class Session:
    """A network that is lent for as long as it is asked about; see the module.

    Parameters
    ----------
    model : nn.Module, str or path
        Lent, with the weights of the last checkpoint, or its own without checkpoints, and in
        evaluation mode, until the session is closed; then it is as before. Not to be used
        otherwise in between.
    data, checkpoints, norms, metrics, batch_size, device, dtype, seed, fresh, output
        As for `layerscope.sweep`, which with the same gives the same bits. A smaller batch gives a
        first estimate sooner. Of several data sets by name, one is asked about at a time.
    task : str, optional
        Name of the data set to begin with; by default the first. `select_task` goes on to another.
    budget : int, optional
        Bytes for what is computed once and kept; by default as much as can be spared.

    Attributes
    ----------
    device : torch.device
    epochs : tuple of int
        The recorded ones.
    tasks : tuple of str
        Names of the data sets where several came, else empty.
    task : str or None
        Name of the present one.
    data : FixedBatches
    subject : Subject
        The network with its checkpoints and data.

    Raises
    ------
    CheckpointError, LayerError, DataError, OptionError
        As `layerscope.sweep`.

    Examples
    --------
    >>> from layerscope import models
    >>> net, start = (models.build("fcn-1x8", seed=n, inputs=(4,), classes=2) for n in (0, 1))
    >>> pair = torch.randn(6, 4), torch.zeros(6, dtype=torch.long)
    >>> series = {0: start.state_dict(), 5: net.state_dict()}
    >>> with Session(net, pair, checkpoints=series, device="cpu", batch_size=4) as session:
    ...     seen = [e.examples for e in session.evaluate({"layer1": ("reinitialize", 0)})]
    ...     unchanged = session.measure({"layer2": ("reinitialize", 5)}).change("error")
    >>> seen, unchanged
    ([4, 6], 0.0)
    """

    def __init__(
        self,
        model: nn.Module | str | os.PathLike[str],
        data: Any,
        *,
        task: str | None = None,
        checkpoints: Series | Mapping[int, Any] | str | os.PathLike[str] | None = None,
        norms: Norms | str | Mapping[str, str] = "own",
        metrics: Sequence[str | Metric] | None = None,
        batch_size: int = 1000,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype | None = None,
        seed: int = 0,
        fresh: Callable[[], nn.Module] | None = None,
        output: OutputSpec = None,
        budget: int | None = None,
    ) -> None:
        if budget is not None:
            budget = validate.integer(budget, "budget", 0, 2**30)
        model = layers.require_network(network_of(model, checkpoints))
        tasks: Mapping[str, Any] = tasks_of(model, data, metrics) or {}
        self.tasks, self.task = tuple(tasks), _chosen(task, tasks)
        measured: Mapping[Any, Any] = metrics_by_task(tasks, metrics) if tasks else {None: metrics}
        options: dict[str, Any] = {"batch_size": batch_size, "device": device, "dtype": dtype}
        every: Mapping[Any, Any] = tasks if tasks else {None: data}
        self._subjects: dict[str | None, Callable[..., Subject]] = {
            name: partial(Subject.of, model, each, metrics=measured[name], output=output, **options)
            for name, each in every.items()
        }
        self.subject = self._subjects[self.task](checkpoints=checkpoints)
        model, series = self.subject.model, self.subject.series
        self.device, self._norms = self.subject.device, Norms.of(norms)
        self.epochs = tuple(series.epochs)
        source = Redraw(model, series, fresh)
        seed = validate.integer(seed, "seed")
        self._tensors = CellTensors(model, series, source, seed, self.device)
        for copy in find_copies(series):
            warnings.warn(f"{copy.sentence} {copy.advice}", SweepWarning, stacklevel=2)
        self._budget = devices.spare_bytes(self.device) if budget is None else budget
        self._views: dict[str, dict[str, Layer]] = {}
        self._known: dict[int, _Known] = {}
        self._obstacles: dict[tuple[str, Route], str] = {}
        self._undo, self._open = Undo(), False
        self._begin()

    def _begin(self) -> None:
        """Borrow the network, and find out what must be known of it."""
        if self.data.reader.guessed:
            warnings.warn(str(self.data.reader), SweepWarning, stacklevel=3)
        try:
            self._borrow()
        except BaseException:  # also of what interrupts the leaving of the block in there
            self.close()
            raise

    def _borrow(self) -> None:
        with Undo() as undo, undo:
            undo.add(self._unless_open)
            undo.enter(devices.NoGradients())
            self._probe = self._undo.enter(Probe(self.subject, "an open Session", keeps=True))
            self._probe.fit(twice=True)
            # From the last, since they cost the least memory and save the most time.
            zero = perturb.zero()
            leaves = [row for row in self.rows() if row.name != FULL_MODEL]
            cells = [Cell(row, zero, NO_EPOCH, 0) for row in reversed(leaves)]
            self._groups = list(dict.fromkeys(self._tensors.group([cell]) for cell in cells))
            self._open = True

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        """True if the network was given back."""
        return not self._open

    def close(self) -> None:
        """Give the network back as it was and free what was kept; again does nothing."""
        self._undo.close()
        self._known.clear()
        self._views.clear()
        vars(self).pop("_probe", None)
        if self._open:
            self._open = False
            devices.release(self.device)

    def _unless_open(self) -> None:
        if not self._open:
            self.close()

    def __del__(self) -> None:
        # Nobody else has had it meanwhile, and nobody could give it back any more.
        with suppress(Exception):
            self.close()

    @property
    def data(self) -> FixedBatches:
        """Batches of the present data set."""
        return self.subject.data

    def select_task(self, task: str) -> None:
        """Go on to another of the data sets that came; what is being evaluated ends.

        Raises
        ------
        OptionError
            If there is no data set of this name.
        DataError
            If it can't be read; then the session goes on with the one before.
        """
        if self.closed:
            raise LayerscopeError("the session is closed; open another to go on.")
        if (name := _chosen(task, self.tasks)) == self.task:
            return
        subject = self._subjects[name](checkpoints=self.subject.series)
        self.close()
        self._undo, self._obstacles = Undo(), {}
        self.subject, self.task = subject, name
        self._begin()

    def rows(self, view: str = "leaf") -> list[Layer]:
        """List the rows of a view in execution order, the whole network last."""
        return list(self._view(view).values())

    def evaluate(self, state: Mapping[str, Any], view: str = "leaf") -> Iterator[Estimate]:
        """Evaluate the network in a state, batch by batch.

        Parameters
        ----------
        state : mapping of str to change
            From rows to what is done to them, all at once: ``"trained"``, ``"zero"``, ``"skip"``,
            ``("reinitialize", epoch)``, ``("rerandomize", draw)``, or any other perturbation by
            name. Rows left out are as trained.
        view : {"tensor", "leaf", "component", "block", "stage"}

        Returns
        -------
        iterator of Estimate
            One after each batch, the last over all of them. Between two the network has its
            trained weights: whoever wants to know no more just stops, or asks something else.

        Raises
        ------
        LayerError
            If there is no such row, two of them share tensors, or one can't be skipped.
        CheckpointError
            If an epoch was not recorded, or its file can't be read.
        OptionError
            If something can't be done to a layer.
        """
        return self._estimates(self._question(state, view), self.subject)

    def measure(self, state: Mapping[str, Any], view: str = "leaf") -> Estimate:
        """Evaluate the network in a state on all examples; as for `evaluate`."""
        *_, last = self.evaluate(state, view)
        return last

    def obstacle(self, row: str, view: str = "leaf") -> str:
        """Say why a row can't be skipped; empty if it can."""
        return self._obstacle(Cell(self._row(row, view), perturb.skip(), NO_EPOCH, 0), view)

    def inputs(self, places: Sequence[int]) -> list[Any]:
        """Give the inputs at these places, in the order that examples are seen in.

        Of a batch whose inputs are no plain tensor, None.
        """
        wanted, found, start = set(self._places(places)), {}, 0
        for length, (inputs, _) in zip(self.data.lengths, self.data, strict=True):
            for place in wanted & set(range(start, start + length)):
                found[place] = inputs[place - start] if torch.is_tensor(inputs) else None
            start += length
            if len(found) == len(wanted):
                break
        return [found[place] for place in places]

    def runner(
        self, state: Mapping[str, Any], view: str = "leaf"
    ) -> Callable[[Any], tuple[Any, Any]]:
        """Make a function that runs the network on inputs of one's own.

        Parameters
        ----------
        state, view
            As for `evaluate`.

        Returns
        -------
        callable
            Takes inputs on the session's device, in the form that the data have; returns what the
            trained network gives for them, and what the changed one does, found as metrics do.

        Raises
        ------
        CheckpointError, LayerError, OptionError
            As `evaluate`.
        """
        question = self._question(state, view)
        return lambda inputs: self._both(question, (inputs, None))

    # What the public methods are made of.

    def _question(self, state: Mapping[str, Any], view: str) -> Question:
        if self.closed:
            raise LayerscopeError("the session is closed; open another to go on.")
        cells = self._cells(state, view)
        values: dict[str, Tensor] = {}
        for cell in cells:
            changed = self._tensors.of(cell)
            require_finite(changed, f"what {cell.perturbation.name} gives {cell.layer.name}")
            values |= changed
        return Question(self._tensors.group(cells), lambda: values, "a layer in this state")

    def _both(self, question: Question, batch: Batch) -> tuple[Any, Any]:
        """Run the trained and the changed network over a batch that is not of the data."""
        budget = self._budget // max(len(self.data.lengths), 1)
        # Around each batch alone: in between, the caller's gradients are none of ours.
        with Undo() as undo, undo:
            undo.enter(devices.NoGradients())
            if question.group == self._tensors.group([]):
                # Of which nothing will be asked again: with nothing remembered it is faster.
                same = self._probe.plain(partial(self.subject.call, batch[0]))
                return same, same
            seen = self._probe.see(_FOREIGN, batch, [question.group], budget)
            return seen.reference, self._probe.ask(seen, question)

    def _places(self, places: Sequence[int]) -> Sequence[int]:
        count = self.data.count
        if isinstance(places, (str, int)) or not all(0 <= place < count for place in places):
            raise OptionError(
                f"places is {validate.describe(places)}; give the numbers of examples from 0 to "
                f"{count - 1}, such as [0, 1]."
            )
        return places

    def _view(self, view: str) -> dict[str, Layer]:
        choose(view, layers.VIEWS, "view")
        if view not in self._views:
            model, norms = self.subject.model, self._norms
            found = layers.find(model, view, norms)
            with Undo() as undo, undo:
                undo.enter(devices.NoGradients())
                whole = layers.whole_network(model, FULL_MODEL, norms)
                ordered = self._probe.in_order([*found, whole])
            self._views[view] = {row.name: row for row in ordered}
        return self._views[view]

    def _row(self, name: str, view: str) -> Layer:
        known = self._view(view)
        if name in known:
            return known[name]
        try:
            choose(name, known, f"row in the view {view!r}")
        except OptionError as error:
            raise LayerError(str(error)) from None
        raise AssertionError(name)

    def _cells(self, state: Mapping[str, Any], view: str) -> list[Cell]:
        read = {self._row(name, view): change for name, change in changes(state).items()}
        held: dict[str, str] = {}
        cells = []
        for row, change in sorted(read.items(), key=lambda pair: self.rows(view).index(pair[0])):
            for tensor in row.tensors:
                if held.setdefault(tensor, row.name) != row.name:
                    raise LayerError(
                        f"{row.name} and {held[tensor]} both hold {tensor}; change only one of "
                        "them."
                    )
            kind = change.kind or perturb.parse(change.perturbation)[0]
            cell = Cell(row, kind, change.epoch, change.draw)
            if kind.uses_checkpoint:
                self.subject.series.require([change.epoch])
            if why := self._tensors.obstacle(cell):
                raise LayerError(f"{row.name} can't be {kind.info.label}: {why}.")
            if kind.routes and (why := self._obstacle(cell, view)):
                raise LayerError(
                    f"{row.name} can't be {kind.info.label}: {why}. Hidden states can pass by a "
                    "layer that returns them in the shape and type of those it gets; view='block' "
                    "may have some."
                )
            cells.append(cell)
        return cells

    def _obstacle(self, cell: Cell, view: str) -> str:
        """Say why a row can't go the routes of a perturbation; empty if it can."""
        try:
            ways = list(self._tensors.routes(cell).items())
        except LayerError as error:
            return str(error)
        if any(not place for place, _ in ways) or cell.layer.name == self.rows(view)[-1].name:
            return NOTHING_LEFT
        if any(way not in self._obstacles for way in ways):
            with Undo() as undo, undo:
                undo.enter(devices.NoGradients())
                self._obstacles |= self._probe.obstacles(ways)
        said = ((place, self._obstacles[place, route]) for place, route in ways)
        return "; ".join(f"{place} {why}" for place, why in said if why)

    def _estimates(self, question: Question, subject: Subject) -> Iterator[Estimate]:
        sums = Sums(subject.data.count)
        for index, batch in enumerate(subject.data):
            # What is kept of batches is then of others.
            if self.closed or subject is not self.subject:
                return
            # Around each batch alone: in between, the caller's gradients are none of ours.
            with Undo() as undo, undo:
                undo.enter(devices.NoGradients())
                known = self._known.get(index) or self._see(index, batch)
                estimate = sums.add(self._ask(known, question, batch), known.trained, batch[1])
            yield estimate

    def _ask(self, known: _Known, question: Question, batch: Batch) -> Answer:
        if not question.values() and not question.group.routes:
            return known.trained
        self._probe.see_again(known.seen, batch)
        outputs = self._probe.ask(known.seen, question)
        return answer(known.seen, self.subject.metrics, outputs)

    def _see(self, index: int, batch: Batch) -> _Known:
        """Compute what the trained network gives for a batch, and keep what others will need."""
        budget = int(self._budget * self.data.lengths[index] / self.data.count)
        seen = self._probe.see(index, batch, self._groups, budget)
        trained = answer(seen, self.subject.metrics, seen.reference)
        self._probe.let_go(seen)
        self._known[index] = _Known(seen, trained)
        return self._known[index]


def _chosen(task: str | None, tasks: Collection[str]) -> str | None:
    """Choose one of several data sets; None where there is one without a name."""
    if task is None:
        return next(iter(tasks), None)
    if not tasks:
        raise OptionError(f"task is {task!r}, but one data set came alone, without a name.")
    return choose(task, tasks, "task")


@dataclass
class _Known:
    """A batch that the trained network has seen, and its answer."""

    seen: Seen
    trained: Answer
