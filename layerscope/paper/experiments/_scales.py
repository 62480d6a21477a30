"""The three scales, and parameters that several experiments share at one of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from layerscope.paper.experiments._kinds import Scale

__all__ = ["CIFAR", "DIGITS", "GRATINGS", "STEPS", "WHOLE", "paper", "small", "smoke"]

Parameters = Mapping[str, Any]

GRATINGS: dict[str, Any] = {
    "dataset": "gratings",
    "size": 300,
    "test_size": 100,
    "epochs": 1,
    "seeds": 1,
}
"""A few images, so that a network of any kind is tried in seconds."""

# Few images: small batches, so that there are steps enough to learn something.
DIGITS: dict[str, Any] = {
    "dataset": "mnist-5k",
    "size": 500,
    "test_size": 200,
    "options": {"batch_size": 16},
    "epochs": 3,
    "seeds": 2,
}
"""The same for questions that need networks which have learnt something."""

WHOLE: dict[str, Any] = {"size": None, "test_size": None}
"""All of a data set of images."""

CIFAR: dict[str, Any] = {"dataset": "cifar10", **WHOLE, "epochs": 100, "seeds": 3}
"""What the paper's networks on CIFAR-10 have in common."""

STEPS: dict[str, Any] = {"lr": 0.05, "options": {"clip": 1.0}}
"""The paper's steps of the learning rate, which is not stated, for networks that are deep.

In 20 epochs they leave a network half trained; there the notebooks' own schedule is a cosine.
"""


def smoke(parameters: Parameters, seconds: int = 20) -> Scale:
    """Make a scale that shows that the path works, in so many seconds on two cores."""
    return Scale(parameters, parameters["dataset"], f"{seconds} s", round(seconds / 60, 2))


def small(
    data: str, minutes: float, parameters: Parameters | None = None, expected: str = ""
) -> Scale:
    """Make a scale for two cores: a notebook's own defaults, but for `parameters`."""
    return Scale(parameters or {}, data, expected or f"{minutes:g} min", minutes)


def paper(parameters: Parameters, minutes: float) -> Scale:
    """Make the paper's scale, estimated by `experiments.cost` for one GPU.

    Examples
    --------
    >>> paper({"dataset": "imagenet"}, 7100).expected
    'estimated: 5 days on one A100'
    """
    expected = f"estimated: {_time(minutes)} on one A100"
    return Scale(parameters, parameters["dataset"], expected, minutes)


def _time(minutes: float) -> str:
    if minutes < 60:
        return f"{minutes:g} min"
    return f"{minutes / 60:.2g} h" if minutes < 2 * 1440 else f"{minutes / 1440:.0f} days"
