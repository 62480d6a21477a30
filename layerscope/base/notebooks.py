"""The notebooks that come with the package: where they lie, and what they declare."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from layerscope.errors import ResultError

__all__ = ["find", "parameters"]


def find(name: str) -> Path:
    """Find a notebook by the name of its file: inside the package, else beside it.

    Raises
    ------
    ResultError
        If it is in neither place.
    """
    package = Path(__file__).parents[1]
    # First where a wheel puts them: in a checkout there is no such folder, and what stands beside
    # an installed package belongs to others.
    places = [package / "_notebooks", package.parent / "notebooks"]
    for folder in places:
        if (folder / name).is_file():
            return folder / name
    raise ResultError(
        f"there is no notebook {name} in {places[0]} or {places[1]}; reinstall layerscope."
    )


def parameters(source: Path) -> dict[str, Any]:
    """Read the parameters that a notebook declares, with their defaults.

    Raises
    ------
    ResultError
        If the notebook has no cell tagged ``parameters`` with plain assignments.
    """
    import nbformat

    book = nbformat.read(source, as_version=4)  # type: ignore[no-untyped-call]
    for cell in book.cells:
        if "parameters" in cell.metadata.get("tags", ()):
            lines = ast.parse(cell.source).body
            return {
                line.targets[0].id: ast.literal_eval(line.value)
                for line in lines
                if isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name)
            }
    raise ResultError(f"{source} has no cell tagged 'parameters'.")
