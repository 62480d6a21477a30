"""A lent network that sees batches, and is asked about cells."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from layerscope.base import devices
from layerscope.base.tensors import mark_tensors, owner_name
from layerscope.base.undoing import Undo
from layerscope.core import layers, metrics
from layerscope.core.batches import Batch
from layerscope.core.layers import Layer
from layerscope.core.lending import Swapper, borrowed
from layerscope.core.metrics import Metric, Outcome, Scores
from layerscope.core.probe import _steadiness as steadiness
from layerscope.core.probe._cell import Question
from layerscope.core.probe._subject import Subject
from layerscope.core.reuse import Group, Recorder, Recording
from layerscope.core.running import Route, explain_mismatch
from layerscope.results import FULL_MODEL

__all__ = ["Probe", "Seen"]

T = TypeVar("T")


@dataclass(eq=False)
class Seen:
    """A batch that the trained network has seen.

    Attributes
    ----------
    batch : pair, or None
        Inputs and targets, while this is the batch that is asked about.
    watched : bool
        Whether a question is to find out if the network keeps something of this batch for the next.
    reference
        What the trained network gave.
    recording : Recording or None
        What the next questions need, while another batch is asked about.
    kept : bool
        Whether it can be asked about after another batch was seen.
    """

    batch: Batch | None
    watched: bool
    reference: Any = None
    recording: Recording | None = None
    kept: bool = False

    def measure(self, wanted: Sequence[Metric], outputs: Any) -> dict[str, Outcome]:
        """Measure what the network gave for the batch."""
        assert self.batch is not None
        return metrics.measure(wanted, outputs, self.batch[1], self.reference)

    def score(self, wanted: Sequence[Metric], outputs: Any) -> Scores:
        """Score what the network gave for the batch, without waiting for the device."""
        assert self.batch is not None
        return metrics.score(wanted, outputs, self.batch[1], self.reference)


class Probe(Undo):
    """Lend the network with its trained weights on the device; afterwards it is as before.

    Enter `devices.NoGradients` around what is done with it.

    Parameters
    ----------
    subject : Subject
    to : str
        Who borrows the network, for whoever wants to meanwhile.
    keeps : bool
        Batches seen earlier can be asked about again; else only the last.

    Attributes
    ----------
    subject : Subject
    recorder : Recorder
    """

    def __init__(self, subject: Subject, to: str = "a sweep", *, keeps: bool = False) -> None:
        super().__init__()
        self.subject, self._to, self._keeps = subject, to, keeps
        self._current: Seen | None = None
        self._repeats = self._watched = False
        self._doubts: list[_Doubt] = []

    def begin(self) -> Probe:
        """Borrow the network, and put the trained weights in."""
        subject = self.subject
        self.enter(devices.SteadyChoice(subject.device))
        self.enter(borrowed(subject.model, subject.device, self._to))
        self._swapper = Swapper(subject.model)
        # Piece by piece: a network that holds these weights already takes no more memory. One that
        # came alone holds them for certain.
        for names in () if subject.alone else subject.pieces():
            values = subject.trained(names)
            swap = self._swapper.swapped(values, owned=True)
            del values
            self.enter(swap)
        # Only now, or the memory of all these pieces would be kept too.
        self._memory = devices.KeepMemory(subject.device)
        self.enter(self._memory)
        # Asked now that the network is in its place.
        self.recorder = Recorder(subject.model, budget=devices.spare_bytes(subject.device))
        self.add(self.recorder.close)
        return self

    # Before the first question

    def require_steady(self, first: Callable[[Any], object] | None = None) -> None:
        """Refuse a network whose passes change its weights, or its answers to later batches.

        Every batch is answered from the state that the network was given in, where a copy would
        carry on from one to the next. What a network merely keeps, such as a counter or a rotary
        table, makes no difference.

        Parameters
        ----------
        first : callable, optional
            Runs the network on some inputs of the first batch, to find out something else.

        Raises
        ------
        LayerscopeError
        """
        steadiness.require_steady(self.subject, self.recorder, first)
        self._settle()

    def first_look(self, look: Callable[[Any], object]) -> None:
        """Run the network on some inputs of the first batch; refuse it if it is not steady.

        Parameters
        ----------
        look : callable
            As `first` of `require_steady`, which is not asked where whoever sent the network knows.
        """
        if not self.subject.steady:
            self.require_steady(look)
            return
        inputs = self.subject.few(self.subject.data.first)[0]
        with explain_mismatch(inputs):
            self.recorder.plain(partial(look, inputs))

    def fit(self, *, twice: bool = False) -> tuple[Tensor, Any]:
        """Find out from the first batch how outputs are read, and in which order modules run.

        Before that `require_steady`, unless that is known.

        Parameters
        ----------
        twice : bool
            Refuse at once a network that does not repeat itself, and not at the first batch seen.

        Returns
        -------
        outputs, targets
            Of that batch.

        Raises
        ------
        DataError
            If the network can't take the batch.
        LayerscopeError
            If it does not repeat itself, or is not steady.
        OptionError
            If a metric changes what it is handed.
        """
        inputs, targets = self.subject.data.first
        alone = len(self.subject.data.lengths) == 1
        if not self.subject.steady and not alone:
            self.require_steady()
        with explain_mismatch(inputs):
            once = self.recorder.watch(partial(self.subject.call, inputs))
        self._watched = True
        if not self.subject.steady and self.recorder.refusal:
            # The log of a pass shows all that it writes to, if there is one.
            again = partial(self.plain, self._first_call())
            steadiness.require_unwritten(self.subject, again)
        self._settle()
        self._memory.fit(once.nbytes)
        if twice:
            steadiness.require_same(*(self.plain(self._first_call()) for _ in range(2)))
        self.subject = self.subject.fitted(once, inputs, targets)
        outputs = self.subject.output.classes_last(once)
        metrics.check_in_place(self.subject.metrics, outputs, targets)
        return outputs, targets

    def _settle(self) -> None:
        self.subject = replace(self.subject, steady=True)

    def in_order(self, rows: Sequence[Layer]) -> list[Layer]:
        """Sort rows as they are executed, the whole network last."""
        place = self._places
        parts = [row for row in rows if row.name != FULL_MODEL]
        parts.sort(key=lambda row: min(place[leaf] for leaf in row.members))
        return parts + [row for row in rows if row.name == FULL_MODEL]

    @cached_property
    def _places(self) -> dict[str, int]:
        """Place of each leaf in the order of execution."""
        found, called = layers.find(self.subject.model), self.recorder.called
        if all(leaf.name in called for leaf in found):
            leaves = layers.sort_by_call(found, called)
        else:
            # With hooks, some modules call those inside them that they compute themselves without.
            # Once alone, since it takes a pass.
            call = self._first_call()
            leaves = layers.execution_order(self.subject.model, found, lambda: self.plain(call))
        return {leaf.name: index for index, leaf in enumerate(leaves)}

    def obstacles(self, ways: Iterable[tuple[str, Route]]) -> dict[tuple[str, Route], str]:
        """Say of places and routes why these can't be gone there; empty where they can."""
        return self.recorder.obstacles(self._first_call(), ways)

    def plain(self, call: Callable[[], T]) -> T:
        """Run a pass of which nothing is remembered, and that leaves no trace."""
        return self.recorder.plain(call)

    # The two verbs, and what becomes of what they remember

    def see(
        self, index: int, batch: Batch, groups: Iterable[Group], budget: int | None = None
    ) -> Seen:
        """Run the trained network over a batch, and remember what questions will need.

        Parameters
        ----------
        index : int
            Which of the batches it is.
        batch : pair
        groups : iterable of Group
            Of the questions, in execution order; others can be asked too, and may take longer.
        budget : int, optional
            Bytes that may be remembered of this batch; by default what the device can spare.

        Raises
        ------
        LayerscopeError
            If the network does not repeat itself on the first batch that it sees.
        """
        self._put_by()
        self._doubts = []  # of a question that was interrupted
        if budget is not None:
            self.recorder.budget = budget
        seen = Seen(batch, watched=index == 0 and len(self.subject.data.lengths) > 1)
        first, self._watched = self._watched and index == 0, False
        seen.reference = self.recorder.record(self._call(seen), groups, seen=first)
        # A pass that is watched holds all that it computes, which leaves as much room behind.
        self._memory.settle()
        if not self._repeats and not self.recorder.repeats:
            # They may differ in watching alone.
            steadiness.require_same(seen.reference, self.plain(self._call(seen)))
        self._repeats = True
        self._current = seen
        return seen

    def see_again(self, seen: Seen, batch: Batch) -> None:
        """Go on with a batch that was seen before another."""
        if seen is not self._current:
            assert seen.recording is not None
            self._put_by()
            self.recorder.take_up(seen.recording)
            self._current = seen
        # The user's own batches are made anew for each pass over the data, and not kept.
        seen.batch, seen.recording = batch, None

    def let_go(self, seen: Seen) -> None:
        """Free what the trained network gave, which takes memory, if no metric compares with it."""
        if not any(metric.uses_reference for metric in self.subject.metrics):
            seen.reference = None

    def ask(self, seen: Seen, question: Question) -> Any:
        """Tell what the network gives for a batch if it is changed as the question says.

        None where that changes nothing: then it is what the trained network gave.

        Raises
        ------
        LayerscopeError
            If the changed network keeps something of the first batch, as a layer that initialises
            itself does.
        """
        assert seen.batch is not None
        found: list[Any] = []
        self.ask_each([(seen, seen.batch)], question, lambda _, outputs: found.append(outputs))
        self.confirm()
        return found[0] if found else None

    def ask_each(
        self,
        batches: Sequence[tuple[Seen, Batch]],
        question: Question,
        tell: Callable[[Seen, Any], object],
    ) -> None:
        """Ask about several batches while the network is changed, which is done once.

        What is to be refused is refused by `confirm` at the latest, so that an accelerator is not
        waited for after every question.

        Parameters
        ----------
        batches : sequence of (Seen, batch)
            All but a single one must be kept.
        question : Question
        tell : callable
            Told of each what `ask` returns; of none where the question changes nothing.

        Raises
        ------
        LayerscopeError
            As `ask`.
        """
        values = question.values()
        if not batches or (not values and not question.group.routes):
            return
        outputs: Any = None
        for seen, batch in batches:
            self.see_again(seen, batch)
            self.recorder.prepare(self._call(seen), question.group)
        with Undo() as undo, undo:
            # Of a large layer the network holds copies of its own, and nobody another.
            names, passing = list(values), dict(values)
            swap = self._swapper.swapped(passing, consume=True)
            del values
            undo.enter(swap)
            for place, (seen, batch) in enumerate(batches):
                if place:
                    tell(batches[place - 1][0], outputs)
                self.see_again(seen, batch)
                # Once for each cell: with the values of another time a layer may initialise itself.
                before = self._lasting_marks(names) if seen.watched else {}
                outputs = self.recorder.replay(self._call(seen), question.group)
                if seen.watched:
                    self._doubts.append(_Doubt(question, before, self._lasting_marks(names)))
        tell(batches[-1][0], outputs)  # of which scores are made once the weights are gone
        if not devices.is_apart(self.subject.device):
            self.confirm()

    def keep(self, seen: Seen) -> None:
        """Keep what is remembered of a batch when another is seen."""
        seen.kept = True

    def fits(self, seen: Seen, most: int) -> int:
        """Say how many batches like the one seen last can be remembered together, up to `most`."""
        own = seen.reference.nbytes if isinstance(seen.reference, Tensor) else 0
        return self.room(self.recorder.kept_bytes + own, most)

    def room(self, needed: int, most: int) -> int:
        """Say how many batches of which so many bytes are remembered there is room for."""
        budget = self.recorder.budget
        return most if not needed or budget is None else min(most, max(1, budget // needed))

    def confirm(self) -> None:
        """Refuse a changed network that kept something of the first batch, of all asked about.

        Raises
        ------
        LayerscopeError
        """
        doubts, self._doubts = self._doubts, []
        for doubt, written in zip(doubts, _written(doubts), strict=True):
            if written:
                values = doubt.question.values
                steadiness.refuse_carried(
                    self.subject,
                    self.recorder,
                    lambda values=values: self._swapper.swapped(values()),  # type: ignore[misc]
                    doubt.question.label,
                )

    def remember(self, seen: Seen, groups: Sequence[Group]) -> None:
        """See the batch again if what the first of the groups needs did not fit in before."""
        if groups[0] not in self.recorder.remembered:
            self.recorder.record(self._call(seen), groups)

    def forget(self, group: Group) -> None:
        """Free what only questions of this group need."""
        self.recorder.forget(group)

    def reuse(self) -> dict[str, Any]:
        """Say how much was reused, and what could not be, in plain values."""
        recorder = self.recorder
        return {
            "passes": dict(recorder.passes),
            "plain_modules": recorder.plain_modules,
            "plain_groups": {str(group): why for group, why in recorder.plain_groups.items()},
            "refusal": recorder.refusal,
            "budget_bytes": recorder.budget,
            "kept_bytes": recorder.most,
        }

    def _first_call(self) -> Callable[[], Tensor]:
        # Read before the pass, which is to leave no trace of its own.
        return partial(self.subject.call, self.subject.few(self.subject.data.first)[0])

    def _call(self, seen: Seen) -> Callable[[], Tensor]:
        assert seen.batch is not None
        return partial(self.subject.call, seen.batch[0])

    def _put_by(self) -> None:
        """Make room for another batch."""
        # In this order, so that whatever comes between, the next question finds something whole.
        if self._current is not None and (self._keeps or self._current.kept):
            self._current.recording = self.recorder.set_aside()
            self._current.batch = None
        self._current = None

    def _lasting_marks(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Mark what was put in, without modules that write to it unchanged as well.

        Those are put back after every pass.
        """
        model, restless = self.subject.model, self.recorder.restless
        lasting = [n for n in names if model.get_submodule(owner_name(n)) not in restless]
        return mark_tensors(self._swapper.current(lasting))


class _Doubt(NamedTuple):
    """Marks of what a question put in, before and after a pass over the first batch."""

    question: Question
    before: dict[str, Tensor]
    after: dict[str, Tensor]


def _written(doubts: Sequence[_Doubt]) -> list[bool]:
    """Tell what was written to, by one look at the device."""
    seen = [[*doubt.before.values()] for doubt in doubts]
    now = [[*doubt.after.values()] for doubt in doubts]
    flat = [mark for marks in (*seen, *now) for mark in marks]
    values = iter(torch.stack(flat).tolist() if flat else [])
    known = [[next(values) for _ in marks] for marks in (*seen, *now)]
    pairs = zip(doubts, known[: len(doubts)], known[len(doubts) :], strict=True)
    return [a != b or doubt.before.keys() != doubt.after.keys() for doubt, a, b in pairs]
