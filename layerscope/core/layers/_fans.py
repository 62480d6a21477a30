"""Fan-ins: the number of elements of a weight that one output sees."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor, nn

__all__ = ["fan_ins"]

_CONVOLUTIONS = (nn.modules.conv._ConvNd, nn.modules.conv._ConvTransposeNd)


def fan_ins(
    tensors: Mapping[str, Tensor], module: nn.Module | None = None
) -> dict[str, tuple[float, ...]]:
    """Find the fan-in of every parameter of one module.

    Parameters
    ----------
    tensors : mapping of str to Tensor
        By the name that each has in the module, in its order.
    module : nn.Module, optional
        What holds them.

    Returns
    -------
    dict of str to tuple of float
        One number, or one for each of several equal sections along the first dimension.

    Examples
    --------
    >>> lstm = nn.LSTM(4, 1024)
    >>> found = fan_ins(dict(lstm.named_parameters()), lstm)
    >>> found["weight_ih_l0"], found["bias_hh_l0"]
    ((4.0,), (1024.0,))
    """
    matrices = {
        name: _of_matrix(tensor, module)
        for name, tensor in tensors.items()
        if tensor.ndim > 1 and not _is_attention_bias(name, module)
    }
    found: dict[str, tuple[float, ...]] = {}
    before = next(iter(matrices.values()), 1.0)
    for name in tensors:
        before = matrices.get(name, before)
        own = (before,) if name in matrices else _of_bias(name, matrices, module)
        found[name] = own or (before,)
    return found


def _of_matrix(weight: Tensor, module: nn.Module | None) -> float:
    shape = weight.shape
    if isinstance(module, _CONVOLUTIONS):
        if not module.transposed:
            return float(math.prod(shape[1:]))
        return shape[0] / module.groups * math.prod(module.kernel_size) / math.prod(module.stride)
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        return 1.0
    # Of transformers, which need not be installed: a linear layer whose weight is (in, out).
    if type(module).__name__ == "Conv1D" and shape[1:] == (getattr(module, "nf", None),):
        return float(shape[0])
    added = weight.ndim > 2 and shape[0] == 1 and not isinstance(module, nn.Bilinear)
    return 1.0 if added else float(math.prod(shape[1:]))


def _of_bias(
    name: str, matrices: Mapping[str, float], module: nn.Module | None
) -> tuple[float, ...]:
    """Fan-in of what is named after a weight; none where there is no such weight."""
    if isinstance(module, nn.MultiheadAttention):
        joint = matrices.get("in_proj_weight")
        parts = [joint or matrices.get(f"{part}_proj_weight", 1.0) for part in "qkv"]
        # The bias of queries, keys and values in a row; then what stands beside keys and values.
        of_name = {"in_proj_bias": tuple(parts), "bias_k": (parts[1],), "bias_v": (parts[2],)}
        return of_name.get(name, ())
    weight = name.replace("bias", "weight", 1)
    return (matrices[weight],) if weight in matrices else ()


def _is_attention_bias(name: str, module: nn.Module | None) -> bool:
    return isinstance(module, nn.MultiheadAttention) and name.startswith("bias_")
