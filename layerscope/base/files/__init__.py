"""Files that a stranger may have written: one way to open and to read them.

A file is opened only where it is a regular one (a pipe would never end), and read only up to the
limit of its kind. What it says of itself, such as how deep it is nested or how long it is once
expanded, is looked at before anything is built of it. Every refusal is an error of ours, of the
class that the caller gives, with the path, what came, what was expected and what to do.

>>> import tempfile
>>> from pathlib import Path
>>> from layerscope.base import files
>>> from layerscope.errors import DataError
>>> place = Path(tempfile.mkdtemp()) / "about.json"
>>> _ = place.write_text('{"name": "mnist", "classes": 10}')
>>> files.read_json(place, error=DataError, what="a description")
{'name': 'mnist', 'classes': 10}
>>> class About(files.Schema):
...     name: str
...     classes: int
>>> files.read_manifest(place, About, error=DataError, what="a description").classes
10
"""

from __future__ import annotations

from layerscope.base.files._expanding import zip_entries
from layerscope.base.files._json import parse_json, read_json, require_json_limits
from layerscope.base.files._listing import list_folder
from layerscope.base.files._opening import (
    file_beside,
    is_file,
    is_folder,
    kind_of,
    open_file,
    read_bytes,
    read_text,
)
from layerscope.base.files._patterns import is_endless
from layerscope.base.files._schemas import Schema, Versioned, fit_schema, read_manifest

__all__ = [
    "Schema",
    "Versioned",
    "file_beside",
    "fit_schema",
    "is_endless",
    "is_file",
    "is_folder",
    "kind_of",
    "list_folder",
    "open_file",
    "parse_json",
    "read_bytes",
    "read_json",
    "read_manifest",
    "read_text",
    "require_json_limits",
    "zip_entries",
]
