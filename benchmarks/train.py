"""How much faster `layerscope.train` is than a plain loop, and what recording takes.

The plain way is what most scripts do: a DataLoader that converts, augments and normalises image by
image, and torch's optimiser as it comes, in single precision. Both train the same network on the
same images with the same batches; the rounds are interleaved, so that the ratios hold on a machine
whose speed drifts.

    python benchmarks/train.py [--quick] [--images 1024] [--rounds 3] [--json FILE]

plain
    Seconds for an epoch of the plain loop.
fp32, bf16
    The plain time over that of `layerscope.train` in single precision, and with
    ``Recipe(autocast="bfloat16")``, which is the default for networks with convolutions where the
    device has instructions for it; evaluating and recording are left out of both.
record
    Share of the whole time that writing checkpoints takes where every epoch is recorded, in single
    precision; as measured, and for an epoch of 50,000 images.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Generator, Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

import layerscope
from layerscope import checkpoints, metrics, models
from layerscope.zoo.data import Examples, ImageData
from layerscope.zoo.training import _loop as loop


@dataclass(frozen=True)
class CropFlip:
    """Pad by 4, crop at random, flip every other image, on the whole batch at once."""

    pad: int = 4

    def __call__(self, inputs: Tensor, generator: Generator) -> Tensor:
        """Return the changed images, shape as given."""
        count, _, height, width = inputs.shape
        padded = nn.functional.pad(inputs, [self.pad] * 4)
        top, left = torch.randint(2 * self.pad + 1, (2, count, 1), generator=generator)
        columns = left + torch.arange(width)
        flipped = torch.rand(count, 1, generator=generator) < 0.5
        columns = torch.where(flipped, columns.flip(1), columns)
        rows = (top + torch.arange(height))[:, :, None]
        which = torch.arange(count)[:, None, None]
        return padded.permute(0, 2, 3, 1)[which, rows, columns[:, None]].permute(0, 3, 1, 2)


def clock() -> float:
    """Return seconds; of this process alone if it has one thread, so that others don't disturb."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


class PerImage(Dataset[tuple[Tensor, int]]):
    """Images that are converted, augmented and normalised one at a time."""

    def __init__(self, examples: Examples, augmented: bool) -> None:
        self.examples = examples
        random = [
            transforms.RandomCrop(examples.inputs.shape[-1], padding=4),
            transforms.RandomHorizontalFlip(),
        ]
        channels = examples.inputs.shape[1]
        self.transform = transforms.Compose(
            [
                transforms.ToPILImage(),
                *(random if augmented else []),
                transforms.ToTensor(),
                transforms.Normalize([examples.mean] * channels, [examples.std] * channels),
            ]
        )

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.examples.inputs[index]), int(self.examples.targets[index])


def vgg16() -> nn.Module:
    """Build VGG16 with the small classifier that is usual for 32×32 inputs."""
    network: nn.Module = torchvision.models.vgg16(num_classes=10)
    network.avgpool = nn.Identity()
    network.classifier = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))
    return network


def resnet18() -> nn.Module:
    """Build ResNet-18 with the 3×3 stem that is usual for 32×32 inputs."""
    network: nn.Module = torchvision.models.resnet18(num_classes=10)
    network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    return network


# Network, shape of the input, whether its images are augmented, and how many times the images.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], bool, int]] = {
    "FCN 3×256": (lambda: models.build("fcn-3x256"), (1, 28, 28), False, 8),
    "VGG16": (vgg16, (3, 32, 32), True, 1),
    "ResNet-18": (resnet18, (3, 32, 32), True, 1),
}


def images(shape: tuple[int, ...], count: int) -> ImageData:
    """Make noise in the form of images; what they show costs nothing."""
    chance = Generator().manual_seed(0)
    train, test = (
        Examples(
            torch.randint(256, (n, *shape), generator=chance).to(torch.uint8),
            torch.randint(10, (n,), generator=chance),
            0.5,
            0.25,
        )
        for n in (count, 64)
    )
    return ImageData("noise", train, test, 10, "made up")


def plain(network: nn.Module, data: ImageData, augmented: bool, size: int) -> float:
    """Train for an epoch as most scripts do; return seconds."""
    loader = DataLoader(PerImage(data.train, augmented), batch_size=size, shuffle=True)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.001, momentum=0.9)
    began = clock()
    network.train()
    for inputs, targets in loader:
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(inputs), targets).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return clock() - began


@contextmanager
def timed(owner: Any, name: str) -> Iterator[list[float]]:
    """Note the seconds of every call of a function."""
    whole, seconds = getattr(owner, name), []

    def watched(*args: Any, **options: Any) -> Any:
        began = clock()
        try:
            return whole(*args, **options)
        finally:
            seconds.append(clock() - began)

    setattr(owner, name, watched)
    try:
        yield seconds
    finally:
        setattr(owner, name, whole)


def ours(
    network: nn.Module, data: ImageData, augmented: bool, size: int, kind: str
) -> tuple[float, float]:
    """Train for an epoch with layerscope; return seconds for that, and for one checkpoint."""
    recipe = layerscope.Recipe(epochs=1, lr=0.001, batch_size=size, autocast=kind)
    with (
        tempfile.TemporaryDirectory() as folder,
        timed(checkpoints.SeriesWriter, "record") as written,
        timed(metrics, "evaluate") as evaluated,
        timed(loop.Loop, "_save") as saved,
    ):
        began = clock()
        layerscope.train(
            network,
            data,
            recipe,
            out=folder,
            augment=CropFlip() if augmented else None,
            device="cpu",
            show_progress=False,
        )
        whole = clock() - began
    both = statistics.mean(written) + statistics.mean(saved)
    return whole - sum(written) - sum(evaluated) - sum(saved), both


def measure(name: str, count: int, rounds: int, size: int) -> dict[str, float]:
    """Run the ways in turn and return medians over rounds."""
    build, shape, augmented, times = NETWORKS[name]
    data = images(shape, count * times)
    found: dict[str, list[float]] = {"plain": [], "fp32": [], "bf16": [], "written": []}
    for _ in range(rounds):
        found["plain"].append(plain(build(), data, augmented, size))
        seconds, written = ours(build(), data, augmented, size, "float32")
        found["fp32"].append(seconds)
        found["written"].append(written)
        found["bf16"].append(ours(build(), data, augmented, size, "bfloat16")[0])
    middle = {way: statistics.median(values) for way, values in found.items()}
    epoch = middle["fp32"] * 50_000 / len(data.train)
    ratios = {
        way: statistics.median(p / o for p, o in zip(found["plain"], found[way], strict=True))
        for way in ("fp32", "bf16")
    }
    return {
        "images": len(data.train),
        "plain_s": middle["plain"],
        **ratios,
        "checkpoint_s": middle["written"],
        "record": middle["written"] / (middle["written"] + middle["fp32"]),
        "record_50000": middle["written"] / (middle["written"] + epoch),
    }


def main() -> None:
    """Print a line per network."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="128 images, batches of 32, one round")
    parser.add_argument("--images", type=int, default=1024, help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--json", type=Path, help="write the figures")
    options = parser.parse_args()
    if options.quick:
        options.images, options.rounds = 128, 1
    size = 32 if options.quick else 128
    figures = {}
    print(f"{'':10} {'images':>7} {'plain s':>8} {'fp32':>6} {'bf16':>6} {'record':>14}")
    for name in NETWORKS:
        found = figures[name] = measure(name, options.images, options.rounds, size)
        print(
            f"{name:10} {found['images']:7.0f} {found['plain_s']:8.2f} {found['fp32']:5.2f}× "
            f"{found['bf16']:5.2f}× {found['record']:6.1%} {found['record_50000']:6.2%}",
            flush=True,
        )
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
