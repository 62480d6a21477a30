"""How long the explorer takes from a click to what it says, without the browser.

Run it with ``python benchmarks/explorer.py``; ``--quick`` clicks a few times only, and ``--json
FILE`` writes the figures. A click puts a random layer to a random checkpoint, or back, and is timed
from the message that the browser sends to the first estimate and to the whole answer, as they are
written into the widgets. The browser adds the time to draw; see tests/test_explorer_browser.py.

first
    Milliseconds to the first estimate: median and 95th percentile.
whole
    Milliseconds to the answer over all examples.
plain
    Milliseconds of one plain pass over all examples in the same process, for comparison.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from layerscope import models
from layerscope.base import devices
from layerscope.jupyter import LayerExplorer

# Network, shape of the input, examples, batch size, type; limits for first and whole answers.
CASES: dict[str, tuple[str, tuple[int, ...], int, int, str | None, float, float]] = {
    "FCN 3×256, MNIST": ("fcn-3x256", (1, 28, 28), 2000, 1000, None, 150, 150),
    "VGG16, 32×32": ("vgg16", (3, 32, 32), 1000, 50, None, 300, 2500),
    "VGG16, bfloat16": ("vgg16", (3, 32, 32), 1000, 50, "bfloat16", 300, 2500),
}


def main() -> None:
    """Measure every case and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="5 clicks instead of 50")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    clicks = 5 if options.quick else 50
    found = {name: measure(*case[:5], clicks=clicks) for name, case in CASES.items()}
    print(f"{torch.get_num_threads()} threads, {clicks} clicks; milliseconds, median (95 %)")
    for name, times in found.items():
        first, whole = CASES[name][5:]
        print(
            f"{name:20} first {_told(times['first'])}, aim {first:.0f}; "
            f"whole {_told(times['whole'])}, aim {whole:.0f}; plain {times['plain'][0]:.0f}"
        )
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


def measure(
    network: str,
    shape: tuple[int, ...],
    examples: int,
    batch: int,
    dtype: str | None,
    *,
    clicks: int,
) -> dict[str, list[float]]:
    """Click at random; return median and 95th percentile in milliseconds."""
    states = [models.build(network, seed=seed, inputs=shape, classes=10) for seed in range(3)]
    series = {epoch: state.state_dict() for epoch, state in enumerate(states)}
    generator = torch.Generator().manual_seed(0)
    pair = torch.randn(examples, *shape, generator=generator), torch.arange(examples) % 10
    net = states[-1].eval()
    with devices.autocast(torch.device("cpu"), devices.precision(dtype)):
        plain = _timed(lambda: [net(part) for part in torch.split(pair[0], batch)])
    explorer = LayerExplorer(net, pair, series, device="cpu", dtype=dtype, batch_size=batch)
    explorer.wait()
    chance, first, whole = random.Random(0), [], []
    for _ in range(clicks):
        times = _click(explorer, chance.choice(explorer.layers), chance.choice([0, 1]))
        first.append(times[0])
        whole.append(times[1])
    explorer.close()
    return {"first": _spread(first), "whole": _spread(whole), "plain": [plain]}


def _click(explorer: LayerExplorer, layer: str, epoch: int) -> tuple[float, float]:
    """Set one layer, alone; time the first change of the readout, and the end."""
    seen: list[float] = []
    cards = explorer.controls.cards
    watch: Callable[[Any], None] = lambda _: seen.append(time.perf_counter())  # noqa: E731
    cards.observe(watch, "value")
    began = time.perf_counter()
    explorer.state = {layer: ("reinitialize", epoch)}
    explorer.wait()
    ended = time.perf_counter()
    cards.unobserve(watch, "value")
    return 1000 * (seen[0] - began), 1000 * (ended - began)


def _timed(work: Callable[[], object]) -> float:
    with torch.no_grad():
        work()
        began = time.perf_counter()
        work()
    return 1000 * (time.perf_counter() - began)


def _spread(times: list[float]) -> list[float]:
    return [float(np.median(times)), float(np.percentile(times, 95))]


def _told(times: list[float]) -> str:
    return f"{times[0]:.0f} ({times[1]:.0f})"


if __name__ == "__main__":
    main()
