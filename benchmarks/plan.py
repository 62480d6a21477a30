"""Plans beside what happened: the time that `sweep(plan=True)` tells, over what the sweep took.

    python benchmarks/plan.py [--only CASE ...] [--each N] [--json FILE]

Each case is planned and then swept in the same process, without a folder, with one, and on two
workers that have started already; several times, each time with a folder of its own. A ratio of 1
is right, of 1.5 the most that the package promises; below 1 a sweep took longer than was told.
``load`` says how many processes waited for a processor: what came between plan and sweep counts
against the plan. With ``--json`` the figures go into a file that may hold those of other cases.

fcn
    A sweep of under a second: FCN 3×256 on 1,000 digits' worth of noise.
resnet18, vgg11
    Convolutions on pictures of 32 × 32; VGG11 at full width, whose weights are not kept.
llama
    A decoder of six blocks on 16 texts of 64 tokens, block by block.
stopping
    VGG11 that may stop a cell early: the plan is the most that it takes.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_model
from torch import nn

from layerscope import models
from layerscope.core.sweep import connect, sweep

_THREADS = 1

Case = tuple[nn.Module, Any, dict[str, Any]]


def _pictures(name: str, count: int, folder: Path, **options: Any) -> Case:
    nets = [models.build(name, seed=seed, inputs=(3, 32, 32), classes=10) for seed in (0, 1)]
    data = torch.randn(count, 3, 32, 32), torch.arange(count) % 10
    return nets[1], data, {"checkpoints": saved(folder, nets), "batch_size": 32, **options}


def _fcn(folder: Path) -> Case:
    nets = [models.build("fcn-3x256", seed=seed) for seed in (0, 1)]
    data = torch.randn(1000, 1, 28, 28), torch.arange(1000) % 10
    return nets[1], data, {"checkpoints": saved(folder, nets)}


def _llama(folder: Path) -> Case:
    from transformers import LlamaConfig, LlamaForCausalLM

    form = LlamaConfig(
        vocab_size=8192, hidden_size=384, intermediate_size=1024, num_hidden_layers=6,
        num_attention_heads=6, num_key_value_heads=2,
    )  # fmt: skip
    nets = [LlamaForCausalLM(form) for _ in range(2)]
    ids = torch.randint(0, 8192, (16, 64))
    asked = {"view": "block", "perturbations": ["skip", "reinitialize"], "batch_size": 2}
    data = {"input_ids": ids, "labels": ids}
    return nets[1], data, {"checkpoints": saved(folder, nets), **asked}


CASES: dict[str, Callable[[Path], Case]] = {
    "fcn": _fcn,
    "resnet18": lambda folder: _pictures("resnet18-w0.25", 192, folder),
    "vgg11": lambda folder: _pictures("vgg11", 160, folder, whole=False, draws=2),
    "llama": _llama,
    "stopping": lambda folder: _pictures("vgg11-w0.25", 320, folder, decide=True),
}


def saved(folder: Path, nets: Sequence[nn.Module]) -> dict[int, Path]:
    """Write weights to files, none as it was in another: what did not move needs no pass."""
    for net in nets:
        for parameter in net.parameters():
            parameter.data += 1e-3 * torch.randn_like(parameter)
    files = {epoch: folder / f"{epoch}.safetensors" for epoch in range(len(nets))}
    for epoch, net in enumerate(nets):
        save_model(net, str(files[epoch]))
    return files


def planned(case: Case, where: str, folder: Path, client: Any) -> dict[str, float]:
    """Plan a sweep, and sweep it."""
    net, data, options = case
    how = {"out": folder / "out"} if where == "folder" else {}
    how |= {"client": client} if where == "workers" else {}
    call = {"device": "cpu", "show_progress": False, **options, **how}
    plan = sweep(net, data, plan=True, **call)
    told = plan.seconds_of_crew() if where == "workers" else plan.seconds()
    began = time.perf_counter()
    sweep(net, data, **call)
    return {"told": told, "took": time.perf_counter() - began}


def main() -> None:
    """Plan and sweep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--each", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(_THREADS)
    found: dict[str, Any] = {"threads": _THREADS, "torch": torch.__version__, "cases": {}}
    if args.json is not None and args.json.exists():
        found["cases"] = json.loads(args.json.read_text())["cases"]
    with connect("local:2") as client:
        for name in args.only:
            with tempfile.TemporaryDirectory() as folder:
                case = CASES[name](Path(folder))
                for where in ("here", "folder", "workers"):
                    runs = []
                    for turn in range(args.each):
                        own = Path(folder) / f"{where}-{turn}"
                        runs.append(planned(case, where, own, client))
                    ratios = sorted(run["told"] / run["took"] for run in runs)
                    told = f"{runs[-1]['told']:.2f} s told, {runs[-1]['took']:.2f} s taken"
                    print(f"{name:9} {where:8} {told}, ratios", *(f"{r:.2f}" for r in ratios))
                    found["cases"][f"{name}, {where}"] = runs
                    found["load"] = os.getloadavg()[0]
    if args.json is not None:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
