"""Types and settings that say how a device computes, down to the last bits."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from layerscope.base import validate
from layerscope.errors import OptionError

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


def arithmetic(device: torch.device) -> dict[str, str]:
    """Settings of torch, and of the machine, that the last bits of a number hang on.

    Those of an ``autocast`` that is on where this is called are among them.
    """
    found = {
        "processor": torch.backends.cpu.get_cpu_capability(),
        "matmul": _read(torch.get_float32_matmul_precision),
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
            found[name] = _read(getattr(torch.backends.cuda, f"{name}_sdp_enabled", str))
    found |= {name: _read(lambda name=name: _setting(name)) for name in names}  # type: ignore[misc]
    return found | {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}


def _setting(name: str) -> str:
    value: Any = torch.backends
    for part in name.split("."):
        value = getattr(value, part, "")
    # What is not said is the full precision, and is said once somebody has set it back.
    return "ieee" if value == "none" else str(value)


def _read(ask: Callable[[], object]) -> str:
    try:
        return str(ask())
    except RuntimeError:
        return "set in two ways"  # torch does not say then; each way is asked for itself as well
