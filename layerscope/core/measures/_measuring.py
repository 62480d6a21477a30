"""Measures of rows: where in the network each is taken, and the one pass over the data."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor, nn

from layerscope.base import devices, progress
from layerscope.base.tensors import named_tensors, owner_name
from layerscope.base.undoing import Undo
from layerscope.core import layers
from layerscope.core.batches import Batch
from layerscope.core.layers import Layer
from layerscope.core.measures._named import OF_STREAM, Measure
from layerscope.core.measures._watching import Key, Span, Watch
from layerscope.core.probe import Probe, Subject
from layerscope.core.running import explain_mismatch
from layerscope.results import FULL_MODEL

__all__ = ["Measured", "down_projections", "mask_of", "measure_rows", "time_measures"]

_NO_BLOCKS = "is no row of whole blocks, so that no hidden states enter and leave it"
_NO_BRANCH = "is neither a block nor the {} of one, or what the block adds was not recognised"
_NO_PROJECTION = "holds no down-projection"
_STACKED = "its experts are one tensor, {}, so that no module shows what one of them gives"
_NO_MATRIX = "holds no weight with a spectrum that could have a tail"
_ATTENDS = ("attn", "attention")


@dataclass(frozen=True)
class Measured:
    """Values of measures.

    Attributes
    ----------
    values : dict
        By name of the row and of the measure; what can't be measured is left out.
    reasons : dict
        Likewise, why.
    examples : int
        That were looked at; 0 where the weights alone were.
    """

    values: dict[tuple[str, str], float] = field(default_factory=dict)
    reasons: dict[tuple[str, str], str] = field(default_factory=dict)
    examples: int = 0


def measure_rows(
    probe: Probe, rows: Sequence[Layer], measures: Sequence[Measure], show_progress: bool = False
) -> Measured:
    """Measure rows of a lent network with its trained weights, in one pass over the data.

    Of the hidden states of a batch no more are held than rows begin at, and go on from.

    Parameters
    ----------
    probe : Probe
    rows : sequence of Layer
        The whole network is no row to be measured.
    measures : sequence of Measure
    show_progress : bool
    """
    parts = [row for row in rows if row.name != FULL_MODEL]
    subject = probe.subject
    return _Rows(subject.model, parts, measures).measure(probe, subject, show_progress)


def time_measures(probe: Probe, rows: Sequence[Layer], measures: Sequence[Measure]) -> float:
    """Tell how many seconds measuring rows takes: from the first batch, and from one spectrum.

    Parameters
    ----------
    probe : Probe
    rows : sequence of Layer
    measures : sequence of Measure
    """
    parts = [row for row in rows if row.name != FULL_MODEL]
    return _Rows(probe.subject.model, parts, measures).time(probe, probe.subject)


def down_projections(model: nn.Module) -> list[str]:
    """Name the linear maps of blocks' MLPs that lead back from a wider to the hidden dimension.

    Of the modules right inside one, as an MLP or an expert, the last such.
    """
    blocks = {path for row in layers.blocks(model) for path in row.modules}
    found: dict[str, str] = {}
    for path, module in model.named_modules():
        block = next((b for b in blocks if path.startswith(f"{b}.")), None)
        if block is None or not _narrows(module, _width(model.get_submodule(block))):
            continue
        inside = path.removeprefix(f"{block}.").lower()
        if not any(word in inside for word in _ATTENDS):
            found[owner_name(path)] = path
    return list(found.values())


def stacked_experts(model: nn.Module) -> list[str]:
    """Name the tensors that hold the down-projections of all experts of an MLP in one."""
    parts = (part for row in layers.blocks(model) for part in row.parts if part.stacked)
    return [names[0] for part in parts for names in part.downs]


def _width(block: nn.Module) -> int | None:
    """Length of a block's hidden states, by the first vector beside its matrices; None without."""
    for child in block.children():
        own = list(child.parameters())
        if own and all(parameter.ndim == 1 for parameter in own):
            return own[0].numel()
    return None


def _narrows(module: nn.Module, width: int | None) -> bool:
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2 or isinstance(module, nn.Embedding):
        return False
    entering = int(layers.fan_ins({"weight": weight}, module)["weight"][0])
    leaving = weight.numel() // max(entering, 1)
    return entering > leaving and width in (None, leaving)


def mask_of(inputs: Any) -> Tensor | None:
    """Find which tokens of a batch are no padding, shape ``(n, T)``; None where all count."""
    mask = inputs.get("attention_mask") if isinstance(inputs, Mapping) else None
    if not isinstance(mask, Tensor) or mask.ndim != 2 or bool((mask != 0).all()):
        return None
    return mask != 0


class _Rows:
    """Rows, each with the places in the network where its measures are taken."""

    def __init__(
        self, model: nn.Module, rows: Sequence[Layer], measures: Sequence[Measure]
    ) -> None:
        self._model, self._rows, self._measures = model, rows, measures
        known = layers.blocks(model)
        staged = layers.blocks(model, view="stage")
        self._blocks = [path for row in known for path in row.modules]
        self._whole = {*self._blocks, *(path for row in staged for path in row.modules)}
        self._projections, self._stacked = down_projections(model), stacked_experts(model)
        self._held = named_tensors(model)
        self._known: dict[tuple[str, str], list[float]] = {}

    def measure(self, probe: Probe, subject: Subject, show_progress: bool) -> Measured:
        """Run the pass, if there is one to run, and read the sums."""
        data = subject.data
        if all(measure.per_matrix for measure in self._measures):
            return self._read(None, 0)
        with progress.bar(data.count, "measures", "example", show=show_progress) as advance:
            sizes = iter(data.lengths)
            watch = self._watched(probe, subject, data, lambda: advance(next(sizes)))
        return self._read(watch, data.count)

    def time(self, probe: Probe, subject: Subject) -> float:
        """Run the pass over the first batch, and read one matrix."""
        total = 0.0
        if not all(measure.per_matrix for measure in self._measures):
            began = time.perf_counter()
            self._watched(probe, subject, [subject.data.first], lambda: None)
            devices.wait(subject.device)
            batches = sum(subject.data.lengths) / subject.data.lengths[0]
            total += batches * (time.perf_counter() - began)
        names = {name for row in self._rows for name in row.parameters}
        sizes = {name: self._arithmetic(name) for name in sorted(names)}
        known = sorted((size, name) for name, size in sizes.items() if size)
        for measure in self._measures if known else ():
            if measure.per_matrix is not None:
                # One like most: what larger or smaller ones take goes with their arithmetic.
                size, name = known[len(known) // 2]
                began = time.perf_counter()
                self._of(measure, name)
                total += sum(sizes.values()) / size * (time.perf_counter() - began)
        return total

    def _arithmetic(self, name: str) -> int:
        """Count operations that the spectra of a tensor take, but for a factor."""
        return sum(
            min(shape) ** 2 * sum(shape)
            for shape in _shapes(self._held[name], self._model.get_submodule(owner_name(name)))
        )

    def _watched(
        self, probe: Probe, subject: Subject, batches: Iterable[Batch], done: Callable[[], object]
    ) -> Watch:
        watch = Watch(
            subject.model, self._spans(), self._inside(), self._narrowing(), self._measures
        )
        with Undo() as undo, undo:
            undo.enter(watch)
            for inputs, _ in batches:
                mask = mask_of(inputs)
                watch.next_batch(mask)
                with explain_mismatch(inputs):
                    probe.plain(partial(subject.call, inputs))
                done()
        return watch

    def _spans(self) -> list[Span]:
        return [row.modules for row in self._rows if self._spanning(row)]

    def _spanning(self, row: Layer) -> bool:
        return bool(row.modules) and self._whole.issuperset(row.modules)

    def _inside(self) -> list[str]:
        """Blocks that rows are, or lie in."""
        rows = {row.block for row in self._rows} | {m for r in self._rows for m in r.modules}
        return [path for path in self._blocks if path in rows]

    def _narrowing(self) -> list[str]:
        held = {owner_name(name) for row in self._rows for name in row.parameters}
        return [path for path in self._projections if path in held]

    def _read(self, watch: Watch | None, examples: int) -> Measured:
        found = Measured(examples=examples)
        for row in self._rows:
            for measure in self._measures:
                value, why = self._value(row, measure, watch)
                if value == value:  # no NaN
                    found.values[row.name, measure.name] = value
                else:
                    found.reasons[row.name, measure.name] = why
        return found

    def _value(self, row: Layer, measure: Measure, watch: Watch | None) -> tuple[float, str]:
        if measure.per_matrix is not None:
            every = (value for name in row.parameters for value in self._of(measure, name))
            return _mean(every), _NO_MATRIX
        assert watch is not None
        if measure.per_output is not None:
            held = {owner_name(name) for name in row.parameters}
            keys: list[Key] = [("output", (path,)) for path in self._projections if path in held]
            stacks = [name for name in self._stacked if name in row.parameters]
            why = _STACKED.format(stacks[0]) if stacks else _NO_PROJECTION
            return _largest(watch, keys, measure), why
        if measure.between != OF_STREAM:
            key: Key = (measure.between, (self._adding(row, measure.between, watch),))
            return _sum(watch, key, measure), _NO_BRANCH.format(measure.between)
        if not self._spanning(row):
            return float("nan"), _NO_BLOCKS
        key = (OF_STREAM, row.modules)
        return _sum(watch, key, measure), watch.reasons.get(key, "was not called")

    def _of(self, measure: Measure, name: str) -> list[float]:
        """Numbers of a measure for the matrices of one tensor, which may be in many rows."""
        assert measure.per_matrix is not None
        at = measure.name, name
        if at not in self._known:
            weight = self._held[name].detach()
            owner = self._model.get_submodule(owner_name(name))
            self._known[at] = [measure.per_matrix(each) for each in _matrices(weight, owner)]
        return self._known[at]

    def _adding(self, row: Layer, role: str, watch: Watch) -> str:
        """The block whose branch a row is, or all of whose branches it holds."""
        if len(row.modules) == 1 and row.modules[0] in watch.blocks:
            return row.modules[0]
        block = watch.blocks.get(row.block)
        for branch in (block.branches or []) if block else []:
            parts = {f"{row.block}.{name}" for name in branch.modules}
            if (
                branch.role == role
                and set(row.modules) >= set(filter(self._weighs, parts)) != set()
            ):
                return row.block
        return ""

    def _weighs(self, path: str) -> bool:
        """Check for a part with parameters that does not normalise."""
        module = self._model.get_submodule(path)
        norm = "norm" in type(module).__name__.lower()
        return not norm and next(module.parameters(), None) is not None


def _sum(watch: Watch, key: Any, measure: Measure) -> float:
    sums = watch.sums.get((key, measure.name))
    return float("nan") if sums is None or key in watch.reasons else sums.value


def _largest(watch: Watch, keys: Iterable[Any], measure: Measure) -> float:
    return max((_sum(watch, key, measure) for key in keys), default=float("nan"))


def _mean(values: Iterable[float]) -> float:
    known = [value for value in values if value == value]
    return sum(known) / len(known) if known else float("nan")


def _matrices(weight: Tensor, owner: nn.Module) -> Iterable[Tensor]:
    """A weight as matrices in double precision: filters flat, stacked experts each."""
    if not weight.is_floating_point() or weight.ndim < 2:
        return []
    return map(devices.double, weight if _is_stacked(weight, owner) else [weight.flatten(1)])


def _shapes(weight: Tensor, owner: nn.Module) -> list[tuple[int, ...]]:
    """Shapes of these matrices."""
    if not weight.is_floating_point() or weight.ndim < 2:
        return []
    each = weight.shape[1:] if _is_stacked(weight, owner) else weight.flatten(1).shape
    return [tuple(each)] * (weight.shape[0] if _is_stacked(weight, owner) else 1)


def _is_stacked(weight: Tensor, owner: nn.Module) -> bool:
    return weight.ndim == 3 and not isinstance(owner, (nn.Conv1d, nn.ConvTranspose1d))
