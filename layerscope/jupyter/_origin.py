"""Comparing the checkpoints that a Dataset is of with those that lie beside it."""

from __future__ import annotations

from collections.abc import Mapping

from layerscope import results
from layerscope.jupyter._source import Source

__all__ = ["differing"]

_SHOWN = 3
"""Checkpoints that are named, of those that differ."""


def differing(source: Source) -> str:
    """Say which checkpoints have other hashes than the Dataset records; empty where none has.

    Those that only one of the two holds are no contradiction. Every file is read once in a process.

    Raises
    ------
    CheckpointError
        If a file is not the one that the series' manifest says.
    """
    series, ds = source.series, source.dataset
    recorded = None if ds is None else results.settings(ds).get("checkpoints")
    if series is None or not isinstance(recorded, Mapping) or not any(recorded.values()):
        return ""
    found = series.digests()
    other = {
        epoch: (recorded[str(epoch)], found[epoch])
        for epoch in series.epochs
        if recorded.get(str(epoch)) and recorded[str(epoch)] != found[epoch]
    }
    if not other:
        return ""
    told = [
        f"{series.unit} {epoch} (SHA-256 {str(then)[:12]}… then, {now[:12]}… now)"
        for epoch, (then, now) in list(other.items())[:_SHOWN]
    ]
    more = f" and {len(other) - _SHOWN} more" if len(other) > _SHOWN else ""
    return (
        f"The Dataset was swept of other files than these checkpoints: {', '.join(told)}{more}. "
        "Its colours and cells may be another network's; open the files that it was swept of, or "
        "sweep again."
    )
