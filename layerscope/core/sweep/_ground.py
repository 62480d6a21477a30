"""Groundwork of a sweep: all that is found of its rows before the network sees an example."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from layerscope.core.sweep._doubts import Doubts, find_doubts
from layerscope.core.sweep._movement import draw_distances, moved_rows, row_distances
from layerscope.core.sweep._plan import Plan

__all__ = ["Ground", "Groundwork"]


@dataclass(frozen=True)
class Groundwork:
    """Facts of the rows of a sweep that hang on its checkpoints and not on its data.

    Attributes
    ----------
    distances : dict
        By row and epoch.
    draw_distances : dict
        By key of the cell, for layers that are drawn anew.
    origins : dict
        By row, where re-randomised values are drawn from.
    moved : dict
        By row, whether it holds other values than at the first checkpoint; empty if there is one.
    doubts : Doubts
        Of the checkpoints.
    """

    distances: Mapping[tuple[str, int], dict[str, float]]
    draw_distances: Mapping[str, dict[str, float]]
    origins: Mapping[str, str]
    moved: Mapping[str, bool]
    doubts: Doubts


class Ground:
    """Groundwork that is done once, for sweeps of the same cells over several data sets."""

    def __init__(self) -> None:
        self._found: Groundwork | None = None

    def find(self, plan: Plan, show_progress: bool = False) -> Groundwork:
        """Do it, or tell what was found before.

        Parameters
        ----------
        plan : Plan
            Of the same cells each time.
        show_progress : bool

        Raises
        ------
        CheckpointError
            If a checkpoint holds NaN or infinity.
        LayerError, OptionError
            If a perturbation can't be applied to a row, or returns what its layer can't hold.
        """
        if self._found is None:
            self._found = _find(plan, show_progress)
        return self._found


def _find(plan: Plan, show_progress: bool) -> Groundwork:
    # Everything that may be wrong with the input is found before the first cell; what is drawn for
    # its distance need not be tried.
    drawn = draw_distances(plan)
    plan.check(drawn)
    distances, trails = row_distances(plan, show_progress)
    moved, doubts = moved_rows(plan, trails), find_doubts(plan, trails)
    origins = {row.name: plan.tensors.fresh.drawn_from(row) for row in plan.grid.rows}
    return Groundwork(distances, drawn, origins, moved, doubts)
