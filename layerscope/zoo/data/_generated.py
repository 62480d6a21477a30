"""Images and tones that are computed, for trying things out where nothing else is at hand."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from layerscope.base import seeds
from layerscope.core.batches import Examples
from layerscope.zoo.data._in_memory import ImageData

__all__ = ["read_gratings", "read_tones"]

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


_PITCHES = 360
_LOWEST = 10 * 2 ** (1997.3794084376191 / 1200)  # Hz; pitches are 20 cents apart
_RATE, _SAMPLES = 16_000, 1024
_HARMONICS = 8


def read_tones(root: Path) -> ImageData:
    """Frames of 64 ms of tones with harmonics, whose pitch is one of 360: exactly, by synthesis.

    They are CREPE's: pitch k has 32.70 Hz · 2^(k/60), at 16 kHz, each frame of mean 0 and
    deviation 1. Phases and loudness of the harmonics, the k-th one in 1/k of the first on average,
    and some noise, are drawn.
    """
    del root  # nothing is read
    parts = {part: _draw_tones(part, count) for part, count in (("train", 1440), ("test", 720))}
    about = "1,440 + 720 frames of tones of 360 pitches, computed"
    return ImageData("tones", parts["train"], parts["test"], _PITCHES, about)


def _draw_tones(part: str, count: int) -> Examples:
    draw = seeds.generator("tones", part)
    targets = torch.arange(count) % _PITCHES
    pitch = _LOWEST * 2 ** (targets.double() / 60)
    order = torch.arange(1, _HARMONICS + 1)
    waves = pitch[:, None] * order  # (n, harmonics), in Hz
    loud = (0.5 + torch.rand(waves.shape, generator=draw)) / order
    loud[waves >= _RATE / 2] = 0.0  # which would be heard as other tones
    phase = 2 * math.pi * torch.rand(waves.shape, generator=draw)
    time = torch.arange(_SAMPLES, dtype=torch.float64) / _RATE
    sound = torch.zeros(count, _SAMPLES, dtype=torch.float64)
    for each in range(_HARMONICS):
        turns = 2 * math.pi * waves[:, each, None] * time + phase[:, each, None]
        sound += loud[:, each, None] * torch.sin(turns)
    sound += 0.01 * torch.randn(sound.shape, generator=draw)
    sound -= sound.mean(1, keepdim=True)
    frames = (sound / sound.std(1, keepdim=True)).float()
    return Examples(frames, targets, name=f"tones {part}")


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
