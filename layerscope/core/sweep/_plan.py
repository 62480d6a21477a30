"""Plan of a sweep: all that it computes, put together."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from layerscope.core.layers import Norms
from layerscope.core.measures import Measure
from layerscope.core.probe import CellTensors, Subject
from layerscope.core.stopping import Decision, Tolerance
from layerscope.core.sweep._grid import Grid
from layerscope.core.sweep._sums import metric_of
from layerscope.core.sweep._warning import warn
from layerscope.errors import LayerscopeError

__all__ = ["Plan"]


@dataclass(frozen=True)
class Plan:
    """Everything that the values of a sweep depend on.

    Attributes
    ----------
    subject : Subject
        The network, its checkpoints and data.
    grid : Grid
        The cells.
    tensors : CellTensors
        What the cells put in.
    seed : int
    rule : Decision or Tolerance, optional
        When a cell has seen enough.
    outcomes : bool
        What every example gave is kept.
    measures : sequence of Measure
        Of one pass, beside the cells.
    view, norms
        How the rows were found.
    """

    subject: Subject
    grid: Grid
    tensors: CellTensors
    seed: int = 0
    rule: Decision | Tolerance | None = None
    outcomes: bool = False
    measures: Sequence[Measure] = ()
    view: str = "leaf"
    norms: Norms = field(default_factory=Norms)

    @property
    def each(self) -> list[str]:
        """Metrics whose outcomes are needed example by example."""
        metric = metric_of(self.rule, self.subject.metrics)
        if self.outcomes:
            return [known.name for known in self.subject.metrics]
        return [metric.name] if metric else []

    def check(self, tried: Collection[str] = ()) -> None:
        """Try every perturbation on every row once, for what is wrong to be found beforehand.

        Parameters
        ----------
        tried : collection of str
            Keys of cells that were made already.

        Raises
        ------
        OptionError
            If a perturbation returns what its layer can't hold.
        LayerError
            If a perturbation can't be applied to a row.
        """
        for cell in self.grid.samples():
            if cell.key not in tried and not self.tensors.obstacle(cell):
                self.tensors.try_out(cell)

    def halved(self, error: BaseException) -> Plan:
        """Return the same plan with batches half as large, after running out of memory.

        Raises
        ------
        LayerscopeError
            If a batch can't be made smaller.
        """
        data = self.subject.data
        size = data.size // 2
        if size < 1:
            raise LayerscopeError(
                f"there is not enough memory for a batch of one example ({error}); use another "
                "device, or dtype='bfloat16'."
            ) from error
        smaller = data.resized(size)
        warn(f"out of memory with {data.size} examples in a batch; starting again with {size}")
        return replace(self, subject=replace(self.subject, data=smaller))
