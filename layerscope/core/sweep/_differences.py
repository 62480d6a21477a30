"""Differences between two identities, in words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

__all__ = ["differences"]

_OPENED = {"arithmetic", "libraries"}
"""Keys of the identity whose parts have names that a message can show."""

_WORDS = {
    "metric_code": "code of metrics",
    "network_attributes": "attributes of the network",
    "perturbation_settings": "settings of perturbations",
}
"""How a message calls keys of the identity that are no arguments of `sweep`."""

_DIGEST = re.compile(r"[0-9a-f]{16,}")
_LONGEST = 48


def differences(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Name what two identities differ in, with both values where these can be read.

    >>> differences({"seed": 1, "data": {"sha256": "…"}}, {"seed": 0, "data": {}})
    ['data', 'seed (1 here, 0 there)']
    >>> differences({"arithmetic": {"MKL": "2024.2"}}, {"arithmetic": {}})
    ['MKL (2024.2 here, none there)']
    """
    return sorted(_found(mine, theirs))


def _found(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[str]:
    for key in mine.keys() | theirs.keys():
        here, there = mine.get(key), theirs.get(key)
        if here == there:
            continue
        if key in _OPENED and all(isinstance(each, Mapping) for each in (here, there)):
            yield from _found(here or {}, there or {})
        else:
            yield f"{_WORDS.get(key, key)}{_values(here, there)}"


def _values(here: Any, there: Any) -> str:
    if isinstance(here, list) and isinstance(there, list):
        sides = [[each for each in one if each not in other] for one, other in _ways(here, there)]
        told = [f"{_plain(side)} {where} only" for side, where in zip(sides, _WHERE, strict=True)]
        told = [each for side, each in zip(sides, told, strict=True) if side]
    else:
        sides = [here, there]
        told = [f"{_plain(side)} {where}" for side, where in zip(sides, _WHERE, strict=True)]
    return f" ({', '.join(told)})" if told and all(map(_readable, sides)) else ""


_WHERE = ("here", "there")


def _ways(here: Sequence[Any], there: Sequence[Any]) -> list[tuple[Sequence[Any], Sequence[Any]]]:
    return [(here, there), (there, here)]


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "none" if value is None or value == "" else str(value)


def _readable(value: Any) -> bool:
    """Tell values that a person can compare from digests and whatever is long."""
    plain = value is None or isinstance(value, (str, int, float, bool, list))
    told = _plain(value)
    return plain and len(told) <= _LONGEST and not _DIGEST.search(told)
