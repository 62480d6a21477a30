"""Notebooks are committed clean, and run as they stand."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from layerscope.base import notebooks

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_clean_short_and_with_parameters_first(path):
    book = nbformat.read(path, as_version=4)
    nbformat.validate(book)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)
    tagged = [cell for cell in book.cells if "parameters" in cell.metadata.get("tags", ())]
    assert tagged == code[:1]
    scales = [cell for cell in book.cells if "scales" in cell.metadata.get("tags", ())]
    assert scales == (code[1:2] if path.stem[0].isdigit() and path.stem > "01" else [])
    assert {"device", "out"} <= set(notebooks.parameters(path))
    for cell in code:
        defined = [
            n
            for n in ast.walk(ast.parse(cell.source))
            if hasattr(n, "args") and isinstance(n, (ast.FunctionDef, ast.Lambda))
        ]
        assert not defined, "a notebook defines nothing that the package should hold"
    assert len(code) <= 20


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
