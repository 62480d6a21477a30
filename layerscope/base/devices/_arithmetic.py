"""All that the last bits of a number hang on besides the code: machine, libraries, settings."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch

Setting = str | list[str]

# Of torch.backends; what a version of torch does not have is left out.
_SETTINGS = (
    "fp32_precision", "mkldnn.enabled", "mkldnn.deterministic", "mkldnn.fp32_precision",
    "mkldnn.matmul.fp32_precision", "mkldnn.conv.fp32_precision", "mkldnn.rnn.fp32_precision",
)  # fmt: skip
# Not cudnn.benchmark, which is off while a network is lent.
_CUDA_SETTINGS = (
    "cuda.matmul.fp32_precision", "cuda.matmul.allow_tf32", "cudnn.allow_tf32", "cudnn.enabled",
    "cudnn.deterministic", "cudnn.fp32_precision", "cudnn.conv.fp32_precision",
    "cudnn.rnn.fp32_precision", "cuda.matmul.allow_fp16_reduced_precision_reduction",
    "cuda.matmul.allow_bf16_reduced_precision_reduction", "cuda.matmul.allow_fp16_accumulation",
)  # fmt: skip
_ATTENTION = ("flash", "mem_efficient", "math", "cudnn")
_ENVIRONMENT = (
    "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA",
    "ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE", "TORCH_LINEAR_FLATTEN_3D",
)  # fmt: skip
_CUDA_ENVIRONMENT = (
    "NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "CUBLAS_WORKSPACE_CONFIG",
    "CUBLASLT_WORKSPACE_SIZE", "TORCH_BLAS_PREFER_CUBLASLT", "DISABLE_ADDMM_CUDA_LT",
)  # fmt: skip
_NUMERIC = re.compile(r"avx|amx|fma|f16c|neon|sve|sme|bf16|fp16|i8mm|dot|rdm|vsx|vxe")
"""Features of processors with which sums and products are formed otherwise."""
_LIBRARIES = {
    "BLAS": r"BLAS_INFO=(\w+)",
    "MKL": r"Math Kernel Library Version (\S+)",
    "oneDNN": r"MKL-DNN (v\S+)",
}


def arithmetic(device: torch.device) -> dict[str, Setting]:
    """Tell what the last bits of a number hang on: machine, libraries and settings of torch.

    Those of an ``autocast`` that is on where this is called are among them. Cards of one kind are
    one: the number of a device does not count.

    Returns
    -------
    dict of str to str or list of str
        By names that a message can show. Values are plain, and the same in every process.
    """
    found: dict[str, Setting] = {
        **_processor(),
        **_libraries(),
        "matmul precision": _read(torch.get_float32_matmul_precision),
        "deterministic algorithms": _switch(torch.are_deterministic_algorithms_enabled()),
        "default type": str(torch.get_default_dtype()),
        "autocast": _autocast(device),
        "denormal numbers": "flushed to 0" if _flushes() else "kept",
        "fast path of transformer layers": _switch(torch.backends.mha.get_fastpath_enabled()),
    }
    for name in _ATTENTION:  # which the CPU's attention minds as well
        ask: Callable[[], Any] = getattr(torch.backends.cuda, f"{name}_sdp_enabled", str)
        found[f"attention by {name}"] = _read(lambda ask=ask: _switch(ask()))  # type: ignore[misc]
    names, environment = list(_SETTINGS), list(_ENVIRONMENT)
    if device.type == "cuda":
        names += _CUDA_SETTINGS
        environment += _CUDA_ENVIRONMENT
        found |= _cuda(device)
    elif device.type == "mps":
        found["card"] = _read(getattr(torch.backends.mps, "get_name", str))
    found |= {f"torch.backends.{name}": _read(lambda name=name: _setting(name)) for name in names}  # type: ignore[misc]
    return found | {name: os.environ[name] for name in environment if name in os.environ}


def _processor() -> dict[str, Setting]:
    # Older versions of torch can't tell more than the first.
    known: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    numeric = sorted(name for name, there in known.items() if there is True and _is_numeric(name))
    return {
        "processor instructions": torch.backends.cpu.get_cpu_capability(),
        "processor features": numeric,
        # Intel's library takes other ways on the processors of others.
        "processor maker": str(known.get("cpu_name", "")).partition(" ")[0],
    }


def _is_numeric(feature: str) -> bool:
    return bool(_NUMERIC.search(feature))


def _libraries() -> dict[str, Setting]:
    built = torch.__config__.show()
    found = {name: re.search(pattern, built) for name, pattern in _LIBRARIES.items()}
    return {name: match.group(1) for name, match in found.items() if match}


def _cuda(device: torch.device) -> dict[str, Setting]:
    major, minor = torch.cuda.get_device_capability(device)
    blas = getattr(torch.backends.cuda, "preferred_blas_library", str)
    return {
        "card": torch.cuda.get_device_name(device),
        "compute capability": f"{major}.{minor}",
        "CUDA": str(torch.version.cuda or torch.version.hip),
        "cuDNN": str(torch.backends.cudnn.version()),  # type: ignore[no-untyped-call]
        "preferred BLAS": _read(blas).rpartition(".")[2],
    }


def _autocast(device: torch.device) -> str:
    on = torch.is_autocast_enabled(device.type)
    return str(torch.get_autocast_dtype(device.type)) if on else "off"


def _flushes() -> bool:
    """Tell whether this thread takes numbers below the least normal one for 0."""
    least = torch.tensor([2.0**-1022], dtype=torch.float64)
    return not bool((least / 2).any())


def _switch(on: object) -> str:
    return "on" if on else "off"


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
