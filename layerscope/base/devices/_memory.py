"""Memory of devices: how much may be used, how it is kept and given back."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from contextlib import suppress

import torch

from layerscope.base import memory
from layerscope.base.undoing import Undo

_SPARE_BYTES = 4 * 2**30
_STAGED = 32 * 2**20
"""Bytes of a tensor that is copied into pinned memory on its way to a card."""
_LARGE = 2**28
"""Bytes of a tensor in whose place smaller ones must not settle once it is freed."""

# Of malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4


def out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that a device, or the machine, is out of memory."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    # The CPU's allocator, and mps, raise nothing more special.
    words = ("DefaultCPUAllocator: can't allocate memory", "out of memory")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


def free_bytes(device: torch.device) -> int | None:
    """Memory that can still be taken on a device, in bytes; None where nobody says."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else memory.available()


def spare_bytes(device: torch.device) -> int:
    """Memory that may be filled with what is worth remembering, in bytes.

    Of a card a quarter of what is free; what PyTorch has reserved of it and does not use counts as
    free. Of the memory that programs share, 4 GiB at most.
    """
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return (torch.cuda.mem_get_info(device)[0] + unused) // 4
    known = memory.available()
    return _SPARE_BYTES if known is None else min(_SPARE_BYTES, known // 4)


def is_apart(device: torch.device) -> bool:
    """Tell whether a device works on while the program goes on, so that looking at values waits."""
    return device.type != "cpu"


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Move a tensor to a device without waiting for what the device is at.

    The tensor may be written to at once. Only CUDA promises that; others are waited for.
    """
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return _staged(tensor).to(device, non_blocking=True)


def write(into: torch.Tensor, values: torch.Tensor) -> None:
    """Copy values into a tensor, as `send` without waiting for the device that it is on.

    One value that stands for all, as an expanded tensor has it, is all that is sent.
    """
    if _is_constant(values) and values.shape == into.shape:
        into.fill_(values.as_strided((), ()))
        return
    apart = into.device.type == "cuda" and values.device.type == "cpu"
    into.copy_(_staged(values) if apart else values, non_blocking=apart)


def _is_constant(values: torch.Tensor) -> bool:
    """Recognise one value on the CPU that stands for several."""
    plain = values.is_cpu and values.layout == torch.strided and values.ndim > 0
    return plain and not any(values.stride())


def _staged(tensor: torch.Tensor) -> torch.Tensor:
    """Copy to memory that a card reads by itself, unless that is much.

    PyTorch keeps such memory until the card has read it, and then for the next. Of any other
    CUDA takes a copy before a call returns, for which it may first wait.
    """
    plain = type(tensor) in (torch.Tensor, torch.nn.Parameter) and tensor.layout == torch.strided
    if not plain or not 0 < tensor.nbytes <= _STAGED:
        return tensor
    try:
        # With the strides that it has on the device as well, on which bits may depend.
        return torch.empty_like(tensor, pin_memory=True).copy_(tensor)
    except RuntimeError:
        return tensor  # the system has no more memory that can be pinned


def trim() -> None:
    """Give memory of freed tensors back to the system, where the C library keeps it for later.

    glibc keeps pieces of up to 32 MiB, which adds up to several times of what is in use.
    """
    with suppress(OSError, AttributeError, TypeError):  # other C libraries have nothing like it
        ctypes.CDLL(None).malloc_trim(0)


class KeepMemory(Undo):
    """Let the C library keep the memory of freed tensors for the next ones; return it afterwards.

    glibc asks the system anew for each piece above 32 MiB, and the system clears every page of it,
    which takes up to a third of a pass over large batches. Elsewhere nothing is done.

    Nothing is kept before `fit` says how large tensors are. Logits of a large vocabulary are better
    asked for anew: smaller pieces would settle where they were, so that the next logits go
    elsewhere, and what is kept is up to four times as large.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._device = device
        self._large = False

    def fit(self, largest: int) -> None:
        """Begin to keep, small pieces only where the largest tensor has very many bytes."""
        set_limit: Callable[[int, int], int] | None = None
        with suppress(OSError, AttributeError, TypeError):  # other C libraries have nothing like it
            set_limit = ctypes.CDLL(None).mallopt if self._device.type == "cpu" else None
        if set_limit is None:
            return
        self._large = largest >= _LARGE
        self.add(trim)
        # What glibc tends to by itself: where it starts from is slower for everyone afterwards.
        self.add(lambda: set_limit(_M_TRIM_THRESHOLD, 64 * 2**20))
        self.add(lambda: set_limit(_M_MMAP_THRESHOLD, 32 * 2**20))
        self.add(lambda: set_limit(_M_MMAP_MAX, 65_536))
        if self._large:
            set_limit(_M_MMAP_THRESHOLD, 32 * 2**20)
            set_limit(_M_TRIM_THRESHOLD, 128 * 2**20)
        else:
            set_limit(_M_MMAP_MAX, 0)
            set_limit(_M_TRIM_THRESHOLD, 2**31 - 1)

    def settle(self) -> None:
        """Give back what has become free between pieces in use, where tensors are large."""
        if self._large:
            trim()


def release(device: torch.device) -> None:
    """Give memory that is free back to the device, so that larger pieces fit again."""
    gc.collect()
    trim()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
