"""A manifest's account of the run: its software, machine, trainings and findings."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from layerscope import results
from layerscope.base import devices, files
from layerscope.base.writing import failures
from layerscope.errors import ResultError
from layerscope.paper import experiments

__all__ = ["machine", "software", "summary", "training_seconds"]

_PACKAGES = (
    *("torch", "torchvision", "numpy", "xarray", "holoviews", "bokeh", "papermill", "mlxtend"),
    "safetensors",
)


def training_seconds(folder: Path) -> list[float]:
    """List how long each training took, whether in this run or in an earlier one."""
    found = [results.settings(results.open_dataset(path)) for path in sorted(folder.glob("*.nc"))]
    runs = [
        run["training"] for about in found for run in about.get("runs", []) if "training" in run
    ]
    # Several sweeps may be of the same trained network.
    return [run["seconds"] for at, run in enumerate(runs) if run not in runs[:at]]


def summary(folder: Path) -> dict[str, Any] | None:
    """Take up what the notebook says that it found, if it does."""
    path = folder / experiments.SUMMARY
    if not os.path.lexists(path):
        return None
    what = "the summary of an experiment"
    found: dict[str, Any] = files.read_json(path, error=ResultError, what=what)
    files.fit_schema(found, experiments.Summary, where=path, error=ResultError, what=what)
    with failures(path):
        path.unlink()
    return found


def software() -> dict[str, str]:
    """List versions by package."""
    versions = {package: metadata.version(package) for package in _PACKAGES}
    return {"python": platform.python_version()} | versions


def machine(device: str) -> dict[str, Any]:
    """Describe the machine that ran it."""
    import torch

    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": devices.describe(devices.resolve(device)),
    }
