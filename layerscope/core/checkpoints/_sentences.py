"""Sentences of an audit: what is so, and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Finding", "Sentences"]

_MOST_TENSORS, _MOST_EPOCHS = 3, 8


@dataclass(frozen=True)
class Finding:
    """Something that an audit found.

    Attributes
    ----------
    kind : str
        ``"copy"``, ``"start"``, ``"foreign"``, ``"jump"``, ``"not finite"``, ``"other tensors"``,
        or ``"not moved"``.
    epochs : tuple of int
        Those in doubt.
    tensors : tuple of str
        Those that show it.
    sentence, advice : str
        What is so, and what to do.
    mark : str
        The same in a few words, for a cell.
    fault : bool
        False for what is so in sound series too, such as layers that were frozen.
    """

    kind: str
    epochs: tuple[int, ...]
    tensors: tuple[str, ...]
    sentence: str
    advice: str
    mark: str
    fault: bool = True


class Sentences:
    """Findings put into words, of checkpoints by their places in a series.

    Parameters
    ----------
    epochs : sequence of int
    unit : str
        What they are counted in.
    """

    def __init__(self, epochs: Sequence[int], unit: str) -> None:
        self._epochs, self._unit, self._last = tuple(epochs), unit, len(epochs) - 1

    def not_finite(self, at: int, tensors: Sequence[str]) -> Finding:
        """Say that a checkpoint holds NaN."""
        return self._finding(
            "not finite",
            [at],
            tensors,
            f"{self._at(at)} holds values that are NaN or infinite, in {_listed(tensors)}",
            "Training had diverged by then, or the file is damaged: leave this checkpoint out.",
            "holds NaN or infinity",
        )

    def other_tensors(self, at: int, tensors: Sequence[str]) -> Finding:
        """Say that a checkpoint has not the tensors of the last."""
        return self._finding(
            "other tensors",
            [at],
            tensors,
            f"{self._at(at)} has other tensors than the last checkpoint, or of other shapes: "
            f"{_listed(tensors)}",
            "Of another network? Where names alone differ, give the network, too: audit(…, model).",
            "other tensors than the last checkpoint",
        )

    def copy(
        self, group: Sequence[int], doubtful: Sequence[int], tensors: Sequence[str]
    ) -> Finding:
        """Say that checkpoints are equal."""
        end = self._at(group[-1])
        if len(group) == self._last + 1:
            what = f"All {len(group)} checkpoints hold the same values: nothing moved"
        elif group[-1] == self._last:
            what = (
                f"{self._all(group[:-1])} {_hold(group[:-1])} the very weights of the last, {end}"
            )
        else:
            what = f"{self._all(group[:-1])} and {end} hold the same values"
        return self._finding(
            "copy",
            doubtful,
            tensors,
            what,
            "Get or record them again, or leave out all but one. Setting a layer back to a copy of "
            "the trained weights changes nothing, and says nothing.",
            self._same_as(group),
        )

    def near_copy(self, at: int, tensors: Sequence[str]) -> Finding:
        """Say that a checkpoint is the last one in other bits."""
        return self._finding(
            "copy",
            [at],
            tensors,
            f"{self._at(at)} holds nearly the weights of the last, {self._at(self._last)}, while "
            "later ones do not",
            "A copy in another precision? Get or record it again, or leave it out.",
            f"nearly the values of {self._at(self._last)}",
        )

    def tensor_copy(
        self, how: str, places: Sequence[int], doubtful: Sequence[int], tensors: Sequence[str]
    ) -> Finding:
        """Say that tensors repeat themselves: "twice" in a row, "again", or all "but" in places."""
        where = self._all(places)
        if how == "but":
            what = f"the same values everywhere but in {where}"
        else:
            where = f"{self._all(places[:-1])} and {self._at(places[-1])}"
            twice = "though they moved before and after"
            why = twice if how == "twice" else "though other values lie between"
            what = f"the same values in {where}, {why}"
        return self._finding(
            "jump" if how == "but" else "copy",
            doubtful,
            tensors,
            f"{_listed(tensors)} {_hold(tensors)} {what}",
            "Was a file, or a shard, put in the place of another? Get it again, or leave this out.",
            "other values than everywhere else" if how == "but" else self._same_as(places),
        )

    def unrelated(self, kind: str, at: int, tensors: Sequence[str], whole: bool) -> Finding:
        """Say that nothing of neighbours is left: a wrong "start", "end", or something between."""
        what = self._at(at) if whole else f"{_listed(tensors)} in {self._at(at)}"
        if kind == "start":
            return self._finding(
                "start" if whole else "foreign",
                [0],
                tensors,
                f"nothing of {what} is left in {self._at(1)}, as if drawn independently, while "
                f"{self._at(1)} lives on in {self._at(2)}",
                "Is it of another run, or another seed? Get what this training started from; till "
                "then setting back is no more than redrawing.",
                f"not what {self._at(1)} came from",
            )
        if kind == "break":
            return self._finding(
                "foreign",
                range(at),
                tensors,
                f"nothing of {self._at(at - 1)} is left in {what}, and from there on it goes on as "
                "another run",
                "Two runs in one series? Keep the checkpoints of one.",
                "as of another run than the trained weights",
            )
        if kind == "end":
            # Whatever is put back is put into these weights.
            return self._finding(
                "foreign",
                range(at + 1),
                tensors,
                f"nothing of the checkpoints before is left in {what}, the last, as if drawn "
                "independently",
                "Is it of another run, or another file? Get it again, or leave it out.",
                "the trained weights are as of another run",
            )
        are = "is" if whole or len(tensors) == 1 else "are"
        return self._finding(
            "foreign",
            [at],
            tensors,
            f"{what} {are} as unlike both neighbours as independent draws, while these are alike",
            "Of another run, or another file? Get it again, or leave this checkpoint out.",
            "as of another run than its neighbours",
        )

    def jump(self, at: int, tensors: Sequence[str], whole: bool) -> Finding:
        """Say that a checkpoint lies apart."""
        what = self._at(at) if whole else f"{_listed(tensors)} in {self._at(at)}"
        lie = "lies" if whole or len(tensors) == 1 else "lie"
        return self._finding(
            "jump",
            [at],
            tensors,
            f"{what} {lie} far from {self._at(at - 1)} and from {self._at(at + 1)}, which are near "
            "each other",
            "Damaged, of another run or time? Get it again, or leave this checkpoint out.",
            "far from both its neighbours",
        )

    def leap(self, at: int, tensors: Sequence[str], times: float) -> Finding:
        """Say that a step was out of all proportion."""
        return self._finding(
            "jump",
            [at],
            tensors,
            f"{_listed(tensors)} went over {times:.0f} times as far from {self._at(at - 1)} to "
            f"{self._at(at)} as other steps, and other tensors at that step, suggest",
            "Drawn anew, damaged, or of another run? Ask where the series comes from.",
            "a step out of all proportion",
        )

    def still(self, tensors: Sequence[str]) -> Finding:
        """Say that tensors never moved."""
        return self._finding(
            "not moved",
            range(self._last + 1),
            tensors,
            f"{_listed(tensors)} never moved",
            "Frozen, or without a gradient? Setting back says nothing of such layers.",
            "never moved",
            fault=False,
        )

    def _finding(
        self,
        kind: str,
        places: Sequence[int],
        tensors: Sequence[str],
        sentence: str,
        advice: str,
        mark: str,
        fault: bool = True,
    ) -> Finding:
        if not sentence.startswith(tuple(tensors)):  # whose names have the case that they have
            sentence = sentence[0].upper() + sentence[1:]
        epochs = tuple(self._epochs[at] for at in places)
        return Finding(kind, epochs, tuple(tensors), f"{sentence}.", advice, mark, fault)

    def _at(self, at: int) -> str:
        return f"{self._unit} {self._epochs[at]}"

    def _all(self, places: Sequence[int]) -> str:
        several = "s" if len(places) > 1 else ""
        return (
            f"{self._unit}{several} {_listed([str(self._epochs[p]) for p in places], _MOST_EPOCHS)}"
        )

    def _same_as(self, places: Sequence[int]) -> str:
        return f"the same values as {self._at(self._last if self._last in places else places[0])}"


def _hold(things: Sequence[object]) -> str:
    return "holds" if len(things) == 1 else "hold"


def _listed(names: Sequence[str], most: int = _MOST_TENSORS) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
