"""Differences between two identities, in words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

__all__ = ["differences", "going_on"]

_OPENED = {"arithmetic", "libraries"}
"""Keys of the identity whose parts have names that a message can show."""

_WORDS = {
    "metric_code": "code of metrics",
    "network_attributes": "attributes of the network",
    "perturbation_settings": "settings of perturbations",
}
"""How a message calls keys of the identity that are no arguments of `sweep`."""

_ARGUMENTS = ("batch_size", "device", "draws", "dtype", "epochs", "seed", "view")
"""Keys that are arguments of `sweep`, with values as they are given."""

_CALLS = {
    "threads": "torch.set_num_threads({})",
    "matmul precision": "torch.set_float32_matmul_precision({})",
    "deterministic algorithms": "torch.use_deterministic_algorithms({})",
    "default type": "torch.set_default_dtype({})",
}
"""Calls that make a setting what it was, with its value in braces."""

_PRECISIONS = ("highest", "high", "medium")
_OF_MATMUL = re.compile(r"matmul\.(fp32_precision|allow_tf32)|backends\.fp32_precision")
"""Settings that the precision of matrix products is made of."""

_SWITCHES = {"on": True, "off": False, "True": True, "False": False}
_SETTING = re.compile(r"torch\.backends\.[\w.]+")

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


def going_on(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    """Say with what the same call goes on where another sweep is; empty where nobody can say.

    >>> going_on({"seed": 1, "threads": 2}, {"seed": 0, "threads": 4})
    'To go on with that one, run torch.set_num_threads(4) first, and give seed=0. '
    >>> going_on({"seed": 1, "data": {"sha256": "…"}}, {"seed": 0, "data": {}})
    ''
    """
    given: list[str] = []
    before: list[str] = []
    apart = dict(_apart(mine, theirs))
    for key, there in sorted(apart.items()):
        if "matmul precision" in apart and _OF_MATMUL.search(key):
            continue
        if key in _ARGUMENTS:
            given.append(f"{key}={(there if there != '' else None)!r}")
        elif call := _call(key, there):
            before.append(call)
        else:
            return ""
    told = [f"run {'; '.join(before)} first"] * bool(before)
    told += [f"give {', '.join(given)}"] * bool(given)
    return f"To go on with that one, {', and '.join(told)}. "


def _apart(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the names of what differs, with the value there."""
    for key in mine.keys() | theirs.keys():
        here, there = mine.get(key), theirs.get(key)
        if here != there and key in _OPENED and isinstance(here, Mapping):
            yield from _apart(here, there if isinstance(there, Mapping) else {})
        elif here != there:
            yield key, there


def _call(name: str, value: Any) -> str:
    """Write the call that gives a setting a value; empty of what no call changes."""
    if not isinstance(value, (str, int)):
        return ""
    plain = _SWITCHES.get(str(value), value)
    if name == "matmul precision" and value not in _PRECISIONS:
        return ""
    if name in _CALLS:
        told = value if name == "default type" else repr(plain)
        return _CALLS[name].format(told)
    return f"{name} = {plain!r}" if _SETTING.fullmatch(name) else ""


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
