"""Networks by name and by configuration, each knowing what its parameters were drawn from.

>>> from layerscope import models
>>> net = models.build("fcn-3x256", seed=0)
>>> [name for name, _ in net.named_children()]
['layer1', 'layer2', 'layer3', 'layer4']
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Generator, Tensor, nn

from layerscope.errors import OptionError, choose

__all__ = [
    "FCN",
    "INITIALIZERS",
    "Constant",
    "FCNConfig",
    "Normal",
    "TruncatedNormal",
    "Uniform",
    "build",
    "configure",
    "describe",
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


def _linear_initializers(scheme: str, fan_in: int, fan_out: int) -> tuple[Initializer, Initializer]:
    zero = Constant(0.0)
    schemes: dict[str, tuple[Initializer, Initializer]] = {
        "lecun-truncated": (TruncatedNormal(math.sqrt(1 / fan_in)), zero),
        "lecun-normal": (Normal(math.sqrt(1 / fan_in)), zero),
        "he-normal": (Normal(math.sqrt(2 / fan_in)), zero),
        "glorot-uniform": (Uniform(math.sqrt(6 / (fan_in + fan_out))), zero),
        "torch-default": (Uniform(math.sqrt(1 / fan_in)), Uniform(math.sqrt(1 / fan_in))),
    }
    return schemes[scheme]


INITIALIZERS: Mapping[str, str] = {
    "lecun-truncated": "normal, σ = 1/√fan_in, cut at ±2σ; biases 0",
    "lecun-normal": "normal, σ = 1/√fan_in; biases 0 (LeCun et al. 1998)",
    "he-normal": "normal, σ = √(2/fan_in); biases 0 (He et al. 2015)",
    "glorot-uniform": "uniform within ±√(6/(fan_in + fan_out)); biases 0 (Glorot & Bengio 2010)",
    "torch-default": "uniform within ±1/√fan_in, biases too (torch.nn.Linear)",
}


@dataclass(frozen=True)
class FCNConfig:
    """A fully connected ReLU network.

    Parameters
    ----------
    depth : int
        Hidden layers; the output layer comes on top.
    width : int
        Units in each hidden layer.
    inputs : tuple of int
        Shape of one example; it is flattened.
    classes : int
        Number of outputs.
    initializer : str
        One of `INITIALIZERS`.
    """

    depth: int = 3
    width: int = 256
    inputs: tuple[int, ...] = (1, 28, 28)
    classes: int = 10
    initializer: str = "lecun-truncated"

    def __post_init__(self) -> None:
        choose(self.initializer, INITIALIZERS, "initializer")
        for name in ("depth", "width", "classes"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name} is {getattr(self, name)}; it must be at least 1.")

    @property
    def name(self) -> str:
        """The short name, such as ``"fcn-3x256"``."""
        return f"fcn-{self.depth}x{self.width}"


class FCN(nn.Module):
    """Fully connected ReLU network with layers ``layer1`` … ``layer{depth+1}``.

    Parameters
    ----------
    config : FCNConfig
    generator : torch.Generator
        Every parameter is drawn from it, in order, weight before bias.

    Attributes
    ----------
    initializers : dict of str to initializer
        By parameter name, the distribution that the parameter was drawn from.
    """

    def __init__(self, config: FCNConfig, generator: Generator) -> None:
        super().__init__()
        self.config = config
        self.initializers: dict[str, Initializer] = {}
        widths = [math.prod(config.inputs), *[config.width] * config.depth, config.classes]
        for index, (fan_in, fan_out) in enumerate(pairwise(widths), start=1):
            # skip_init: the layer's own random start would only be overwritten.
            layer: nn.Linear = nn.utils.skip_init(nn.Linear, fan_in, fan_out)  # type: ignore[no-untyped-call]
            weight, bias = _linear_initializers(config.initializer, fan_in, fan_out)
            with torch.no_grad():
                weight(layer.weight, generator)
                bias(layer.bias, generator)
            self.add_module(f"layer{index}", layer)
            self.initializers |= {f"layer{index}.weight": weight, f"layer{index}.bias": bias}

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits of shape ``(n, classes)`` for `inputs` of shape ``(n, …)``."""
        *hidden, last = self.children()
        values = inputs.flatten(1)
        for layer in hidden:
            values = torch.relu(layer(values))
        output: Tensor = last(values)
        return output


def build(network: str | FCNConfig | Mapping[str, Any], seed: int = 0, **options: Any) -> FCN:
    """Build a network with freshly drawn parameters.

    Parameters
    ----------
    network : str, FCNConfig or mapping
        A name such as ``"fcn-3x256"`` (3 hidden layers of 256), a configuration, or one as a
        mapping, as a run's manifest holds it.
    seed : int
        The parameters are drawn from a generator with this seed; the global one is not touched.
    **options
        Fields of the configuration, such as ``classes=100``.

    Raises
    ------
    OptionError
        If the name or an option is unknown.

    Examples
    --------
    >>> build("fcn-2x16", inputs=(4,), classes=3).config.name
    'fcn-2x16'
    """
    return FCN(configure(network, **options), torch.Generator().manual_seed(seed))


def describe(config: FCNConfig) -> dict[str, Any]:
    """The configuration as plain values for a manifest; `build` takes it back."""
    return {"family": "fcn", **asdict(config), "inputs": list(config.inputs)}


def configure(network: str | FCNConfig | Mapping[str, Any], **options: Any) -> FCNConfig:
    """Make a network's configuration out of its name and what differs from the defaults.

    Parameters and errors are those of `build`.

    Examples
    --------
    >>> configure("fcn-3x256", initializer="he-normal").initializer
    'he-normal'
    """
    if isinstance(network, FCNConfig):
        network = describe(network)
    if isinstance(network, str):
        match = re.fullmatch(r"fcn-(\d+)x(\d+)", network)
        if match is None:
            raise OptionError(
                f"there is no network {network!r}. There is: fcn-DEPTHxWIDTH, "
                "such as fcn-3x256 (3 hidden layers of 256 units)."
            )
        values: dict[str, Any] = {"depth": int(match[1]), "width": int(match[2])}
    else:
        values = dict(network)
        choose(values.pop("family", "fcn"), ["fcn"], "network family")
    values |= options
    for name in values:
        choose(name, FCNConfig.__dataclass_fields__, "network option")
    if "inputs" in values:
        values["inputs"] = tuple(values["inputs"])
    return FCNConfig(**values)
