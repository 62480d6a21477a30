"""Results of the parts of a sweep, and their sums in the order of the batches.

The cells are cut into parts of neighbouring layers; what one part gave on one batch is a
`PartResult`. Sums in double precision depend on their order, so a part's batches are added one
after the other, whoever computed them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from layerscope.core.batches import NO_TARGET
from layerscope.core.metrics import (
    NOT_FINITE,
    Metric,
    Outcome,
    Scores,
    Tally,
    collect,
    measure,
)
from layerscope.core.probe import add_tallies, tallies_of
from layerscope.core.stopping import Decision, Settler, Tolerance
from layerscope.errors import OptionError, choose

__all__ = ["PartBuilder", "PartResult", "Sums", "largest_weight", "metric_of"]

Array = npt.NDArray[Any]

_HELD_BYTES = 64 * 2**20
"""Scores that may wait on an accelerator."""


@dataclass
class PartResult:
    """Results of one part on one batch.

    Attributes
    ----------
    keys : list of str
        Of the cells that were computed.
    tallies : dict
        By name of the metric, `metrics.NOT_FINITE` among them, the unperturbed network first, then
        the cells.
    differences : dict
        By name of the metric, of each cell from the unperturbed network, example by example;
        without metrics of which a mean of differences says nothing.
    outcomes : dict
        By name of the metric, shape ``(1 + cells, examples)``, for metrics whose outcomes are
        needed example by example.
    weights : dict
        By name of the metric, shape ``(examples,)``.
    """

    keys: list[str] = field(default_factory=list)
    tallies: dict[str, list[Tally]] = field(default_factory=dict)
    differences: dict[str, list[Tally]] = field(default_factory=dict)
    outcomes: dict[str, Array] = field(default_factory=dict)
    weights: dict[str, Array] = field(default_factory=dict)

    def arrays(self) -> dict[str, Array]:
        """Put everything into arrays that a file can hold."""
        sums = {
            f"{what}/{name}": np.array([tally.to_list() for tally in tallies])
            for what, by_metric in (("tally", self.tallies), ("difference", self.differences))
            for name, tallies in by_metric.items()
        }
        each = {f"outcome/{name}": array for name, array in self.outcomes.items()}
        weights = {f"weight/{name}": array for name, array in self.weights.items()}
        return {"keys": np.array(self.keys, dtype=np.str_)} | sums | each | weights

    @classmethod
    def of(cls, arrays: Mapping[str, Array], metrics: Sequence[Metric]) -> PartResult:
        """Read what `arrays` made."""
        known = {metric.name: metric for metric in (*metrics, NOT_FINITE)}
        found = cls([str(key) for key in arrays["keys"]])
        for label, array in arrays.items():
            what, _, name = label.partition("/")
            if what == "tally":
                found.tallies[name] = [Tally.from_list(row, known[name]) for row in array.tolist()]
            elif what == "difference":
                found.differences[name] = [Tally.from_list(row) for row in array.tolist()]
            elif what == "outcome":
                found.outcomes[name] = array
            elif what == "weight":
                found.weights[name] = array
        return found

    def only(self, keys: Collection[str]) -> PartResult:
        """Leave out all other cells."""
        rows = [row for row, key in enumerate(self.keys) if key in keys]
        if len(rows) == len(self.keys):
            return self
        first = [0, *(row + 1 for row in rows)]  # the unperturbed network stays
        return PartResult(
            [self.keys[row] for row in rows],
            {name: [each[row] for row in first] for name, each in self.tallies.items()},
            {name: [each[row] for row in rows] for name, each in self.differences.items()},
            {name: array[first] for name, array in self.outcomes.items()},
            self.weights,
        )

    @classmethod
    def joined(cls, shares: Sequence[PartResult]) -> PartResult:
        """Put together what different cells gave on one batch."""
        first, *others = shares
        found = first
        for share in others:
            found = cls(
                [*found.keys, *share.keys],
                {name: [*each, *share.tallies[name][1:]] for name, each in found.tallies.items()},
                {n: [*each, *share.differences[n]] for n, each in found.differences.items()},
                {n: np.concatenate([a, share.outcomes[n][1:]]) for n, a in found.outcomes.items()},
                found.weights,
            )
        return found


class PartBuilder:
    """Collects the outcomes of one part on one batch, cell by cell.

    Parameters
    ----------
    baseline : Scores
        Of the unperturbed network.
    each : collection of str
        Metrics whose outcomes are kept example by example.
    """

    def __init__(self, baseline: Scores, each: Sequence[str]) -> None:
        self._baseline, self._each = baseline, each
        self._waiting: list[tuple[str, Scores]] = []
        self._held = 0
        self.found = PartResult()
        self._rows: dict[str, list[Array]] = {}

    def add(self, key: str, scores: Scores | None) -> None:
        """Add one cell; None where it changes nothing.

        Scores stay on an accelerator until the part is through, or are many: it is not waited for.
        """
        known = self._baseline if scores is None else scores
        self._waiting.append((key, known))
        self._held += known.nbytes
        if not known.apart or self._held > _HELD_BYTES:
            self._take_in()

    def _take_in(self) -> None:
        """Bring what waits to the CPU, and add it."""
        waiting, self._waiting, self._held = self._waiting, [], 0
        baseline, *outcomes = collect([self._baseline, *(scores for _, scores in waiting)])
        if not self.found.tallies:
            self.found.tallies = {name: [Tally.of(o)] for name, o in baseline.items()}
            self._rows = {name: [_plain(baseline[name])] for name in self._each}
        for (key, _), found in zip(waiting, outcomes, strict=True):
            self._add(key, found, baseline)

    def _add(
        self, key: str, outcomes: Mapping[str, Outcome], baseline: Mapping[str, Outcome]
    ) -> None:
        self.found.keys.append(key)
        tallies, differences = tallies_of(outcomes, baseline)
        for name, tally in tallies.items():
            self.found.tallies[name].append(tally)
        for name, tally in differences.items():
            self.found.differences.setdefault(name, []).append(tally)
        for name, rows in self._rows.items():
            rows.append(_plain(outcomes[name]))

    def finish(self) -> PartResult:
        """Return what was gathered."""
        self._take_in()
        baseline = collect([self._baseline])[0]
        self.found.outcomes = {name: np.stack(rows) for name, rows in self._rows.items()}
        self.found.weights = {
            name: baseline[name].weights.numpy().astype(np.float32) for name in self._rows
        }
        return self.found


def _plain(outcome: Outcome) -> Array:
    # Networks compute in single precision at most, so this loses nothing of one number.
    return outcome.values.numpy().astype(np.float32)


class Sums:
    """Sums over the batches that are done, and which cells need more of them.

    Parameters
    ----------
    metrics : sequence of Metric
    parts : sequence of sequence of str
        The keys of the cells of each part.
    population : int
        Number of examples in all.
    rule : Decision or Tolerance, optional
        When a cell has seen enough.
    heaviest : float
        The most that one example can weigh, in the metric that the rule looks at.

    Attributes
    ----------
    tallies, differences : dict
        By key of the cell and name of the metric.
    next : list of int
        For each part the batch that is to be added next.
    added : list of int
        For each part how many batches were added; no cell of it needed the others.
    batches : dict
        By key of the cell, how many of these it needed.
    """

    def __init__(
        self,
        metrics: Sequence[Metric],
        parts: Sequence[Sequence[str]],
        population: int,
        rule: Decision | Tolerance | None = None,
        heaviest: float = 1.0,
    ) -> None:
        self._parts = [list(keys) for keys in parts]
        self._population, self._rule = population, rule
        self._metric = metric_of(rule, metrics)
        self._baselines: dict[int, dict[str, Tally]] = {}
        self.tallies: dict[str, dict[str, Tally]] = {}
        self.differences: dict[str, dict[str, Tally]] = {}
        self.next, self.added = [0] * len(parts), [0] * len(parts)
        self.batches: dict[str, int] = {}
        self.settlers = (
            [Settler(rule, len(keys), population, heaviest) for keys in self._parts] if rule else []
        )
        # The unperturbed network's mean is known no better than a cell's, if all stop early.
        bounded = isinstance(rule, Tolerance)
        self._trained = Settler(rule, 1, population, heaviest) if rule and bounded else None
        self._watched = self._seen = 0

    def active(self, part: int) -> list[str]:
        """Keys of the cells of a part that have not seen enough."""
        if not self._rule:
            return self._parts[part]
        settled = self.settlers[part].settled
        return [key for key, done in zip(self._parts[part], settled, strict=True) if not done]

    def add(self, part: int, found: PartResult) -> list[str]:
        """Add what a part gave on its next batch; return the cells that have seen enough now."""
        before = self.active(part)
        self._baselines.setdefault(
            self.next[part], {name: tallies[0] for name, tallies in found.tallies.items()}
        )
        for place, key in enumerate(found.keys):
            sums = {name: tallies[place + 1] for name, tallies in found.tallies.items()}
            add_tallies(self.tallies.setdefault(key, {}), sums)
            moved = {name: tallies[place] for name, tallies in found.differences.items()}
            add_tallies(self.differences.setdefault(key, {}), moved)
            self.batches[key] = self.batches.get(key, 0) + 1
        index = self.next[part]
        self.next[part] += 1
        self.added[part] += 1
        if not self._rule:
            return []
        self._settle(part, index, found)
        still = set(self.active(part))
        return [key for key in before if key not in still]

    def skip(self, part: int) -> None:
        """Go past a batch that no cell of a part needs."""
        self.next[part] += 1

    def baseline(self) -> dict[str, Tally]:
        """Sums of the unperturbed network over all batches that any part has added."""
        total: dict[str, Tally] = {}
        for batch in sorted(self._baselines):
            add_tallies(total, self._baselines[batch])
        return total

    def baseline_interval(self) -> tuple[float, float]:
        """Bounds of the unperturbed network's mean, of a rule that has them."""
        assert self._trained is not None
        assert self._metric is not None
        known = self.baseline().get(self._metric.name)
        if known is not None and self._seen == self._population:
            return known.mean, known.mean
        return float(self._trained.lower[0]), float(self._trained.upper[0])

    def verdicts(self) -> dict[str, str]:
        """Verdict on each cell; empty while it is open, and without a rule."""
        return {
            key: str(verdict)
            for keys, settler in zip(self._parts, self.settlers, strict=False)
            for key, verdict in zip(keys, settler.verdicts, strict=True)
        }

    def early(self) -> set[str]:
        """Keys of the cells that were settled before all examples were seen."""
        return {
            key
            for keys, settler in zip(self._parts, self.settlers, strict=False)
            for key, count, settled in zip(keys, settler.counts, settler.settled, strict=True)
            if settled and count < self._population
        }

    def intervals(self) -> dict[str, tuple[float, float]]:
        """Bounds of each cell's mean, of a rule that has them."""
        return {
            key: (float(lower), float(upper))
            for keys, settler in zip(self._parts, self.settlers, strict=False)
            for key, lower, upper in zip(keys, settler.lower, settler.upper, strict=True)
        }

    def _settle(self, part: int, index: int, found: PartResult) -> None:
        assert self._metric is not None
        weights = found.weights[self._metric.name]
        each = found.outcomes[self._metric.name].astype(float)
        # What is no number is as bad as can be: it must not hold up what can be settled.
        each = np.where(np.isnan(each), 0 if self._metric.higher_is_better else weights, each)
        if index == self._watched:  # the part that is furthest on
            self._watched, self._seen = index + 1, self._seen + len(weights)
            if self._trained is not None:
                self._trained.add(each[:1], weights=weights)
        values = each[1:]
        if isinstance(self._rule, Decision):
            worse = -1 if self._metric.higher_is_better else 1
            values = worse * (each[1:] - each[0])
        place = {key: index for index, key in enumerate(self._parts[part])}
        rows = [place[key] for key in found.keys]
        every = np.zeros((len(place), each.shape[1]))
        every[rows] = values
        seen = np.zeros(len(place), bool)
        seen[rows] = True
        self.settlers[part].add(every, seen, weights)


def metric_of(rule: Decision | Tolerance | None, metrics: Sequence[Metric]) -> Metric | None:
    """Find the metric that a rule looks at: the first, unless it names one.

    Raises
    ------
    OptionError
        If that metric is not measured, or has no bounds.
    """
    if rule is None:
        return None
    known = {metric.name: metric for metric in metrics}
    metric = known[choose(rule.metric or metrics[0].name, known, "metric that is measured")]
    if metric.bounds != (0.0, 1.0):
        raise OptionError(
            f"{metric.name} is not between 0 and 1, so it can't be settled before all examples are "
            "seen; let decide= or tolerance= name another, such as metric='error'."
        )
    return metric


def largest_weight(metric: Metric, outputs: Tensor, targets: Any, known: int | None) -> float:
    """Find the most that one example of the data can weigh in the metric that a rule looks at.

    Parameters
    ----------
    metric : Metric
    outputs, targets
        Of the first examples, as `metrics.measure` takes them.
    known : int or None
        The most targets that count of any one example.
    """
    # As if every target counted: all batches are cut from the same tensors, and are as long.
    given = torch.is_tensor(targets)
    filled = torch.where(targets == NO_TARGET, 0, targets) if given else targets
    most = float(measure([metric], outputs, filled, outputs)[metric.name].weights.max())
    return most if known is None else min(most, known)
