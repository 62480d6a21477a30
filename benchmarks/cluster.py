"""How much faster two workers of a Dask cluster are than one, and what a tile costs besides.

A VGG16 on pictures of 32 × 32 and SmolLM2-135M on random tokens are swept in this process, by one
worker and by two, each of one thread. Weights lie in files; the cluster is started beforehand, and
its workers have imported PyTorch and the networks' code. The Datasets must be equal bit for bit.

    python benchmarks/cluster.py [--quick] [--only NETWORK] [--json FILE]

ratio
    Time of one worker over time of two; at least 1.8 is the aim. Meaningful on a machine with two
    idle cores alone: ``load`` says how many processes waited for one before and after.
machine
    Time of this process alone over that of two processes side by side, each of which sweeps half of
    the batches and knows nothing of the other: what two cores that share their memory can give.
overhead
    Time of one worker over that in this process: packing, opening, tiles.
tile
    Milliseconds that an empty task takes from being handed out until its result is here.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from distributed import Client
from safetensors.torch import save_model
from torch import nn

from layerscope import models
from layerscope.core.sweep import connect, sweep

_AIM = 1.8
_TASKS = 200

Case = tuple[nn.Module, Any, dict[str, Any]]


def vgg(quick: bool, folder: Path) -> Case:
    """Make a VGG16 with twelve batches of pictures."""
    size, count = (0.125, 4) if quick else (0.5, 12)
    net = models.build(f"vgg16-bn-w{size}", seed=0, inputs=(3, 32, 32), classes=10)
    start = models.build(f"vgg16-bn-w{size}", seed=1, inputs=(3, 32, 32), classes=10)
    pictures = torch.randn(count * 32, 3, 32, 32), torch.arange(count * 32) % 10
    files = saved(folder, {0: start, 1: net})
    return net, pictures, {"checkpoints": files, "batch_size": 32, "draws": 2, "whole": False}


def smollm(quick: bool, folder: Path) -> Case:
    """Make a decoder of SmolLM2-135M's form with sixteen batches of tokens."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    blocks, vocabulary, count = (4, 1000, 4) if quick else (30, 49_152, 16)
    form = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=blocks,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
    )
    ids = torch.randint(0, vocabulary, (count, 128))
    asked = {"view": "block", "perturbations": ["skip", "zero"], "batch_size": 1, "whole": False}
    net = LlamaForCausalLM(form)
    asked |= {"checkpoints": saved(folder, {1: net})}
    return net, {"input_ids": ids, "labels": ids}, asked


def saved(folder: Path, networks: dict[int, nn.Module]) -> dict[int, Path]:
    """Write weights to files, which workers read themselves."""
    files = {epoch: folder / f"{len(networks)}-{epoch}.safetensors" for epoch in networks}
    for epoch, net in networks.items():
        save_model(net, str(files[epoch]))
    return files


CASES: dict[str, Callable[[bool, Path], Case]] = {"VGG16": vgg, "SmolLM2-135M": smollm}


def timed(case: Case, client: Client | None = None) -> tuple[float, Any]:
    """Sweep once; seconds and what came out."""
    net, data, options = case
    began = time.perf_counter()
    ds = sweep(net, data, client=client, device="cpu", show_progress=False, **options)
    return time.perf_counter() - began, ds


def by_workers(case: Case, workers: int) -> tuple[float, Any, float]:
    """Sweep on so many workers; seconds, what came out, and seconds of an empty task."""
    with connect(f"local:{workers}") as client:
        assert client is not None
        client.wait_for_workers(workers)
        client.run(_imported)
        began = time.perf_counter()
        client.gather(client.map(_nothing, range(_TASKS), pure=False))
        task = (time.perf_counter() - began) / _TASKS
        return *timed(case, client), task


def side_by_side(name: str, quick: bool) -> float:
    """Sweep half of the batches in each of two processes; seconds until the later one is done."""
    context = multiprocessing.get_context("spawn")
    ready, times = context.Barrier(2), context.Queue()
    given = [(name, quick, half, ready, times) for half in (0, 1)]
    started = [context.Process(target=_half, args=each) for each in given]
    for process in started:
        process.start()
    found = [times.get() for _ in started]
    for process in started:
        process.join()
    return float(max(found))


def _half(name: str, quick: bool, half: int, ready: Any, times: Any) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        net, data, options = CASES[name](quick, Path(folder))
        _imported()
        count = len(data["labels"] if isinstance(data, dict) else data[1]) // 2
        part = slice(half * count, (half + 1) * count)
        if isinstance(data, dict):
            data = {key: value[part] for key, value in data.items()}
        else:
            data = tuple(value[part] for value in data)
        ready.wait()
        times.put(timed((net, data, options))[0])


def _imported() -> None:
    # Classes of networks, too, which take seconds to import.
    from transformers.models.llama import modeling_llama  # noqa: F401

    import layerscope.core.sweep  # noqa: F401


def _nothing(number: int) -> int:
    return number


def measure(name: str, quick: bool) -> dict[str, Any]:
    """Compare this process, one worker and two."""
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        case = CASES[name](quick, Path(folder))
        alone, whole = timed(case)
        one, first, task = by_workers(case, 1)
        two, second, _ = by_workers(case, 2)
    both = side_by_side(name, quick)
    if not (first.equals(whole) and second.equals(whole)):
        raise SystemExit(f"{name}: workers gave other values than this process")
    return {
        "alone_s": alone,
        "one_worker_s": one,
        "two_workers_s": two,
        "side_by_side_s": both,
        "ratio": one / two,
        "machine": alone / both,
        "overhead": one / alone,
        "tile_ms": task * 1000,
        "load": [load, os.getloadavg()[0]],
    }


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small networks and few batches")
    parser.add_argument("--only", choices=CASES, help="one network")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    torch.set_num_threads(1)
    names = [options.only] if options.only else list(CASES)
    found = {name: measure(name, options.quick) for name in names}
    for name, each in found.items():
        print(
            f"{name}: {each['alone_s']:.1f} s here, {each['one_worker_s']:.1f} s by one worker, "
            f"{each['two_workers_s']:.1f} s by two: {each['ratio']:.2f} times (aim {_AIM}; "
            f"two processes side by side {each['machine']:.2f}); "
            f"{each['tile_ms']:.1f} ms an empty task; load {each['load'][0]:.1f}"
        )
    if options.json:
        about = {"torch": torch.__version__, "quick": options.quick, "cores": os.cpu_count()}
        options.json.write_text(json.dumps({"about": about, "found": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
