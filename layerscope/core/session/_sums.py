"""Answers of a network to each batch, and their sums in the order of the batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from layerscope.core import metrics as metrics_
from layerscope.core.batches import NO_TARGET
from layerscope.core.metrics import Metric, Outcome, Tally
from layerscope.core.probe import Seen, add_tallies, tallies_of
from layerscope.core.running import find_logits
from layerscope.core.session._estimate import Estimate

__all__ = ["Answer", "Sums", "answer"]


@dataclass
class Answer:
    """The network's answer to one batch, measured."""

    outcomes: dict[str, Outcome]
    predicted: Tensor
    classes: int


class Sums:
    """Adds batches up, in their order."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._tallies: tuple[dict[str, Tally], ...] = ({}, {}, {})
        self._kept: tuple[list[Tensor], ...] = ([], [], [])

    def add(self, changed: Answer, trained: Answer, targets: Any) -> Estimate:
        """Add a batch; return what is known after it."""
        tallies, differences = tallies_of(changed.outcomes, trained.outcomes)
        baseline, _ = tallies_of(trained.outcomes, trained.outcomes)
        own, base, moved = self._tallies
        for total, batch in ((own, tallies), (base, baseline), (moved, differences)):
            add_tallies(total, batch)
        self._kept[0].append(changed.predicted)
        self._kept[1].append(trained.predicted)
        if _names(targets, changed.predicted):
            self._kept[2].append(targets.cpu())
        predicted, before = _together(self._kept[0]), _together(self._kept[1])
        return Estimate(
            examples=len(predicted),
            total=self._total,
            tallies=_copied(own),
            baseline=_copied(base),
            differences=_copied(moved),
            predicted=predicted,
            trained=before,
            targets=_together(self._kept[2]) if self._kept[2] else None,
            classes=changed.classes,
        )


def _names(targets: Any, predicted: Tensor) -> bool:
    """Check that targets name a class where the network does."""
    placed = torch.is_tensor(targets) and targets.shape == predicted.shape
    return placed and not (targets.is_floating_point() or targets.is_complex())


def _together(batches: Sequence[Tensor]) -> Tensor:
    """Put batches together, filled up to the longest sequence with what counts nowhere."""
    shapes = [each.shape[1:] for each in batches]
    longest = [max(sizes) for sizes in zip(*shapes, strict=True)]
    whole = batches[0].new_full((sum(map(len, batches)), *longest), NO_TARGET)
    start = 0
    for batch in batches:
        places = (slice(start, start + len(batch)), *(slice(size) for size in batch.shape[1:]))
        whole[places] = batch
        start += len(batch)
    return whole


def answer(seen: Seen, wanted: Sequence[Metric], outputs: Any) -> Answer:
    """Measure what the network gave for a batch."""
    found = find_logits(outputs)
    # One number for each example names nothing, and is a single class.
    named = metrics_.predicted_class(found if found.ndim > 1 else found.unsqueeze(1)).cpu()
    classes = int(found.shape[-1]) if found.ndim > 1 else 1
    return Answer(seen.measure(wanted, outputs), named, classes)


def _copied(tallies: Mapping[str, Tally]) -> dict[str, Tally]:
    return {name: Tally.from_list(t.to_list(), t.metric) for name, t in tallies.items()}
