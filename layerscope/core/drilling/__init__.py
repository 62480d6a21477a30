"""Drilling down: from the block that matters most to its component, its tensor, its one weight.

>>> import layerscope
>>> found = layerscope.drill(net, tokens, metrics=["loss"])                 # doctest: +SKIP
>>> found["weight"].value.idxmax("perturbation")                            # doctest: +SKIP
>>> layerscope.super_weights(net, tokens, metrics=["loss"])                 # doctest: +SKIP
"""

from __future__ import annotations

from layerscope.core.drilling._drill import drill
from layerscope.core.drilling._super import super_weights

__all__ = ["drill", "super_weights"]
