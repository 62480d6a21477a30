"""One epoch of training and one evaluation: digits in memory against a DataLoader.

The plain way decodes, converts and normalises each image anew, as most scripts do. Both train the
same network with the same batches; the rounds are interleaved, so that the ratio holds on a machine
whose speed drifts.

    python benchmarks/data.py [--data mnist --data-root DIR] [--rounds 3] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

import layerscope
from layerscope import metrics, models
from layerscope.core.batches import Batch
from layerscope.zoo.data import Examples, ImageData


class PerImage(Dataset[tuple[torch.Tensor, int]]):
    """Images that are converted and normalised one at a time, as torchvision's examples do."""

    def __init__(self, examples: Examples) -> None:
        self.examples = examples
        self.transform = transforms.Compose(
            [
                transforms.ToPILImage(),
                transforms.ToTensor(),
                transforms.Normalize((examples.mean,), (examples.std,)),
            ]
        )

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.examples.inputs[index]), int(self.examples.targets[index])


def epoch(batches: Iterable[Batch]) -> None:
    """Train FCN 3×256 on `batches` once."""
    model = models.build("fcn-3x256")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, fused=True)
    for inputs, targets in batches:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def evaluation(batches: Iterable[Batch]) -> None:
    """Evaluate FCN 3×256 on `batches` once."""
    metrics.evaluate(models.build("fcn-3x256"), list(batches), device="cpu")


def seconds(run: Callable[[], None]) -> float:
    """Wall time of one call."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def main() -> None:
    """Time both ways and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", default="mnist-5k")
    parser.add_argument("--data-root")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    data = layerscope.load_data(options.data, options.data_root)
    assert isinstance(data, ImageData), "the benchmark is about images in memory"
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))
    slow_train = DataLoader(PerImage(data.train), batch_size=128, sampler=order.tolist())
    slow_test = DataLoader(PerImage(data.test), batch_size=1000)
    pairs: dict[str, tuple[Callable[[], None], Callable[[], None]]] = {
        "training epoch": (
            lambda: epoch(data.train.batches(128, order)),
            lambda: epoch(slow_train),
        ),
        "evaluation": (
            lambda: evaluation(data.test.batches(1000)),
            lambda: evaluation(slow_test),
        ),
    }
    rows: list[dict[str, Any]] = []
    for name, (ours, plain) in pairs.items():
        ours()  # the first call also sets up threads and memory
        times = [(seconds(ours), seconds(plain)) for _ in range(options.rounds)]
        rows.append(
            {
                "what": name,
                "in memory, s": statistics.median(mine for mine, _ in times),
                "DataLoader, s": statistics.median(other for _, other in times),
                "ratio": statistics.median(other / mine for mine, other in times),
            }
        )
    print(
        f"{data.name}, {len(data.train):,} + {len(data.test):,} images, FCN 3×256, "
        f"{torch.get_num_threads()} threads, median of {options.rounds} rounds"
    )
    for row in rows:
        print(
            f"{row['what']:<16} in memory {row['in memory, s']:7.3f} s   "
            f"DataLoader {row['DataLoader, s']:7.3f} s   ratio {row['ratio']:5.1f}"
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
