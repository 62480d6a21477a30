"""Forecast of what a sweep takes, told before it is swept."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from layerscope import results
from layerscope.base import templates
from layerscope.base.undoing import Undo
from layerscope.core.sweep._crew import Crew
from layerscope.core.sweep._estimate import Estimate, estimate
from layerscope.core.sweep._outer import naming
from layerscope.core.sweep._single import SingleSweep
from layerscope.results import Place

__all__ = ["Forecast", "forecast"]

_WORKERS = (1, 2, 4, 8, 16, 32, 64)
_WORTH = 0.9
"""So many workers are told of as take less than this share of the time of fewer."""

_NAMED = 3


@dataclass(frozen=True, repr=False)
class Forecast:
    """Plan of a sweep that was asked for with ``plan=True``; it shows itself.

    Cells, bytes read and arithmetic are counted. Times are measured: the first batch is run once or
    twice through the network, as busy as the machine is then. Workers count as so many processes,
    each as fast as this one: those that share its cores are not. Work that the folder of the sweep
    holds already is counted nowhere but in `cells` and `done`.

    Attributes
    ----------
    parts : sequence of (place, Estimate)
        Of one sweep, or of each of several tasks or trained networks.
    crew : Crew, optional
        The workers that are to compute it.
    starting : float
        Seconds until these have started.
    """

    parts: Sequence[tuple[Place, Estimate]]
    crew: Crew | None = None
    starting: float = 0.0

    @cached_property
    def cells(self) -> dict[str, int]:
        """Numbers of cells, by perturbation."""
        return dict(sum((Counter(each.cells) for each in self._each), Counter()))

    @cached_property
    def refused(self) -> dict[tuple[str, str], str]:
        """Why cells can't be, by row and perturbation."""
        return {at: why for each in self._each for at, why in each.refused.items()}

    @cached_property
    def flops(self) -> float:
        """Floating-point operations, as `torch.utils.flop_counter` counts them."""
        return sum(each.flops for each in self._each)

    @cached_property
    def memory(self) -> dict[str, int]:
        """Bytes that are held at a time, by what they hold; of the largest part."""
        return max((each.memory for each in self._each), key=lambda held: sum(held.values()))

    @cached_property
    def read(self) -> dict[str, int]:
        """Bytes that are read of checkpoints, by when."""
        return dict(sum((Counter(each.read) for each in self._each), Counter()))

    @cached_property
    def done(self) -> float:
        """Share of the evaluations of a cell on a batch that are recorded already."""
        sizes = [sum(each.cells.values()) * len(each.lengths) for each in self._each]
        shares = zip(sizes, self._each, strict=True)
        return sum(size * each.done for size, each in shares) / max(sum(sizes), 1)

    @cached_property
    def before(self) -> float:
        """Seconds before the first cell, without measures."""
        return sum(each.before for each in self._each)

    @cached_property
    def measures(self) -> float:
        """Seconds for measures of one pass."""
        return sum(each.measures for each in self._each)

    def seconds(self, workers: int = 1) -> float:
        """Tell how long it takes.

        Parameters
        ----------
        workers : int
            How many compute at a time, each as fast as this process.

        Returns
        -------
        float
            Seconds; the most that it can be where cells stop once they are settled.
        """
        return sum(each.seconds(workers) for each in self._each)

    def seconds_of_crew(self) -> float:
        """Tell how long it takes with the workers that are to compute it, their start included.

        Seconds as `seconds` has them; those of this process where there are no others.
        """
        if self.crew is None:
            return self.seconds()
        at_once = self.crew.at_once
        return self.starting + sum(each.seconds(at_once, apart=True) for each in self._each)

    def tile(self, workers: int) -> str:
        """Say what one task of a worker is, in words; of the first part."""
        return str(self._each[0].tiling(workers))

    def facts(self) -> dict[str, str]:
        """Say in words what there is to know, by what it is about."""
        held = {name: size for name, size in self.memory.items() if size}
        found = {
            "cells": _listed(self.cells),
            "can't be": "; ".join(self._refusals()),
            "on": self._examples(),
            "arithmetic": self._arithmetic(),
            "in the folder": self._recorded(),
            "memory": f"{size_of(sum(held.values()))}: {_listed_sizes(held)}, and what one pass "
            "takes",
            "checkpoints": self._reading(),
            "time": self._time(),
            "workers": self._starting(),
        }
        return {about: words for about, words in found.items() if words}

    def workers(self) -> list[tuple[str, str, str, str]]:
        """List numbers of workers, the time, how well they are used, and what a task is."""
        found = [self._row(str(count), count, self.seconds(count)) for count in self._counts()]
        if self.crew is not None:
            yours = self._row(f"{self.crew.count} yours", self.crew.count, self.seconds_of_crew())
            found.append(yours)
        return found

    def _counts(self) -> list[int]:
        """Numbers of workers of which each saves time, against the one before."""
        found: list[int] = []
        for count in _WORKERS:
            if found and self.seconds(count) > _WORTH * self.seconds(found[-1]):
                break
            found.append(count)
        return found

    def _row(self, label: str, count: int, seconds: float) -> tuple[str, str, str, str]:
        tile = "" if label == "1" else self.tile(count)
        return label, duration(seconds), f"{self.seconds() / seconds / count:.0%}", tile

    def more(self) -> str:
        """Say why the list of workers ends where it does; empty where it just ends."""
        if len(self._counts()) == len(_WORKERS):
            return ""
        return f"Twice as many workers would save less than {1 - _WORTH:.0%} of the time."

    @property
    def _each(self) -> list[Estimate]:
        return [each for _, each in self.parts]

    def _heading(self) -> str:
        count = sum(self.cells.values())
        several = f" in {len(self.parts)} parts" if len(self.parts) > 1 else ""
        return f"Plan of a sweep: {count:,} cells in {self._each[0].rows} rows{several}"

    def _refusals(self) -> list[str]:
        by_reason: dict[tuple[str, str], list[str]] = {}
        for (row, kind), why in self.refused.items():
            by_reason.setdefault((kind, why), []).append(row)
        return [f"{kind} of {_some(rows)}: {why}" for (kind, why), rows in by_reason.items()]

    def _examples(self) -> str:
        told = []
        for place, each in self.parts:
            words = f"{results.words(place)}: " if place else ""
            count = len(each.lengths)
            batches = f"{count} {'batch' if count == 1 else 'batches'}"
            told.append(f"{words}{sum(each.lengths):,} examples in {batches}")
        return "; ".join(dict.fromkeys(told))

    def _arithmetic(self) -> str:
        plain = sum(each.plain_flops for each in self._each)
        if not self.flops or not plain:
            return "not counted: the network can't be watched"
        return (
            f"{self.flops:.2g} operations in matrix products, convolutions and attention, "
            f"{self.flops / plain:.0%} of what a pass for every cell would take"
        )

    def _recorded(self) -> str:
        if not self.done:
            return ""
        if self.done == 1:
            return "all of it: the same call opens the finished Dataset"
        return f"{self.done:.0%} of the evaluations of a cell on a batch; the rest is counted here"

    def _reading(self) -> str:
        read = {when: size for when, size in self.read.items() if size}
        if not read:
            return "no files are read: all values are in memory"
        return f"{size_of(sum(read.values()))} read: {_listed_sizes(read)}"

    def _time(self) -> str:
        measures = f" and {duration(self.measures)} for measures" if self.measures else ""
        return (
            f"{self._most()}{duration(self.seconds())}, of which {duration(self.before)} before "
            f"the first cell{measures}"
        )

    def _starting(self) -> str:
        """Say what workers take before their first task."""
        opening = f"opens the sweep in {duration(max(e.costs.setup for e in self._each))}"
        if self.crew is None:
            return f"each {opening}; what starting them takes comes on top"
        if not self.starting:
            return f"{self.crew}; each {opening}, which is in the time of yours"
        return (
            f"{self.crew}; they start in about {duration(self.starting)}, then each {opening}; "
            "both are in the time of yours"
        )

    def _most(self) -> str:
        return "at most " if any(each.settles for each in self._each) else ""

    def __repr__(self) -> str:
        lines = [self._heading()]
        lines += [f"  {about:<13} {words}" for about, words in self.facts().items()]
        lines += ["", f"  {'workers':>8}  {'time':>12}  {'used':>5}  a task"]
        lines += [f"  {n:>8}  {t:>12}  {used:>5}  {tile}" for n, t, used, tile in self.workers()]
        lines += [f"  {self.more()}"] * bool(self.more())
        return "\n".join(line.rstrip() for line in lines)

    def _repr_html_(self) -> str:
        return str(
            templates.render(
                "core/sweep/templates/forecast.html.jinja",
                heading=self._heading(),
                facts=self.facts(),
                workers=self.workers(),
                more=self.more(),
            )
        )


def forecast(
    parts: Sequence[tuple[Place, SingleSweep]], spent: float, crew: Crew | None = None
) -> Forecast:
    """Estimate what the parts of a sweep take.

    Parameters
    ----------
    parts : sequence of (place, SingleSweep)
    spent : float
        Seconds that opening the network, its checkpoints and the data took.
    crew : Crew, optional
        The workers that are to compute it.
    """
    share = spent / len(parts)
    found = [(place, _estimated(place, part, share, crew)) for place, part in parts]
    return Forecast(found, crew, 0.0 if crew is None else crew.start())


def _estimated(place: Place, part: SingleSweep, spent: float, crew: Crew | None) -> Estimate:
    """Estimate one part, after all that the sweep does before it looks at its rows."""
    compared = part.is_compared or crew is not None
    with Undo() as undo, undo, naming(place):
        part.stay_lent(undo)
        began = time.monotonic()
        if compared and any(map(part.plan.subject.series.stored_bytes, part.plan.grid.epochs)):
            part.plan.subject.series.digests()  # once in a process, if they are of files
        hashed = time.monotonic()
        recorded = part.look(sent=crew is not None)
        looked = time.monotonic()
        return estimate(
            part.plan,
            spent + looked - began,
            recorded,
            lent=part.probe,
            opened=looked - hashed if compared else None,
            digests=compared,
            again=bool(place) or crew is not None,
            kept=part.is_compared,
        )


def duration(seconds: float) -> str:
    """Write a time with two digits, or as people say it.

    >>> duration(0.0423), duration(8.24), duration(95), duration(7260), duration(200_000)
    ('0.042 s', '8.2 s', '1 min 35 s', '2 h 1 min', '2 d 7 h')
    """
    if seconds < 10:
        return f"{seconds:.2g} s"
    units = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))
    whole = round(seconds)
    place = next(at for at, (_, size) in enumerate(units) if whole >= size)
    name, size = units[place]
    first = f"{whole // size} {name}"
    if place == len(units) - 1:
        return first
    below, small = units[place + 1]
    rest = whole % size // small
    return f"{first} {rest} {below}" if rest else first


def size_of(count: float) -> str:
    """Write a number of bytes.

    >>> size_of(812), size_of(39_000_000), size_of(2.2e9)
    ('812 B', '39 MB', '2.2 GB')
    """
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} GB"


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def _listed_sizes(sizes: dict[str, int]) -> str:
    return ", ".join(f"{name} {size_of(size)}" for name, size in sizes.items())


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
