"""Networks on patches of images: Vision Transformer and MLP-Mixer, both of timm's classes."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from layerscope.base.extras import extra
from layerscope.core.layers import ROOT
from layerscope.errors import OptionError, choose
from layerscope.zoo.models._family import Config, Family, Place
from layerscope.zoo.models._initializers import (
    ZERO,
    Initializer,
    Normal,
    Rule,
    TruncatedNormal,
    Uniform,
    expand_rules,
    fans,
    scheme,
)

__all__ = ["MIXER", "VIT", "MixerConfig", "ViTConfig", "default_heads"]

_CUT = 0.87962566103423978
"""Standard deviation of a standard normal that is cut at ±2."""


class _Patches(Config):
    """Checks of the configurations of both families."""

    width: int
    depth: int
    patch: int
    dropout: float

    def _check(self) -> None:
        self._check_positive("width", "depth", "patch")
        self._check_fraction("dropout")
        self._check_image()
        if any(side % self.patch for side in self.inputs[1:]):
            raise OptionError(
                f"patch is {self.patch}, which does not divide images of "
                f"{self.inputs[1]}×{self.inputs[2]} pixels; choose one that does."
            )


@dataclass(frozen=True)
class ViTConfig(_Patches):
    """A Vision Transformer (Dosovitskiy et al. 2021); ``"vit-768x12-p16"`` is ViT-B/16.

    Parameters
    ----------
    width : int
        Numbers in each token.
    depth : int
        Blocks.
    patch : int
        Side of a patch, in pixels.
    heads : int, optional
        Heads of attention, which divide the width; by default one for every 64 of it.
    dropout : float
        Share that is dropped of the embedded tokens and after each projection, in [0, 1).
    inputs, classes, removed
        As in `FCNConfig`.
    initializer : {"jax", "timm"}
        ``"jax"`` is the published one: Glorot-uniform, biases of the MLPs normal with σ = 10⁻⁶,
        the head zero. ``"timm"``: linear layers normal, σ = 0.02, the head too.
    """

    family: ClassVar[str] = "vit"
    pattern: ClassVar[re.Pattern[str]] = re.compile(
        r"vit-(?P<width>\d+)x(?P<depth>\d+)(?:-p(?P<patch>\d+))?(?:-h(?P<heads>\d+))?"
    )

    width: int = 192
    depth: int = 6
    patch: int = 4
    heads: int | None = None
    dropout: float = 0.0
    inputs: tuple[int, ...] = (3, 32, 32)
    classes: int = 10
    initializer: str = "jax"
    removed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        choose(self.initializer, ("jax", "timm"), "initializer")
        self._check()
        check_heads(self.heads, self.width)

    @property
    def name(self) -> str:
        """The short name, such as ``"vit-192x6-p4"``."""
        heads = "" if self.heads is None else f"-h{self.heads}"
        return f"vit-{self.width}x{self.depth}-p{self.patch}{heads}"


@dataclass(frozen=True)
class MixerConfig(_Patches):
    """An MLP-Mixer (Tolstikhin et al. 2021); ``"mixer-768x12-p16"`` is Mixer-B/16.

    The MLPs that mix tokens have half as many hidden units as a token has numbers, those that mix
    channels four times as many. It is drawn as published: Glorot-uniform, biases normal with
    σ = 10⁻⁶, the head zero.

    Parameters
    ----------
    width : int
        Numbers in each token, at least 2.
    depth : int
        Blocks.
    patch : int
        Side of a patch, in pixels.
    dropout : float
        Share that is dropped after each layer of the MLPs, in [0, 1).
    inputs, classes, removed
        As in `FCNConfig`.
    """

    family: ClassVar[str] = "mixer"
    pattern: ClassVar[re.Pattern[str]] = re.compile(
        r"mixer-(?P<width>\d+)x(?P<depth>\d+)(?:-p(?P<patch>\d+))?"
    )

    width: int = 192
    depth: int = 6
    patch: int = 4
    dropout: float = 0.0
    inputs: tuple[int, ...] = (3, 32, 32)
    classes: int = 10
    removed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self._check()
        if self.width < 2:
            raise OptionError(f"width is {self.width}; a Mixer needs at least 2.")

    @property
    def name(self) -> str:
        """The short name, such as ``"mixer-192x6-p4"``."""
        return f"mixer-{self.width}x{self.depth}-p{self.patch}"


def default_heads(width: int) -> int:
    """One head for every 64 of the width, or the next smaller number that divides it."""
    return next(h for h in range(max(1, width // 64), 0, -1) if width % h == 0)


def check_heads(heads: int | None, width: int) -> None:
    """Refuse heads that don't share the width evenly."""
    if heads is not None and (heads < 1 or width % heads):
        raise OptionError(
            f"heads is {heads}; it must divide the width, {width}, evenly, as "
            f"{default_heads(width)} does."
        )


def _vit(config: ViTConfig) -> nn.Module:
    with extra("zoo", "a Vision Transformer"):
        from timm.models.vision_transformer import VisionTransformer

    channels, height, width = config.inputs
    model: nn.Module = VisionTransformer(
        img_size=(height, width),
        patch_size=config.patch,
        in_chans=channels,
        num_classes=config.classes,
        embed_dim=config.width,
        depth=config.depth,
        num_heads=config.heads or default_heads(config.width),
        pos_drop_rate=config.dropout,
        proj_drop_rate=config.dropout,
        weight_init="skip",
    )
    return model


def _mixer(config: MixerConfig) -> nn.Module:
    with extra("zoo", "an MLP-Mixer"):
        from timm.models.mlp_mixer import MlpMixer

    channels, height, width = config.inputs
    model: nn.Module = MlpMixer(
        img_size=(height, width),  # type: ignore[arg-type]  # declared narrower than it is
        patch_size=config.patch,
        in_chans=channels,
        num_classes=config.classes,
        embed_dim=config.width,
        num_blocks=config.depth,
        proj_drop_rate=config.dropout,
    )
    return model


def _draw_vit(model: nn.Module, config: ViTConfig) -> dict[str, Initializer]:
    tokens = {"cls_token": Normal(1e-6), "pos_embed": Normal(0.02)}
    if config.initializer == "jax":
        return expand_rules(model, {"": tokens, **_jax_rules(model)})
    rules: dict[str, Rule] = {"": tokens}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            rules[name] = Normal(0.02), ZERO
        elif isinstance(module, nn.Conv2d):
            rules[name] = scheme("torch-default", *fans(module))
    return expand_rules(model, rules)


def _draw_mixer(model: nn.Module, _: MixerConfig) -> dict[str, Initializer]:
    return expand_rules(model, _jax_rules(model))


def _jax_rules(model: nn.Module) -> dict[str, Rule]:
    """Both papers' initialisation, as timm has it in its mode jax."""
    rules: dict[str, Rule] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            # There σ is that after cutting.
            rules[name] = TruncatedNormal(fans(module)[0] ** -0.5 / _CUT), ZERO
        elif name == "head":
            rules[name] = ZERO, ZERO
        elif isinstance(module, nn.Linear):
            weight = Uniform(math.sqrt(6 / sum(fans(module))))
            bias = Normal(1e-6) if "mlp" in name else ZERO
            rules[name] = weight, bias
    return rules


_PARTS = {
    "attn.qkv": "qkv",
    "attn.proj": "out",
    "mlp.fc1": "mlp_in",
    "mlp.fc2": "mlp_out",
    "mlp_tokens.fc1": "token_mlp_in",
    "mlp_tokens.fc2": "token_mlp_out",
    "mlp_channels.fc1": "channel_mlp_in",
    "mlp_channels.fc2": "channel_mlp_out",
}


def _place(_: nn.Module, leaf: str) -> Place:
    if leaf == ROOT:  # the class token and the positions
        return "positions", "embedding", "embedding"
    if leaf in ("patch_embed.proj", "stem.proj"):
        return "patches", "embedding", "embedding"
    if leaf in ("norm", "head"):
        return leaf, leaf, leaf
    index, part = leaf.removeprefix("blocks.").split(".", 1)
    block = f"block{int(index) + 1}"
    return f"{block}.{_PARTS.get(part, part)}", block, "blocks"


VIT = Family(
    config=ViTConfig,
    form="vit-WIDTHxDEPTH[-pPATCH][-hHEADS]",
    example="vit-192x6-p4",
    about="Vision Transformer: 6 blocks, tokens of 192, patches of 4×4 pixels",
    network=_vit,
    initializers=_draw_vit,
    place=_place,
)

MIXER = Family(
    config=MixerConfig,
    form="mixer-WIDTHxDEPTH[-pPATCH]",
    example="mixer-192x6-p4",
    about="MLP-Mixer: 6 blocks, tokens of 192, patches of 4×4 pixels",
    network=_mixer,
    initializers=_draw_mixer,
    place=_place,
)
