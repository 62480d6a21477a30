"""How much memory a sweep adds to a network and its activations.

A network of 30 equal linear layers of 17 MB each, 500 MB in all, is evaluated plainly and then
swept over 100 checkpoints, both in a process of its own; the checkpoints are a few files under 100
names. Needs Linux, which says how much memory a process has used at most.

    python benchmarks/memory.py [--quick] [--whole] [--vocabulary] [--json FILE]

plain, sweep
    The most that the process held at a time while it evaluated the network plainly, and while it
    ran the sweep: in all, and without what the system could take back (pages of files). The code
    of the packages is loaded beforehand.
added
    What the sweep took more. It should be below 100 MB.

With ``--vocabulary`` it is a decoder language model of 49,152 tokens and a few blocks of SmolLM2's
size, on one batch of 16 × 512 tokens, whose logits take 1.6 GB: once with metrics of the loss, and
once with one that compares with the unperturbed network, whose logits are then held too. The sweep
should stay below twice the plain forward. With as many blocks as SmolLM2 has (``--blocks 30``) more
is remembered; the logits are the same.

With ``--whole`` the sweep has the row ``fullmodel``, which perturbs all layers at once and adds
what a second network takes, and a tensor.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
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
_VOCABULARY, _TEXTS = 49_152, (16, 512)
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


def decoder(blocks: int) -> nn.Module:
    """Build a decoder language model, of blocks and a vocabulary as SmolLM2 has them."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=blocks,
        num_attention_heads=9,
        num_key_value_heads=3,
        vocab_size=_VOCABULARY,
        tie_word_embeddings=True,
        use_cache=False,
    )
    model: nn.Module = LlamaForCausalLM(config)
    return model.eval()


def child_of_vocabulary(pipe: Connection, options: argparse.Namespace, wanted: list[str]) -> None:
    """Run one plain forward, sweep over a few blocks, and send both peaks."""
    torch.set_num_threads(options.threads)
    model = decoder(options.blocks)
    ids = torch.randint(_VOCABULARY, _TEXTS, generator=torch.Generator().manual_seed(0))
    targets = torch.cat([ids[:, 1:], torch.full_like(ids[:, :1], -100)], 1)
    state = {name: each.clone() for name, each in model.state_dict().items()}
    # What it takes from the system for the first time is of neither.
    with torch.no_grad():
        model(input_ids=ids[:1])
    with peak() as plain, torch.no_grad():
        model(input_ids=ids)
    ends = [f"model.layers.{index}.mlp.down_proj" for index in (0, options.blocks - 1)]
    with peak() as sweep:
        ds = run(
            model,
            (ids, targets),
            checkpoints={0: state},
            layers=ends,
            perturbations=["zero"],
            metrics=wanted,
            batch_size=len(ids),
            device="cpu",
            whole=False,
            show_progress=False,
        )
    pipe.send({"plain": plain, "sweep": sweep, "cells": int(ds.value.notnull().sum())})


def in_fresh_process(child: Callable[..., None], *given: Any) -> dict[str, Any]:
    """Let a process that has allocated nothing yet measure, and return what it sends."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=child, args=(sender, *given))
    process.start()
    sender.close()
    row: dict[str, Any] = receiver.recv()
    process.join()
    return row


def of_vocabulary(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure a large vocabulary, each time in a fresh process."""
    rows = []
    for wanted in (["loss", "perplexity", "error"], ["loss", "kl_divergence"]):
        row = in_fresh_process(child_of_vocabulary, options, wanted)
        row |= {"metrics": wanted, "times": row["sweep"]["all"] / row["plain"]["all"]}
        rows.append(row)
        figures = " ".join(f"{what} {row[what]['all']:.0f} MB," for what in ("plain", "sweep"))
        print(f"{', '.join(wanted)}: {figures} {row['times']:.2f} times (aim below 2)")
    return rows


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
        row = in_fresh_process(child, files, options)
    row["added"] = {what: row["sweep"][what] - row["plain"][what] for what in ("all", "anonymous")}
    return row


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--checkpoints", type=int, default=100)
    parser.add_argument("--layers", type=int, default=3, help=f"of {_DEPTH} that are swept")
    parser.add_argument("--quick", action="store_true", help="10 checkpoints")
    parser.add_argument("--whole", action="store_true", help="with the row fullmodel")
    parser.add_argument("--vocabulary", action="store_true", help="a language model instead")
    parser.add_argument("--blocks", type=int, default=4, help="of the language model")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    options = parser.parse_args()
    if options.quick:
        options.checkpoints = 10
    if options.vocabulary:
        rows = of_vocabulary(options)
        if options.json:
            options.json.write_text(json.dumps({"rows": rows}, indent=2) + "\n")
        return
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
