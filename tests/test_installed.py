"""Installed from a wheel, away from the checkout, the commands work."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Read by every interpreter that starts, the notebooks' kernels as well.
GUARD = """
import os, sys
forbidden = tuple(os.path.join({root!r}, name) + os.sep for name in ("layerscope", "notebooks"))
def look(event, given):
    if event == "open" and str(given[0]).startswith(forbidden):
        os.write(2, b"the checkout was opened: " + str(given[0]).encode())
        os._exit(99)
sys.addaudithook(look)
"""

REST = """
import sys
from layerscope.cli import main
run, (series,) = sys.argv[1], sys.argv[2:]
for command in (
    ["sweep", series, "--draws", "1", "--layers", "layer2", "--out", "swept"],
    ["show", "swept", "--png", "figure.png"],
    ["report", "swept", run, "-o", "page.html"],
):
    assert main(command) == 0, command
from layerscope.jupyter import lab as explore
explore.prepare(series, "lab")
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    pytest.importorskip("hatchling", reason="hatchling builds the wheel")
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT))
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Environment variables under which Python finds the installed package."""
    target = tmp_path_factory.mktemp("installed")
    pip("install", "--no-index", "--no-compile", "--target", str(target), str(wheel))
    (target / "sitecustomize.py").write_text(GUARD.format(root=str(ROOT)))
    return os.environ | {"PYTHONPATH": str(target), "COLUMNS": "200"}


def pip(*command):
    command = [sys.executable, "-m", "pip", *command, "--no-deps", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def python(environment, folder, *command):
    done = subprocess.run(
        [sys.executable, *command],
        env=environment, cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_every_notebook_and_nothing_beside_the_package(wheel):
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()
        (metadata,) = (name for name in names if name.endswith("dist-info/METADATA"))
        about = file.read(metadata).decode()
    notebooks = {path.name for path in (ROOT / "notebooks").glob("*.ipynb")}
    inside = {Path(name).name for name in names if name.startswith("layerscope/_notebooks/")}
    assert inside == notebooks
    assert {name.split("/")[0] for name in names} == {"layerscope", metadata.split("/")[0]}
    assert "Description-Content-Type: text/markdown" in about
    assert (ROOT / "README.md").read_text(encoding="utf-8") in about


FIND = """
from pathlib import Path
import layerscope
from layerscope import experiments
from layerscope.base import notebooks
inside = Path(layerscope.__file__).parent
for experiment in experiments.EXPERIMENTS.values():
    assert inside in experiment.notebook.parents
assert inside in notebooks.find("explore.ipynb").parents
"""


def test_the_notebook_of_every_experiment_is_found_in_the_package(installed, tmp_path):
    # What lies beside the installed package is not ours, whatever its name.
    foreign = Path(installed["PYTHONPATH"]) / "notebooks"
    foreign.mkdir()
    (foreign / "01_fcn_mnist.ipynb").write_text("{}")
    python(installed, tmp_path, "-c", FIND)


@pytest.mark.slow
def test_every_command_works_away_from_the_checkout(installed, tmp_path):
    module = ("-m", "layerscope.cli")
    assert "RUN" in python(installed, tmp_path, *module, "explore", "--help")
    tiny = ("--scale", "smoke", "--seeds", "1", "-p", "epochs=1")
    told = python(installed, tmp_path, *module, "reproduce", "fcn-mnist", *tiny)
    assert "finished in" in told
    runs = tmp_path / "papermill_runs"
    (run,) = (runs / "fcn-mnist").iterdir()
    assert {"01_fcn_mnist.ipynb", "fcn_mnist.nc", "heatmap.png"} <= {p.name for p in run.iterdir()}
    (series,) = (runs / "series").glob("[!.]*")
    shown = python(installed, tmp_path, "-c", REST, str(run / "fcn_mnist.nc"), str(series))
    assert "fullmodel" in shown
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert b"<html" in (tmp_path / "page.html").read_bytes()[:300]
    assert (tmp_path / "lab" / f"explore-{series.name}.ipynb").is_file()
