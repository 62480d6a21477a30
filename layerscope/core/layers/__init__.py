"""Layers of a network, in every view: leaf, component, block, stage, and groups of one's own.

By default a layer is every module that holds parameters of its own; buffers that are saved with
it, such as BatchNorm's running statistics, belong to it. Coarser views gather leaves into
components, blocks and stages; a rule says what becomes of normalisation layers; and tensors that
share memory are one.

>>> from layerscope import layers, models
>>> [layer.name for layer in layers.find(models.build("fcn-2x16"))]
['layer1', 'layer2', 'layer3']
"""

# What is imported `as` itself is for other rooms; users need none of it.
from layerscope.core.layers._fans import fan_ins
from layerscope.core.layers._layer import ROOT as ROOT, BlockPart as BlockPart, Layer
from layerscope.core.layers._network import require_network as require_network
from layerscope.core.layers._norms import Norms
from layerscope.core.layers._order import execution_order, sort_by_call as sort_by_call
from layerscope.core.layers._ranges import (
    NO_BLOCK as NO_BLOCK,
    blocks as blocks,
    cumulative,
    ranges,
    spans as spans,
)
from layerscope.core.layers._selecting import LayerSelection as LayerSelection, find, select
from layerscope.core.layers._views import VIEWS, whole_network as whole_network

__all__ = [
    "VIEWS",
    "Layer",
    "Norms",
    "cumulative",
    "execution_order",
    "fan_ins",
    "find",
    "ranges",
    "select",
]
