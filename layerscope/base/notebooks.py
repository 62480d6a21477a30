"""The notebooks that come with the package: where they lie, and what their tagged cells declare."""

from __future__ import annotations

import ast
import hashlib
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from layerscope.base import files, literals, validate
from layerscope.errors import ResultError

__all__ = ["FOLDER_VARIABLE", "SCALES", "declared", "digest", "find", "folder", "parameters"]

FOLDER_VARIABLE = "LAYERSCOPE_NOTEBOOKS"
"""Environment variable with the folder of experiments of one's own."""

SCALES = "scales"
"""Tag of the cell that makes a notebook an experiment."""


_LONGEST = 2**26
"""Bytes of a notebook: one that was executed carries its figures."""


class _Cell(NamedTuple):
    kind: str
    source: str
    tags: tuple[str, ...]


def _places() -> tuple[Path, Path]:
    package = Path(__file__).parents[1]
    # First where a wheel puts them: in a checkout there is no such folder, and what stands beside
    # an installed package belongs to others.
    return package / "_notebooks", package.parent / "notebooks"


def find(name: str) -> Path:
    """Find a notebook by the name of its file: inside the package, else beside it.

    Raises
    ------
    ResultError
        If it is in neither place.
    """
    places = _places()
    for place in places:
        if files.is_file(place / name):
            return place / name
    raise ResultError(
        f"there is no notebook {name} in {places[0]} or {places[1]}; reinstall layerscope."
    )


def folder() -> Path:
    """Return the folder of the experiments: that of `FOLDER_VARIABLE`, else the package's own.

    Raises
    ------
    ResultError
        If the variable names no folder.
    """
    own = os.environ.get(FOLDER_VARIABLE)
    if own:
        path = validate.expand(own)
        if not files.is_folder(path):
            raise ResultError(
                f"{FOLDER_VARIABLE} is {own}, which is no folder; set it to one with notebooks."
            )
        return path
    inside, beside = _places()
    return inside if inside.is_dir() else beside


def _cells(source: Path) -> list[_Cell]:
    # Not by nbformat, which takes longer to import than all notebooks to read.
    book = files.read_manifest(
        source, _Book, error=ResultError, what="a notebook of format 4", most=_LONGEST
    )
    return [
        _Cell(each.cell_type, "".join(each.source), tuple(each.metadata.tags))
        for each in book.cells
    ]


class _Metadata(files.Schema):
    tags: tuple[str, ...] = ()


class _CellAsWritten(files.Schema):
    cell_type: str
    source: str | tuple[str, ...]
    metadata: _Metadata = msgspec.field(default_factory=_Metadata)


class _Book(files.Schema):
    cells: list[_CellAsWritten]


def declared(source: Path, tag: str) -> dict[str, Any] | None:
    """Read what the cell with a tag assigns, without executing anything.

    Returns
    -------
    dict or None
        Values by name; None where no cell has the tag.

    Raises
    ------
    ResultError
        If a line is not the assignment of a literal to a name.
    """
    tagged = [cell.source for cell in _cells(source) if tag in cell.tags]
    if not tagged:
        return None
    try:
        return dict(_assignment(line) for line in literals.parse(tagged[0]))
    except ValueError as error:
        raise ResultError(
            f"the cell tagged {tag!r} of {source} can't be read: {error}. It holds literals "
            "alone, such as epochs = 5."
        ) from None


def _assignment(line: ast.stmt) -> tuple[str, Any]:
    match line:
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            return name, literals.evaluate(value)
        case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
            return name, literals.evaluate(value)
    raise ValueError(f"line {line.lineno} is no assignment to a name")


def parameters(source: Path) -> dict[str, Any]:
    """Read the parameters that a notebook declares, with their defaults.

    Raises
    ------
    ResultError
        If the notebook has no cell tagged ``parameters`` with plain assignments.
    """
    found = declared(source, "parameters")
    if found is None:
        raise ResultError(f"{source} has no cell tagged 'parameters'.")
    return found


def digest(source: Path) -> str:
    """Hash what a notebook does: its cells, not how it was saved.

    That with the scales does not count: what another scale is, or how long it takes, changes
    nothing of what is computed.
    """
    cells = [(cell.kind, cell.source) for cell in _cells(source) if SCALES not in cell.tags]
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()
