"""How much faster replays are than plain passes, and how near they come to the bound.

Run it with ``python benchmarks/reuse.py``; ``--quick`` takes a few layers of each network, and
``--json FILE`` writes the figures. Every cell, one layer with other weights, is run plainly and as
a replay, one after the other in the same process, and the outputs are compared bit for bit.

plain
    Seconds for one plain pass per cell, with the weights swapped in as for a replay.
reuse
    Seconds for recording the batch and one replay per cell.
watch
    Seconds for what is done once per network and form of input, whatever the number of batches.
bound
    The plain time over that of the suffixes alone: what runs after the start of each layer.
    Modules beside the changed one can be skipped too, so it may be passed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

from layerscope.reuse import Recorder

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
    "ResNet-50": (torchvision.models.resnet50, (3, 32, 32), 256, 5, 2.4),
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


@contextmanager
def swapped(network: nn.Module, cell: Cell) -> Iterator[None]:
    """Give the network other weights for a while."""
    before = {name: network.get_parameter(name).data for name in cell}
    try:
        for name, other in cell.items():
            network.get_parameter(name).data = other
        yield
    finally:
        for name, own in before.items():
            network.get_parameter(name).data = own


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


def measure(name: str, *, quick: bool) -> dict[str, object]:
    """Time one network."""
    build, shape, batch, checkpoints, aim = NETWORKS[name]
    torch.manual_seed(0)
    network = build().eval()
    inputs = torch.randn(batch, *shape)

    @torch.no_grad()
    def call() -> Tensor:
        output: Tensor = network(inputs)
        return output

    layers = groups(name, network)
    if quick:
        layers, checkpoints = layers[:: max(1, len(layers) // 12)], 2
    first, total = starts(network, call, 7)
    plain = reuse = 0.0
    exact = True
    with Recorder(network) as recorder:
        begun = clock()
        recorder.record(call, layers)
        watch = clock() - begun
        begun = clock()
        recorder.record(call, layers)
        reuse += clock() - begun
        watch -= reuse
        for group in layers:
            for cell in cells(network, group, checkpoints):
                with swapped(network, cell):
                    begun = clock()
                    expected = call()
                    plain += clock() - begun
                    begun = clock()
                    output = recorder.replay(call, group)
                    reuse += clock() - begun
                exact = exact and torch.equal(output, expected)
            recorder.forget(group)
    suffixes = sum(total - start(first, group) for group in layers)
    return {
        "network": name,
        "cells": f"{len(layers)}×{checkpoints}",
        "plain": plain,
        "reuse": reuse,
        "watch": watch,
        "ratio": plain / reuse,
        "bound": len(layers) * total / suffixes,
        "aim": aim,
        "exact": exact,
        "plain_modules": recorder.plain_modules,
        "refusal": recorder.refusal,
    }


def main() -> None:
    """Measure the networks asked for and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("networks", nargs="*", help=f"of {', '.join(NETWORKS)}; all if none")
    parser.add_argument("--quick", action="store_true", help="a dozen layers of each, twice")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    form = "{:<14}{:>8}{:>10}{:>10}{:>9}{:>8}{:>8}{:>6}{:>7}{:>8}"
    columns = ("network", "cells", "plain s", "reuse s", "watch s", "ratio", "bound", "aim")
    print(form.format(*columns, "exact", "counted"))
    rows = []
    for name in options.networks or NETWORKS:
        row = measure(name, quick=options.quick)
        rows.append(row)
        figures = [
            f"{row[key]:.2f}" for key in ("plain", "reuse", "watch", "ratio", "bound", "aim")
        ]
        counted = len(row["plain_modules"])  # type: ignore[arg-type]
        exact = "yes" if row["exact"] else "NO"
        print(form.format(row["network"], row["cells"], *figures, exact, counted), flush=True)
        if row["refusal"]:
            print(f"  refused: {row['refusal']}")
    if options.json:
        settings = {"threads": options.threads, "torch": torch.__version__, "quick": options.quick}
        options.json.write_text(json.dumps({"settings": settings, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
