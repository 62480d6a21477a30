"""The network lent for a sweep, and what is found out about it before the first cell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from layerscope import devices, layers, metrics
from layerscope.borrow import Swapper, borrowed
from layerscope.engine.plan import Cell, Plan
from layerscope.errors import LayerError, LayerscopeError
from layerscope.layers import Layer
from layerscope.results import FULL_MODEL, NOTHING_LEFT
from layerscope.reuse import Recorder
from layerscope.undoing import Undo

__all__ = ["in_order", "lent", "refused_cells", "repeated"]


class lent(Undo):  # noqa: N801
    """Lend the network with its trained weights on the device; afterwards it is as before."""

    def __init__(self, plan: Plan, to: str = "a sweep") -> None:
        super().__init__()
        self._plan, self._to = plan, to

    def begin(self) -> tuple[Recorder, Swapper]:
        """Change the network."""
        plan = self._plan
        budget = devices.spare_bytes(plan.device)
        self.enter(devices.hoarding(plan.device))
        self.enter(borrowed(plan.model, plan.device, self._to))
        swapper = Swapper(plan.model)
        # Piece by piece: a network that holds these weights already takes no more memory.
        for names in plan.pieces():
            values = plan.series.read(plan.series.last, names)
            swap = swapper.swapped(values, owned=True)
            del values
            self.enter(swap)
        recorder = Recorder(plan.model, budget=budget)
        self.add(recorder.close)
        return recorder, swapper


def repeated(recorder: Recorder, call: Callable[[], torch.Tensor], inputs: Any) -> torch.Tensor:
    """Outputs of a batch; refuse a network that does not repeat itself on the same batch.

    Raises
    ------
    DataError
        If the network can't take the batch.
    LayerscopeError
    """
    with metrics.matching(inputs):
        once, again = recorder.plain(call), recorder.plain(call)
    if not torch.equal(once.nan_to_num(), again.nan_to_num()):
        raise LayerscopeError(
            "the network gives different outputs for the same batch in evaluation mode, so no "
            "cell could be compared with another. Does it use dropout as a function, or sample?"
        )
    return once


def in_order(plan: Plan, recorder: Recorder, call: Callable[[], Any]) -> list[Layer]:
    """Sort the rows of a plan as they are executed, the whole network last."""
    found = layers.find(plan.model)
    leaves = layers.execution_order(plan.model, found, lambda: recorder.plain(call))
    place = {leaf.name: index for index, leaf in enumerate(leaves)}
    whole = [row for row in plan.rows if row.name == FULL_MODEL]
    parts = [row for row in plan.rows if row.name != FULL_MODEL]
    return sorted(parts, key=lambda row: min(place[leaf] for leaf in row.members)) + whole


def refused_cells(
    plan: Plan, recorder: Recorder, call: Callable[[], Any], cells: Sequence[Cell]
) -> dict[tuple[str, str], str]:
    """Find the cells that can't be, such as one that skips a layer which changes the shape.

    Raises
    ------
    LayerError
        If nothing is left of a perturbation.
    """
    refused: dict[tuple[str, str], str] = {}
    skipping: dict[tuple[str, str], tuple[str, ...]] = {}
    for cell in cells:
        at = cell.layer.name, cell.perturbation.name
        try:
            skipping[at] = plan.skips(cell)
        except LayerError as error:
            refused[at] = str(error)
        if at[0] == FULL_MODEL and skipping.get(at):
            refused[at] = NOTHING_LEFT
    names = {name for skipped in skipping.values() for name in skipped}
    reasons = recorder.unskippable(call, names) if names else {}
    for at, skipped in skipping.items():
        if why := "; ".join(f"{name} {reasons[name]}" for name in skipped if reasons[name]):
            refused.setdefault(at, why)
    for perturbation in plan.perturbations:
        of_it = {(c.layer.name, perturbation.name) for c in cells if c.perturbation is perturbation}
        if of_it <= refused.keys():
            # The whole network last, which is never worth saying.
            row, why = min((at[0] == FULL_MODEL, at[0], refused[at]) for at in of_it)[1:]
            raise LayerError(
                f"{perturbation.name!r} fits no layer; {row}, for example: {why}. A layer can be "
                "skipped if it returns one tensor of the shape and type of the one it gets; "
                "view='block' may have some."
            )
    return refused
