"""Outcomes of every example: the same numbers whatever else is computed beside them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from layerscope.base import devices
from layerscope.core.batches import NO_TARGET, Grouped
from layerscope.core.metrics._named import METRICS, Metric
from layerscope.core.metrics._scores import Score, score_positions
from layerscope.core.running import find_logits, tensor_version
from layerscope.errors import DataError, OptionError

__all__ = ["Outcome", "Scores", "check_in_place", "check_labels", "collect", "measure", "score"]


@dataclass(frozen=True, eq=False)
class Outcome:
    """One metric of every example, in double precision on the CPU.

    Attributes
    ----------
    metric : Metric
    values : Tensor
        Shape ``(n,)``: the sum over the counted positions of each example.
    weights : Tensor
        Shape ``(n,)``: how many those are; 1 for an example of a single position.
    bins : Tensor or None
        Shape ``(n, bins)``: the parts of `values` by bin, where the metric has bins.
    """

    metric: Metric
    values: Tensor
    weights: Tensor
    bins: Tensor | None = None


def measure(
    wanted: Sequence[Metric], outputs: Any, targets: Any, reference: Any = None
) -> dict[str, Outcome]:
    """Measure every example of one batch.

    Parameters
    ----------
    wanted : sequence of Metric
    outputs : Tensor, or anything in which `find_logits` finds one
        Logits of shape ``(n, …, classes)``: ``(n, classes)`` for a classifier, ``(n, length,
        classes)`` for sequences. Of any shape ``(n, …)`` for metrics of one's own.
    targets : Tensor or None
        Class indices of shape ``(n, …)``, each for the output of its own position. Positions with
        −100 are not counted, by no metric. None where they are unknown: then all are counted. Of
        any form where no metric takes class indices.
    reference : as `outputs`, optional
        What the unperturbed network gave for the same batch.

    Returns
    -------
    dict of str to Outcome
        By name of the metric. An example's values depend on nothing but its batch.

    Raises
    ------
    OptionError
        If a metric needs targets or a reference and there are none.
    DataError
        If shapes do not go together.

    Examples
    --------
    >>> from layerscope import metrics
    >>> scores = torch.tensor([[[2.0, 1.0], [0.0, 3.0], [0.0, 1.0]]])
    >>> targets = torch.tensor([[0, 0, -100]])
    >>> found = measure(metrics.parse("error"), scores, targets)["error"]
    >>> found.values.tolist(), found.weights.tolist()
    ([1.0], [2.0])
    """
    return collect([score(wanted, outputs, targets, reference)])[0]


@dataclass(eq=False)
class Scores:
    """Values of metrics for one batch, on the device where the network gave its outputs.

    `collect` makes outcomes of them.
    """

    wanted: tuple[Metric, ...]
    packed: list[tuple[list[tuple[str, int]], Tensor]]
    """Names with numbers of rows, and these rows, by type and shape."""
    outcomes: dict[str, Outcome] | None = None

    @property
    def nbytes(self) -> int:
        """Memory that they take."""
        return sum(values.nbytes for _, values in self.packed)

    @property
    def apart(self) -> bool:
        """Tell whether looking at them waits for the device."""
        return any(devices.is_apart(values.device) for _, values in self.packed)


def score(wanted: Sequence[Metric], outputs: Any, targets: Any, reference: Any = None) -> Scores:
    """Score every example of one batch, without waiting for the device; as `measure`."""
    found = find_logits(outputs)
    against = None if reference is None else find_logits(reference)
    _check(wanted, found, targets, against)
    there = _counted(found, targets)
    rows: dict[str, Tensor] = {}
    # What several metrics are made of, such as the cross-entropy, is computed once.
    together = _scored(wanted, found, targets, against)
    scored: dict[tuple[object, bool], Any] = {}
    for metric in wanted:
        same = metric.per_example, metric.uses_reference
        if same not in scored:
            given = (found, targets, against) if metric.uses_reference else (found, targets)
            values = together.get(metric.per_example)
            values = _measured(metric, given) if values is None else values
            scored[same] = _by_example(metric, values, targets)
        rows[metric.name] = _rows(metric, scored[same], found, there)
    return Scores(tuple(wanted), _packed(there, rows))


def collect(scores: Sequence[Scores]) -> list[dict[str, Outcome]]:
    """Make outcomes of scores, brought to the CPU together: each transfer waits for the device.

    They are kept, so that nothing is brought twice.
    """
    new = [each for each in dict.fromkeys(scores) if each.outcomes is None]
    for each, held in zip(new, _brought([each.packed for each in new]), strict=True):
        counted = held.pop("")[0].bool()
        each.outcomes = {m.name: _outcome(m, held[m.name], counted) for m in each.wanted}
        each.packed = []
    return [each.outcomes or {} for each in scores]


def check_labels(wanted: Sequence[Metric], outputs: Any, labels: tuple[int, int] | None) -> None:
    """Refuse class indices that the network has no output for.

    Parameters
    ----------
    wanted : sequence of Metric
        Where none takes class indices, targets may mean something else.
    outputs : as for `measure`
    labels : pair of int, or None
        The lowest and the highest class index, as `label_range` finds them.

    Raises
    ------
    DataError
        If one is negative, or beyond the last output.
    """
    if labels is None or not any(m.classes and m.needs_targets for m in wanted):
        return
    count = find_logits(outputs).shape[-1]
    wrong = [label for label in labels if not 0 <= label < count]
    if wrong:
        raise DataError(
            f"a target is class {wrong[-1]}, and the network has {count:,} outputs, classes "
            f"0…{count - 1}. Build it with as many outputs as there are classes, or choose the "
            "classes that it knows."
        )


def check_in_place(
    wanted: Sequence[Metric], outputs: Any, targets: Any, reference: Any = None
) -> None:
    """Refuse a metric that changes what it is handed, which others are handed after it.

    Tried once on copies, which alone shows what is done past PyTorch, as by NumPy; what PyTorch
    does in place `measure` notices on every batch.

    Parameters
    ----------
    wanted, outputs, targets, reference : as for `measure`

    Raises
    ------
    OptionError
    """
    own = [metric for metric in wanted if METRICS.get(metric.name) is not metric]
    if not own:
        return
    found = find_logits(outputs)
    against = found if reference is None else find_logits(reference)
    _check(own, found, targets, against)
    for metric in own:
        given = (found, targets, against) if metric.uses_reference else (found, targets)
        copies = tuple(copy.deepcopy(each) for each in given)  # apart, though two may be one
        metric.per_example(*copies)
        for what, before, after in zip(_HANDED, given, copies, strict=False):
            if torch.is_tensor(before) and not _equal(before, after):
                raise _in_place(metric, what)


_HANDED = ("outputs", "targets", "reference")


def _scored(
    wanted: Sequence[Metric], outputs: Tensor, targets: Any, reference: Tensor | None
) -> dict[Any, Tensor]:
    """Measure the metrics that read the same outputs position by position, all in one go."""
    scores = [m.per_example for m in wanted if isinstance(m.per_example, Score)]
    return score_positions(scores, outputs, targets, *(() if reference is None else (reference,)))


def _measured(metric: Metric, given: tuple[Any, ...]) -> Tensor:
    """Call a metric; refuse it if it changed what it was handed."""
    before = [tensor_version(tensor) for tensor in given]
    values = metric.per_example(*given)
    for what, tensor, number in zip(_HANDED, given, before, strict=False):
        if tensor_version(tensor) != number:
            raise _in_place(metric, what)
    return values


def _equal(a: Tensor, b: Tensor) -> bool:
    """Compare values; NaN equals itself."""
    return torch.equal(a.nan_to_num(), b.nan_to_num())


def _in_place(metric: Metric, what: str) -> OptionError:
    return OptionError(
        f"the metric {metric.name!r} changes the {what} that it is handed, and other metrics and "
        f"cells are measured with the same; let it work on a copy: {what}.clone()."
    )


def exact(values: Tensor) -> Tensor:
    """In double precision on the CPU, where alone every device can have it: mps has none."""
    return values.detach().cpu().double()


def _check(
    wanted: Sequence[Metric], outputs: Tensor, targets: Any, reference: Tensor | None
) -> None:
    if targets is None and (lacking := [m.name for m in wanted if m.needs_targets]):
        raise OptionError(
            f"{', '.join(lacking)} can't be measured without targets; give them, or choose "
            "metrics that need none, such as 'agreement'."
        )
    if reference is None and (lacking := [m.name for m in wanted if m.uses_reference]):
        raise OptionError(
            f"{', '.join(lacking)} can't be measured without the unperturbed network to compare "
            "with; give it, or for `measure` its outputs: reference=…."
        )
    by_class = [metric for metric in wanted if metric.classes]
    takers = [metric.name for metric in by_class if metric.needs_targets]
    if takers and (not torch.is_tensor(targets) or _is_real(targets)):
        given = f"{targets.dtype}" if torch.is_tensor(targets) else f"a {type(targets).__name__}"
        raise DataError(
            f"targets are {given}; {', '.join(takers)} must have class indices, whole numbers in "
            "a tensor: targets.long(). For others choose metrics=['mse'], ['bce'] or a Metric of "
            "your own."
        )
    if by_class and (outputs.ndim < 2 or (takers and targets.shape != outputs.shape[:-1])):
        given = "none" if targets is None else f"targets of shape {tuple(targets.shape)}"
        raise DataError(
            f"outputs of shape {tuple(outputs.shape)} came with {given}; expected (n, classes) "
            "and (n,), or (n, …, classes) and (n, …)."
        )
    if reference is not None and reference.shape != outputs.shape:
        raise DataError(
            f"outputs of shape {tuple(outputs.shape)} came with a reference of shape "
            f"{tuple(reference.shape)}; they must be of the same network and batch."
        )


def _counted(outputs: Tensor, targets: Any) -> Tensor:
    """Mask of positions that count, shape (n, …); of targets of another form (n,): all examples."""
    shape = outputs.shape[:-1] if outputs.ndim > 1 else outputs.shape
    if isinstance(targets, Grouped):
        shape = torch.Size([len(targets)])
    elif targets is not None:
        placed = torch.is_tensor(targets) and targets.shape in (shape, outputs.shape[:1])
        # Real-valued targets of a metric of one's own may well be −100.
        if placed and not _is_real(targets):
            return cast("Tensor", targets != NO_TARGET)
        shape = targets.shape if placed else outputs.shape[:1]
    return torch.ones(shape, dtype=torch.bool, device=outputs.device)


def _by_example(metric: Metric, values: Any, targets: Any) -> Any:
    """Sum what a metric says of every row of the outputs over the rows of an example."""
    if not isinstance(targets, Grouped) or not torch.is_tensor(values) or metric.weighted:
        return values
    rows = torch.tensor(list(targets.rows))
    if values.shape[:1] != (int(rows.sum()),):
        return values
    flat = values.flatten(1).sum(1) if values.ndim > 1 else values
    if len(flat) == len(rows):
        return flat
    place = torch.repeat_interleave(torch.arange(len(rows)), rows)
    if not devices.is_apart(flat.device):
        return flat.new_zeros(len(rows)).index_add_(0, place, flat)
    # An accelerator adds at indices in any order, which gives other last bits each time.
    within = torch.arange(len(flat)) - (rows.cumsum(0) - rows)[place]
    there = [devices.send(each, flat.device) for each in (place, within)]
    padded = flat.new_zeros(len(rows), int(rows.max()))
    return padded.index_put_(tuple(there), flat).sum(1)


def _is_real(targets: Tensor) -> bool:
    return targets.is_floating_point() or targets.is_complex()


def _rows(metric: Metric, values: Any, outputs: Tensor, counted: Tensor) -> Tensor:
    """Give what a metric returned one leading row, or two where it has bins."""
    two = bool(metric.bins) or metric.weighted
    shapes = [(1 + two, *shape) for shape in (counted.shape, counted.shape[:1])]
    rows = values if two or not torch.is_tensor(values) else values.unsqueeze(0)
    if not torch.is_tensor(rows) or rows.shape not in shapes:
        given = f"shape {tuple(values.shape)}" if torch.is_tensor(values) else repr(values)
        raise DataError(
            f"the metric {metric.name!r} returned {given} for outputs of shape "
            f"{tuple(outputs.shape)}; expected one value per position, "
            f"{shapes[0][not two :]}, or per example."
        )
    return rows


def _packed(
    counted: Tensor, rows: Mapping[str, Tensor]
) -> list[tuple[list[tuple[str, int]], Tensor]]:
    """Put rows of one type and shape into one tensor, apart from the outputs that they are of."""
    # What counts travels as a row beside the first values of its shape.
    like = next((each for each in rows.values() if each.shape[1:] == counted.shape), counted)
    everything = {"": counted.to(like.dtype).unsqueeze(0), **rows}
    groups: dict[tuple[Any, ...], list[str]] = {}
    for name, values in everything.items():
        # Not across types: one that holds both might round whole numbers.
        groups.setdefault((values.dtype, values.shape[1:]), []).append(name)
    return [
        (
            [(name, len(everything[name])) for name in names],
            torch.cat([everything[n] for n in names]),
        )
        for names in groups.values()
    ]


def _brought(packs: Sequence[Sequence[tuple[Any, Tensor]]]) -> list[dict[str, Tensor]]:
    """Bring what was packed to the CPU, in one transfer for each type and shape."""
    groups: dict[tuple[Any, ...], list[tuple[int, Any, Tensor]]] = {}
    for place, pack in enumerate(packs):
        for names, values in pack:
            groups.setdefault((values.dtype, values.shape[1:]), []).append((place, names, values))
    found: list[dict[str, Tensor]] = [{} for _ in packs]
    for group in groups.values():
        parts = [values for _, _, values in group]
        moved = exact(parts[0] if len(parts) == 1 else torch.cat(parts))
        each = torch.split(moved, [len(part) for part in parts])
        for (place, names, _), rows in zip(group, each, strict=True):
            split = torch.split(rows, [count for _, count in names])
            found[place] |= {name: part for (name, _), part in zip(names, split, strict=True)}
    return found


def _outcome(metric: Metric, rows: Tensor, counted: Tensor) -> Outcome:
    """Sum the counted positions of every example."""
    if metric.weighted:
        return Outcome(metric, rows[0], rows[1])
    if rows.ndim == 2 and counted.ndim > 1:
        if metric.positions is not None:
            raise DataError(
                f"the metric {metric.name!r} is of some positions and returned one value per "
                "example; let it return one per position."
            )
        counted = counted.flatten(1).any(1)
    if metric.positions is not None:
        counted = _at_positions(counted, *metric.positions)
    values = rows[0] - rows[1] if metric.bins else rows[0]
    values = torch.where(counted, values, 0.0)
    bins = _binned(values, rows[1], metric.bins) if metric.bins else None
    return Outcome(metric, _summed(values), _summed(counted.double()), bins)


def _at_positions(counted: Tensor, first: int, last: int) -> Tensor:
    """Keep of the counted positions of every example those from the first to the last."""
    flat = counted.reshape(len(counted), -1)
    number = flat.cumsum(1) - 1
    return (flat & (number >= first) & (number <= last)).view(counted.shape)


def _summed(values: Tensor) -> Tensor:
    """Sum over positions; a single one is its own sum."""
    return values.flatten(1).sum(1) if values.ndim > 1 else values


def _binned(values: Tensor, probable: Tensor, count: int) -> Tensor:
    """Sum the values of every example by how probable they were said to be, shape (n, count)."""
    # Bins are open below and closed above, and the first holds 0; NaN goes to the last.
    limits = torch.linspace(0, 1, count + 1, dtype=torch.double)[1:-1]
    bins = torch.zeros(len(values), count, dtype=torch.double)
    where = torch.bucketize(probable.contiguous(), limits)
    return bins.scatter_add_(1, where.unsqueeze(-1).flatten(1), values.unsqueeze(-1).flatten(1))
