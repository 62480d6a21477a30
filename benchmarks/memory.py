"""How much memory a sweep adds to a network and its activations.

A network of 30 equal linear layers of 17 MB each, 500 MB in all, is evaluated plainly and then
swept over 100 checkpoints, both in a process of its own; the checkpoints are a few files under 100
names. Needs Linux, which says how much memory a process has used at most.

    python benchmarks/memory.py [--quick] [--whole] [--json FILE]

plain, sweep
    The most that the process held at a time while it evaluated the network plainly, and while it
    ran the sweep: in all, and without what the system could take back (pages of files). The code
    of the packages is loaded beforehand.
added
    What the sweep took more. It should be below 100 MB.

With ``--whole`` the sweep has the row ``fullmodel``, which perturbs all layers at once and adds
1.2 GB: weights of the network, of the checkpoint and of what is swapped in are held together.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from layerscope import metrics
from layerscope.core.sweep import sweep as run

_WIDTH, _DEPTH, _BATCH, _FILES = 2048, 30, 64, 3
_AIM_MB = 100.0
_MB = 1e6


def network(seed: int) -> nn.Module:
    """Build the network, 500 MB."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for _ in range(_DEPTH):
        layers += [nn.Linear(_WIDTH, _WIDTH), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def status(name: str) -> float:
    """Read one line of what the system says about this process, in MB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 / _MB for line in lines if line.startswith(f"{name}:"))


@contextmanager
def peak() -> Iterator[dict[str, float]]:
    """Measure the most memory that is held inside, in MB."""
    found = {"all": 0.0, "anonymous": status("RssAnon"), "seconds": 0.0}
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.001):
            found["anonymous"] = max(found["anonymous"], status("RssAnon"))

    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forgets the earlier peak
    watcher = threading.Thread(target=watch)
    watcher.start()
    begun = time.monotonic()
    try:
        yield found
    finally:
        found["seconds"] = time.monotonic() - begun
        done.set()
        watcher.join()
        found["all"] = status("VmHWM")


def child(pipe: Connection, files: list[str], options: argparse.Namespace) -> None:
    """Evaluate plainly, sweep, and send both peaks."""
    torch.set_num_threads(options.threads)
    # The last epoch is the trained network, which is what the network holds already.
    checkpoints = {epoch: files[epoch % (_FILES - 1)] for epoch in range(options.checkpoints - 1)}
    checkpoints[options.checkpoints - 1] = files[-1]
    model = network(_FILES - 1)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(2 * _BATCH, _WIDTH, generator=generator)
    data = inputs, torch.randint(_WIDTH, (2 * _BATCH,), generator=generator)
    with peak() as plain:
        metrics.evaluate(model, data, batch_size=_BATCH, device="cpu")
    names = [name for name, _ in model.named_children() if int(name) % 2 == 0]
    with peak() as sweep:
        ds = run(
            model,
            data,
            checkpoints=checkpoints,
            layers=names[:: _DEPTH // options.layers],
            draws=1,
            batch_size=_BATCH,
            device="cpu",
            whole=options.whole,
            show_progress=False,
        )
    cells = int(ds.value.notnull().isel(metric=0).sum())
    pipe.send({"plain": plain, "sweep": sweep, "cells": cells})


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Write the files and measure in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        files = [f"{folder}/{number}.safetensors" for number in range(_FILES)]
        for number, file in enumerate(files):
            save_file(network(number).state_dict(), file)
        context = multiprocessing.get_context("spawn")
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=child, args=(sender, files, options))
        process.start()
        sender.close()
        row: dict[str, Any] = receiver.recv()
        process.join()
    row["added"] = {what: row["sweep"][what] - row["plain"][what] for what in ("all", "anonymous")}
    return row


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--checkpoints", type=int, default=100)
    parser.add_argument("--layers", type=int, default=3, help=f"of {_DEPTH} that are swept")
    parser.add_argument("--quick", action="store_true", help="10 checkpoints")
    parser.add_argument("--whole", action="store_true", help="with the row fullmodel")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    options = parser.parse_args()
    if options.quick:
        options.checkpoints = 10
    row = measure(options)
    print(f"{options.checkpoints} checkpoints of 500 MB, {row['cells']} cells")
    print(f"{'MB':<12}{'plain':>10}{'sweep':>10}{'added':>10}{'aim':>10}")
    for what in ("all", "anonymous"):
        figures = [f"{row[when][what]:.0f}" for when in ("plain", "sweep", "added")]
        print("{:<12}{:>10}{:>10}{:>10}{:>10}".format(what, *figures, f"< {_AIM_MB:.0f}"))
    if options.json:
        settings = {
            name: getattr(options, name) for name in ("checkpoints", "layers", "whole", "threads")
        }
        settings |= {"torch": torch.__version__, "cores": os.cpu_count()}
        options.json.write_text(json.dumps({"settings": settings, "row": row}, indent=2) + "\n")


if __name__ == "__main__":
    main()
