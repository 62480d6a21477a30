"""What a sweep of a network takes of memory and of files, where the network is large.

Decoders of Llama's form with random weights are written as Hugging Face's folders, in bf16 and cut
into files of some hundred MB, and swept in a process of their own. Needs Linux, which says how much
memory a process has used at most and how much it has read. The folders are removed afterwards.

    python benchmarks/large.py [--quick] [--only NAME] [--tokens N] [--folder FOLDER] [--json FILE]

1.2b
    As Llama 3.2 1B has it (16 blocks of width 2048, 128,256 tokens, tied): opened by its folder and
    swept with the weights that it holds, one block skipped and another set to zero.
160m
    12 blocks of width 768 and 50,304 tokens, with 10 checkpoints: two blocks set back to each.

network
    Bytes of its weights.
opened, swept
    The most that the process held beyond what it held before it opened the network, in MB: all of
    it, and without pages of files, which the system takes back where it needs them.
kept
    What was kept of the batch for the next cells, as the Dataset says it (``kept_bytes``).
over
    What the sweep held beyond the network and what was kept, which should stay below 300 MB
    where no tensor that is read from a checkpoint is larger: each is read as a whole.
read
    Bytes read while it was opened and swept, as multiples of the network.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from memory import peak, status
from safetensors.torch import save_file

import layerscope

_AIM_MB = 300.0
_MB = 1e6
_DRAWN = 2**22
_SHARD_BYTES = 300 * 10**6

NETWORKS: dict[str, dict[str, Any]] = {
    "1.2b": {
        "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
        "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128_256,
        "tie_word_embeddings": True,
    },
    "160m": {
        "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12,
        "num_attention_heads": 12, "num_key_value_heads": 12, "vocab_size": 50_304,
        "tie_word_embeddings": False,
    },
}  # fmt: skip
SERIES = {"1.2b": 0, "160m": 10}
"""Checkpoints of each; 0: the network comes alone."""

SMALL = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4,
         "num_key_value_heads": 2, "vocab_size": 512}  # fmt: skip


def config_of(name: str, quick: bool) -> Any:
    """Make the configuration of a network."""
    from transformers import LlamaConfig

    wanted = NETWORKS[name] | (SMALL if quick else {})
    return LlamaConfig(**wanted, dtype="bfloat16", architectures=["LlamaForCausalLM"])


def write_network(folder: Path, config: Any, seed: int) -> int:
    """Write a network of random weights shard by shard, of which memory holds one; count bytes."""
    from transformers import LlamaForCausalLM

    with torch.device("meta"):
        shapes = {n: p.shape for n, p in LlamaForCausalLM(config).named_parameters()}
    # A few numbers over and over: drawing 1.2 B of them takes longer than all the rest.
    chance = torch.Generator().manual_seed(seed)
    drawn = torch.randn(_DRAWN, generator=chance).mul_(0.02).bfloat16()
    folder.mkdir(parents=True)
    config.save_pretrained(folder)
    where: dict[str, str] = {}
    shard: dict[str, torch.Tensor] = {}

    def flush() -> None:
        name = f"model-{len(set(where.values())) + 1:05d}.safetensors"
        save_file(shard, folder / name, metadata={"format": "pt"})
        where.update(dict.fromkeys(shard, name))
        shard.clear()

    total = 0
    for at, (name, shape) in enumerate(shapes.items()):
        count = shape.numel()
        # From another place each, so that no two are the same.
        lying = drawn.roll(at).repeat(-(-count // _DRAWN))[:count].view(shape)
        shard[name] = torch.ones_like(lying) if "norm" in name else lying.contiguous()
        total += 2 * count
        if sum(2 * t.numel() for t in shard.values()) > _SHARD_BYTES:
            flush()
    flush()
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return total


def bytes_read() -> int:
    """Count the bytes that this process has read so far."""
    lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("rchar"))


def child(pipe: Connection, folder: str, name: str, options: argparse.Namespace) -> None:
    """Open a network, sweep over two of its blocks, and send what that took."""
    from transformers import LlamaForCausalLM  # noqa: F401 - its code is in memory beforehand

    torch.set_num_threads(options.threads)
    own = config_of(name, options.quick)
    ids = torch.randint(own.vocab_size, (1, options.tokens), generator=torch.Generator())
    data = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone()}
    steps = sorted(Path(folder).iterdir(), key=lambda path: int(path.name[4:]))
    last = own.num_hidden_layers - 1
    asked: dict[str, Any] = {
        "view": "block",
        "layers": [f"model.layers.{last // 2}", f"model.layers.{last}"],
        "perturbations": ["zero", "skip"],
    }
    if SERIES[name]:
        asked |= {"checkpoints": list(steps), "perturbations": ["reinitialize"]}
    # What PyTorch takes for the first time is of no network.
    torch.ones(64, 64, dtype=torch.bfloat16) @ torch.ones(64, 64, dtype=torch.bfloat16)
    before, anonymous, read = status("VmRSS"), status("RssAnon"), bytes_read()
    with peak() as opening:
        network = layerscope.open_network(steps[-1])
    opened = bytes_read() - read
    with peak() as sweeping:
        ds = layerscope.sweep(
            network, data, **asked, metrics=["loss"], device="cpu", whole=False,
            show_progress=False,
        )  # fmt: skip
    reuse = json.loads(ds.attrs["reuse"])
    row = {
        "network": name,
        "dtype": str(network.dtype).removeprefix("torch."),
        "parameters": sum(p.numel() for p in network.parameters()),
        "tokens": options.tokens,
        "threads": options.threads,
        "checkpoints": SERIES[name],
        "cells": int(ds["value"].notnull().sum()),
        "bytes_read_opening": opened,
        "bytes_read_sweeping": bytes_read() - read - opened,
        "kept_bytes": reuse["kept_bytes"],
        "budget_bytes": reuse["budget_bytes"],
        "passes": reuse["passes"],
    }
    for what, found in (("opened", opening), ("swept", sweeping)):
        row |= {
            f"{what}_mb": round(found["all"] - before, 1),
            f"{what}_anonymous_mb": round(found["anonymous"] - anonymous, 1),
            f"{what}_s": round(found["seconds"], 1),
        }
    pipe.send(row)


def measured(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Write one network and measure it in a fresh process."""
    context = multiprocessing.get_context("spawn")
    folder = Path(tempfile.mkdtemp(prefix="layerscope-large-", dir=options.folder))
    try:
        config = config_of(name, options.quick)
        for step in range(max(1, SERIES[name])):
            size = write_network(folder / f"step{step}", config, step)
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=child, args=(sender, str(folder), name, options))
        process.start()
        sender.close()
        row: dict[str, Any] = receiver.recv()
        process.join()
    finally:
        shutil.rmtree(folder)
    kept = row["kept_bytes"] / _MB
    row |= {
        "network_bytes": size,
        "over_mb": round(row["swept_mb"] - size / _MB - kept, 1),
        "over_anonymous_mb": round(row["swept_anonymous_mb"] - size / _MB - kept, 1),
        "networks_read_opening": round(row["bytes_read_opening"] / size, 2),
        "networks_read_sweeping": round(row["bytes_read_sweeping"] / size, 2),
    }
    return row


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="networks of a few hundred kB")
    parser.add_argument("--only", choices=NETWORKS, help="one of the networks")
    parser.add_argument("--tokens", type=int, default=16, help="length of the one text")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", help="where the networks are written for the time being")
    parser.add_argument("--json", type=Path, help="where to write the rows")
    options = parser.parse_args()
    rows = []
    for name in [options.only] if options.only else list(NETWORKS):
        row = measured(name, options)
        rows.append(row)
        print(
            f"{name}: {row['network_bytes'] / _MB:.0f} MB in {row['dtype']}; opened "
            f"{row['opened_mb']:.0f} MB, swept {row['swept_mb']:.0f} MB, of which kept "
            f"{row['kept_bytes'] / _MB:.1f}; over {row['over_mb']:.0f} MB (aim {_AIM_MB:.0f}); "
            f"read {row['networks_read_opening']:.2f} and {row['networks_read_sweeping']:.2f} "
            f"networks; {row['opened_s']:.0f} and {row['swept_s']:.0f} s for {row['cells']} cells"
        )
        if options.json:
            about = {"cpus": os.cpu_count(), "torch": torch.__version__, "rows": rows}
            options.json.write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
