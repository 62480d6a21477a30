"""The network lent for a sweep, and what is found out about it before the first cell."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch

from layerscope.base import devices
from layerscope.base.tensors import owner_name
from layerscope.base.undoing import Undo
from layerscope.core import layers
from layerscope.core.layers import Layer
from layerscope.core.lending import Swapper, borrowed
from layerscope.core.reuse import Recorder
from layerscope.core.running import explain_mismatch
from layerscope.core.sweep._plan import Cell, Plan
from layerscope.errors import LayerError, LayerscopeError
from layerscope.results import FULL_MODEL, NOTHING_LEFT

__all__ = [
    "in_order",
    "lent",
    "refuse_carried",
    "refused_cells",
    "repeated",
    "steady",
    "written_by",
]

T = TypeVar("T")


class lent(Undo):  # noqa: N801
    """Lend the network with its trained weights on the device; afterwards it is as before."""

    def __init__(self, plan: Plan, to: str = "a sweep") -> None:
        super().__init__()
        self._plan, self._to = plan, to

    def begin(self) -> tuple[Recorder, Swapper]:
        """Change the network."""
        plan = self._plan
        budget = devices.spare_bytes(plan.device)
        self.enter(devices.KeepMemory(plan.device))
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
    with explain_mismatch(inputs):
        once, again = recorder.plain(call), recorder.plain(call)
    if not torch.equal(once.nan_to_num(), again.nan_to_num()):
        raise LayerscopeError(
            "the network gives different outputs for the same batch in evaluation mode, so no "
            "cell could be compared with another. Does it use dropout as a function, or sample?"
        )
    return once


def steady(plan: Plan, recorder: Recorder) -> None:
    """Refuse a network whose passes change its weights, or what it says of later batches.

    Every batch is answered from the state that the network was given in, where a copy would carry
    on from one to the next. What a network merely keeps, such as a counter or a rotary table, makes
    no difference.

    Raises
    ------
    LayerscopeError
    """
    own = dict(plan.model.named_parameters())
    before = marks(own)
    few = [plan.few(inputs) for inputs, _ in itertools.islice(plan.data, 2)]
    try:
        with explain_mismatch(few[0]):
            differs = _carries(plan, recorder, few)
        changed = [name for name, mark in marks(own).items() if mark != before[name]]
    finally:
        _repair(plan, own, before)
    if changed or differs:
        how = f"writes to its weights ({changed[0]})" if changed else "keeps something of a batch"
        raise LayerscopeError(
            f"the network {how} in evaluation mode, and answers otherwise afterwards, as with a "
            "layer that initialises itself from the first batch; so a value would hang on the "
            "order of the batches. Run a batch through it before its checkpoints are saved, and "
            "before the sweep."
        )


def written_by(
    replay: Callable[[], T], recorder: Recorder, swapper: Swapper, names: Sequence[str]
) -> tuple[T, bool]:
    """Run a pass of a changed network, and tell whether it wrote to what was put in.

    Modules that do so unchanged as well are left out: they are put back after every pass.
    """
    model, restless = recorder.model, recorder.restless
    lasting = [n for n in names if model.get_submodule(owner_name(n)) not in restless]
    before = marks(swapper.current(lasting))
    outputs = replay()
    return outputs, marks(swapper.current(lasting)) != before


def refuse_carried(plan: Plan, recorder: Recorder, swap: Callable[[], Undo], what: str) -> None:
    """Refuse a change if what the network then says of the second batch depends on the first.

    Raises
    ------
    LayerscopeError
    """

    def within(batches: Sequence[Any]) -> torch.Tensor:
        with Undo() as undo, undo:
            undo.enter(swap())
            return _last(plan, recorder, batches)

    both = [inputs for inputs, _ in itertools.islice(plan.data, 2)]
    if not _same(within(both[1:]), within(both)):
        raise LayerscopeError(
            f"{what} initialises itself from the first batch that it sees, so a value would hang "
            "on the order of the batches. Leave the layer or the epoch out, or pass all data as a "
            "single batch."
        )


def marks(tensors: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """One number for each tensor, which is another where its bits are; cheap, and no copy."""
    whole = {1: torch.int8, 2: torch.int16, 4: torch.int32}
    found = {}
    for name, tensor in tensors.items():
        plain = torch.view_as_real(tensor.detach()) if tensor.is_complex() else tensor.detach()
        if plain.layout == torch.strided and not plain.is_meta:
            bits = plain.view(whole.get(plain.element_size(), torch.int64))
            found[name] = bits.sum(dtype=torch.int64)
    together = torch.stack(list(found.values())).tolist() if found else []
    return dict(zip(found, together, strict=True))


def _carries(plan: Plan, recorder: Recorder, few: Sequence[Any]) -> bool:
    if len(few) < 2:
        _last(plan, recorder, few)
        return False
    once = _last(plan, recorder, few[1:])
    # One that gives something else each time is refused for that, elsewhere.
    return not _same(once, _last(plan, recorder, few)) and _same(
        once, _last(plan, recorder, few[1:])
    )


def _last(plan: Plan, recorder: Recorder, batches: Sequence[Any]) -> torch.Tensor:
    """Logits of the last of several batches, each answered from the state that the others left."""
    return recorder.plain(lambda: [plan.call(inputs) for inputs in batches][-1])


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a.nan_to_num(), b.nan_to_num())


def _repair(plan: Plan, own: Mapping[str, torch.Tensor], before: Mapping[str, int]) -> None:
    """Write the trained values back into weights that a pass has written to: they may be shared."""
    for name, mark in marks(own).items():
        if mark != before[name]:
            own[name].detach().copy_(plan.series.read(plan.series.last, [name])[name])


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
