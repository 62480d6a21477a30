"""JSON of a stranger's: as long, as deep and as full as a description may be, and no more."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

from layerscope.base.files._opening import SMALL, Error, Place, read_bytes

__all__ = ["DEPTH", "VALUES", "parse_json", "read_json", "require_json_limits"]

DEPTH = 64
"""Levels of lists and mappings in each other."""

VALUES = 1_000_000
"""Values in all; the smallest file can have that Python needs 100 bytes for each."""

# Never two ways to match, and one always: in time that grows with the length alone.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_NO_BRACKET = bytes(set(range(256)) - set(b"[]{}"))
_ALIKE = bytes.maketrans(b"{}", b"[]")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def read_json(
    path: Place,
    *,
    error: Error,
    what: str = "a JSON file",
    most: int = SMALL,
    depth: int = DEPTH,
    values: int = VALUES,
) -> Any:
    """Read a JSON file.

    Parameters
    ----------
    path : path
    error : type
        Class of what is raised.
    what : str
        What the file should be, with its article, for messages.
    most : int
        Bytes that it may have.
    depth : int
        Levels of lists and mappings in each other.
    values : int
        Values that it may have in all.

    Raises
    ------
    LayerscopeError
        Of the class `error`: as of `open_file`; it is no JSON; it is over a limit; a mapping has a
        key twice, so that one reader takes one value and another the other.
    """
    content = read_bytes(path, error=error, what=what, most=most)
    return parse_json(content, where=path, error=error, what=what, depth=depth, values=values)


def parse_json(
    content: bytes,
    *,
    where: object,
    error: Error,
    what: str = "JSON",
    depth: int = DEPTH,
    values: int = VALUES,
) -> Any:
    """Parse JSON that is in memory; `where` names it in messages, else as `read_json`."""
    require_json_limits(content, where=where, error=error, what=what, depth=depth, values=values)
    try:
        text = content.decode("utf-8")
        found = json.loads(text, object_pairs_hook=_unique)
        if _SURROGATE.search(text):
            json.dumps(found, ensure_ascii=False).encode("utf-8")
        return found
    except UnicodeDecodeError as broken:
        problem = f"byte {broken.start:,} is not UTF-8"
    except UnicodeEncodeError:
        problem = "it holds half of a character (\\ud800 to \\udfff alone)"
    except json.JSONDecodeError as broken:
        problem = f"it is no JSON ({broken.msg}, line {broken.lineno})"
    except RecursionError:
        problem = "it is nested too deep"
    except ValueError as broken:
        problem = str(broken).partition(";")[0]
    raise error(_REFUSAL.format(where, what, problem))


def require_json_limits(
    content: bytes,
    *,
    where: object,
    error: Error,
    what: str = "JSON",
    depth: int = DEPTH,
    values: int = VALUES,
) -> None:
    """Refuse JSON that is over a limit, for who parses it otherwise; as `parse_json` does."""
    problem = _limits(content, depth, values)
    if problem is not None:
        raise error(_REFUSAL.format(where, what, problem))


_REFUSAL = "{} is not {}: {}. Copy or write it again."


def _limits(content: bytes, depth: int, values: int) -> str | None:
    """Say which limit JSON is over, before anything is built of it."""
    bare = _STRING.sub(b"", content)
    brackets = bare.translate(None, _NO_BRACKET).translate(_ALIKE)
    if bare.count(b",") + brackets.count(b"[") > values:
        return f"it has more than {values:,} values"
    for _ in range(depth):
        if b"[]" not in brackets:
            break
        brackets = brackets.replace(b"[]", b"")  # the innermost level
    if brackets.count(b"[") > depth or b"[]" in brackets:
        return f"it is nested more than {depth} deep"
    return None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        counts = Counter(name for name, _ in pairs)
        twice = next(name for name, count in counts.items() if count > 1)
        raise ValueError(f"it has the key {twice[:60]!r} twice")
    return found
