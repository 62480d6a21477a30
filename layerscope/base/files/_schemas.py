"""Schemas: a manifest's keys and types, said once as a class, and checked by msgspec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

import msgspec

from layerscope.base.files._json import read_json
from layerscope.base.files._opening import SMALL, Error, Place

__all__ = ["Schema", "Versioned", "fit_schema", "read_manifest"]


class Schema(msgspec.Struct, kw_only=True):
    """Base of what a JSON file must hold: a field for each key, with its type.

    A field with a default may be missing, and keys without a field may be there. Bounds are
    ``Annotated[int, msgspec.Meta(ge=0)]``.
    """


class Versioned(Schema, kw_only=True):
    """Schema of a manifest that says its format and version.

    Attributes
    ----------
    FORMAT, VERSION
        What this layerscope writes; a class attribute of each kind.
    """

    FORMAT: ClassVar[str]
    VERSION: ClassVar[int]

    format: str
    version: int


S = TypeVar("S")


def read_manifest(path: Place, schema: type[S], *, error: Error, what: str, most: int = SMALL) -> S:
    """Read a JSON file as its schema says it.

    Raises
    ------
    LayerscopeError
        Of the class `error`: as of `read_json` and `fit_schema`.
    """
    content = read_json(path, error=error, what=what, most=most)
    return fit_schema(content, schema, where=path, error=error, what=what)


def fit_schema(content: Any, schema: type[S], *, where: object, error: Error, what: str) -> S:
    """Make of what a JSON file holds an object of its schema, a class or any other type.

    Parameters
    ----------
    content : mapping, list or value
        As `read_json` returns it.
    schema : type
        A `Schema`, or such as ``dict[str, int]``.
    where : path or str
        Names it in messages.
    error : type
        Class of what is raised.
    what : str
        What it should be, with its article.

    Raises
    ------
    LayerscopeError
        Of the class `error`: it is of another format or a newer version, a key is missing, or a
        value is of another type; says where in the file, such as ``$.epochs[0]``.
    """
    if isinstance(schema, type) and issubclass(schema, Versioned):
        _require_version(content, schema, where, error, what)
    try:
        return msgspec.convert(content, schema, strict=True)
    except msgspec.ValidationError as problem:
        raise error(f"{where} is not {what}: {_words(problem)}.") from None
    except RecursionError:
        raise error(f"{where} is not {what}: it is nested too deep.") from None


def _require_version(
    content: Any, schema: type[Versioned], where: object, error: Error, what: str
) -> None:
    """Look at the version first: of a newer one everything else may have changed."""
    about = content if isinstance(content, Mapping) else {}
    version = about.get("version")
    if about.get("format") != schema.FORMAT:
        raise error(f"{where} is not {what}: its format is not {schema.FORMAT!r}.")
    if isinstance(version, (int, float)) and version > schema.VERSION:
        raise error(f"{where} was written by a newer layerscope; upgrade layerscope.")


def _words(problem: Exception) -> str:
    """Put msgspec's message in the middle of a sentence."""
    said = str(problem)
    return said[:1].lower() + said[1:]
