"""The loop: from wherever a training stands to its end."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from layerscope.base import devices, progress, seeds
from layerscope.base.tensors import owner_name
from layerscope.core import layers, metrics
from layerscope.core.batches import (
    NO_TARGET,
    Batch,
    BatchReader,
    batches,
    label_range,
    move,
)
from layerscope.core.checkpoints import SeriesWriter
from layerscope.core.running import evaluation_mode, find_logits, infer_reader, run_network
from layerscope.errors import OptionError, SweepWarning, TrainingError
from layerscope.zoo.data import epoch_augmentation
from layerscope.zoo.training import _state as state
from layerscope.zoo.training._data import (
    Data,
    few_tokens,
    is_cuttable,
    scoring_batch_size,
    scoring_metrics,
    steps_of,
)
from layerscope.zoo.training._recipe import Recipe, convolves

__all__ = ["Loop"]

"""Targets that count for nothing, in sequences."""

_SAVE_EVERY_S = 5.0
_SAVE_SHARE = 0.05  # of the time may go into keeping where training stands
_SHOW_EVERY_S = 0.2
_CHECK_EVERY = 50  # steps; a look at the loss makes an accelerator wait


class Loop:
    """One training.

    Parameters
    ----------
    model : nn.Module
        On `device`; trained in place.
    data : Data
    recipe : Recipe
        As `Recipe.resolved` returns it.
    seed : int
        Of the order of the data, the augmentation, and everything random in the network, unless the
        recipe has one for these.
    device : torch.device
    writer : Writer
    augment : callable, optional
    what : str
        What progress is shown under.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Data,
        recipe: Recipe,
        seed: int,
        device: torch.device,
        writer: SeriesWriter,
        augment: Callable[..., Any] | None = None,
        what: str = "train",
    ) -> None:
        self.model, self.recipe, self.writer = model, recipe, writer
        self.seed = seed if recipe.order_seed is None else recipe.order_seed
        self.device, self.augment, self.what = device, augment, what
        targets = getattr(data.train, "targets", None)
        self.labels = label_range(targets) if torch.is_tensor(targets) else None
        self.train, self.test = (
            part.to(device) if is_cuttable(part) and hasattr(part, "to") else part
            for part in (data.train, data.test)
        )
        self.steps = steps_of(data, recipe)
        self.still = freeze(model, recipe.frozen)
        self.layout = torch.contiguous_format
        if recipe.autocast == "bfloat16" and convolves(model):
            self.layout = torch.channels_last
            model.to(memory_format=self.layout)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = recipe.make(self.parameters)
        self.sums = {
            "loss": torch.zeros((), device=device),
            "counts": torch.zeros(2, dtype=torch.int64, device=device),  # wrong, counted
        }
        self.position = state.Position()
        self.unchecked: list[Tensor] = []
        self.reading: BatchReader | None = None

    def run(self, wanted: Collection[int], show: bool) -> None:
        """Train to the end, recording after the wanted numbers of steps."""
        self.position = state.restore(self.writer.folder, self.model, self.optimizer, self.sums)
        done = self.position.epoch * self.steps + self.position.step
        if done == 0:
            self._record(0)
        self.wanted, self.saved, self.cost = wanted, time.monotonic(), 0.0
        self.began = self.saved - self.position.seconds
        total = self.recipe.epochs * self.steps
        with progress.bar(total, self.what, "step", start=done, show=show) as advance:
            self.shown = _ProgressLine(advance, self.saved)
            for epoch in range(self.position.epoch + 1, self.recipe.epochs + 1):
                self._epoch(epoch)
        self.writer.update(finished=True, seconds=round(self.position.seconds, 3))
        state.clear(self.writer.folder)

    def _epoch(self, epoch: int) -> None:
        """Pass over what is left of the training set in the order that this epoch has."""
        self.model.train()
        for module in self.still:
            module.training = False
        if self.position.step == 0:
            for tensor in self.sums.values():
                tensor.zero_()
        with devices.Generators(self.device) as seed:
            for inputs, targets in self._batches(epoch, seed):
                self._step(epoch, inputs, targets)
                self.position.step += 1
                self._after_step(epoch)
        if self.position.step != self.steps:
            raise TrainingError(
                f"the training data gave {self.position.step} batches in epoch {epoch}; its "
                f"length says {self.steps}. A stream must give as many as its len()."
            )
        self._check(epoch)
        self.position.epoch, self.position.step = epoch, 0
        recorded = epoch * self.steps in self.wanted
        if recorded:
            self._record(epoch * self.steps)
        if recorded or self._is_due():
            self._save()

    def _batches(self, epoch: int, seed: Callable[[int], None]) -> Iterator[Batch]:
        """Yield the batches that are left of an epoch, each with its own state of chance."""
        start, size = self.position.step, self.recipe.batch_size
        if is_cuttable(self.train):
            shuffle = seeds.generator("order", self.seed, epoch)
            order = torch.randperm(len(self.train), generator=shuffle)[start * size :]
            augment = self.augment and epoch_augmentation(
                self.augment, self.train, self.seed, epoch, start
            )
            # Data of the user's own need not know how to be augmented.
            given = (size, order, augment) if augment else (size, order)
            batches = islice(self.train.batches(*given), self.steps - start)
            skipped = 0
        else:
            self.train.set_epoch(epoch)
            seed(seeds.generator("stream", self.seed, epoch).initial_seed())
            batches, skipped = iter(self.train), start
        for step in range(start - skipped, self.steps + 1):
            # Before the batch is fetched: what a stream draws then is the same after a resumption.
            seed(seeds.generator("step", self.seed, epoch, step).initial_seed())
            batch = next(batches, None)
            if batch is None:
                return
            if step >= start:
                yield self._read(batch)

    def _read(self, batch: Any) -> Batch:
        """Inputs and targets of a batch, these where the network predicts them."""
        ((inputs, targets),) = batches([batch], 1)
        if self.reading is None:
            moved, known = move((inputs, targets), self.device)
            with evaluation_mode(self.model):
                loss = metrics.parse("loss")
                found = infer_reader(self.model, run_network, moved, known, loss)
            if found.guessed:
                warnings.warn(str(found), SweepWarning, stacklevel=2)
            # Compared once, since the host waits for it.
            self.reading = replace(found, expected="")
        return self.reading(inputs, targets)

    def _step(self, epoch: int, inputs: Any, targets: Tensor) -> None:
        """Take one step down the gradient, and add to the sums."""
        step = self.position.step
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.lr_at(epoch, step, self.steps)
        labels = self.labels or label_range(targets)  # of a stream, while they are on the CPU
        inputs, targets = move(inputs, self.device), targets.to(self.device)
        if self.augment is not None and not is_cuttable(self.train):
            inputs = self.augment(inputs, seeds.generator("augment", self.seed, epoch, step))
        if self.layout is torch.channels_last and torch.is_tensor(inputs) and inputs.ndim == 4:
            inputs = inputs.contiguous(memory_format=self.layout)
        low = torch.bfloat16 if self.recipe.autocast == "bfloat16" else None
        brief = low if few_tokens(inputs) else None
        with devices.autocast(self.device, low), devices.short_attention(self.device, brief):
            outputs = find_logits(run_network(self.model, inputs))
        metrics.check_labels(metrics.parse("loss"), outputs, labels)
        loss = loss_of(outputs, targets, self.recipe.label_smoothing)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if self.recipe.clip is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.recipe.clip)
        self.optimizer.step()
        self._add(loss.detach(), outputs.detach(), targets)

    def _add(self, loss: Tensor, outputs: Tensor, targets: Tensor) -> None:
        wrong = outputs.argmax(-1) != targets
        counted: Tensor | int = len(targets)
        if outputs.ndim > 2:
            there = targets != NO_TARGET
            wrong, counted = wrong & there, there.sum()
        self.sums["loss"] += loss * counted
        self.sums["counts"][0] += wrong.sum()
        self.sums["counts"][1] += counted
        self.unchecked.append(loss)

    def _after_step(self, epoch: int) -> None:
        """Check, record, save and show, where it is time to."""
        now = time.monotonic()
        self.position.seconds = now - self.began
        if self.device.type == "cpu" or len(self.unchecked) >= _CHECK_EVERY:
            self._check(epoch)
        if self.position.step < self.steps:  # else _epoch does it, once the epoch is whole
            at = (epoch - 1) * self.steps + self.position.step
            if at in self.wanted:
                self._check(epoch)
                self._record(at)
            if at in self.wanted or self._is_due():
                self._check(epoch)
                self._save()
        self.shown.step(now, epoch, self.recipe.epochs, self.sums)

    def _check(self, epoch: int) -> None:
        """Stop where the loss of a step since the last look is no longer finite."""
        if not self.unchecked:
            return
        good = torch.isfinite(torch.stack(self.unchecked)).tolist()
        losses, self.unchecked = self.unchecked, []
        if not all(good):
            first = good.index(False)
            step = self.position.step - len(good) + first
            self._stop(f"the loss became {float(losses[first])}", epoch, step)

    def _stop(self, what: str, epoch: int, step: int) -> None:
        recipe = self.recipe
        others = [
            "a warm-up (warmup=1)" if not recipe.warmup else "",
            "clipped gradients (clip=1.0)" if recipe.clip is None else "",
        ]
        hint = "".join(f", or {other}" for other in others if other)
        raise TrainingError(
            f"{what} in epoch {epoch}, step {step + 1} of {self.steps}, at learning rate "
            f"{recipe.lr_at(epoch, step, self.steps):g}. Try a lower one, lr={recipe.lr / 5:g}"
            f"{hint}. What was recorded before is kept in {self.writer.folder}."
        )

    def _record(self, step: int) -> None:
        tallies = metrics.evaluate(
            self.model,
            self.test,
            scoring_metrics(self.test),
            batch_size=scoring_batch_size(self.test, self.recipe.batch_size),
            device=self.device,
        )
        scores = {f"test_{name}": tally.mean for name, tally in tallies.items()}
        counted = int(self.sums["counts"][1])
        if counted:
            scores["train_loss"] = float(self.sums["loss"]) / counted
        by_step = self.writer.manifest.get("unit") == "step"
        index = step if by_step else step // self.steps
        self.writer.record(index, self.model.state_dict(), scores)

    def _is_due(self) -> bool:
        wait = max(_SAVE_EVERY_S, self.cost / _SAVE_SHARE) if _SAVE_EVERY_S else 0
        return time.monotonic() - self.saved > wait

    def _save(self) -> None:
        began = time.monotonic()
        state.save(self.writer.folder, self.position, self.model, self.optimizer, self.sums)
        self.saved = time.monotonic()
        self.cost = self.saved - began


class _ProgressLine:
    """Progress, a few times a second: a look at the sums makes an accelerator wait."""

    def __init__(self, advance: progress.Advance, now: float) -> None:
        self.advance, self.last, self.steps, self.counted = advance, now, 0, 0

    def step(self, now: float, epoch: int, epochs: int, sums: dict[str, Tensor]) -> None:
        self.steps += 1
        if now - self.last < _SHOW_EVERY_S:
            return
        wrong, counted = sums["counts"].tolist()
        # The count begins again with every epoch.
        new = counted - self.counted if counted > self.counted else counted
        self.advance(
            self.steps,
            epoch=f"{epoch}/{epochs}",
            loss=f"{float(sums['loss']) / max(counted, 1):.4f}",
            error=f"{wrong / max(counted, 1):.4f}",
            speed=f"{new / (now - self.last):,.0f}/s",
        )
        self.last, self.steps, self.counted = now, 0, counted


def loss_of(outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy in nats, averaged over the targets that count.

    Parameters
    ----------
    outputs : Tensor
        Logits of shape ``(n, classes)``, or ``(n, …, classes)`` for sequences.
    targets : Tensor
        Shape ``(n,)`` or ``(n, …)``; in sequences, −100 counts for nothing.
    smoothing : float

    Raises
    ------
    TrainingError
        If the shapes do not go together.
    """
    if targets.shape != outputs.shape[:-1]:
        raise TrainingError(
            f"outputs of shape {tuple(outputs.shape)} came with targets of shape "
            f"{tuple(targets.shape)}; expected (n, classes) and (n,), or (n, T, classes) and "
            "(n, T)."
        )
    if outputs.dtype in (torch.bfloat16, torch.float16):
        outputs = outputs.float()  # the sum over classes needs more digits
    if outputs.ndim == 2:
        return nn.functional.cross_entropy(outputs, targets, label_smoothing=smoothing)
    total = nn.functional.cross_entropy(
        outputs.flatten(0, -2),
        targets.flatten(),
        ignore_index=NO_TARGET,
        label_smoothing=smoothing,
        reduction="sum",
    )
    # A batch in which nothing counts is no division by 0.
    return total / (targets != NO_TARGET).sum().clamp(min=1)


def freeze(model: nn.Module, patterns: Collection[str]) -> list[nn.Module]:
    """Take the gradient from layers; return their modules that keep running statistics.

    Raises
    ------
    OptionError
        If no layer would be left to train.
    LayerError
        If a pattern matches nothing.
    """
    if not patterns:
        return []
    frozen = layers.select(layers.find(model), list(patterns))
    parameters = dict(model.named_parameters())
    for layer in frozen:
        for name in layer.parameters:
            parameters[name].requires_grad_(False)
    if not any(p.requires_grad for p in parameters.values()):
        raise OptionError(
            f"frozen={tuple(patterns)} matches every layer; leave at least one to be trained."
        )
    owners = {owner_name(name) for layer in frozen for name in layer.buffers}
    return [model.get_submodule(name) for name in sorted(owners)]
