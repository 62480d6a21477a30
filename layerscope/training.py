"""Training with the paper's recipe, recording the checkpoints on the way.

>>> import layerscope
>>> digits = layerscope.load_data("mnist-5k")
>>> series = layerscope.train("fcn-3x256", digits, out="series")            # doctest: +SKIP
>>> series.epochs                                                           # doctest: +SKIP
(0, 1, 2, 3, 8, 40, 90, 100)

Epoch 0, the initialisation, is always recorded. A training that was stopped goes on where it was,
to the same weights as one that was not.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from layerscope import devices, metrics, models, progress, seeds
from layerscope._version import __version__
from layerscope.checkpoints import MANIFEST, Series, Writer, open_series
from layerscope.data import ImageData
from layerscope.errors import OptionError, TrainingError
from layerscope.results import write_bytes

__all__ = ["PAPER_EPOCHS", "Recipe", "train"]

PAPER_EPOCHS = (0, 1, 2, 3, 8, 40, 90, 100)
"""The checkpoints in the paper's first figure."""

_RESUME = "resume.safetensors"
_SAVE_EVERY_S = 5.0


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: stochastic gradient descent with momentum.

    Parameters
    ----------
    epochs : int
        Passes over the training set.
    lr : float
        Initial learning rate.
    batch_size : int
    momentum, weight_decay : float
    drops : tuple of float
        At these fractions of the epochs the learning rate is multiplied by `decay`.
    decay : float

    Notes
    -----
    The defaults are those of Zhang, Bengio and Singer (JMLR 2022) but for `lr`, which they do
    not state.
    """

    epochs: int = 100
    lr: float = 0.01
    batch_size: int = 128
    momentum: float = 0.9
    weight_decay: float = 0.0
    drops: tuple[float, ...] = (0.3, 0.6, 0.9)
    decay: float = 0.2

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        for name in ("momentum", "weight_decay"):
            if getattr(self, name) < 0:
                raise OptionError(f"{name} is {getattr(self, name)}; it must not be negative.")
        if not self.lr > 0:
            raise OptionError(f"lr is {self.lr}; it must be above 0.")

    def lr_at(self, epoch: int) -> float:
        """Learning rate during `epoch`, counted from 1."""
        return self.lr * self.decay ** sum(epoch - 1 >= self.epochs * drop for drop in self.drops)


def train(
    network: str | models.Config | Mapping[str, Any],
    data: ImageData,
    recipe: Recipe | None = None,
    *,
    seed: int = 0,
    out: str | os.PathLike[str],
    record: Sequence[int] = PAPER_EPOCHS,
    device: str | torch.device = "auto",
    show_progress: bool = True,
) -> Series:
    """Train a network and record its checkpoints.

    Parameters
    ----------
    network : str, configuration or mapping
        As `models.build` takes it; the shape of the inputs and the number of classes come from
        `data`.
    data : ImageData
        Trained on its training part, scored on its test part.
    recipe : Recipe, optional
        The paper's by default.
    seed : int
        Of the initial parameters and of the order of the data.
    out : path
        Folder to keep series in, each in a folder of its own that is named after everything it
        depends on: a series that is there already is returned, not trained again.
    record : sequence of int
        Epochs to record, besides the first and the last; those beyond the last are left out.
    device : str or torch.device
        ``"auto"`` takes the first of cuda, mps and cpu that is present.
    show_progress : bool

    Returns
    -------
    Series

    Raises
    ------
    TrainingError
        If the loss is no longer finite. What was recorded until then is kept.

    Examples
    --------
    >>> digits = layerscope.load_data("mnist-5k")                           # doctest: +SKIP
    >>> series = train("fcn-2x64", digits, Recipe(epochs=3), out="series")  # doctest: +SKIP
    """
    if not isinstance(data, ImageData):
        raise OptionError(
            f"data is a {type(data).__name__}; give a data set, such as load_data('mnist-5k')."
        )
    recipe, seed = recipe or Recipe(), int(seed)
    place = devices.resolve(device)
    model = models.build(network, seed, inputs=data.shape, classes=data.classes)
    recorded = sorted({0, recipe.epochs, *(e for e in record if 0 <= e <= recipe.epochs)})
    identity = {
        "network": models.describe(model.config),
        "data": {"name": data.name, "sha256": data.train.fingerprint},
        "recipe": {**asdict(recipe), "drops": list(recipe.drops)},
        "seed": seed,
        "record": recorded,
    }
    folder = Path(out) / _name(model.config.name, data.name, seed, identity)
    if (folder / MANIFEST).is_file():
        series = open_series(folder)
        if series.manifest.get("finished"):
            return series
    about = {
        "layerscope": __version__,
        "torch": torch.__version__,
        "device": devices.describe(place),
    }
    loop = _Loop(model.to(place), data, recipe, seed, place, Writer(folder, identity | about))
    try:
        loop.run(recorded, show_progress)
    except KeyboardInterrupt as stop:
        stop.add_note(f"what is recorded is safe in {folder}; the same call goes on from there.")
        raise
    return open_series(folder)


class _Loop:
    """One training, from wherever it stands to its end."""

    def __init__(
        self,
        model: models.Network,
        data: ImageData,
        recipe: Recipe,
        seed: int,
        device: torch.device,
        writer: Writer,
    ) -> None:
        self.model, self.recipe, self.seed, self.writer = model, recipe, seed, writer
        self.train, self.test = data.train.to(device), data.test.to(device)
        self.device = device
        self.optimizer = torch.optim.SGD(
            model.parameters(),
            lr=recipe.lr,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            fused=True,
        )
        self.seconds = 0.0

    def run(self, recorded: Sequence[int], show: bool) -> None:
        """Train to the end, recording the epochs that are wanted."""
        done = self._resume()
        if done == 0:
            self._record(0, math.nan)
        began = saved = time.monotonic()
        before = self.seconds
        what = f"train {self.model.config.name}, seed {self.seed}"
        with progress.bar(self.recipe.epochs, what, "epoch", start=done, show=show) as advance:
            for epoch in range(done + 1, self.recipe.epochs + 1):
                loss = self._epoch(epoch)
                self.seconds = before + time.monotonic() - began
                if epoch in recorded:
                    self._record(epoch, loss)
                if epoch in recorded or time.monotonic() - saved > _SAVE_EVERY_S:
                    self._save(epoch)
                    saved = time.monotonic()
                advance(1, loss=f"{loss:.4f}")
        self.writer.update(finished=True, seconds=round(self.seconds, 3))
        (self.writer.folder / _RESUME).unlink(missing_ok=True)

    def _epoch(self, epoch: int) -> float:
        """Pass once over the training set in the order that this epoch has; return the loss."""
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.lr_at(epoch)
        shuffle = seeds.generator("order", self.seed, epoch)
        order = torch.randperm(len(self.train), generator=shuffle).to(self.device)
        total = torch.zeros((), device=self.device)
        for inputs, targets in self.train.batches(self.recipe.batch_size, order):
            loss = nn.functional.cross_entropy(self.model(inputs), targets)
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            total += loss.detach() * len(targets)
        mean = float(total) / len(self.train)
        if not math.isfinite(mean):
            raise TrainingError(
                f"the loss became {mean} in epoch {epoch} at learning rate "
                f"{self.recipe.lr_at(epoch):g}. Try a lower one, lr={self.recipe.lr / 5:g}. "
                f"What was recorded before is kept in {self.writer.folder}."
            )
        return mean

    def _record(self, epoch: int, loss: float) -> None:
        tallies = metrics.evaluate(self.model, self.test, device=self.device)
        scores = {f"test_{name}": tally.mean for name, tally in tallies.items()}
        if math.isfinite(loss):
            scores["train_loss"] = loss
        self.writer.record(epoch, self.model.state_dict(), scores)

    def _save(self, epoch: int) -> None:
        """Keep what going on from here needs; the order of the data follows from the epoch."""
        from safetensors.torch import save

        state = {f"model.{name}": t for name, t in self.model.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            buffer = self.optimizer.state[parameter].get("momentum_buffer")
            if buffer is not None:
                state[f"momentum.{name}"] = buffer
        about = {"epoch": str(epoch), "seconds": repr(self.seconds)}
        plain = {name: t.detach().to("cpu").contiguous() for name, t in state.items()}
        write_bytes(self.writer.folder / _RESUME, save(plain, metadata=about))

    def _resume(self) -> int:
        """Load what an interrupted training left; return the epoch it had finished."""
        from safetensors import safe_open

        path = self.writer.folder / _RESUME
        if not path.is_file():
            return 0
        with safe_open(path, framework="pt") as file:
            state: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            about = file.metadata()
        for name, parameter in self.model.named_parameters():
            with torch.no_grad():
                parameter.copy_(state[f"model.{name}"])
            if f"momentum.{name}" in state:
                buffer = torch.empty_like(parameter).copy_(state[f"momentum.{name}"]).detach()
                self.optimizer.state[parameter]["momentum_buffer"] = buffer
        self.seconds = float(about["seconds"])
        return int(about["epoch"])


def _name(network: str, data: str, seed: int, identity: Mapping[str, Any]) -> str:
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
    return f"{network}-{data}-seed{seed}-{key}"
