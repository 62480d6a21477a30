"""The distributions that parameters are drawn from, each a function of (tensor, generator)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

__all__ = [
    "INITIALIZERS",
    "Constant",
    "Initializer",
    "Normal",
    "TruncatedNormal",
    "Uniform",
    "draw",
    "expand_rules",
    "fans",
    "scale",
    "scheme",
]


@dataclass(frozen=True)
class TruncatedNormal:
    """Normal with mean 0 and standard deviation `std` before cutting, redrawn beyond ±2 `std`."""

    std: float

    def __call__(self, tensor: Tensor, generator: Generator) -> None:
        """Draw every element of `tensor` anew, in place."""
        nn.init.trunc_normal_(
            tensor, 0.0, self.std, -2 * self.std, 2 * self.std, generator=generator
        )


@dataclass(frozen=True)
class Normal:
    """Normal with mean 0 and standard deviation `std`."""

    std: float

    def __call__(self, tensor: Tensor, generator: Generator) -> None:
        """Draw every element of `tensor` anew, in place."""
        nn.init.normal_(tensor, 0.0, self.std, generator=generator)


@dataclass(frozen=True)
class Uniform:
    """Uniform on [−`bound`, `bound`]."""

    bound: float

    def __call__(self, tensor: Tensor, generator: Generator) -> None:
        """Draw every element of `tensor` anew, in place."""
        nn.init.uniform_(tensor, -self.bound, self.bound, generator=generator)


@dataclass(frozen=True)
class Constant:
    """Every element equal to `value`."""

    value: float

    def __call__(self, tensor: Tensor, generator: Generator) -> None:
        """Draw every element of `tensor` anew, in place."""
        del generator  # nothing is drawn
        nn.init.constant_(tensor, self.value)


Initializer = TruncatedNormal | Normal | Uniform | Constant

ZERO, ONE = Constant(0.0), Constant(1.0)

INITIALIZERS: Mapping[str, str] = {
    "lecun-truncated": "normal, σ = 1/√fan_in, cut at ±2σ; biases 0",
    "lecun-normal": "normal, σ = 1/√fan_in; biases 0 (LeCun et al. 1998)",
    "he-normal": "normal, σ = √(2/fan_in); biases 0 (He et al. 2015)",
    "glorot-uniform": "uniform within ±√(6/(fan_in + fan_out)); biases 0 (Glorot & Bengio 2010)",
    "torch-default": "uniform within ±1/√fan_in, biases too (torch.nn.Linear)",
}


def scheme(name: str, fan_in: int, fan_out: int) -> tuple[Initializer, Initializer]:
    """Look up in `INITIALIZERS` a weight with these fans, and its bias."""
    schemes: dict[str, tuple[Initializer, Initializer]] = {
        "lecun-truncated": (TruncatedNormal(math.sqrt(1 / fan_in)), ZERO),
        "lecun-normal": (Normal(math.sqrt(1 / fan_in)), ZERO),
        "he-normal": (Normal(math.sqrt(2 / fan_in)), ZERO),
        "glorot-uniform": (Uniform(math.sqrt(6 / (fan_in + fan_out))), ZERO),
        "torch-default": (Uniform(math.sqrt(1 / fan_in)), Uniform(math.sqrt(1 / fan_in))),
    }
    return schemes[name]


def fans(module: nn.Module) -> tuple[int, int]:
    """Inputs to and outputs of one element of a linear or convolutional layer, fan_in first."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    field = math.prod(weight.shape[2:])
    return weight.shape[1] * field, weight.shape[0] * field


def scale(initializer: Initializer, factor: float) -> Initializer:
    """The distribution of `factor` times what `initializer` draws."""
    match initializer:
        case TruncatedNormal(std):
            return TruncatedNormal(factor * std)
        case Normal(std):
            return Normal(factor * std)
        case Uniform(bound):
            return Uniform(factor * bound)
        case Constant(value):
            return Constant(factor * value)


Rule = Mapping[str, Initializer] | tuple[Initializer, Initializer] | None
"""What a family says of one module: by the name of its parameters, or of its weight and bias."""


def expand_rules(model: nn.Module, rules: Mapping[str, Rule]) -> dict[str, Initializer]:
    """Spell rules by module out into one initialiser per parameter, in order of registration.

    Parameters
    ----------
    model : nn.Module
    rules : mapping
        By name of the module. Normalisation layers need none: they start as the identity, weight
        1 and bias 0.
    """
    declared: dict[str, Initializer] = {}
    for name, _ in model.named_parameters():
        path, _, own = name.rpartition(".")
        rule = rules.get(path)
        if rule is None:
            rule = (ONE, ZERO)
            assert isinstance(model.get_submodule(path), (nn.LayerNorm, nn.BatchNorm2d)), name
        if isinstance(rule, tuple):
            rule = {"weight": rule[0], "bias": rule[1]}
        declared[name] = rule[own]
    return declared


def draw(model: nn.Module, initializers: Mapping[str, Initializer], generator: Generator) -> None:
    """Draw every parameter anew, in order of registration."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            initializers[name](parameter, generator)
