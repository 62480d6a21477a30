"""Doubts about the checkpoints of a sweep: what was found while they were read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

from layerscope.core.checkpoints import COUNTER, History, Series, Trail, find_faults
from layerscope.core.sweep._movement import values_of, watched_epochs
from layerscope.core.sweep._plan import Plan
from layerscope.results import AS_TRAINED

__all__ = ["Doubts", "find_doubts"]


@dataclass(frozen=True)
class Doubts:
    """Reasons not to trust cells that take their values from a checkpoint.

    Attributes
    ----------
    cells : dict
        By row and epoch, in a few words.
    faults : list of dict
        Of the series, as `layerscope.checkpoints.Finding` has them, in plain values.
    """

    cells: dict[tuple[str, int], str] = field(default_factory=dict)
    faults: list[dict[str, str]] = field(default_factory=list)


def find_doubts(plan: Plan, trails: Mapping[str, Trail]) -> Doubts:
    """Judge a series by what was seen of its swept rows while distances were measured.

    Where a row equals the trained one, nothing can be concluded from putting it back; nor from
    tensors that show a fault of the series.
    """
    series, epochs = plan.subject.series, watched_epochs(plan)
    if not series.epochs:
        return Doubts()
    seen = [*trails.values(), *_witnesses(series, trails, epochs)]
    findings = find_faults(History.of(seen, epochs), series.unit)
    faults = [finding for finding in findings if finding.fault]
    cells: dict[tuple[str, int], str] = {}
    for row in plan.grid.rows:
        held = [trails[name] for name in values_of(row) if name in trails]
        for place, epoch in enumerate(epochs):
            if held and all(trail.digests[place] == trail.digests[-1] for trail in held):
                cells[row.name, epoch] = AS_TRAINED
        for finding in faults:
            if not set(finding.tensors).isdisjoint(row.tensors):
                for epoch in finding.epochs:
                    cells.setdefault((row.name, epoch), finding.mark)
    told = [{"kind": f.kind, "sentence": f.sentence, "advice": f.advice} for f in faults]
    return Doubts(cells, told)


def _witnesses(
    series: Series, trails: Mapping[str, Trail], epochs: Sequence[int]
) -> Iterator[Trail]:
    """Follow tensors of other rows that tell checkpoints apart which the swept rows do not.

    Without them a frozen row that is swept alone would make all checkpoints copies of one another.
    """
    shapes = series.shapes(series.last)
    others = [name for name in shapes if name not in trails and not name.endswith(COUNTER)]
    held = [trail.digests for name, trail in trails.items() if not name.endswith(COUNTER)]
    known = [tuple(digests[at] for digests in held) for at in range(len(epochs))]
    # Small ones first: a true copy is read as a whole, anything else is told apart at once.
    for name in sorted(others, key=lambda name: prod(shapes[name])):
        if len(set(known)) == len(epochs):
            return
        trail = _trail(series, name, epochs)
        more = [(*before, digest) for before, digest in zip(known, trail.digests, strict=True)]
        if len(set(more)) > len(set(known)):
            known = more
            yield trail


def _trail(series: Series, name: str, epochs: Sequence[int]) -> Trail:
    trail = Trail(name)
    start = series.read(epochs[0], [name])[name]
    for epoch in epochs:
        trail.add(start if epoch == epochs[0] else series.read(epoch, [name])[name], start)
    trail.finish()
    return trail
