"""Tensors: their names in a network, the memory that they share, and their content.

Two tensors are tied if an element of one lies where an element of the other lies: the same
parameter under two names, or two views of one memory. Slices beside each other in one memory, as
the flattened weights of a recurrent network, are not.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from io import FileIO
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

__all__ = [
    "ALIGNMENT",
    "as_bytes",
    "byte_range",
    "canonical_names",
    "fill",
    "is_aligned",
    "mark_tensors",
    "marks",
    "named_tensors",
    "owner_name",
    "plain_name",
    "shared_groups",
    "storage_id",
    "tied_names",
    "update_digest",
]

ALIGNMENT = 64
"""Bytes at whose multiples PyTorch's own memory begins."""

_PIECE = 2**22
"""Elements of a tensor that may be copied without being missed in memory."""
_MOST_PIECES = 16


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and saved buffer by the name that it has in the state dict."""
    return {name: t for name, t in model.state_dict(keep_vars=True).items() if torch.is_tensor(t)}


def owner_name(name: str) -> str:
    """Name of the module that holds the tensor `name`."""
    return name.rpartition(".")[0]


def plain_name(name: str) -> str:
    """Take off what ``torch.compile`` puts into names.

    Examples
    --------
    >>> plain_name("_orig_mod.layer1"), plain_name("blocks.0._orig_mod"), plain_name("_orig_mod")
    ('layer1', 'blocks.0', '')
    """
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


class _Extent(NamedTuple):
    """The bytes of a storage between a tensor's first and last element."""

    start: int
    stop: int
    dense: bool


def tied_names(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Name the tensors of a network that have several names.

    Returns
    -------
    dict
        From the name of each that is tied to its further names, as in the state dict.

    Examples
    --------
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    >>> net[1].weight = nn.Parameter(net[0].weight.detach().T)  # another object, the same memory
    >>> tied_names(net)
    {'0.weight': ('1.weight',)}
    """
    aliases: dict[str, list[str]] = {}
    for name, holder in canonical_names(named_tensors(model)).items():
        if holder != name:
            aliases.setdefault(holder, []).append(name)
    return {name: tuple(others) for name, others in aliases.items()}


def canonical_names(held: Mapping[str, Tensor]) -> dict[str, str]:
    """Say under which name each tensor counts.

    The first name counts; parameters go before buffers, buffers beside parameters before others,
    and a whole before its parts.
    """
    names, values = list(held), list(held.values())
    beside = {owner_name(name) for name, t in held.items() if isinstance(t, nn.Parameter)}

    def rank(index: int) -> tuple[int, int, int]:
        tensor, name = values[index], names[index]
        kind = 0 if isinstance(tensor, nn.Parameter) else 1 if owner_name(name) in beside else 2
        return kind, -tensor.numel() * tensor.element_size(), index

    found = {name: name for name in names}
    for cluster in shared_groups(values):
        owning: list[int] = []
        for index in sorted(cluster, key=rank) if len(cluster) > 1 else ():
            if _covered(values[index], [values[other] for other in owning]):
                first = next(o for o in owning if _overlap(values[index], values[o]))
                found[names[index]] = names[first]
            else:
                owning.append(index)
    return found


def shared_groups(values: Sequence[Tensor]) -> list[list[int]]:
    """Gather the positions of tensors that are tied, directly or through others.

    Returns
    -------
    list of list of int
        Every position once, in order of the first of each.
    """
    together = list(range(len(values)))

    def root(index: int) -> int:
        while together[index] != index:
            index = together[index]
        return index

    for group in _by_storage(values):
        extents = {index: _extent(values[index]) for index in group}
        open_: list[int] = []
        for index in sorted(group, key=lambda i: extents[i].start):
            open_ = [other for other in open_ if extents[other].stop > extents[index].start]
            for other in open_:
                if _overlap(values[index], values[other]):
                    low, high = sorted((root(index), root(other)))
                    together[high] = low
            open_.append(index)
    gathered: dict[int, list[int]] = {}
    for index in range(len(values)):
        gathered.setdefault(root(index), []).append(index)
    return list(gathered.values())


def storage_id(tensor: Tensor) -> int:
    """Name the storage that a tensor lies in; its own number where it has none to share."""
    if tensor.layout != torch.strided or nn.parameter.is_lazy(tensor) or not tensor.numel():
        return -id(tensor)
    return int(tensor.untyped_storage()._cdata)


def is_aligned(tensor: Tensor) -> bool:
    """Tell whether a tensor begins where PyTorch's own memory does.

    Kernels of the CPU may sum in another order where it does not, which gives other last bits; on
    other devices tensors may have to lie beside each other, as those of a recurrent layer.
    """
    known = tensor.is_cpu and tensor.layout == torch.strided
    return not known or tensor.data_ptr() % ALIGNMENT == 0


def byte_range(values: Iterable[Tensor]) -> tuple[int, int]:
    """First byte, and the one after the last, that tensors take of the storage they share."""
    extents = [_extent(tensor) for tensor in values]
    return min(e.start for e in extents), max(e.stop for e in extents)


def _by_storage(values: Sequence[Tensor]) -> list[list[int]]:
    groups: dict[int, list[int]] = {}
    for index, tensor in enumerate(values):
        groups.setdefault(storage_id(tensor), []).append(index)
    return [group for key, group in groups.items() if len(group) > 1 and key >= 0]


def _extent(tensor: Tensor) -> _Extent:
    size = tensor.element_size()
    start = int(tensor.storage_offset()) * size
    pairs = zip(tensor.shape, tensor.stride(), strict=True)
    stop = start + (sum((n - 1) * step for n, step in pairs) + 1) * size
    dense = tensor.numel() * size == stop - start and 0 not in tensor.stride()
    return _Extent(start, stop, dense)


def _overlap(a: Tensor, b: Tensor) -> bool:
    first, second = _extent(a), _extent(b)
    start, stop = max(first.start, second.start), min(first.stop, second.stop)
    if first.dense and second.dense:
        return start < stop
    return bool((_taken(a, start, stop) & _taken(b, start, stop)).any())


def _covered(tensor: Tensor, others: Sequence[Tensor]) -> bool:
    """Check whether every byte of a tensor belongs to one of the others too."""
    if not others:
        return False
    start, stop, _ = _extent(tensor)
    for other in map(_extent, others):
        if other.dense and other.start <= start and stop <= other.stop:
            return True
    taken = torch.stack([_taken(other, start, stop) for other in others]).any(0)
    return bool(taken[_taken(tensor, start, stop)].all())


def _taken(tensor: Tensor, start: int, stop: int) -> Tensor:
    """Mark which bytes from `start` to `stop` of its storage a tensor's elements take."""
    low, high, _ = _extent(tensor)
    size = tensor.element_size()
    # Where a step is 0, one element stands for all.
    shape = [n if step else 1 for n, step in zip(tensor.shape, tensor.stride(), strict=True)]
    mask = torch.zeros(high - low, dtype=torch.bool)
    mask.as_strided([*shape, size], [*(step * size for step in tensor.stride()), 1]).fill_(True)
    inside = torch.zeros(stop - start, dtype=torch.bool)
    first, last = max(low, start), min(high, stop)
    if first < last:
        inside[first - start : last - start] = mask[first - low : last - low]
    return inside


def as_bytes(tensor: Tensor) -> Tensor:
    """The elements as bytes where they are, which types that NumPy lacks (bfloat16) have too.

    >>> as_bytes(torch.zeros(1, 3)[:, 1]).tolist()
    [0, 0, 0, 0]
    """
    plain = tensor.detach().contiguous()
    # A single element may have any stride, which no view as bytes takes.
    return plain.as_strided((plain.numel(),), (1,)).view(torch.uint8)


def fill(tensor: Tensor, file: FileIO) -> bool:
    """Read a contiguous tensor's bytes from where a file stands; False if it ends before."""
    room = as_bytes(tensor).numpy().data
    done = 0
    while done < len(room):
        count = file.readinto(room[done:])  # at most 2 GiB at a time, as Linux has it
        if not count:
            return False
        done += count
    return True


def marks(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Compute one number for each tensor, another where its bits are; cheap, and no copy.

    It may be another where the same bits lie otherwise, as in a tensor that is not contiguous.
    """
    found = mark_tensors(tensors)
    together = torch.stack(list(found.values())).tolist() if found else []
    return dict(zip(found, together, strict=True))


def mark_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Compute the same as tensors, where those are that they mark."""
    whole = {1: torch.int8, 2: torch.int16, 4: torch.int32}
    found = {}
    for name, tensor in tensors.items():
        plain = torch.view_as_real(tensor.detach()) if tensor.is_complex() else tensor.detach()
        if plain.layout == torch.strided and not plain.is_meta:
            bits = plain.view(whole.get(plain.element_size(), torch.int64))
            found[name] = _sum(bits)
    return found


def _sum(bits: Tensor) -> Tensor:
    """Sum whole numbers modulo 2⁶⁴, eight bytes at a time where they lie so.

    A CPU copies what it makes wider; the copies of a large tensor's parts may add up in memory.
    """
    if bits.is_contiguous() and bits.data_ptr() % 8 == bits.storage_offset() % 8 == 0:
        flat = bits.view(-1)
        words = len(flat) - len(flat) % (8 // bits.element_size())
        return flat[:words].view(torch.int64).sum() + flat[words:].sum(dtype=torch.int64)
    if bits.ndim == 0 or bits.numel() <= _PIECE:
        return bits.sum(dtype=torch.int64)
    pieces = torch.split(bits, math.ceil(len(bits) / _MOST_PIECES))
    return torch.stack([piece.sum(dtype=torch.int64) for piece in pieces]).sum()


def update_digest(seen: Any, inputs: Any, within: frozenset[int] = frozenset()) -> None:
    """Feed every tensor of `inputs`, with its shape and type, into a ``hashlib`` object.

    Of objects, such as graphs, those in their attributes; `within` names those that it is in.
    """
    if torch.is_tensor(inputs):
        plain = inputs.detach().cpu().contiguous()
        seen.update(repr((tuple(plain.shape), str(plain.dtype))).encode())
        seen.update(as_bytes(plain).numpy().data)
    elif isinstance(inputs, Mapping):
        for key in sorted(inputs, key=str):
            seen.update(str(key).encode())
            update_digest(seen, inputs[key], within)
    elif isinstance(inputs, (tuple, list)):
        for value in inputs:
            update_digest(seen, value, within)
    elif hasattr(inputs, "__dict__") and not callable(inputs) and id(inputs) not in within:
        update_digest(seen, vars(inputs), within | {id(inputs)})
    else:
        # Without addresses, which differ from process to process.
        seen.update(re.sub(r" at 0x[0-9a-f]+", "", repr(inputs)).encode())
