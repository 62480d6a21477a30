"""Work of a sweep that is not its cells' own: counted up to the first cell, and in all.

One row of a network is swept over a series of three checkpoints (random weights, ``.safetensors``),
with and without a folder to keep it in.

    python benchmarks/setup.py [--networks llama gpt2 resnet50] [--label NAME] [--json FILE]

passes
    Passes through the network before the first cell, in whole batches: one over a quarter of the
    examples counts 0.25. The plain way has one, for the value of the unchanged network.
read, hashed
    Bytes that were copied out of checkpoints, and that went through SHA-256.
made
    Cells whose weights were made, one counted as often as that was done, in the whole sweep.
initialised
    Elements that initialisers drew, in the whole sweep, in those of the row: one for each draw
    would do.
lent
    Times that the network was lent.
seconds
    Processor time to the first cell, and of all; one thread by default.

With ``--json`` the figures are put under their label into a file that may hold those of others.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from safetensors.torch import save_model
from torch import nn

import layerscope
from layerscope.base import tensors
from layerscope.core import lending
from layerscope.core.checkpoints import Series, _trails as trails
from layerscope.core.probe import CellTensors, Probe, _subject as subjects

_TEXTS, _TOKENS, _IMAGES = 8, 64, 8
_ROWS = {
    "llama": "model.layers.6.mlp.up_proj",
    "gpt2": "transformer.h.6.mlp.c_fc",
    "resnet50": "layer3.2.conv2",
}


def network(name: str) -> Any:
    """Build one of the networks, with random weights."""
    from torchvision import models
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    if name == "resnet50":
        return models.resnet50(num_classes=100)
    if name == "gpt2":
        return GPT2LMHeadModel(GPT2Config())
    config = LlamaConfig(
        hidden_size=768, intermediate_size=2048, num_hidden_layers=12, vocab_size=8192,
        num_attention_heads=12, num_key_value_heads=12,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def examples(net: Any) -> Any:
    """Draw a batch for it."""
    torch.manual_seed(0)
    if not hasattr(net, "config"):
        return torch.randn(_IMAGES, 3, 96, 96), torch.randint(100, (_IMAGES,))
    ids = torch.randint(net.config.vocab_size, (_TEXTS, _TOKENS))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}


class Counts:
    """What is counted while a sweep runs; up to the first cell, and in all."""

    def __init__(self, batch: int, size: int) -> None:
        self.all: defaultdict[str, float] = defaultdict(float)
        self.first: dict[str, float] = {}
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._batch, self._size = batch, size
        self._begun = time.process_time()

    def told(self) -> dict[str, Any]:
        """Say it in plain values."""
        names = ("passes", "read_mb", "hashed_mb", "lent")
        whole = {name: round(self.all[name], 2) for name in (*names, "made", "initialised")}
        whole["initialised"] = round(whole["initialised"] / self._size, 2)
        return {
            "before_the_first_cell": {n: round(self.first.get(n, 0), 2) for n in names}
            | {"seconds": round(self.first["seconds"], 2)},
            "in_all": whole | {"seconds": round(time.process_time() - self._begun, 2)},
            "seconds_of": {n: round(s, 2) for n, s in self.seconds.items() if s >= 0.01},
        }

    def cell(self) -> None:
        """Remember what was counted when the first cell is asked about."""
        if not self.first:
            self.first = dict(self.all) | {"seconds": time.process_time() - self._begun}

    def ran(self, inputs: Any) -> None:
        """Count a pass by the share of the batch that it went over."""
        held = inputs.values() if isinstance(inputs, dict) else [inputs]
        self.all["passes"] += len(next(iter(held))) / self._batch


@contextmanager
def counting(batch: int, row: int) -> Iterator[Counts]:
    """Count while it lasts."""
    counts = Counts(batch, row)
    ask = Probe.ask_each

    def noting(owner: Any, name: str, note: Callable[..., object]) -> None:
        """Tell of every call that came through what it was given and what it gave."""
        original = getattr(owner, name)

        @functools.wraps(original)
        def noted(*args: Any, **kwargs: Any) -> Any:
            out = original(*args, **kwargs)
            note(out, *args)
            return out

        stack.enter_context(mock.patch.object(owner, name, noted))

    def asked(*args: Any) -> Any:
        counts.cell()
        return ask(*args)

    def add(name: str, amount: float) -> None:
        counts.all[name] += amount

    def hashed(_: Any, __: Any, held: Any, *___: Any) -> None:
        add("hashed_mb", _mb(held))

    def drawn(_: Any, tensor: Any, *__: Any) -> None:
        add("initialised", 0 if tensor.is_meta else tensor.numel())

    with ExitStack() as stack:
        noting(subjects, "run_network", lambda _, __, inputs: counts.ran(inputs))
        noting(Series, "read", lambda out, *_: add("read_mb", _mb(out)))
        noting(hashlib, "file_digest", lambda _, file, *__: add("hashed_mb", _length(file)))
        noting(tensors, "update_digest", hashed)
        noting(trails, "update_digest", hashed)
        noting(lending.borrowed, "begin", lambda *_: add("lent", 1))
        noting(CellTensors, "_perturbed", lambda *_: add("made", 1))
        for fill in ("normal_", "uniform_", "kaiming_uniform_", "trunc_normal_"):
            noting(nn.init, fill, drawn)
        noting(torch.Tensor, "normal_", drawn)
        stack.enter_context(mock.patch.object(Probe, "ask_each", asked))
        yield counts


def _mb(held: Any) -> float:
    """Megabytes of the tensors in what is read, or hashed."""
    leaves = torch.utils._pytree.tree_leaves(dict(held) if isinstance(held, Mapping) else held)
    return sum(leaf.nbytes for leaf in leaves if torch.is_tensor(leaf)) / 2**20


def _length(file: Any) -> float:
    return os.fstat(file.fileno()).st_size / 2**20


@contextmanager
def timing(counts: Counts) -> Iterator[None]:
    """Measure the processor time of stages, each without those inside it."""
    from layerscope.core.sweep import _ground, _plan, _single

    running: list[float] = []

    def staged(owner: Any, name: str, stage: str) -> Any:
        if not hasattr(owner, name):
            return nullcontext()
        original = getattr(owner, name)

        @functools.wraps(original)
        def timed(*args: Any, **kwargs: Any) -> Any:
            begun = time.process_time()
            running.append(0.0)
            try:
                return original(*args, **kwargs)
            finally:
                spent = time.process_time() - begun
                counts.seconds[stage] += spent - running.pop()
                if running:
                    running[-1] += spent

        return mock.patch.object(owner, name, timed)

    stages = [
        (subjects.Subject, "of", "opening"),
        (_single, "identify", "identity"),
        (_plan.Plan, "check", "trying perturbations"),
        (_ground, "row_distances", "distances"),
        (_ground, "moved_rows", "distances"),
        (_ground, "find_doubts", "doubts"),
        (_ground, "draw_distances", "distances of draws"),
        (Probe, "begin", "lending"),
        (Probe, "require_steady", "steadiness"),
        (Probe, "fit", "first pass"),
        (Probe, "see", "watching and recording"),
        (Probe, "ask_each", "cells"),
        (CellTensors, "of", "weights of cells"),
    ]
    with ExitStack() as stack:
        for stage in stages:
            stack.enter_context(staged(*stage))
        yield


def measured(name: str, folder: Path) -> dict[str, Any]:
    """Sweep one row of a network, with and without a folder."""
    torch.manual_seed(1)
    net = network(name)
    batch = examples(net)
    series = folder / name
    series.mkdir()
    for epoch in (0, 1, 2):
        with torch.no_grad():
            for parameter in net.parameters():
                parameter += 0.01 * epoch * torch.randn_like(parameter) * parameter.std()
        save_model(net, str(series / f"epoch-{epoch}.safetensors"))
    found: dict[str, Any] = {}
    row = sum(p.numel() for p in net.get_submodule(_ROWS[name]).parameters())
    for out in (None, folder / f"{name}-swept"):
        size = _TEXTS if isinstance(batch, dict) else _IMAGES
        with counting(size, row) as counts, timing(counts):
            layerscope.sweep(
                net, batch, checkpoints=series, layers=[_ROWS[name]], whole=False, draws=1,
                device="cpu", out=out, show_progress=False,
            )  # fmt: skip
        found["with a folder" if out else "without"] = counts.told()
    return found


def main() -> None:
    """Measure what is asked for, print it, and write it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", default=list(_ROWS), choices=list(_ROWS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--label", default="now")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    found = {}
    for name in given.networks:
        with tempfile.TemporaryDirectory() as folder:
            found[name] = measured(name, Path(folder))
        print(json.dumps({name: found[name]}, indent=1), flush=True)
    if given.json:
        known = json.loads(given.json.read_text()) if given.json.exists() else {}
        known[given.label] = known.get(given.label, {}) | found
        given.json.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
