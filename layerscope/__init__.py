"""Which layers of a trained network matter? Reset them and see.

>>> import layerscope
>>> ds = layerscope.sweep(net, (images, labels), checkpoints="runs/net")    # doctest: +SKIP
>>> layerscope.plots.show(layerscope.plots.heatmap(ds))                     # doctest: +SKIP

Nothing heavy is imported until it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from layerscope._version import __version__

if TYPE_CHECKING:
    from layerscope import (
        analyses,
        checkpoints,
        data,
        experiments,
        layers,
        metrics,
        models,
        perturb,
        plots,
        report,
        reproduce,
        results,
        session,
        stats,
        testing,
        widgets,
    )
    from layerscope.checkpoints import Series, open_series
    from layerscope.data import load as load_data
    from layerscope.engine import sweep
    from layerscope.metrics import evaluate
    from layerscope.results import concat, open_dataset, save
    from layerscope.session import Session
    from layerscope.training import Recipe, train
    from layerscope.widgets import LayerExplorer

__all__ = [
    "LayerExplorer",
    "Recipe",
    "Series",
    "Session",
    "__version__",
    "analyses",
    "checkpoints",
    "concat",
    "data",
    "evaluate",
    "experiments",
    "layers",
    "load_data",
    "metrics",
    "models",
    "open_dataset",
    "open_series",
    "perturb",
    "plots",
    "report",
    "reproduce",
    "results",
    "save",
    "session",
    "stats",
    "sweep",
    "testing",
    "train",
    "widgets",
]

_FUNCTIONS = {
    "LayerExplorer": ("widgets", "LayerExplorer"),
    "Recipe": ("training", "Recipe"),
    "Series": ("checkpoints", "Series"),
    "Session": ("session", "Session"),
    "concat": ("results", "concat"),
    "evaluate": ("metrics", "evaluate"),
    "load_data": ("data", "load"),
    "open_dataset": ("results", "open_dataset"),
    "open_series": ("checkpoints", "open_series"),
    "save": ("results", "save"),
    "sweep": ("engine", "sweep"),
    "train": ("training", "train"),
}


def __getattr__(name: str) -> Any:
    if name in _FUNCTIONS:
        module, attribute = _FUNCTIONS[name]
        return getattr(importlib.import_module(f"layerscope.{module}"), attribute)
    if name in __all__:
        return importlib.import_module(f"layerscope.{name}")
    raise AttributeError(f"module 'layerscope' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
