"""Notebooks are committed clean, and run as they stand."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import nbformat

from layerscope.base import notebooks

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def faults(path):
    """What a committed notebook should not be."""
    book = nbformat.read(path, as_version=4)
    nbformat.validate(book)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    tagged = {
        name: [cell for cell in book.cells if name in cell.metadata.get("tags", ())]
        for name in ("parameters", "scales")
    }
    experiment = path.stem[0].isdigit() and path.stem > "01"
    functions = (ast.FunctionDef, ast.Lambda)
    if any(cell.outputs or cell.execution_count for cell in code):
        yield "has outputs"
    if tagged["parameters"] != code[:1]:
        yield "its first cell is not that of the parameters"
    if tagged["scales"] != (code[1:2] if experiment else []):
        yield "its second cell is not that of the scales, or it has some and is no experiment"
    if not {"device", "out"} <= set(notebooks.parameters(path)):
        yield "has no parameters device and out"
    if any(isinstance(n, functions) for cell in code for n in ast.walk(ast.parse(cell.source))):
        yield "defines what the package should hold"
    if len(code) > 20:
        yield "has more than 20 cells of code"


def test_committed_clean_short_and_with_parameters_first():
    assert NOTEBOOKS
    assert {path.name: found for path in NOTEBOOKS if (found := list(faults(path)))} == {}


def test_quickstart_runs_with_plain_papermill(tmp_path):
    target = tmp_path / "out.ipynb"
    command = [sys.executable, "-m", "papermill", FOLDER / "00_quickstart.ipynb", target]
    given = ["-p", "epochs", "2", "-p", "draws", "1", "-p", "out", str(tmp_path)]
    done = subprocess.run(
        [*command, *given, "--no-progress-bar"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Passed unknown parameter" not in done.stderr
    assert "Unable to parse" not in done.stderr
    assert {"quickstart.nc", "quickstart.png"} <= {path.name for path in tmp_path.iterdir()}
    outputs = [o for c in nbformat.read(target, as_version=4).cells for o in c.get("outputs", ())]
    assert not [o for o in outputs if o.get("name") == "stderr"]
    assert sum("image/png" in o.get("data", ()) for o in outputs) == 2
