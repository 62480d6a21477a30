"""VGG networks: the paper's for small images, torchvision's for large ones."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from layerscope.base.extras import extra
from layerscope.errors import OptionError, choose
from layerscope.zoo.models._family import Config, Family, Place
from layerscope.zoo.models._images import check_width, resolve_form, scale_channels, width_suffix
from layerscope.zoo.models._initializers import (
    INITIALIZERS,
    ZERO,
    Initializer,
    Normal,
    expand_rules,
    fans,
    scheme,
)

__all__ = ["FAMILY", "VGG", "VGGConfig"]

_BLOCKS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
_CHANNELS = (64, 128, 256, 512, 512)


@dataclass(frozen=True)
class VGGConfig(Config):
    """A VGG network (Simonyan & Zisserman 2015).

    Parameters
    ----------
    depth : {11, 13, 16, 19}
        Layers with weights.
    norm : {"none", "batch"}
        ``"batch"`` puts BatchNorm after every convolution.
    width : float
        Multiplies every number of channels and units.
    dropout : float
        Share of the units that is dropped after fc1 and fc2, in [0, 1); torchvision's default is
        0.5, the paper's headline networks have none.
    form : {"auto", "cifar", "imagenet"}
        ``"cifar"``: `VGG`, with 512 units in fc1 and fc2. ``"imagenet"``: torchvision's class,
        with 7×7 pooling, 4096 units, and torchvision's names. ``"auto"`` takes the latter for
        images of 64 pixels and more.
    inputs, classes, removed
        As in `FCNConfig`; the images may have any size in the form ``"cifar"``.
    initializer : str
        One of `INITIALIZERS`; ``"torchvision"``: convolutions normal, σ = √(2/fan_out), linear
        layers normal, σ = 0.01, biases 0; ``"auto"``: with BatchNorm as torchvision, without it
        the paper's, ``"lecun-truncated"``.
    """

    family: ClassVar[str] = "vgg"
    pattern: ClassVar[re.Pattern[str]] = re.compile(
        r"vgg(?P<depth>11|13|16|19)(?P<norm>-bn)?(?:-w(?P<width>\d+(?:\.\d+)?))?"
    )

    depth: int = 11
    norm: str = "none"
    width: float = 1.0
    dropout: float = 0.0
    form: str = "auto"
    inputs: tuple[int, ...] = (3, 32, 32)
    classes: int = 10
    initializer: str = "auto"
    removed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.depth not in _BLOCKS:
            raise OptionError(f"depth is {self.depth}; VGG has 11, 13, 16 or 19 layers.")
        choose(self.norm, ("none", "batch"), "norm")
        choose(self.initializer, ("auto", "torchvision", *INITIALIZERS), "initializer")
        check_width(self.width)
        self._check_positive()
        self._check_fraction("dropout")
        self._check_image()
        if resolve_form(self.form, self.inputs) == "imagenet":
            self._check_image(3, "torchvision's VGG")

    @property
    def name(self) -> str:
        """The short name, such as ``"vgg16-bn-w0.5"``."""
        return f"vgg{self.depth}{'-bn' * (self.norm == 'batch')}{width_suffix(self.width)}"

    @classmethod
    def _value(cls, field: str, text: str) -> Any:
        if field == "norm":
            return "batch"
        return float(text) if field == "width" else int(text)


class VGG(nn.Module):
    """VGG with the layers that the paper names: s1b1 … s5b2, fc1, fc2, final.

    With BatchNorm, s1b1 holds ``s1b1.conv`` and ``s1b1.bn``, and so on.

    Parameters
    ----------
    config : VGGConfig
    """

    def __init__(self, config: VGGConfig) -> None:
        super().__init__()
        before, height, width = config.inputs
        self.blocks = _BLOCKS[config.depth]
        for name, stage in _layer_names(self.blocks):
            channels = scale_channels(_CHANNELS[stage], config.width)
            layer: nn.Module = nn.Conv2d(before, channels, 3, padding=1)
            if config.norm == "batch":
                both = OrderedDict(conv=layer, bn=nn.BatchNorm2d(channels))
                layer = nn.Sequential(both)
            self.add_module(name, layer)
            before = channels
        units = scale_channels(512, config.width)
        # Five times halved, rounding up.
        self.fc1 = nn.Linear(before * -(-height // 32) * -(-width // 32), units)
        self.fc2 = nn.Linear(units, units)
        self.final = nn.Linear(units, config.classes)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits of shape ``(n, classes)`` for images of shape ``(n, channels, height, width)``."""
        values, last = inputs, 0
        for name, stage in _layer_names(self.blocks):
            if stage != last:
                values, last = _halve(values), stage
            values = torch.relu(self.get_submodule(name)(values))
        values = _halve(values).flatten(1)
        values = self.dropout(torch.relu(self.fc1(values)))
        values = self.dropout(torch.relu(self.fc2(values)))
        output: Tensor = self.final(values)
        return output


def _layer_names(blocks: tuple[int, ...]) -> Iterator[tuple[str, int]]:
    for stage, count in enumerate(blocks):
        for block in range(count):
            yield f"s{stage + 1}b{block + 1}", stage


def _halve(values: Tensor) -> Tensor:
    # Rounding up lets images of 28 pixels through; those of 32 are halved as ever.
    return functional.max_pool2d(values, 2, ceil_mode=True)


def _network(config: VGGConfig) -> nn.Module:
    if resolve_form(config.form, config.inputs) == "cifar":
        return VGG(config)
    with extra("zoo", "a VGG network of torchvision's class"):
        from torchvision.models import vgg

    plan: list[str | int] = []
    for count, channels in zip(_BLOCKS[config.depth], _CHANNELS, strict=True):
        plan += [*[scale_channels(channels, config.width)] * count, "M"]
    features = vgg.make_layers(plan, batch_norm=config.norm == "batch")
    model: nn.Module = vgg.VGG(features, config.classes, init_weights=False, dropout=config.dropout)
    if config.width != 1:
        units, classifier = scale_channels(4096, config.width), model.get_submodule("classifier")
        assert isinstance(classifier, nn.Sequential)
        classifier[0] = nn.Linear(scale_channels(512, config.width) * 7 * 7, units)
        classifier[3] = nn.Linear(units, units)
        classifier[6] = nn.Linear(units, config.classes)
    return model


def _initializers(model: nn.Module, config: VGGConfig) -> dict[str, Initializer]:
    wanted = config.initializer
    if wanted == "auto":
        wanted = "torchvision" if config.norm == "batch" else "lecun-truncated"

    def rule(module: nn.Module) -> tuple[Initializer, Initializer]:
        fan_in, fan_out = fans(module)
        if wanted != "torchvision":
            return scheme(wanted, fan_in, fan_out)
        return Normal((2 / fan_out) ** 0.5 if isinstance(module, nn.Conv2d) else 0.01), ZERO

    weighty = (nn.Conv2d, nn.Linear)
    return expand_rules(
        model, {name: rule(m) for name, m in model.named_modules() if isinstance(m, weighty)}
    )


def _place(model: nn.Module, leaf: str) -> Place:
    if not isinstance(model, VGG):
        leaf = _paper_name(model, leaf)
    block = leaf.partition(".")[0]
    stage = "fc" if block in ("fc1", "fc2") else block.partition("b")[0]
    return leaf, block, stage


def _paper_name(model: nn.Module, leaf: str) -> str:
    """Name in `VGG` of a layer of torchvision's VGG."""
    part, _, index = leaf.partition(".")
    if part == "classifier":
        return {"0": "fc1", "3": "fc2", "6": "final"}[index]
    stage, block = 1, 0
    features = model.get_submodule("features")
    normed = any(isinstance(module, nn.BatchNorm2d) for module in features.children())
    for name, module in features.named_children():
        if isinstance(module, nn.MaxPool2d):
            stage, block = stage + 1, 0
        block += isinstance(module, nn.Conv2d)
        if name == index:
            break
    kind = "bn" if isinstance(features.get_submodule(index), nn.BatchNorm2d) else "conv"
    return f"s{stage}b{block}{f'.{kind}' * normed}"


FAMILY = Family(
    config=VGGConfig,
    form="vggDEPTH[-bn][-wWIDTH]",
    example="vgg16-bn-w0.5",
    about="VGG 11, 13, 16 or 19, here with BatchNorm and half the channels",
    network=_network,
    initializers=_initializers,
    place=_place,
)
