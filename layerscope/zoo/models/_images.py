"""Base of the convolutional families: forms for small and large images, multipliers."""

from __future__ import annotations

from layerscope.errors import OptionError, choose

__all__ = ["FORMS", "check_width", "resolve_form", "scale_channels", "width_suffix"]

FORMS = ("auto", "cifar", "imagenet")
"""How large images a network is made for; ``"auto"`` takes imagenet from 64 pixels on."""


def resolve_form(form: str, inputs: tuple[int, ...]) -> str:
    """``"cifar"`` or ``"imagenet"``."""
    if choose(form, FORMS, "form") != "auto":
        return form
    return "cifar" if min(inputs[1:]) < 64 else "imagenet"


def scale_channels(channels: int, width: float) -> int:
    """`channels` times the multiplier, at least 1."""
    return max(1, round(channels * width))


def check_width(width: float) -> None:
    """Refuse a multiplier of nothing."""
    if not width > 0:
        raise OptionError(f"width is {width}; it multiplies the channels and must be above 0.")


def width_suffix(width: float) -> str:
    """How a multiplier shows in a name."""
    return "" if width == 1 else f"-w{width:g}"
