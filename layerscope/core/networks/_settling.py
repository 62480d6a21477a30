"""Weights that lie in mapped files, as libraries open them, brought into memory of their own.

A mapping is no place for a network's weights: nothing in it is aligned, on which the last bits of a
matrix product depend; what was looked at counts twice once it is copied; and a file that is cut
short kills the process.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from layerscope.base.tensors import fill, is_aligned, shared_groups

__all__ = ["settle"]

_MAPS = Path("/proc/self/maps")


class _Mapping(NamedTuple):
    """Part of a file in memory: where it begins and ends, from which byte of which file."""

    start: int
    stop: int
    offset: int
    device: int
    inode: int
    path: str


def settle(network: nn.Module) -> nn.Module:
    """Give each tensor on the CPU that is mapped, or not aligned, memory as torch lays it out.

    It is done one tensor after the other, and what is mapped is read from its file, so that memory
    holds the network and one tensor. Nobody may have written to the weights since they were mapped.

    Returns
    -------
    nn.Module
        The network itself.
    """
    maps = _mappings()
    held = {id(t): t for t in (*network.parameters(), *network.buffers())}
    alone = [group for group in shared_groups(list(held.values())) if len(group) == 1]
    tensors = [list(held.values())[index] for (index,) in alone]
    for tensor in tensors:
        mapped = _find(maps, tensor)
        if mapped is not None or not is_aligned(tensor):
            tensor.data = _copy(tensor.data, mapped)
    return network


def _copy(tensor: Tensor, mapped: _Mapping | None) -> Tensor:
    """Copy a tensor, from its file if that is there still; through the mapping both would count."""
    made = torch.empty_like(tensor)
    if mapped is not None and tensor.is_contiguous():
        with suppress(OSError), open(mapped.path, "rb", buffering=0) as file:
            about = os.fstat(file.fileno())
            file.seek(mapped.offset + tensor.data_ptr() - mapped.start)
            same = (about.st_dev, about.st_ino) == (mapped.device, mapped.inode)
            if same and fill(made, file):
                return made
    return made.copy_(tensor)


def _find(maps: list[_Mapping], tensor: Tensor) -> _Mapping | None:
    if tensor.device.type != "cpu" or tensor.layout != torch.strided or not tensor.numel():
        return None
    begin = tensor.data_ptr()
    place = bisect_right(maps, begin, key=lambda each: each.start) - 1
    if place < 0 or begin + tensor.numel() * tensor.element_size() > maps[place].stop:
        return None
    return maps[place]


def _mappings() -> list[_Mapping]:
    """List the parts of files that are mapped into this process; none where no system says it."""
    try:
        lines = _MAPS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        span, _, offset, device, inode, *path = line.split(maxsplit=5)
        if path and path[0].startswith("/"):
            start, stop = (int(part, 16) for part in span.split("-"))
            major, minor = (int(part, 16) for part in device.split(":"))
            number = os.makedev(major, minor)
            found.append(_Mapping(start, stop, int(offset, 16), number, int(inode), path[0]))
    return found
