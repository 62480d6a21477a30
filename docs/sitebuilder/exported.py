"""The explorer's page on the first page of the site, exported from a committed run."""

from __future__ import annotations

from pathlib import Path

from layerscope import LayerExplorer, results

from .adopted import DOCS, ROOT

__all__ = ["SOURCE", "export"]

_RUN = "paper+network=fcn-5x256+seeds=3"
SOURCE = ROOT / "papermill_runs" / "fcn-mnist" / _RUN / "fcn_mnist.nc"


def export(path: Path = DOCS / "_static" / "explorer.html") -> Path:
    """Write it, with the first layer at its initial values."""
    explorer = LayerExplorer(results.open_dataset(SOURCE))
    try:
        explorer.state = {"layer1": ("reinitialize", 0)}
        return explorer.export_page(path)
    finally:
        explorer.close()
