"""Forecast of what a sweep takes, told before it is swept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from layerscope import results
from layerscope.base import templates
from layerscope.core.sweep._estimate import Estimate, estimate
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
    each as fast as this one: those that share its cores are not.

    Attributes
    ----------
    parts : sequence of (place, Estimate)
        Of one sweep, or of each of several tasks or trained networks.
    """

    parts: Sequence[tuple[Place, Estimate]]

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
    def before(self) -> float:
        """Seconds before the first cell."""
        return sum(each.before for each in self._each)

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
            "memory": f"{size_of(sum(held.values()))}: {_listed_sizes(held)}, and what one pass "
            "takes",
            "checkpoints": f"{size_of(sum(self.read.values()))} read: {_listed_sizes(self.read)}",
            "time": f"{self._most()}{duration(self.seconds())}, of which "
            f"{duration(self.before)} before the first cell",
        }
        return {about: words for about, words in found.items() if words}

    def workers(self) -> list[tuple[str, str, str, str]]:
        """List numbers of workers, the time, how well they are used, and what a task is."""
        alone = self.seconds()
        found, last = [], float("inf")
        for count in _WORKERS:
            seconds = self.seconds(count)
            if seconds > _WORTH * last:
                break
            tile = "" if count == 1 else self.tile(count)
            found.append((str(count), duration(seconds), f"{alone / seconds / count:.0%}", tile))
            last = seconds
        return found

    def more(self) -> str:
        """Say why the list of workers ends where it does; empty where it just ends."""
        if len(self.workers()) == len(_WORKERS):
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

    def _most(self) -> str:
        return "at most " if any(each.settles for each in self._each) else ""

    def __repr__(self) -> str:
        lines = [self._heading()]
        lines += [f"  {about:<12} {words}" for about, words in self.facts().items()]
        lines += ["", f"  {'workers':>7}  {'time':>12}  {'used':>5}  a task"]
        lines += [f"  {n:>7}  {t:>12}  {used:>5}  {tile}" for n, t, used, tile in self.workers()]
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


def forecast(parts: Sequence[tuple[Place, SingleSweep]], spent: float) -> Forecast:
    """Estimate what the parts of a sweep take.

    Parameters
    ----------
    parts : sequence of (place, SingleSweep)
    spent : float
        Seconds that opening the network, its checkpoints and the data took.
    """
    share = spent / len(parts)
    return Forecast([(place, estimate(part.plan, share)) for place, part in parts])


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
