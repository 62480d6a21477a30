"""Fully connected networks."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from layerscope.errors import choose
from layerscope.zoo.models._family import Config, Family, Place
from layerscope.zoo.models._initializers import (
    INITIALIZERS,
    Initializer,
    expand_rules,
    fans,
    scheme,
)

__all__ = ["FAMILY", "FCN", "FCNConfig"]


@dataclass(frozen=True)
class FCNConfig(Config):
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
    removed : tuple of str
        What `remove` has replaced by the identity.
    """

    family: ClassVar[str] = "fcn"
    pattern: ClassVar[re.Pattern[str]] = re.compile(r"fcn-(?P<depth>\d+)x(?P<width>\d+)")

    depth: int = 3
    width: int = 256
    inputs: tuple[int, ...] = (1, 28, 28)
    classes: int = 10
    initializer: str = "lecun-truncated"
    removed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        choose(self.initializer, INITIALIZERS, "initializer")
        self._check_positive("depth", "width")

    @property
    def name(self) -> str:
        """The short name, such as ``"fcn-3x256"``."""
        return f"fcn-{self.depth}x{self.width}"


class FCN(nn.Module):
    """Fully connected ReLU network with layers ``layer1`` … ``layer{depth+1}``.

    Parameters
    ----------
    config : FCNConfig
    """

    def __init__(self, config: FCNConfig) -> None:
        super().__init__()
        widths = [math.prod(config.inputs), *[config.width] * config.depth, config.classes]
        for index, (fan_in, fan_out) in enumerate(pairwise(widths), start=1):
            self.add_module(f"layer{index}", nn.Linear(fan_in, fan_out))

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits of shape ``(n, classes)`` for `inputs` of shape ``(n, …)``."""
        *hidden, last = self.children()
        values = inputs.flatten(1)
        for layer in hidden:
            values = torch.relu(layer(values))
        output: Tensor = last(values)
        return output


def _initializers(model: nn.Module, config: FCNConfig) -> dict[str, Initializer]:
    layers = model.named_children()
    return expand_rules(model, {name: scheme(config.initializer, *fans(m)) for name, m in layers})


def _place(_: nn.Module, leaf: str) -> Place:
    return leaf, leaf, leaf


FAMILY = Family(
    config=FCNConfig,
    form="fcn-DEPTHxWIDTH",
    example="fcn-3x256",
    about="fully connected: 3 hidden layers of 256 units",
    network=FCN,
    initializers=_initializers,
    place=_place,
)
