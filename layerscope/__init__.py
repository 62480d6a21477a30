"""Which layers of a trained network matter? Reset them and see.

>>> import layerscope
>>> ds = layerscope.sweep(net, (images, labels), checkpoints="runs/net")    # doctest: +SKIP
>>> layerscope.plots.show(layerscope.plots.heatmap(ds))                     # doctest: +SKIP

Nothing heavy is imported until it is used. The names below are found here alone: write
``from layerscope import metrics``, not ``import layerscope.metrics``.
"""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from layerscope._version import __version__

if TYPE_CHECKING:
    from layerscope import plots, report, results, stats, testing
    from layerscope.core import checkpoints, layers, measures, metrics, perturb, session
    from layerscope.core.checkpoints import Series, open_series
    from layerscope.core.drilling import drill, super_weights
    from layerscope.core.export import export
    from layerscope.core.metrics import evaluate
    from layerscope.core.networks import open_network, open_tokenizer
    from layerscope.core.pruning import prune
    from layerscope.core.session import Session
    from layerscope.core.sweep import sweep
    from layerscope.jupyter import LayerExplorer
    from layerscope.paper import analyses, experiments, reproduce
    from layerscope.results import concat, open_dataset, save
    from layerscope.zoo import data, models
    from layerscope.zoo.data import load as load_data
    from layerscope.zoo.training import Recipe, train

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
    "drill",
    "evaluate",
    "experiments",
    "export",
    "layers",
    "load_data",
    "measures",
    "metrics",
    "models",
    "open_dataset",
    "open_network",
    "open_series",
    "open_tokenizer",
    "perturb",
    "plots",
    "prune",
    "report",
    "reproduce",
    "results",
    "save",
    "session",
    "stats",
    "super_weights",
    "sweep",
    "testing",
    "train",
]

# Where each public name lives: its module, and there its name; or a module alone.
_HOMES = {
    "LayerExplorer": ("jupyter", "LayerExplorer"),
    "Recipe": ("zoo.training", "Recipe"),
    "Series": ("core.checkpoints", "Series"),
    "Session": ("core.session", "Session"),
    "analyses": ("paper.analyses", None),
    "checkpoints": ("core.checkpoints", None),
    "concat": ("results", "concat"),
    "data": ("zoo.data", None),
    "drill": ("core.drilling", "drill"),
    "evaluate": ("core.metrics", "evaluate"),
    "experiments": ("paper.experiments", None),
    "export": ("core.export", "export"),
    "layers": ("core.layers", None),
    "load_data": ("zoo.data", "load"),
    "measures": ("core.measures", None),
    "metrics": ("core.metrics", None),
    "models": ("zoo.models", None),
    "open_dataset": ("results", "open_dataset"),
    "open_network": ("core.networks", "open_network"),
    "open_series": ("core.checkpoints", "open_series"),
    "open_tokenizer": ("core.networks", "open_tokenizer"),
    "perturb": ("core.perturb", None),
    "plots": ("plots", None),
    "prune": ("core.pruning", "prune"),
    "report": ("report", None),
    "reproduce": ("paper.reproduce", None),
    "results": ("results", None),
    "save": ("results", "save"),
    "session": ("core.session", None),
    "stats": ("stats", None),
    "super_weights": ("core.drilling", "super_weights"),
    "sweep": ("core.sweep", "sweep"),
    "testing": ("testing", None),
    "train": ("zoo.training", "train"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'layerscope' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    home = importlib.import_module(f"layerscope.{module}")
    return home if attribute is None else getattr(home, attribute)


def __dir__() -> list[str]:
    # help() asks for each of these, and would fail at what is not installed.
    missing = set() if find_spec("anywidget") else {"LayerExplorer"}
    return [name for name in __all__ if name not in missing]
