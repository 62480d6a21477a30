"""Work of a sweep that its folder holds already, and what is left of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from layerscope.base import files
from layerscope.core.sweep._fragments import Fragment
from layerscope.core.sweep._store import PARTS, Store
from layerscope.errors import ResultError

__all__ = ["Left", "Recorded"]


@dataclass(frozen=True)
class Recorded:
    """Work that is done.

    Attributes
    ----------
    finished : bool
        All of it.
    fragments : frozenset of Fragment
        Otherwise these.
    """

    finished: bool = False
    fragments: frozenset[Fragment] = frozenset()

    @classmethod
    def of(cls, store: Store, batch_size: int) -> Recorded:
        """Look at what is recorded at one batch size, and touch nothing."""
        if store.is_finished():
            return cls(finished=True)
        folder = store.folder / f"{PARTS}{batch_size}"
        recorded = files.list_folder(folder, "[!.]*.npz", error=ResultError)
        found = (Fragment.of(path.stem) for path in recorded)
        return cls(fragments=frozenset(fragment for fragment in found if fragment is not None))

    def missing(self, batches: int, groups: int) -> list[list[int]]:
        """List for each group of rows the batches that it is still to be computed for."""
        if self.finished:
            return [[] for _ in range(groups)]
        known = {(each.batch, part) for each in self.fragments for part in each.parts}
        return [[b for b in range(batches) if (b, group) not in known] for group in range(groups)]


@dataclass(frozen=True)
class Left:
    """Batches that work is left on, as if all that is left of a group were spread over them evenly.

    Attributes
    ----------
    batches : int
    span : float
        The same in batches of full size: the last may be smaller.
    shares : list of float
        By group of rows, how much of this it is still to be computed for.

    Examples
    --------
    >>> Left.of([8, 8, 4], [[0, 1, 2], [2]])
    Left(batches=3, span=2.5, shares=[1.0, 0.2])
    """

    batches: int = 0
    span: float = 0.0
    shares: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, lengths: Sequence[int], missing: Sequence[Sequence[int]]) -> Left:
        """Sum up what is left.

        Parameters
        ----------
        lengths : sequence of int
            Examples in each batch.
        missing : sequence of sequence of int
            By group of rows, the batches that it is still to be computed for.
        """

        def size(batches: Iterable[int]) -> float:
            return sum(lengths[batch] for batch in batches) / lengths[0]

        wanted = {batch for each in missing for batch in each}
        span = size(wanted)
        return cls(len(wanted), span, [size(each) / span if span else 0.0 for each in missing])
