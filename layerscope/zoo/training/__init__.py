"""Training with the paper's recipe or another, recording the checkpoints on the way.

>>> import layerscope
>>> digits = layerscope.load_data("mnist-5k")
>>> series = layerscope.train("fcn-3x256", digits, out="series")            # doctest: +SKIP
>>> series.epochs                                                           # doctest: +SKIP
(0, 1, 2, 3, 8, 40, 90, 100)

Epoch 0, the initialisation, is always recorded. A training that was stopped goes on where it was,
to the same weights as one that was not.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from layerscope.base import devices, validate
from layerscope.base.owners import sweep_drafts
from layerscope.base.tensors import update_digest
from layerscope.base.validate import integers
from layerscope.base.writing import write_bytes
from layerscope.core.checkpoints import MANIFEST, Series, SeriesWriter, open_series
from layerscope.core.layers import require_network
from layerscope.errors import OptionError, choose
from layerscope.zoo import data as data_module, models
from layerscope.zoo.training._data import Data, scoring_batch_size, steps_of
from layerscope.zoo.training._lock import training_lock
from layerscope.zoo.training._loop import Loop
from layerscope.zoo.training._machine import same_machine
from layerscope.zoo.training._recipe import OPTIMIZERS, SCHEDULES, Recipe
from layerscope.zoo.training._state import clear, is_begun

__all__ = [
    "OPTIMIZERS",
    "PAPER_EPOCHS",
    "SCHEDULES",
    "TOKENIZER",
    "Data",
    "Recipe",
    "scoring_batch_size",
    "steps_of",
    "train",
]

TOKENIZER = "tokenizer.json"

_LONGEST = 60  # of the data's name in a folder's

PAPER_EPOCHS = (0, 1, 2, 3, 8, 40, 90, 100)
"""The checkpoints in the paper's first figure."""


def train(
    network: str | models.Config | Mapping[str, Any] | nn.Module,
    data: Data,
    recipe: Recipe | None = None,
    *,
    seed: int = 0,
    out: str | os.PathLike[str],
    record: Sequence[int] = PAPER_EPOCHS,
    record_steps: Sequence[int] = (),
    augment: str | Callable[..., Any] | None = None,
    device: str | torch.device = "auto",
    show_progress: bool = True,
) -> Series:
    """Train a network and record its checkpoints.

    Parameters
    ----------
    network : str, configuration, mapping or nn.Module
        As `models.build` takes it; the shape of the inputs and the number of classes come from
        `data`. A module of your own is copied and trained from the weights that it has.
    data : ImageData, ImageStream, TextData, or anything with the attributes of `Data`
        Trained on its training part, scored on its test part. Outputs of shape ``(n, T, classes)``
        go with targets of shape ``(n, T)``, of which −100 count for nothing. The tokenizer of a
        text is kept in the series' folder, as ``tokenizer.json``.
    recipe : Recipe, optional
        The paper's by default.
    seed : int
        Of the initial parameters, of the order of the data, and of everything random in training.
    out : path
        Folder to keep series in, each in a folder of its own that is named after everything that
        is asked for here: a series that is there already is returned, not trained again, and of
        several processes with the same call one trains while the others wait for it. The name does
        not say on what it was trained. With another number of threads, device or version of
        PyTorch other weights come out, first in their last bits: the manifest says which it was
        (``series.manifest["threads"]``), and what was stopped goes on with its number of threads.
    record : sequence of int
        Epochs to record, besides the first and the last; those beyond the last are left out.
    record_steps : sequence of int
        Numbers of optimiser steps after which to record as well. The series is then counted in
        steps throughout (``series.unit`` is ``"step"``): epoch e is step e · steps per epoch.
    augment : str or callable, optional
        One of `data.AUGMENTATIONS` by name, or ``augment(inputs, generator)``, which changes each
        training batch: examples as they are stored, ``uint8`` images before they are normalised;
        for pictures in files see `data.epoch_augmentation`. Its ``repr`` says what it does, as that
        of a dataclass. Chance depends on seed, epoch and step.
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
    OptionError
        If the data are not of a form that can be trained on, or an option can't work.
    DataError
        If the data have more classes than the network has outputs.

    Examples
    --------
    >>> digits = layerscope.load_data("mnist-5k")                           # doctest: +SKIP
    >>> series = train("fcn-2x64", digits, Recipe(epochs=3), out="series")  # doctest: +SKIP
    """
    asked = _asked(network, data, recipe, seed, out, record, record_steps, augment, device)
    folder, place = asked.folder, asked.place
    if (done := _find_finished(folder, asked.identity["record"])) is not None:
        return done
    with training_lock(folder):
        # Another process may have finished it meanwhile.
        if (done := _find_finished(folder, asked.identity["record"])) is not None:
            return done
        writer = SeriesWriter(folder, asked.identity)
        begun = writer.manifest if is_begun(folder) else {}
        with same_machine(begun, place) as about:
            writer.manifest |= about
            if isinstance(data, data_module.TextData):
                write_bytes(folder / TOKENIZER, data.tokenizer.json.encode())
            what = f"train {_short_name(asked.model)}, seed {asked.seed}"
            how = asked.recipe, asked.seed, place, writer, asked.augment, what
            loop = Loop(asked.model.to(place), data, *how)
            try:
                loop.run(asked.steps, show_progress)
            except KeyboardInterrupt as stop:
                stop.add_note(
                    f"what is recorded is safe in {folder}; the same call goes on from there."
                )
                raise
        return open_series(folder)


def open_trained(
    network: str | models.Config | Mapping[str, Any] | nn.Module,
    data: Data,
    recipe: Recipe | None = None,
    *,
    seed: int = 0,
    out: str | os.PathLike[str],
    record: Sequence[int] = PAPER_EPOCHS,
    record_steps: Sequence[int] = (),
    augment: str | Callable[..., Any] | None = None,
    device: str | torch.device = "auto",
) -> Series | None:
    """Open the series that `train` would return at once; None where it would train.

    The arguments are those of `train`.
    """
    asked = _asked(network, data, recipe, seed, out, record, record_steps, augment, device)
    return _find_finished(asked.folder, asked.identity["record"])


class _Asked(NamedTuple):
    """A training that was asked for, found to be possible."""

    model: nn.Module
    recipe: Recipe
    seed: int
    steps: list[int]
    augment: Callable[..., Any] | None
    place: torch.device
    identity: dict[str, Any]
    folder: Path


def _asked(
    network: Any,
    data: Data,
    recipe: Recipe | None,
    seed: int,
    out: str | os.PathLike[str],
    record: Sequence[int],
    record_steps: Sequence[int],
    augment: str | Callable[..., Any] | None,
    device: str | torch.device,
) -> _Asked:
    """Check what `train` was given, and name the folder of the series."""
    if not all(hasattr(data, name) for name in ("name", "train", "test")):
        raise OptionError(
            f"data is a {type(data).__name__}; give a data set, such as load_data('mnist-5k')."
        )
    seed, place_of_series = validate.integer(seed, "seed"), validate.path(out, "out", "series")
    recipe = Recipe() if recipe is None else recipe
    if not isinstance(recipe, Recipe):
        raise OptionError(
            f"recipe is {validate.describe(recipe)}; give a Recipe, such as Recipe(epochs=10)."
        )
    place = devices.resolve(device)
    model, identity = _make_network(network, data, seed)
    recipe = recipe.resolved(model, place)
    steps = steps_of(data, recipe)
    wanted = _steps_to_record(record, record_steps, recipe.epochs, steps)
    identity |= {
        "data": {"name": data.name, "sha256": data.train.fingerprint},
        "recipe": recipe.describe(),
        "seed": seed,
        "record": wanted if record_steps else [step // steps for step in wanted],
    }
    if record_steps:
        identity |= {"unit": "step", "steps_per_epoch": steps}
    if isinstance(augment, str):
        known = data_module.AUGMENTATIONS
        augment = known[choose(augment, known, "augmentation")]
    if augment is not None:
        validate.function(augment, "augment", "augment(inputs, generator)")
        identity["augment"] = _describe(augment)
    name = _folder_name(_short_name(model), data.name, seed, identity)
    return _Asked(model, recipe, seed, wanted, augment, place, identity, place_of_series / name)


def _find_finished(folder: Path, wanted: Sequence[int]) -> Series | None:
    """Open a series that is there in full; None where something of it has yet to be trained."""
    if not (folder / MANIFEST).is_file():
        return None
    series = open_series(folder)
    if not (series.manifest.get("finished") and set(wanted) <= set(series.epochs)):
        return None
    clear(folder)  # left by a kill just then
    sweep_drafts(folder)
    return series


def _make_network(network: Any, data: Data, seed: int) -> tuple[nn.Module, dict[str, Any]]:
    """Build or copy the network; say which it is."""
    if not isinstance(network, nn.Module):
        if callable(network):
            require_network(network, "network")
        model = models.build(network, seed, inputs=data.shape, classes=data.classes)
        return model, {"network": model.config.plain()}
    require_network(network, "network")
    seen = hashlib.sha256(repr(network).encode())
    update_digest(seen, network.state_dict())
    seen.update(repr([p.requires_grad for p in network.parameters()]).encode())
    kind = f"{type(network).__module__}.{type(network).__qualname__}"
    return copy.deepcopy(network), {"module": {"class": kind, "sha256": seen.hexdigest()}}


def _short_name(model: nn.Module) -> str:
    """Name a network in a word."""
    config = getattr(model, "config", None)
    name = str(getattr(config, "name", "") or type(model).__name__.lower())
    return re.sub(r"[^\w.-]+", "-", name)


def _steps_to_record(
    record: Sequence[int], by_step: Sequence[int], epochs: int, steps: int
) -> list[int]:
    """After how many steps to record."""
    last = epochs * steps
    record, by_step = integers(record, "record"), integers(by_step, "record_steps")
    beyond = [step for step in by_step if not 0 <= step <= last]
    if beyond:
        raise OptionError(
            f"record_steps has {beyond[0]}; this training has {last:,} steps ({steps:,} in each "
            f"of {epochs} epochs)."
        )
    kept = {e * steps for e in record if 0 <= e <= epochs}
    return sorted({0, last, *kept, *by_step})


def _describe(augment: Callable[..., Any]) -> str:
    """Describe an augmentation in a form that is the same the next time."""
    said = repr(augment)
    if " at 0x" in said:
        raise OptionError(
            f"augment is {said}, which does not say what it does, so that a series could not be "
            "named after it; give an object with a __repr__, such as a dataclass."
        )
    return said


def _folder_name(network: str, data: str, seed: int, identity: Mapping[str, Any]) -> str:
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
    if len(data) > _LONGEST:
        # The key stands for all of it; file systems take no name of more than 255 bytes.
        data = data[:_LONGEST].rstrip("+=@.,-")
    return f"{network}-{data}-seed{seed}-{key}"
