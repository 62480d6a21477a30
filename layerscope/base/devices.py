"""The one place where a device is named.

>>> from layerscope.base import devices
>>> str(devices.resolve("cpu"))
'cpu'
"""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any, Self

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from layerscope.base.undoing import Undo
from layerscope.base.validate import described
from layerscope.errors import OptionError

__all__ = [
    "Quiet",
    "arithmetic",
    "autocast",
    "chance",
    "describe",
    "exhausted",
    "hoarding",
    "multiplies_bfloat16",
    "precision",
    "present",
    "random_states",
    "release",
    "resolve",
    "same_states",
    "send",
    "short_attention",
    "spare_bytes",
    "threads",
    "trim",
]

_SPARE_BYTES = 4 * 2**30

# Of malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4


def present() -> list[str]:
    """List the devices of this machine, the one that ``"auto"`` takes first."""
    found = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    found = ["cuda"] if len(found) == 1 else found
    return [*found, *(["mps"] if torch.backends.mps.is_available() else []), "cpu"]


def resolve(device: str | torch.device = "auto") -> torch.device:
    """Turn the user's choice of device into one that is there.

    Parameters
    ----------
    device : str or torch.device
        ``"auto"`` takes the first of cuda, mps and cpu that is present.

    Raises
    ------
    OptionError
        If the device is unknown, or not present on this machine.
    """
    present: dict[str, Callable[[], bool]] = {
        "cuda": torch.cuda.is_available,
        "mps": torch.backends.mps.is_available,
    }
    if device == "auto":
        return torch.device(next((name for name, there in present.items() if there()), "cpu"))
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError):
        raise OptionError(
            f"{described(device)} is not a device; use 'auto', 'cpu', 'cuda', 'cuda:1' or 'mps'."
        ) from None
    # Other kinds, such as xpu, each have a module in torch; meta, which holds no values, has none.
    backend = getattr(torch, chosen.type, None)
    there = present.get(chosen.type) or getattr(backend, "is_available", None)
    if there is None or not there():
        raise OptionError(
            f"device {str(device)!r} is not present on this machine; use 'auto' or 'cpu'."
        )
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise OptionError(
            f"device {str(device)!r} is not present: this machine has "
            f"{torch.cuda.device_count()} CUDA device(s), counted from 0."
        )
    return chosen


def describe(device: torch.device) -> str:
    """Name the device as a person would, such as ``"NVIDIA H100 (cuda:0)"``."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} ({device})"
    if device.type == "cpu":
        return f"cpu ({torch.get_num_threads()} threads)"
    return str(device)


class threads(Undo):  # noqa: N801
    """Compute with so many threads on the CPU, on which the last bits depend; None: as it is."""

    def __init__(self, count: int | None) -> None:
        super().__init__()
        self._count = count

    def begin(self) -> None:
        """Set the number."""
        before = torch.get_num_threads()
        self.add(lambda: torch.set_num_threads(before))
        torch.set_num_threads(self._count or before)


# Of torch.backends; what a version of torch does not have is left out.
_SETTINGS = (
    "fp32_precision", "mkldnn.enabled", "mkldnn.deterministic", "mkldnn.fp32_precision",
    "mkldnn.matmul.fp32_precision", "mkldnn.conv.fp32_precision",
)  # fmt: skip
_CUDA_SETTINGS = (
    "cuda.matmul.fp32_precision", "cuda.matmul.allow_tf32", "cudnn.allow_tf32", "cudnn.enabled",
    "cudnn.benchmark", "cudnn.deterministic", "cudnn.conv.fp32_precision",
    "cudnn.rnn.fp32_precision", "cuda.matmul.allow_fp16_reduced_precision_reduction",
    "cuda.matmul.allow_bf16_reduced_precision_reduction",
)  # fmt: skip
_ATTENTION = ("flash", "mem_efficient", "math", "cudnn")
_ENVIRONMENT = (
    "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "ONEDNN_MAX_CPU_ISA", "NVIDIA_TF32_OVERRIDE",
    "CUBLAS_WORKSPACE_CONFIG",
)  # fmt: skip


def arithmetic(device: torch.device) -> dict[str, str]:
    """Settings of torch, and of the machine, that the last bits of a number hang on.

    Those of an ``autocast`` that is on where this is called are among them.
    """
    found = {
        "processor": torch.backends.cpu.get_cpu_capability(),
        "matmul": _told(torch.get_float32_matmul_precision),
        "deterministic": str(torch.are_deterministic_algorithms_enabled()),
        "default_dtype": str(torch.get_default_dtype()),
        "autocast": "",
    }
    if torch.is_autocast_enabled(device.type):
        found["autocast"] = str(torch.get_autocast_dtype(device.type))
    names = list(_SETTINGS)
    if device.type == "cuda":
        names += _CUDA_SETTINGS
        found |= {"gpu": torch.cuda.get_device_name(device), "cuda": str(torch.version.cuda)}
        found["cudnn"] = str(torch.backends.cudnn.version())  # type: ignore[no-untyped-call]
        for name in _ATTENTION:
            found[name] = _told(getattr(torch.backends.cuda, f"{name}_sdp_enabled", str))
    found |= {name: _told(lambda name=name: _setting(name)) for name in names}  # type: ignore[misc]
    return found | {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}


def _setting(name: str) -> str:
    value: Any = torch.backends
    for part in name.split("."):
        value = getattr(value, part, "")
    # What is not said is the full precision, and is said once somebody has set it back.
    return "ieee" if value == "none" else str(value)


def _told(ask: Callable[[], object]) -> str:
    try:
        return str(ask())
    except RuntimeError:
        return "set in two ways"  # torch does not say then; each way is asked for itself as well


def autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    """Let operators run in a shorter type where that is usual; nothing where `dtype` is None."""
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a tensor of the CPU to a device without waiting for what the device is at.

    CUDA has read memory that is not pinned before the call returns, so that it may be written to
    afterwards. No other device promises that.
    """
    return tensor.to(device, non_blocking=device.type == "cuda")


def short_attention(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    """Let attention over some hundreds of tokens be trained in the form that is fastest.

    On the CPU, in a shorter type, torch's fused form trains slower than plain products of matrices
    (a ViT with 16 tokens by half, one with 64 by a third), which need memory for every pair of
    tokens. Elsewhere nothing is done.
    """
    if device.type != "cpu" or dtype is None:
        return nullcontext()
    return sdpa_kernel(SDPBackend.MATH)


def precision(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """Turn the user's choice of type for `autocast` into torch's.

    Raises
    ------
    OptionError
        If it is not one that autocast knows.
    """
    known = {"bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype is None or any(dtype is each for each in known.values()):
        return dtype  # type: ignore[return-value]
    if not isinstance(dtype, str) or dtype not in known:
        raise OptionError(
            f"dtype is {described(dtype)}; use 'bfloat16' or 'float16' to compute in a shorter "
            "type, or leave it out to compute as the network is."
        )
    return known[dtype]


def multiplies_bfloat16(device: torch.device) -> bool:
    """Tell whether a device has instructions for bfloat16, so that it is faster than float32."""
    if device.type == "cuda":
        # Not is_bf16_supported(), which counts emulation.
        return torch.cuda.get_device_capability(device) >= (8, 0)
    tell = getattr(torch.cpu, "get_capabilities", dict)  # older versions of torch can't
    known: Mapping[str, Any] = tell() if device.type == "cpu" else {}
    return any(known.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def exhausted(error: BaseException) -> bool:
    """Tell whether an error says that a device, or the machine, is out of memory."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    # The CPU's allocator, and mps, raise nothing more special.
    words = ("DefaultCPUAllocator: can't allocate memory", "out of memory")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


def spare_bytes(device: torch.device) -> int:
    """Memory that may be filled with what is worth remembering, in bytes."""
    if device.type == "cuda":
        return min(_SPARE_BYTES, torch.cuda.mem_get_info(device)[0] // 4)
    with suppress(OSError, LookupError, ValueError):  # Linux alone says so in a file
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        sizes = {line.partition(":")[0]: line.split()[1] for line in lines}
        return min(_SPARE_BYTES, int(sizes["MemAvailable"]) * 1024 // 4)
    return _SPARE_BYTES


def trim() -> None:
    """Give memory of freed tensors back to the system, where the C library keeps it for later.

    glibc keeps pieces of up to 32 MiB, which adds up to several times of what is in use.
    """
    with suppress(OSError, AttributeError, TypeError):  # other C libraries have nothing like it
        ctypes.CDLL(None).malloc_trim(0)


class hoarding(Undo):  # noqa: N801
    """Let the C library keep the memory of freed tensors for the next ones; return it afterwards.

    glibc asks the system anew for each piece above 32 MiB, and the system clears every page of it,
    which takes up to a third of a pass over large batches. Elsewhere nothing is done.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._device = device

    def begin(self) -> None:
        """Set the limits."""
        set_limit: Callable[[int, int], int] | None = None
        with suppress(OSError, AttributeError, TypeError):  # other C libraries have nothing like it
            set_limit = ctypes.CDLL(None).mallopt if self._device.type == "cpu" else None
        if set_limit is None:
            return
        self.add(trim)
        # What glibc tends to by itself: where it starts from is slower for everyone afterwards.
        self.add(lambda: set_limit(_M_TRIM_THRESHOLD, 64 * 2**20))
        self.add(lambda: set_limit(_M_MMAP_THRESHOLD, 32 * 2**20))
        self.add(lambda: set_limit(_M_MMAP_MAX, 65_536))
        set_limit(_M_MMAP_MAX, 0)
        set_limit(_M_TRIM_THRESHOLD, 2**31 - 1)


def release(device: torch.device) -> None:
    """Give memory that is free back to the device, so that larger pieces fit again."""
    gc.collect()
    trim()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def random_states() -> list[torch.Tensor]:
    """Return the states of torch's global generators, of the CPU and of devices in use."""
    states = [torch.get_rng_state()]
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        states += torch.cuda.get_rng_state_all()
    if torch.backends.mps.is_available():
        states.append(torch.mps.get_rng_state())
    return states


def same_states(before: list[torch.Tensor], after: list[torch.Tensor]) -> bool:
    """Tell whether no random number was drawn between two calls of `random_states`."""
    return len(before) == len(after) and all(map(torch.equal, before, after))


class Quiet(Undo):
    """No gradients; afterwards everything that PyTorch keeps for a thread is as it was.

    That is the mode of gradients, autocast, and modes that watch operators.
    """

    def begin(self) -> Self:
        """Switch gradients off."""
        gradients = torch.is_grad_enabled()
        self.add(lambda: torch.set_grad_enabled(gradients))
        self.add(_autocast_as_now())
        self.add(_modes_as_now())
        torch.set_grad_enabled(False)
        return self


def _autocast_as_now() -> Callable[[], None]:
    """Return what brings autocast back to where it is now."""
    kinds = ("cpu", "cuda", "mps")
    known = {
        kind: (torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in kinds
    }
    cached, depth = torch.is_autocast_cache_enabled(), _autocast_depth()

    def restore() -> None:
        for kind, (enabled, dtype) in known.items():
            torch.set_autocast_enabled(kind, enabled)
            torch.set_autocast_dtype(kind, dtype)
        torch.set_autocast_cache_enabled(cached)
        while _autocast_depth() > depth:
            if torch.autocast_decrement_nesting() == 0:
                # It remembers cast weights until the outermost ends.
                torch.clear_autocast_cache()

    return restore


def _autocast_depth() -> int:
    torch.autocast_increment_nesting()
    return int(torch.autocast_decrement_nesting())


def _modes_as_now() -> Callable[[], None]:
    """Return what ends modes that were entered later and are still on."""
    kinds: tuple[tuple[Any, Any], ...] = (
        (_get_current_function_mode_stack, torch.overrides._pop_mode),
        (_get_current_dispatch_mode_stack, torch.utils._python_dispatch._pop_mode),
    )
    depths = [len(stack()) for stack, _ in kinds]

    def restore() -> None:
        for (stack, pop), depth in zip(kinds, depths, strict=True):
            while len(stack()) > depth:
                try:
                    stack()[-1].__exit__(None, None, None)
                except IndexError:  # it was interrupted half-way through this
                    pop()

    return restore


class chance(Undo):  # noqa: N801
    """Lend torch's global generators, of the CPU and of `device`; afterwards they are as before.

    The block is given a function that takes a seed and sets them all to it.

    Examples
    --------
    >>> with chance(torch.device("cpu")) as seed:
    ...     seed(7)
    ...     one = torch.rand(3)
    >>> bool((one == torch.rand(3, generator=torch.Generator().manual_seed(7))).all())
    True
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._device = device

    def begin(self) -> Callable[[int], None]:
        """Note where the generators are."""
        generators = [torch.default_generator]
        if self._device.type == "mps":
            generators.append(torch.mps._get_default_mps_generator())
        elif self._device.type != "cpu":
            backend = torch.get_device_module(self._device)
            backend.init()  # the generators are there from then on
            at = self._device.index
            generators.append(
                backend.default_generators[backend.current_device() if at is None else at]
            )
        for generator in generators:
            before = generator.get_state()
            self.add(lambda which=generator, state=before: which.set_state(state))  # type: ignore[misc]

        def seed(number: int) -> None:
            for generator in generators:
                generator.manual_seed(number)

        return seed
