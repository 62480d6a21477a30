"""A planned sweep as bytes that another process makes the same of.

The network goes as a skeleton: what every checkpoint holds is read there again, by name. What no
checkpoint holds goes by value, and so do states that are in memory alone. Data go once, in batches
of their own: a batch is a view, and would take all data along. The device goes as what was asked
for, and each worker finds its own. What goes by a name, such as a metric of layerscope's, arrives
as what that name stands for; functions of the user's own go by value.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from layerscope.base import devices
from layerscope.base.extras import extra
from layerscope.base.tensors import named_tensors
from layerscope.core.batches import FixedBatches
from layerscope.core.measures import MEASURES, Measure
from layerscope.core.metrics import METRICS, Metric
from layerscope.core.reuse import Group
from layerscope.core.running import OutputFinder
from layerscope.core.sweep._plan import Plan
from layerscope.core.sweep._tile import Part
from layerscope.errors import OptionError

__all__ = ["Layout", "Shipment", "pack", "unpack"]


@dataclass
class Shipment:
    """A sweep that is sent.

    Attributes
    ----------
    plan : Plan
    fresh : callable, optional
        What makes a freshly initialised network.
    identity : dict
        Of the sweep, in plain values.
    threads : int
        Processor threads that a pass takes.
    device : str
        As it was asked for; what stands for the driver's is sent as what a worker finds by it.
    """

    plan: Plan
    fresh: Callable[[], nn.Module] | None
    identity: dict[str, Any]
    threads: int
    device: str = "auto"


@dataclass
class Layout:
    """Order and outputs that the first pass of whoever planned the sweep told, for all others.

    Attributes
    ----------
    parts : list
        By part the modules that are changed, with the keys of the cells, in execution order.
    output : OutputFinder
        Fitted to the first batch.
    """

    parts: list[list[tuple[Group, list[str]]]] = field(default_factory=list)
    output: OutputFinder = field(default_factory=OutputFinder)

    @classmethod
    def of(cls, parts: Sequence[Part], output: OutputFinder) -> Layout:
        """Write down the parts of a sweep."""
        keys = [[(group, [c.key for c in cells]) for group, cells in p.groups] for p in parts]
        return cls(keys, output)

    def read(self, plan: Plan) -> list[Part]:
        """Find the cells of a plan again."""
        cells = {cell.key: cell for cell in plan.grid.cells()}
        return [Part([(g, [cells[k] for k in keys]) for g, keys in part]) for part in self.parts]


def pack(shipment: Shipment | Layout) -> bytes:
    """Turn a sweep into bytes, before its network is lent.

    Raises
    ------
    OptionError
        If something of the user's own can't be sent.
    """
    with extra("dask", "a sweep on a cluster"):
        import cloudpickle

    subject = shipment.plan.subject if isinstance(shipment, Shipment) else None
    stored = {} if subject is None else {id(t): t for t in named_tensors(subject.model).values()}

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        def reducer_override(self, value: Any) -> Any:
            if subject is not None and value is subject.device:
                assert isinstance(shipment, Shipment)
                return devices.resolve, (shipment.device,)
            found = _reduced(value, stored)
            return super().reducer_override(value) if found is NotImplemented else found

    content = io.BytesIO()
    try:
        Pickler(content, protocol=pickle.HIGHEST_PROTOCOL).dump(shipment)
    except (pickle.PicklingError, TypeError, AttributeError, NotImplementedError) as error:
        raise OptionError(
            f"the sweep can't be sent to the workers: {error}. What network, data, metrics and "
            "perturbations hold must be such that another process can be given it; open files and "
            "connections can't."
        ) from error
    return content.getvalue()


def unpack(content: bytes) -> Any:
    """Make the same of it in another process; weights are still to be read.

    Pickles come from nobody but the driver that this process works for.
    """
    return pickle.loads(content)  # noqa: S301


def _reduced(value: Any, stored: dict[int, Tensor]) -> Any:
    """Say how to send a value otherwise than pickle would; NotImplemented for all others."""
    if isinstance(value, Tensor):
        return _reduced_tensor(value, stored)
    if isinstance(value, Metric):
        return (_metric, (value.name,)) if METRICS.get(value.name) is value else NotImplemented
    if isinstance(value, Measure):
        return (_measure, (value.name,)) if MEASURES.get(value.name) is value else NotImplemented
    if isinstance(value, FixedBatches):
        return FixedBatches.arrived, (value.sent(),)
    if isinstance(value, Path):
        # The workers may run elsewhere.
        return Path, (str(value.absolute()),)
    return NotImplemented


def _reduced_tensor(value: Tensor, stored: dict[int, Tensor]) -> Any:
    plain = type(value) in (Tensor, nn.Parameter) and value.layout == torch.strided
    if not plain or value.is_meta:
        return NotImplemented
    if id(value) in stored:
        shape = tuple(value.shape), value.stride(), value.dtype
        return _empty, (*shape, value.requires_grad, type(value))
    if value.untyped_storage().nbytes() > value.nbytes:
        whole: Any = value.detach().clone()
        return whole.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
    return NotImplemented


def _empty(
    size: tuple[int, ...],
    stride: tuple[int, ...],
    dtype: torch.dtype,
    requires_grad: bool,
    kind: type[Tensor],
) -> Tensor:
    """Memory for a tensor that is read from a checkpoint; none is taken before."""
    made = torch.empty_strided(size, stride, dtype=dtype)
    parameter = issubclass(kind, nn.Parameter)
    return nn.Parameter(made, requires_grad=requires_grad) if parameter else made


def _metric(name: str) -> Metric:
    return METRICS[name]


def _measure(name: str) -> Measure:
    return MEASURES[name]
