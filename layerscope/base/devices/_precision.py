"""Types of numbers that a device computes in."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from layerscope.base import validate
from layerscope.errors import OptionError


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
            f"dtype is {validate.describe(dtype)}; use 'bfloat16' or 'float16' to compute in a "
            "shorter type, or leave it out to compute as the network is."
        )
    return known[dtype]


def autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    """Let operators run in a shorter type where that is usual; nothing where `dtype` is None."""
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def double(tensor: Tensor) -> Tensor:
    """Convert to double precision, on the CPU where a device has none."""
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()


def multiplies_bfloat16(device: torch.device) -> bool:
    """Tell whether a device has instructions for bfloat16, so that it is faster than float32."""
    if device.type == "cuda":
        # Not is_bf16_supported(), which counts emulation.
        return torch.cuda.get_device_capability(device) >= (8, 0)
    tell = getattr(torch.cpu, "get_capabilities", dict)  # older versions of torch can't
    known: Mapping[str, Any] = tell() if device.type == "cpu" else {}
    return any(known.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def short_attention(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    """Let attention over some hundreds of tokens be trained in the form that is fastest.

    On the CPU, in a shorter type, torch's fused form trains slower than plain products of matrices
    (a ViT with 16 tokens by half, one with 64 by a third), which need memory for every pair of
    tokens. Elsewhere nothing is done.
    """
    if device.type != "cpu" or dtype is None:
        return nullcontext()
    return sdpa_kernel(SDPBackend.MATH)
