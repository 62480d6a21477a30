"""Sums over the examples of a batch, for sums over batches."""

from __future__ import annotations

from collections.abc import Mapping

from layerscope.core.metrics import NOT_FINITE, Outcome, Tally

__all__ = ["add_tallies", "tallies_of"]


def tallies_of(
    outcomes: Mapping[str, Outcome], baseline: Mapping[str, Outcome]
) -> tuple[dict[str, Tally], dict[str, Tally]]:
    """Sum the outcomes of one batch, and their differences from the unperturbed network's.

    Returns
    -------
    pair of dict of str to Tally
        By name of the metric; of the differences without metrics of which a mean of differences
        says nothing.
    """
    differences = {
        name: Tally.of_difference(outcome, baseline[name])
        for name, outcome in outcomes.items()
        if name != NOT_FINITE.name
    }
    return (
        {name: Tally.of(outcome) for name, outcome in outcomes.items()},
        {name: tally for name, tally in differences.items() if tally is not None},
    )


def add_tallies(total: dict[str, Tally], batch: Mapping[str, Tally]) -> None:
    """Add what one batch gave to the sums of those before it."""
    for name, tally in batch.items():
        if name in total:
            total[name] += tally
        else:
            # A copy, since what was read or computed belongs to somebody else.
            total[name] = Tally.from_list(tally.to_list(), tally.metric)
