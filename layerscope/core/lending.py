"""A network that is lent and comes back as it was.

Weights are changed by pointing parameters at other memory, never by writing into theirs, so that
giving them back is an assignment which can't fail half-way and restores every bit.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from layerscope.base import devices
from layerscope.base.tensors import (
    ALIGNMENT,
    byte_range,
    is_aligned,
    named_tensors,
    shared_groups,
    storage_id,
)
from layerscope.base.undoing import Undo
from layerscope.core.running import without_cache
from layerscope.errors import LayerError, LayerscopeError

__all__ = ["Swapper", "borrowed", "like", "swapped"]


class borrowed(Undo):  # noqa: N801
    """Lend a network in evaluation mode, without cache, on a device; afterwards it is as before.

    Parameters, buffers, modes and device come back also after an exception or Ctrl-C. Buffers
    are lent as copies, in case the network writes to them. Tensors that share memory share it on
    the device too.

    Parameters
    ----------
    model : nn.Module
    device : torch.device
    to : str
        Who borrows it, for whoever wants to meanwhile.

    Raises
    ------
    LayerscopeError
        If it, or a part of it, is lent already.
    """

    def __init__(self, model: nn.Module, device: torch.device, to: str = "somebody") -> None:
        super().__init__()
        self._model, self._device, self.to = model, device, to

    def begin(self) -> nn.Module:
        """Change the network."""
        self.add(self._release)
        self._reserve()
        parameters = [(p, p.data) for p in self._model.parameters()]
        modules = [(m, dict(m._buffers), m.training) for m in self._model.modules()]

        def restore() -> None:
            for parameter, data in parameters:
                parameter.data = data
            for module, own, mode in modules:
                # As a whole, so that buffers which the network made on the way go too.
                module._buffers.clear()
                module._buffers.update(own)
                module.training = mode

        self.add(restore)
        self.enter(without_cache(self._model))
        lent = _lent(self._model, self._device)
        for parameter, _ in parameters:
            parameter.data = lent[id(parameter)]
        for module, own, _ in modules:
            for name, buffer in own.items():
                if buffer is not None:
                    module._buffers[name] = lent[id(buffer)]
        return self._model.eval()

    def _reserve(self) -> None:
        mine = [id(part) for part in (*self._model.modules(), *self._model.parameters())]
        with _LOCK:
            holder = next((_LENT[part] for part in mine if part in _LENT), None)
            if holder is None:
                _LENT.update(dict.fromkeys(mine, self))
        if holder is not None:
            raise LayerscopeError(
                f"this {type(self._model).__name__}, or a part of it, is lent to {holder.to}, and "
                "only one can have it at a time. End that first, a session by session.close(), or "
                "pass a copy: copy.deepcopy(network)."
            )

    def _release(self) -> None:
        with _LOCK:
            for part in [part for part, holder in _LENT.items() if holder is self]:
                del _LENT[part]


_LOCK = threading.Lock()
_LENT: dict[int, borrowed] = {}
"""Who has what, by the ids of modules and parameters, which their holder keeps alive."""


class Swapper:
    """Lets tensors of a network stand for other values, again and again.

    What is tied to what is found out once, so that a swap looks at nothing but the tensors that
    change. Swaps may nest; they end in the reverse order.

    Parameters
    ----------
    model : nn.Module
        Between swaps it may replace its tensors by others, as some networks do with buffers.

    Examples
    --------
    >>> net = nn.Linear(2, 1, bias=False)
    >>> swapper = Swapper(net)
    >>> with swapper.swapped({"weight": torch.ones(1, 2)}):
    ...     net.weight.tolist()
    [[1.0, 1.0]]
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._index()

    def swapped(
        self, values: Mapping[str, Tensor], *, owned: bool = False, consume: bool = False
    ) -> Undo:
        """Let tensors stand for `values`; afterwards for their own again.

        Tensors tied to one of them see the change too, whether they are the same object or another
        view of the memory.

        Parameters
        ----------
        values : mapping of str to Tensor
            By name in the state dict. Of two for the same memory the later counts.
        owned : bool
            True gives the values away, to take as little memory as can be: those that lie in
            memory as the network's tensors do are used as they are instead of copied, and a tensor
            that already holds its value, bit for bit, is left alone. The caller then neither reads
            them again nor shares them.
        consume : bool
            True takes each value out of `values`, a dict of the caller's own, once the network has
            a copy of it: then memory holds one tensor twice, and not all of them.

        Raises
        ------
        LayerError
            If a value has another shape than the tensor that it stands for.
        """
        return _Swapped(self, values, owned, consume)

    def _index(self) -> None:
        """Find all tensors by name, where each is held, and which are tied."""
        self._named = named_tensors(self._model)
        self._places = dict(_places(self._model))
        held = list({id(t): t for t in (*_held(self._model), *self._named.values())}.values())
        self._storages = set(map(storage_id, held))
        self._tied: dict[int, list[Tensor]] = {}
        for cluster in shared_groups(held):
            together = [held[index] for index in cluster]
            self._tied |= {id(tensor): together for tensor in together}

    def current(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Find tensors by name, and index the network anew if it has replaced one meanwhile."""
        names = list(names)
        for name in names:
            holder, key = self._places.get(name, ({}, ""))
            if (
                name not in self._named
                or holder.get(key, self._named[name]) is not self._named[name]
            ):
                self._index()
                break
        return {name: self._named[name] for name in names}

    def _together(self, values: Mapping[str, Tensor]) -> list[list[str]]:
        """Gather the names of values whose tensors are tied, those of each in their order."""
        current = self.current(values)
        gathered: dict[int, list[str]] = {}
        for name, value in values.items():
            own = current[name]
            # copy_ would stretch a smaller tensor to fit.
            if value.shape != own.shape:
                raise LayerError(
                    f"{name} has the shape {tuple(own.shape)} and can't hold a tensor of shape "
                    f"{tuple(value.shape)}."
                )
            gathered.setdefault(id(self._tied[id(own)][0]), []).append(name)
        return list(gathered.values())

    def _made(
        self, values: Mapping[str, Tensor], taken: set[int] | None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Make new data for tensors that are tied to one another, of which some have values.

        Parameters
        ----------
        values : mapping of str to Tensor
        taken : set of int, or None
            Storages that are in use, where others may be used as they are.
        """
        together = self._tied[id(self._named[next(iter(values))])]
        if len(together) == 1:
            *_, value = values.values()
            return together, [_taken_over(together[0].data, value.detach(), taken)]
        made = _laid_out([t.data for t in together], together[0].device)
        for name, value in values.items():
            own = self._named[name]
            place = next(i for i, t in enumerate(together) if t is own)
            devices.write(made[place], value.detach())
        return together, made


class _Swapped(Undo):
    """Values in place of a network's own."""

    def __init__(
        self, swapper: Swapper, values: Mapping[str, Tensor], owned: bool, consume: bool
    ) -> None:
        super().__init__()
        self._swapper, self._values, self._owned = swapper, values, owned
        self._consume = consume

    def begin(self) -> None:
        swapper, values = self._swapper, self._values
        self._values = {}  # so that those which were copied, or left aside as equal, take no memory
        changed: list[tuple[Tensor, Tensor]] = []
        storages: set[int] = set()

        def restore() -> None:
            for tensor, data in changed:
                tensor.data = data
            swapper._storages -= storages

        self.add(restore)
        taken = set(swapper._storages) if self._owned else None
        # One after the other: of a whole network there is memory for one more, and not for two.
        for names in swapper._together(values):
            together, made = swapper._made({name: values[name] for name in names}, taken)
            for name in names if self._consume else ():
                assert isinstance(values, dict)
                del values[name]
            # Comparing waits for the accelerator, so only where it saves memory.
            if self._owned and all(map(_same_bits, made, (t.data for t in together))):
                continue
            changed += [(tensor, tensor.data) for tensor in together]
            storages |= set(map(storage_id, made))
            swapper._storages |= storages
            for tensor, new in zip(together, made, strict=True):
                tensor.data = new


def swapped(model: nn.Module, values: Mapping[str, Tensor], *, owned: bool = False) -> Undo:
    """Let tensors of the network stand for `values` once; see `Swapper.swapped`."""
    return Swapper(model).swapped(values, owned=owned)


def like(model_tensor: Tensor, value: Tensor) -> Tensor:
    """Copy `value` into new memory of the device, type and strides of `model_tensor`."""
    made = torch.empty_like(model_tensor)
    devices.write(made, value)
    return made


def _held(model: nn.Module) -> list[Tensor]:
    """Every parameter and buffer once."""
    found: dict[int, Tensor] = {}
    for module in model.modules():
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is not None:
                found[id(tensor)] = tensor
    return list(found.values())


def _lent(model: nn.Module, device: torch.device) -> dict[int, Tensor]:
    """Make what stands for each parameter and buffer on `device`, by id."""
    held = _held(model)
    lent: dict[int, Tensor] = {}
    for cluster in shared_groups(held):
        together = [held[index] for index in cluster]
        kept = all(isinstance(t, nn.Parameter) and t.device == device for t in together)
        if len(together) > 1 and not kept:
            made = _laid_out([t.data for t in together], device)
        else:
            made = [_on(device, t) for t in together]
        lent |= {id(t): new for t, new in zip(together, made, strict=True)}
    return lent


def _on(device: torch.device, tensor: Tensor) -> Tensor:
    """Return a tensor on `device`: a parameter itself where it is there, and lies as a copy does.

    What is mapped from a file, as libraries open weights, lies at any place. A view with gaps can't
    be copied as it lies.
    """
    dense = torch.empty_like(tensor, device="meta").stride() == tensor.stride()
    own = isinstance(tensor, nn.Parameter) and (is_aligned(tensor) or not dense)
    return tensor.data.to(device, copy=not own)


def _places(model: nn.Module) -> Iterator[tuple[str, tuple[dict[str, Tensor | None], str]]]:
    """Yield the name of every parameter and buffer with the dictionary and key that hold it."""
    for path, module in model.named_modules(remove_duplicate=False):
        for holder in (module._parameters, module._buffers):
            for key in holder:
                yield f"{path}.{key}" if path else key, (holder, key)


def _taken_over(data: Tensor, value: Tensor, taken: set[int] | None) -> Tensor:
    """Return `value` in memory that may stand for `data`: its own if it is free, else a copy."""
    fits = (
        taken is not None
        and value.device == data.device
        and value.dtype == data.dtype
        and value.layout == data.layout == torch.strided
        and value.stride() == data.stride()
        and not (value.is_conj() or value.is_neg() or value.is_meta)
        # Kernels may sum in another order where memory begins at an odd place.
        and value.data_ptr() % ALIGNMENT == 0
        and storage_id(value) not in taken
    )
    if not fits:
        return like(data, value)
    assert taken is not None
    taken.add(storage_id(value))
    return value


def _laid_out(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Lay tensors that share memory out on new memory of `device` just as they lie."""
    start, stop = byte_range(tensors)
    start -= start % ALIGNMENT
    memory = torch.empty(stop - start, dtype=torch.uint8, device=device).untyped_storage()
    made = []
    for tensor in tensors:
        offset = int(tensor.storage_offset()) - start // tensor.element_size()
        empty = torch.empty(0, dtype=tensor.dtype, device=device)
        made.append(empty.set_(memory, offset, tensor.shape, tensor.stride()))
        # Where a step is 0, as in an expanded tensor, one element stands for all.
        first = tuple(slice(None) if step else slice(1) for step in tensor.stride())
        made[-1][first].copy_(tensor[first])
    return made


def _same_bits(a: Tensor, b: Tensor) -> bool:
    """Compare as bytes, for −0 equals 0 and NaN differs from itself."""
    if a.is_meta or a.layout != torch.strided:
        return False
    plain = (t.resolve_conj().resolve_neg().contiguous() for t in (a, b))
    first, second = (t.view(-1).view(torch.uint8) for t in plain)
    return torch.equal(first, second)
