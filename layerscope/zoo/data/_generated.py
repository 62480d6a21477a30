"""Images that are computed, for trying things out where no photographs are at hand."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from layerscope.base import seeds
from layerscope.core.batches import Examples
from layerscope.zoo.data._in_memory import ImageData

__all__ = ["read_gratings"]

_SIDE = 32
_DIRECTIONS = 5
_COLOURS = torch.tensor([[1.0, 0.4, 0.2], [0.2, 0.4, 1.0]])


def read_gratings(root: Path) -> ImageData:
    """Coloured stripes in noise: 5 directions and 2 colours make 10 classes.

    The same bytes on every machine follow from the code alone: phases, widths and noise are drawn
    from generators of their own.
    """
    del root  # nothing is read
    parts = {part: _draw_part(part, count) for part, count in (("train", 2000), ("test", 500))}
    about = "2,000 + 500 coloured stripes in noise, computed"
    return ImageData("gratings", parts["train"], parts["test"], 10, about)


def _draw_part(part: str, count: int) -> Examples:
    draw = seeds.generator("gratings", part)
    targets = torch.arange(count) % (_DIRECTIONS * len(_COLOURS))
    angle = (targets % _DIRECTIONS) * (math.pi / _DIRECTIONS)
    phase, period = torch.rand(2, count, generator=draw)
    waves = 2 * math.pi / (6 + 4 * period)
    axis = torch.arange(_SIDE, dtype=torch.float32)
    along = torch.cos(angle)[:, None, None] * axis + torch.sin(angle)[:, None, None] * axis[:, None]
    stripes = torch.sin(waves[:, None, None] * along + 2 * math.pi * phase[:, None, None])
    noise = torch.randn(count, 3, _SIDE, _SIDE, generator=draw)
    colours = _COLOURS[targets // _DIRECTIONS]
    pixels = 128 + 50 * stripes[:, None] * colours[:, :, None, None] + 30 * noise
    return Examples(_bytes(pixels), targets, 0.5, 0.23, f"gratings {part}")


def _bytes(pixels: Tensor) -> Tensor:
    return pixels.round().clamp(0, 255).to(torch.uint8)
