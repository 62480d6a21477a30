"""Numbers that the paper prints, read off its figures."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = [
    "BASE",
    "COLOUR_ERROR",
    "DISTANCE",
    "ERROR",
    "FINAL",
    "READING_ERROR",
    "Printed",
    "norms",
]

READING_ERROR = 0.01
"""Distance that a number may have been misread from a figure, in the unit of that figure."""

COLOUR_ERROR: Mapping[str, float] = {"vgg11": 0.04, "resnet50": 0.04}
"""Such a distance for test errors that were read off colours, by network."""

Printed = Mapping[str, Mapping[str, float | str]]

BASE = "base"

ERROR: Mapping[str, Printed] = {
    "fcn-3x256": {
        "layer1": {"rand": 0.89, "0": 0.38, "1": 0.06, "2": 0.03, "3": 0.03},
        "layer2": {"rand": 0.90, "0": 0.07, "1": 0.03, "2": BASE, "3": BASE},
        "layer3": {"rand": "≥0.91", "0": 0.03, "1": BASE, "2": BASE, "3": BASE},
        "layer4": {"rand": 0.83, "0": 0.06, "1": BASE, "2": BASE, "3": BASE},
        "fullmodel": {"rand": "≥0.91", "0": "≥0.91", "1": 0.05, "2": 0.04, "3": 0.03},
    },
    "fcn-5x256": {
        "layer1": {"rand": 0.85, "0": 0.57, "1": 0.09, "2": 0.05},
        "layer2": {"0": 0.05},
        "layer3": {"0": BASE},
        "layer4": {"0": BASE},
        "layer5": {"0": BASE},
        "layer6": {"0": 0.05},
    },
    "vgg11": {
        name: dict(zip(("rand", "0", "1", "10"), cells, strict=True))
        for name, cells in {
            "s1b1": (0.88, 0.70, 0.50, 0.15),
            "s2b1": (0.90, 0.72, 0.68, 0.17),
            "s3b1": (0.90, 0.89, 0.88, 0.17),
            "s3b2": (0.88, 0.76, 0.70, 0.16),
            "s4b1": (0.90, 0.49, 0.42, 0.14),
            "s4b2": (0.89, 0.22, 0.24, 0.13),
            "s5b1": (0.90, 0.15, 0.13, 0.13),
            "s5b2": (0.85, 0.15, 0.13, 0.12),
            "fc1": (0.86, 0.13, 0.13, 0.12),
            "fc2": (0.90, 0.12, 0.12, 0.12),
            "final": (0.74, 0.13, 0.12, 0.12),
        }.items()
    },
    "resnet50": {
        name: {"0": cell}
        for name, cell in {
            "stage0": 1.00,
            "s1.1": 0.98,
            "s1.2": 0.355,
            "s1.3": 0.377,
            "s2.1": 0.99,
            "s2.2": 0.353,
            "s2.3": 0.353,
            "s2.4": 0.353,
            "s3.1": 1.00,
            "s3.2": 0.358,
            "s3.3": 0.361,
            "s3.4": 0.358,
            "s3.5": 0.374,
            "s3.6": 0.391,
            "s4.1": 1.00,
            "s4.2": 0.437,
            "s4.3": 0.545,
            "final_linear": 0.99,
        }.items()
    },
}
"""Test error by network, layer and column: of ``fcn`` on MNIST, ``vgg11`` on CIFAR-10, and
``resnet50`` on ImageNet.

Colours in the middle of the figures of ``vgg11`` and ``resnet50`` were read to ±0.04 only.
"""

FINAL: Mapping[str, float] = {"fcn-3x256": 0.025, "vgg11": 0.125, "resnet50": 0.347}
"""Test error of the trained network."""

DISTANCE: Mapping[str, Mapping[str, Printed]] = {
    "fcn-3x256": {
        "l2_fan_in": {
            "layer1": {"rand": 0.385, "1": 0.03, "100": 0.13},
            "layer2": {"rand": 0.66, "1": 0.02, "100": 0.09},
            "layer3": {"rand": 0.66, "1": 0.02, "100": 0.08},
            "layer4": {"rand": 0.137, "1": 0.105, "100": 0.48},
        },
        "linf": {
            "layer1": {"rand": 0.142, "100": 0.23},
            "layer2": {"rand": 0.247, "100": 0.21},
            "layer3": {"rand": 0.247, "100": 0.18},
            "layer4": {"rand": 0.236, "100": 0.51},
        },
    },
}
"""Distance to the initial value by network, norm, layer and column.

What the paper divides its 2-norm by is not known; its ``rand`` column, which no training enters,
is proportional to the norm per √fan_in.
"""


def norms(network: str) -> list[str]:
    """List the norms in which the paper prints distances for a network; often none."""
    return list(DISTANCE.get(network, {}))
