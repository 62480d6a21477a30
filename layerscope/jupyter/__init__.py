"""The explorer: toggle layers of a trained network in JupyterLab, and watch.

>>> from layerscope.jupyter import LayerExplorer
>>> LayerExplorer("series/fcn-3x256-mnist-5k-seed0")                        # doctest: +SKIP
"""

from __future__ import annotations

from layerscope.base.extras import extra

with extra("jupyter", "the explorer"):
    from layerscope.jupyter._explorer import LayerExplorer
    from layerscope.jupyter._lab import prepare, serve

__all__ = ["LayerExplorer", "prepare", "serve"]
