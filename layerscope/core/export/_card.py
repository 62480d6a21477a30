"""Page that tells, beside an exported network, what was done to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["card"]

_HEAD = "---\nlibrary_name: transformers\ntags:\n- layerscope\n---\n\n"


def card(record: Mapping[str, Any]) -> str:
    """Write the page that tells what was left out of a network, and what that costs and gains.

    Examples
    --------
    >>> record = {"network": "Net", "removed": ["layers.1"], "kept": ["layers.0"],
    ...     "parameters": 20, "parameters_left": 10, "layerscope": "1"}
    >>> print(card(record).splitlines()[0])
    # Net without 1 of 2 blocks
    """
    removed, total = record["removed"], len(record["removed"]) + len(record["kept"])
    share = record["parameters_left"] / record["parameters"]
    parts = [
        f"# {record['network']} without {len(removed)} of {total} blocks",
        f"Left out, counted in the network that this one was made from: {', '.join(removed)}. "
        f"{record['parameters_left']:,} of {record['parameters']:,} parameters stay ({share:.1%}); "
        "they were not trained again.",
        *(_values(record) if "measured" in record else [_UNMEASURED]),
        *(_speed(record["speed"]) if "speed" in record else []),
        *(_cache(record) if "cache" in record else []),
        f"Made by layerscope {record['layerscope']}; all figures are in layerscope.json.",
    ]
    return (_HEAD if "tokenizer" in record else "") + "\n\n".join(parts) + "\n"


_UNMEASURED = (
    "No loss was measured, since no data were given. On random tokens the network gives, bit for "
    "bit, what the one with all blocks gives when these are skipped."
)


def _values(record: Mapping[str, Any]) -> list[str]:
    rows = [
        f"| {name} | {record['baseline'][name]:.6g} | {record['predicted'][name]:.6g} "
        f"| {value:.6g} |"
        for name, value in record["measured"].items()
    ]
    head = "| metric | all blocks | these skipped (predicted) | this network (measured) |"
    return ["\n".join([head, "|---|---|---|---|", *rows])]


def _speed(speed: Mapping[str, Any]) -> list[str]:
    low, high = speed["ratio_range"]
    return [
        f"Speed: {speed['before']:,} {speed['unit']} before, {speed['after']:,} after, "
        f"{speed['ratio']:.2f} times as fast (median of {speed['rounds']} rounds in turns, "
        f"{low:.2f} to {high:.2f}; passes over a batch of shape {tuple(speed['batch'])} on "
        f"{speed['device']})."
    ]


def _cache(record: Mapping[str, Any]) -> list[str]:
    same = "the same tokens as" if record["cache"] else "other tokens than"
    return [f"Generating with a cache of keys and values gives {same} without."]
