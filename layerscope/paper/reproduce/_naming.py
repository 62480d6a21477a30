"""Names of a run: its folder, and the command that makes it."""

from __future__ import annotations

import ast
import hashlib
import json
import shlex
from collections.abc import Mapping
from typing import Any

__all__ = ["command", "folder_name"]

_LONGEST = 60  # characters of what a folder's name says of parameters


def folder_name(scale: str, changed: Mapping[str, Any]) -> str:
    """Name the folder of a run after its scale and the parameters that are not the scale's.

    Parameters
    ----------
    scale : str
    changed : mapping
        By name. Where they would make a long name the network stays readable, and a hash stands
        for all of them; the run's manifest has them in full.

    Examples
    --------
    >>> folder_name("small", {"seeds": 1, "network": "fcn-5x256"})
    'small+network=fcn-5x256+seeds=1'
    """

    def part(key: str) -> str:
        value = changed[key]
        text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        return f"{key}=" + "".join(c if c.isalnum() or c in "-.," else "_" for c in text)

    parts = list(map(part, sorted(changed)))
    if len("+".join(parts)) <= _LONGEST:
        return "+".join([scale, *parts])
    whole = json.dumps(dict(changed), sort_keys=True, default=str)
    digest = hashlib.sha256(whole.encode()).hexdigest()[:8]
    network = [each for each in parts if each.startswith("network") and len(each) <= _LONGEST]
    return "+".join([scale, *network, digest])


def command(name: str, scale: str, changed: Mapping[str, Any]) -> str:
    """Write the command that makes a run, for a POSIX shell.

    Parameters
    ----------
    name, scale : str
    changed : mapping
        Parameters that are not the scale's.

    Examples
    --------
    >>> command("joint", "small", {"seeds": 1, "network": "vgg11", "record": [0, 1]})
    "layerscope reproduce joint --scale small -p network=vgg11 -p 'record=[0, 1]' --seeds 1"
    """
    given = "".join(
        f" --seeds {value}" if key == "seeds" else f" -p {shlex.quote(f'{key}={_text(value)}')}"
        for key, value in sorted(changed.items())
    )
    return f"layerscope reproduce {shlex.quote(name)} --scale {scale}{given}"


def _text(value: Any) -> str:
    """Write a value so that ``-p`` reads it; a text that reads as itself needs no marks."""
    if isinstance(value, str):
        try:
            ast.literal_eval(value)
        except (ValueError, SyntaxError):
            return value
    return repr(value)
