"""Perturbations: what is done to a layer.

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

# What is imported `as` itself is for other rooms; users need none of it.
from layerscope.core.perturb import _named
from layerscope.core.perturb._fresh import Redraw as Redraw
from layerscope.core.perturb._named import *  # noqa: F403 - so that one more is named in one file
from layerscope.core.perturb._parsing import (
    PERTURBATIONS,
    PerturbationLike as PerturbationLike,
    default_names as default_names,
    parse,
    together,
)
from layerscope.core.perturb._protocol import (
    Perturbation,
    Site,
    join_routes as join_routes,
    no_values as no_values,
)

__all__ = [
    "PERTURBATIONS",
    "Perturbation",
    "Site",
    "parse",
    "together",
]
__all__ += _named.__all__
