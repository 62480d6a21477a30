"""The tensors of each cell: kept for the next batch while they are small, else made anew."""

from __future__ import annotations

from torch import Tensor

from layerscope.core.sweep._plan import Cell, Plan

__all__ = ["Weights"]

_KEPT_BYTES = 16 * 2**20


class Weights:
    """What the cells' layers hold instead of their trained tensors.

    Parameters
    ----------
    plan : Plan
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._kept: dict[str, dict[str, Tensor]] = {}
        self._left = _KEPT_BYTES

    def of(self, cell: Cell) -> dict[str, Tensor]:
        """Return the tensors of one cell; on the device if they are kept, else on the CPU."""
        if cell.key in self._kept:
            return self._kept[cell.key]
        values = self._plan.values(cell)
        size = sum(t.numel() * t.element_size() for t in values.values())
        if size <= self._left:
            # Moved once, not for every batch; and copied, since a function of the user's own may
            # return the same memory for the next cell.
            values = {name: t.to(self._plan.device, copy=True) for name, t in values.items()}
            self._kept[cell.key] = values
            self._left -= size
        return values
