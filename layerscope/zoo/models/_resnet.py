"""Residual networks: pre-activation ones of our own, and torchvision's."""

from __future__ import annotations

import re
from collections import OrderedDict
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
    scale,
    scheme,
)

__all__ = ["FAMILY", "ResNet", "ResNetConfig"]

_BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
_CHANNELS = (64, 128, 256, 512)
_EXPANSION = 4


@dataclass(frozen=True)
class ResNetConfig(Config):
    """A residual network (He et al. 2016).

    Parameters
    ----------
    depth : {18, 34, 50, 101, 152}
        Layers with weights on the longest path; from 50 on the blocks are bottlenecks.
    norm : {"batch", "none"}
        ``"none"`` leaves BatchNorm out, as the paper's headline networks do, and gives every
        convolution a bias instead.
    width : float
        Multiplies every number of channels.
    form : {"auto", "cifar", "imagenet"}
        ``"cifar"``: 3×3 stem. ``"imagenet"``: 7×7 stem of stride 2 and max-pooling. ``"auto"``
        takes the latter for images of 64 pixels and more.
    version : {"auto", "v1", "v2"}
        ``"v2"``: `ResNet`, pre-activation. ``"v1"``: torchvision's class and names, which has
        BatchNorm, the form imagenet and full width. ``"auto"`` takes it where it has these.
    inputs, classes, removed
        As in `FCNConfig`.
    initializer : str
        One of `INITIALIZERS`; ``"torchvision"``: convolutions normal, σ = √(2/fan_out), the
        linear layer as torch draws it; ``"auto"``: that with BatchNorm, and without it the
        paper's, ``"lecun-truncated"``.

    Notes
    -----
    Without normalisation, whatever the initialiser, the last convolution of each of the L blocks
    is drawn 1/√L as large. Blocks then add at most about 1/L each to the variance of what passes
    along the shortcuts, (1 + 1/L)^L < e in all, so that any depth trains. Fixup (Zhang et al. 2019)
    does the same with zeros there; this way re-randomising that layer still means something.
    """

    family: ClassVar[str] = "resnet"
    pattern: ClassVar[re.Pattern[str]] = re.compile(
        r"resnet(?P<depth>18|34|50|101|152)(?P<norm>-nonorm)?(?:-w(?P<width>\d+(?:\.\d+)?))?"
    )

    depth: int = 18
    norm: str = "batch"
    width: float = 1.0
    form: str = "auto"
    version: str = "auto"
    inputs: tuple[int, ...] = (3, 32, 32)
    classes: int = 10
    initializer: str = "auto"
    removed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.depth not in _BLOCKS:
            raise OptionError(f"depth is {self.depth}; ResNet has 18, 34, 50, 101 or 152 layers.")
        choose(self.norm, ("batch", "none"), "norm")
        choose(self.version, ("auto", "v1", "v2"), "version")
        choose(self.initializer, ("auto", "torchvision", *INITIALIZERS), "initializer")
        check_width(self.width)
        self._check_positive()
        self._check_image()
        resolve_form(self.form, self.inputs)
        if self.version == "v1" and not self._is_torchvision():
            raise OptionError(
                "version='v1' is torchvision's ResNet: norm='batch', width=1, form='imagenet' and "
                f"3 channels. This one has norm={self.norm!r}, width={self.width:g}, "
                f"form={self.shape!r} and {self.inputs[0]} channels; choose version='v2'."
            )

    @property
    def name(self) -> str:
        """The short name, such as ``"resnet18-nonorm-w0.25"``."""
        return f"resnet{self.depth}{'-nonorm' * (self.norm == 'none')}{width_suffix(self.width)}"

    @property
    def shape(self) -> str:
        """``"cifar"`` or ``"imagenet"``."""
        return resolve_form(self.form, self.inputs)

    @property
    def torchvision(self) -> bool:
        """True if the network is of torchvision's class."""
        return self.version != "v2" and self._is_torchvision()

    def _is_torchvision(self) -> bool:
        plain = self.norm == "batch" and self.width == 1 and self.inputs[0] == 3
        return plain and self.shape == "imagenet"

    @classmethod
    def _value(cls, field: str, text: str) -> Any:
        if field == "norm":
            return "none"
        return float(text) if field == "width" else int(text)


class ResNet(nn.Module):
    """Pre-activation residual network: stage0, blocks s1.1 … s4.2, final_norm, final_linear.

    He et al., *Identity Mappings in Deep Residual Networks*, 2016.

    Parameters
    ----------
    config : ResNetConfig
    """

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        norm = config.norm == "batch"
        large = config.shape == "imagenet"
        before = scale_channels(64, config.width)
        self.stage0 = nn.Conv2d(
            config.inputs[0],
            before,
            7 if large else 3,
            2 if large else 1,
            3 if large else 1,
            bias=not norm,
        )
        self.pool = nn.MaxPool2d(3, 2, padding=1) if large else nn.Identity()
        plan = zip(_BLOCKS[config.depth], _CHANNELS, strict=True)
        for stage, (count, channels) in enumerate(plan, start=1):
            blocks: OrderedDict[str, nn.Module] = OrderedDict()
            inner = scale_channels(channels, config.width)
            outer = inner if config.depth < 50 else _EXPANSION * inner
            for block in range(1, count + 1):
                stride = 2 if block == 1 and stage > 1 else 1
                blocks[str(block)] = _Block(before, inner, outer, stride, norm)
                before = outer
            self.add_module(f"s{stage}", nn.Sequential(blocks))
        self.final_norm = nn.BatchNorm2d(before) if norm else nn.Identity()
        self.final_linear = nn.Linear(before, config.classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits of shape ``(n, classes)`` for images of shape ``(n, channels, height, width)``."""
        values = self.pool(self.stage0(inputs))
        for stage in ("s1", "s2", "s3", "s4"):
            values = self.get_submodule(stage)(values)
        values = torch.relu(self.final_norm(values))
        output: Tensor = self.final_linear(values.mean((2, 3)))
        return output


class _Block(nn.Module):
    """Basic block where it ends as wide as it is inside, else bottleneck; ReLU before each conv."""

    def __init__(self, before: int, inner: int, outer: int, stride: int, norm: bool) -> None:
        super().__init__()
        # (channels in, out, size of the kernel, stride)
        convs = [(before, inner, 3, stride), (inner, inner, 3, 1)]
        if outer != inner:
            convs = [(before, inner, 1, 1), (inner, inner, 3, stride), (inner, outer, 1, 1)]
        for index, (ins, outs, size, step) in enumerate(convs, start=1):
            if norm:
                self.add_module(f"norm{index}", nn.BatchNorm2d(ins))
            conv = nn.Conv2d(ins, outs, size, step, padding=size // 2, bias=not norm)
            self.add_module(f"conv{index}", conv)
        self.count = len(convs)
        self.shortcut = (
            nn.Conv2d(before, outer, 1, stride, bias=not norm)
            if stride > 1 or before != outer
            else None
        )

    def forward(self, inputs: Tensor) -> Tensor:
        layers = dict(self.named_children())
        values, past = inputs, inputs
        for index in range(1, self.count + 1):
            if f"norm{index}" in layers:
                values = layers[f"norm{index}"](values)
            values = functional.relu(values)
            if index == 1 and self.shortcut is not None:
                past = self.shortcut(values)
            values = layers[f"conv{index}"](values)
        return past + values


def _network(config: ResNetConfig) -> nn.Module:
    if not config.torchvision:
        return ResNet(config)
    with extra("zoo", "a residual network of torchvision's class"):
        from torchvision.models import resnet

    block = resnet.BasicBlock if config.depth < 50 else resnet.Bottleneck
    model: nn.Module = resnet.ResNet(block, list(_BLOCKS[config.depth]), config.classes)
    return model


def _initializers(model: nn.Module, config: ResNetConfig) -> dict[str, Initializer]:
    wanted = config.initializer
    if wanted == "auto":
        wanted = "torchvision" if config.norm == "batch" else "lecun-truncated"
    last = f".conv{2 if config.depth < 50 else 3}"
    residual = sum(_BLOCKS[config.depth]) ** -0.5 if config.norm == "none" else 1.0

    def rule(name: str, module: nn.Module) -> tuple[Initializer, Initializer]:
        fan_in, fan_out = fans(module)
        if wanted != "torchvision":
            weight, bias = scheme(wanted, fan_in, fan_out)
        elif isinstance(module, nn.Conv2d):
            weight, bias = Normal((2 / fan_out) ** 0.5), ZERO
        else:
            weight, bias = scheme("torch-default", fan_in, fan_out)
        return scale(weight, residual if name.endswith(last) else 1.0), bias

    weighty = (nn.Conv2d, nn.Linear)
    return expand_rules(
        model, {name: rule(name, m) for name, m in model.named_modules() if isinstance(m, weighty)}
    )


_TORCHVISION = {"conv1": "stage0.conv1", "bn1": "stage0.bn1", "fc": "final_linear"}


def _place(model: nn.Module, leaf: str) -> Place:
    if not isinstance(model, ResNet):
        inside = re.fullmatch(r"layer(\d)\.(\d+)\.(.*)", leaf)
        leaf = f"s{inside[1]}.{int(inside[2]) + 1}.{inside[3]}" if inside else _TORCHVISION[leaf]
    if leaf.startswith("final"):
        return leaf, leaf, leaf
    if leaf.startswith("stage0"):
        return leaf, "stage0", "stage0"
    stage, block, _ = leaf.split(".", 2)
    return leaf, f"{stage}.{block}", stage


FAMILY = Family(
    config=ResNetConfig,
    form="resnetDEPTH[-nonorm][-wWIDTH]",
    example="resnet18-w0.25",
    about="residual network 18, 34, 50, 101 or 152, here with a quarter of the channels",
    network=_network,
    initializers=_initializers,
    place=_place,
)
