"""Every network with its data, in seconds each, tried for working together to the last bit.

    python benchmarks/smoke.py [--data-root DIR] [--device DEVICE] [NETWORK …]

A network is given by how its name begins, such as ``vgg``; without one all are tried.

Each pair is trained and recorded; trained again in a process that is killed in the middle of its
second epoch, and gone on with to weights that must be the same bit for bit; and swept, every cell
compared with a deep copy of the network that holds the changed weights.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

from layerscope.base import devices, seeds
from layerscope.core import layers, perturb, plain, sweep as engine
from layerscope.core.batches import Batch, Examples, FixedBatches
from layerscope.core.checkpoints import Series, open_series
from layerscope.errors import DataError, LayerscopeError, choose
from layerscope.results import FULL_MODEL, NO_EPOCH
from layerscope.zoo import data, models, training
from layerscope.zoo.data import ImageData
from layerscope.zoo.data._modify import apply, split
from layerscope.zoo.data._sources import DataSet
from layerscope.zoo.training import Recipe

_PERTURBATIONS = ("reinitialize", "rerandomize", "noise(0.1)")
_SWEPT, _BATCH = 48, 32  # two batches, the last one shorter
_EPOCHS = 2


@dataclass(frozen=True)
class Pair:
    """A network and what it is trained on.

    Parameters
    ----------
    network : str
    data : str
        As `Source.load` takes it.
    options : mapping
        Of the recipe.
    augment : str, optional
        As `training.train` takes it.
    view : str
        What makes a row of the sweep.
    by_step : bool
        Recorded within an epoch too, and killed after that.
    """

    network: str
    data: str
    options: Mapping[str, Any] = field(default_factory=dict)
    augment: str | None = None
    view: str = "leaf"
    by_step: bool = False

    @property
    def recipe(self) -> Recipe:
        """The recipe it is trained by."""
        return Recipe(**{"epochs": _EPOCHS, "batch_size": 50, **self.options})

    def train(self, given: DataSet, out: Path, device: str) -> Series:
        """Train it, or go on where it was stopped."""
        steps = training.steps_of(given, self.recipe)
        return training.train(
            self.network,
            given,
            self.recipe,
            out=out,
            record=range(_EPOCHS + 1),
            record_steps=[steps + 1] if self.by_step else (),
            augment=self.augment,
            device=device,
            show_progress=False,
        )


_ADAMW = {"optimizer": "adamw", "lr": 1e-3, "schedule": "cosine", "warmup": 0.5, "clip": 1.0}
_DIGITS = "mnist-5k+size=400@0+test_size=100@0"
_PHOTOS = "photos"
_TEXT = "python-docs+vocab=400+length=16+lines=300"

PAIRS: Sequence[Pair] = (
    Pair("fcn-2x64", _DIGITS, {"lr": 0.05}),
    Pair("fcn-2x64", f"{_DIGITS}+random_labels=0.5@0", {"optimizer": "adam", "lr": 1e-3}),
    Pair("vgg11-w0.125", _PHOTOS, {"autocast": "bfloat16"}, "shift-flip"),
    Pair("vgg11-bn-w0.125", _PHOTOS, {"frozen": ("s1b1*",)}),
    Pair("resnet18-w0.125", _PHOTOS, {"weight_decay": 1e-4}, "shift-flip", "block"),
    Pair("resnet18-nonorm-w0.125", f"{_PHOTOS}+classes=0,1", {"clip": 1.0}, view="stage"),
    Pair("resnet18-w0.0625", "pictures", {"batch_size": 16}, "resized-crop", "stage"),
    Pair("vit-32x2-p8", _PHOTOS, _ADAMW | {"label_smoothing": 0.1}, "shift"),
    Pair("mixer-32x2-p8", _PHOTOS, _ADAMW, view="component", by_step=True),
    Pair("transformer-32x2", _TEXT, _ADAMW, view="component", by_step=True),
    Pair("lstm-32x2", _TEXT, _ADAMW, by_step=True),
)


@dataclass(frozen=True)
class Row:
    """The outcome for a pair.

    Attributes
    ----------
    network, data : str
        The data's name says where a stand-in was taken.
    parameters : int
    score : str
        Of the trained network on the test part, in words.
    checkpoints : int
        How many were recorded.
    resumed : bool
        Killed and gone on with, every recorded checkpoint is the same, bit for bit.
    cells : int
        Of the sweep.
    exact : bool
        Each is what a deep copy of the network gives, bit for bit.
    seconds : float
        For everything.
    """

    network: str
    data: str
    parameters: int
    score: str
    checkpoints: int
    resumed: bool
    cells: int
    exact: bool
    seconds: float

    def words(self) -> tuple[str, ...]:
        """Say it in the order of `COLUMNS`."""
        return (
            self.network,
            self.data,
            f"{self.parameters:,}",
            self.score,
            f"{self.checkpoints} recorded, {'same' if self.resumed else 'OTHER'} when resumed",
            f"{self.cells} cells, {'exact' if self.exact else 'NOT EXACT'}",
            f"{self.seconds:.0f}",
        )


COLUMNS = ("network", "data", "parameters", "test", "checkpoints", "sweep", "seconds")


def select(names: Sequence[str] = ()) -> list[Pair]:
    """Pairs whose network's name begins with one of `names`; all of them where there are none.

    Raises
    ------
    OptionError
        If a name fits none.
    """
    known = [pair.network for pair in PAIRS]
    for name in names:
        if not any(network.startswith(name) for network in known):
            choose(name, known, "network to try")
    return [p for p in PAIRS if not names or any(p.network.startswith(name) for name in names)]


def run(
    names: Sequence[str] = (),
    *,
    root: str | os.PathLike[str] | None = None,
    device: str = "auto",
) -> Iterator[Row]:
    """Try pairs one after the other.

    Parameters
    ----------
    names : sequence of str
        As `select` takes them.
    root : path, optional
        Folder of the data sets; where it lacks CIFAR-10, made-up images stand in.
    device : str

    Yields
    ------
    Row

    Raises
    ------
    LayerscopeError
        If a training that is to be killed ends by itself.
    """
    pairs = select(names)
    with tempfile.TemporaryDirectory() as folder:
        source = Source(Path(folder), root)
        for number, pair in enumerate(pairs):
            yield _try(pair, source.load(pair.data), Path(folder) / str(number), device)


@dataclass(frozen=True)
class Source:
    """The data that pairs are trained on.

    Parameters
    ----------
    folder : Path
        For pictures in files.
    root : path, optional
        Folder of the data sets.
    """

    folder: Path
    root: str | os.PathLike[str] | None = None

    def load(self, name: str) -> DataSet:
        """Load what a pair names.

        Parameters
        ----------
        name : str
            As `data.load` takes it; also ``"photos"``, CIFAR-10 or made-up images of its shape,
            and ``"pictures"``, made-up ones in files.
        """
        plain, words = split(name)
        if plain == "pictures":
            return data.load(_drawn(self.folder / plain), image_size=64, workers=1)
        if plain == _PHOTOS:
            changed: DataSet = apply(self.photos, words)
            return changed
        return data.load(name, self.root)

    @cached_property
    def photos(self) -> DataSet:
        """A few images of CIFAR-10, or of its form."""
        try:
            return data.load("cifar10", self.root, size=400, test_size=100)
        except DataError:
            return _made_up(400, 100)


def _made_up(train: int, test: int, side: int = 32) -> ImageData:
    """Images whose class is their brightest channel or corner, in noise."""
    draw = seeds.generator("made-up images", side)
    parts = []
    for count in (train, test):
        targets = torch.arange(count) % 10
        images = torch.randint(160, (count, 3, side, side), generator=draw, dtype=torch.uint8)
        for place in range(10):
            row, column = (place // 4) * side // 3, (place % 4) * side // 4
            lit = images[targets == place, :, row : row + side // 3, column : column + side // 4]
            lit += 95
        parts.append(Examples(images, targets, 0.35, 0.2, "made-up images"))
    origin = "noise with a bright place for each class"
    return ImageData("made-up", parts[0], parts[1], 10, origin)


def _drawn(folder: Path) -> Path:
    """The made-up images as files."""
    from PIL import Image

    images = _made_up(64, 32, side=72)
    for part, examples in (("train", images.train), ("val", images.test)):
        for number, (pixels, target) in enumerate(
            zip(examples.inputs, examples.targets.tolist(), strict=True)
        ):
            path = folder / part / f"class{target}" / f"{number}.png"
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(path)
    return folder


def _try(pair: Pair, given: DataSet, folder: Path, device: str) -> Row:
    began = time.monotonic()
    whole = pair.train(given, folder / "whole", device)
    _killed(pair, given, folder / "killed", device)
    resumed = pair.train(given, folder / "killed", device)
    test = given.test.first(_SWEPT)
    model = models.rebuild(whole)
    ds = engine.sweep(
        model,
        test,
        checkpoints=whole,
        view=pair.view,
        perturbations=_PERTURBATIONS,
        draws=1,
        batch_size=_BATCH,
        epochs=whole.epochs[:2],
        device=device,
        show_progress=False,
    )
    cells = list(_cells_by_copies(whole, test, pair.view, ds, device))
    scores = whole.manifest["epochs"][str(whole.last)]["metrics"]
    name = "test_perplexity" if "test_perplexity" in scores else "test_error"
    return Row(
        network=pair.network,
        data=given.name,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        score=f"{name.removeprefix('test_')} {scores[name]:.3g}",
        checkpoints=len(whole.epochs),
        resumed=whole.digests() == resumed.digests(),
        cells=len(cells),
        exact=all(cells) and len(cells) == int(ds["value"].isel(metric=0).notnull().sum()),
        seconds=time.monotonic() - began,
    )


def _killed(pair: Pair, given: DataSet, out: Path, device: str) -> None:
    """Train in another process until it is killed in the middle of the second epoch."""
    # A server that has imported everything forks in milliseconds, and has no threads yet.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    arguments = (pair, given, out, device, torch.get_num_threads())
    child = context.Process(target=_train_until_killed, args=arguments)
    child.start()
    child.join()
    if child.exitcode != -signal.SIGKILL:
        raise LayerscopeError(
            f"the training of {pair.network} that was to be killed ended with {child.exitcode}; "
            "what it printed says why."
        )
    (left,) = out.iterdir()
    if open_series(left).manifest.get("finished"):
        raise LayerscopeError(f"the training of {pair.network} was finished when it was killed.")


def _train_until_killed(pair: Pair, given: DataSet, out: Path, device: str, threads: int) -> None:
    torch.set_num_threads(threads)
    steps = training.steps_of(given, pair.recipe)
    fatal: Any = _fatal(given.train, steps + steps // 2 + 1)
    pair.train(replace(given, train=fatal), out, device)


def _fatal(part: Any, after: int) -> Any:
    """The same data, in whose batch number `after` the process is killed."""
    kind: Any = type(part)
    given = 0

    class Fatal(kind):  # type: ignore[misc]
        def batches(self, *args: Any) -> Iterator[Batch]:
            nonlocal given
            for batch in super().batches(*args):
                given += 1
                if given == after:
                    os.kill(os.getpid(), signal.SIGKILL)
                yield batch

    return Fatal(**{each.name: getattr(part, each.name) for each in fields(part)})


def _cells_by_copies(
    series: Series, test: Any, view: str, ds: xr.Dataset, device: str
) -> Iterator[bool]:
    """Compare each cell with what a deep copy of the network gives."""
    place = devices.resolve(device)
    model = models.rebuild(series).to(place)
    batches = list(FixedBatches(test, _BATCH, place))
    names = [str(name) for name in ds["metric"].values]
    rows = [*layers.find(model, view), layers.whole_network(model, FULL_MODEL)]
    for row in rows:
        for kind in perturb.parse(_PERTURBATIONS):
            for epoch in series.epochs[:2] if kind.uses_checkpoint else [NO_EPOCH]:
                found = plain.cell(model, series, batches, row, kind, epoch, wanted=names)
                at = ds["value"].sel(layer=row.name, epoch=epoch, perturbation=kind.name, draw=0)
                means = [found[name].mean for name in names]
                yield np.array_equal(at.values, means, equal_nan=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Try pairs and print a table; end with a message where anything is not the same."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help="such as vgg (default: all)")
    parser.add_argument("--data-root", metavar="DIR", help="folder of the data sets")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args(arguments)
    widths = (24, 44, 11, 16, 30, 17, 7)
    wrong = []

    def show(words: Sequence[str]) -> None:
        print("  ".join(map(str.ljust, words, widths)), flush=True)

    show(COLUMNS)
    for row in run(options.networks, root=options.data_root, device=options.device):
        show(row.words())
        if not (row.resumed and row.exact):
            wrong.append(f"{row.network} on {row.data}")
    if wrong:
        sys.exit(f"not the same to the last bit: {'; '.join(wrong)}.")


if __name__ == "__main__":
    main()
