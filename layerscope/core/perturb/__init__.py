"""What can be done to a layer.

A perturbation is a function from a `Site` (one layer of a trained network, and what is known of
its past) to the tensors that the layer holds instead. One of your own takes a few lines:

>>> from layerscope import perturb
>>> def halve(site):
...     return {name: tensor / 2 for name, tensor in site.trained.items()}
>>> halved = perturb.Perturbation("halve", halve)
>>> perturb.parse(halve)[0].name  # a function goes by its own name
'halve'

Those that there are go by name, which is the call that makes them, and can be joined:

>>> shaken = perturb.reinitialize().then(perturb.noise(0.1))
>>> shaken.name
'reinitialize+noise(0.1)'
>>> perturb.parse(["reinitialize + noise(0.1)"])[0].name == shaken.name
True
"""

from __future__ import annotations

from layerscope.core.perturb._exchanging import exchange
from layerscope.core.perturb._fresh import Redraw
from layerscope.core.perturb._kinds import (
    interpolate,
    noise,
    reinitialize,
    rerandomize,
    rerandomize_matched,
    skip,
    zero,
)
from layerscope.core.perturb._naming import KINDS, PERTURBATIONS, PerturbationLike, parse, together
from layerscope.core.perturb._permuting import permute
from layerscope.core.perturb._protocol import Perturbation, Site

__all__ = [
    "KINDS",
    "PERTURBATIONS",
    "Perturbation",
    "PerturbationLike",
    "Redraw",
    "Site",
    "exchange",
    "interpolate",
    "noise",
    "parse",
    "permute",
    "reinitialize",
    "rerandomize",
    "rerandomize_matched",
    "skip",
    "together",
    "zero",
]
