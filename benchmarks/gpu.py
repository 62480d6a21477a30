"""One run on one GPU: exactness, what a sweep saves, and where the host waits.

    python benchmarks/gpu.py [--device cuda] [--quick] [--minutes 8] [--sections NAME …]
                             [--paper NETWORK …] [--seeds N] [--epochs N] [--data NAME]
                             [--data-root DIR]
                             [--series DIR] [--out DIR]

Writes ``CARD.json`` below `--out`, anew after every line, so that a run that is cut off has what
it measured. A section that there is no time for is left out and named.

exact
    Every row of VGG16-BN, ResNet-50 and ViT-B/16 with other weights: a replay against a plain pass
    of a copy of the network, `torch.equal` on the logits, under six settings of the backend.
processes
    The same cells in two fresh processes. They differ where the plain way itself does. The same of
    a sweep while cuDNN's benchmark is on, which it switches off.
workers
    A sweep by one worker of a Dask cluster, which shares the card with this process, beside the
    same here: every value, bit for bit. Left out where Dask is not installed.
paper
    The paper's VGG11 and ResNet-18 on CIFAR-10 (JPEG) for `--epochs` epochs, `--seeds` of each side
    by side, in the background of the two sections above, for which time does not count; then their
    sweeps in the view of blocks, as ``NETWORK-seedN.nc`` below `--out`. Series are kept in
    `--series`, and the next run goes on from there. Left out where the data are not there.
lm
    A decoder language model (GPT-NeoX with the shape of 160 million parameters), long sequences:
    bits, ratio to the plain way, the time for scoring, and memory by phase.
decoder
    Decoders with the shapes of SmolLM2-135M and GPT-2: every cell of blocks that are left out, in
    whole or part, repeated, exchanged and run in another order, against the specification, bit for
    bit; the sweep's time against a loop over plain passes; peak memory against a plain pass.
speed
    Milliseconds of a plain pass, a replay and a recording pass, until the device is done; the time
    of the host alone beside it; the ratio beside the bound from the share that has to run.
waits
    Where the host waits for the device in a sweep, by line: how often in all, and in each batch.
    The latter should be once, whatever the number of cells.
sweep
    `layerscope.sweep` as users call it against a script that swaps one row and evaluates.
explorer
    From a click to the first estimate and to the whole answer.
train
    Images a second of `layerscope.train` against a bare loop with the same recipe.
"""

from __future__ import annotations

import argparse
import copy
import gc
import hashlib
import itertools
import json
import random
import re
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

import layerscope
from layerscope import checkpoints, layers, metrics, models, perturb
from layerscope.base import devices
from layerscope.core import plain, sweep as sweeping
from layerscope.core.lending import Swapper
from layerscope.core.reuse import Group, Recorder
from layerscope.core.session import Session
from layerscope.zoo import training
from layerscope.zoo.data import Examples, ImageData

Facts = dict[str, Any]
Call = Callable[[], Any]

SETTINGS = ("fp32", "tf32", "benchmark", "deterministic", "bf16", "channels_last")
_LEAST_S = {
    "exact": 30, "processes": 60, "workers": 60, "lm": 30, "decoder": 30, "speed": 30,
    "waits": 30, "sweep": 25, "explorer": 20, "train": 40,
}  # fmt: skip
"""Seconds that one line of a section may take."""
_QUICK_S = 2
_TIMED_S = 200
"""Seconds that are kept for the sections after the paper's."""


class Run:
    """What is measured, the device it is measured on, and the time that is left."""

    def __init__(self, device: str, *, quick: bool, minutes: float, out: Path) -> None:
        self.device = devices.resolve(device)
        self.quick = quick or self.device.type == "cpu"
        self._end = time.monotonic() + 60 * minutes
        self.out = out
        self.found: dict[str, list[Facts]] = {}

    def add(self, section: str, **facts: Any) -> None:
        """Keep and show one line."""
        self.found.setdefault(section, []).append(facts)
        shown = ", ".join(f"{name}={value}" for name, value in facts.items())
        print(f"[{self.left():5.0f} s left] {section}: {shown}", flush=True)
        self.out.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.found, indent=1, default=str) + "\n")

    @property
    def path(self) -> Path:
        """File named after the card."""
        return self.out / f"{slug(devices.describe(self.device).partition(' (')[0])}.json"

    def left(self) -> float:
        """Return the seconds that are left."""
        return self._end - time.monotonic()

    def fits(self, section: str, what: str) -> bool:
        """Tell whether there is time for one more line; name it where there is none."""
        if self.left() > (_QUICK_S if self.quick else _LEAST_S[section]):
            return True
        self.add(section, left_out=what)
        return False

    def wait(self) -> None:
        """Wait until the device is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def timed(self, call: Call, repeats: int = 5, warm: int = 2) -> tuple[float, float]:
        """Return the median time until the device is done, and until the host is, in ms."""
        for _ in range(warm):
            call()
        walls, hosts = [], []
        for _ in range(repeats):
            self.wait()
            began = time.perf_counter()
            call()
            hosts.append(time.perf_counter() - began)
            self.wait()
            walls.append(time.perf_counter() - began)
        return 1000 * sorted(walls)[repeats // 2], 1000 * sorted(hosts)[repeats // 2]


def slug(text: str) -> str:
    """Turn a card's name into that of a file."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


# Networks and their cells


def vgg16_bn(size: int) -> nn.Module:
    """Build VGG16 with BatchNorm; a small classifier for small pictures."""
    if size > 32:
        return torchvision.models.vgg16_bn()  # type: ignore[no-any-return]
    network: nn.Module = torchvision.models.vgg11_bn(num_classes=10)
    network.avgpool, network.classifier = nn.Identity(), nn.Sequential(nn.Linear(512, 10))
    return network


def networks(run: Run) -> Iterator[tuple[str, nn.Module, tuple[int, ...]]]:
    """Yield each network by name on the device, with the shape of one picture."""
    models, quick = torchvision.models, run.quick
    size = 32 if quick else 224
    builders: dict[str, Callable[[], nn.Module]] = {
        "VGG16-BN": lambda: vgg16_bn(size),
        "ResNet-50": models.resnet18 if quick else models.resnet50,
        "ViT-B/16": (
            (lambda: models.VisionTransformer(32, 16, 2, 2, 32, 64)) if quick else models.vit_b_16
        ),
    }
    for name, build in builders.items():
        torch.manual_seed(0)
        network = build()
        for parameter in network.parameters():
            # A head that starts at zero would hide every change below it.
            if parameter.dim() > 1 and not parameter.any():
                nn.init.normal_(parameter, std=0.02)
        yield name, network.to(run.device).eval(), (3, size, size)


def holders(network: nn.Module, most: int) -> list[str]:
    """Name modules that hold parameters, at most so many, evenly spread."""
    names = [n for n, m in network.named_modules() if any(True for _ in m.parameters(False))]
    return names[:: max(1, len(names) // most)]


def other_weights(network: nn.Module, row: str) -> dict[str, Tensor]:
    """Return a row's own values in another order, and shifted."""
    generator = torch.Generator().manual_seed(1)
    values = {}
    for name, old in network.get_submodule(row).named_parameters(recurse=False):
        order = torch.randperm(old.numel(), generator=generator)
        mixed = old.detach().cpu().flatten()[order].view(old.shape) + 0.01
        values[f"{row}.{name}" if row else name] = mixed
    return values


def pictures(run: Run, batch: int, shape: tuple[int, ...]) -> Tensor:
    """Draw a batch."""
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(0)).to(run.device)


def caller(run: Run, network: nn.Module, inputs: Tensor, setting: str = "fp32") -> Call:
    """Return a function that runs the network without gradients."""
    dtype = torch.bfloat16 if setting == "bf16" else None

    def call() -> Any:
        with devices.autocast(run.device, dtype), torch.no_grad():
            return network(inputs)

    return call


@contextmanager
def backend(setting: str) -> Iterator[None]:
    """Set the flags that a setting is named after; afterwards they are as before."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32
    cudnn.benchmark, cudnn.deterministic = setting == "benchmark", setting == "deterministic"
    cudnn.allow_tf32 = matmul.allow_tf32 = setting == "tf32"
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32 = before


# Exactness


def exact(run: Run) -> None:
    """Compare replays with copies of the network, bit for bit."""
    for name, network, shape in networks(run):
        for setting in SETTINGS:
            if run.fits("exact", f"{name}, {setting}"):
                with backend(setting):
                    facts = _replays(run, copy.deepcopy(network), shape, setting)
                run.add("exact", network=name, setting=setting, **facts)


def _replays(run: Run, network: nn.Module, shape: tuple[int, ...], setting: str) -> Facts:
    inputs = pictures(run, 8 if run.quick else 64, shape)
    if setting == "channels_last":
        network = network.to(memory_format=torch.channels_last)
        inputs = inputs.contiguous(memory_format=torch.channels_last)
    call, swapper = caller(run, network, inputs, setting), Swapper(network)
    rows, unequal, idle = holders(network, 6 if run.quick else 20), [], []
    repeats = all(torch.equal(call(), call()) for _ in range(3))
    with devices.KeepMemory(run.device), Recorder(network) as recorder:
        reference = recorder.record(call, [Group.of(row) for row in rows])
        for row in rows:
            values = other_weights(network, row)
            with swapper.swapped(values):
                outputs = recorder.replay(call, Group.of(row))
            wanted = caller(run, plain.copy_with(network, values), inputs, setting)()
            unequal += [] if torch.equal(outputs, wanted) else [row]
            idle += [row] if torch.equal(outputs, reference) else []
            recorder.forget(Group.of(row))
    return {
        "rows": len(rows),
        "unequal": unequal,
        "changed_nothing": idle,
        "plain_repeats": repeats,
        "passes": dict(recorder.passes),
        "refusal": recorder.refusal,
    }


def processes(run: Run) -> None:
    """Compare plain passes of two fresh processes."""
    for setting in (*SETTINGS[:3], "sweep, benchmark"):
        if not run.fits("processes", setting):
            continue
        command = [sys.executable, __file__, "--device", str(run.device), "--digests", setting]
        command += ["--quick"] if run.quick else []
        # Both at once, since their time does not count.
        both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        one, two = (json.loads(process.communicate()[0].splitlines()[-1]) for process in both)
        differ = [cell for cell in one if one[cell] != two[cell]]
        run.add("processes", setting=setting, cells=len(one), differ=differ)


def digests(run: Run, setting: str) -> dict[str, str]:
    """Digest the logits of a few changed rows of every network, or the cells of a sweep."""
    kind, _, inside = setting.rpartition(", ")
    if kind:
        with backend(inside):
            return _cells(run)
    found = {}
    with backend(setting):
        for name, network, shape in networks(run):
            inputs = pictures(run, 8 if run.quick else 64, shape)
            rows = holders(network, 1000)
            for row in (rows[0], rows[len(rows) // 2], rows[-1]):
                changed = plain.copy_with(network, other_weights(network, row))
                logits = caller(run, changed, inputs, setting)().float().cpu().numpy()
                found[f"{name} {row}"] = hashlib.sha256(logits.tobytes()).hexdigest()[:16]
    return found


def _cells(run: Run) -> dict[str, str]:
    network, pair, settings = _case(run)
    settings |= {"whole": False, "perturbations": ["reinitialize"], "layers": ["conv1", "fc"]}
    ds = layerscope.sweep(network, pair, batch_size=250, show_progress=False, **settings)
    values = ds.value.squeeze(drop=True).to_series().dropna()
    return {" ".join(map(str, at)): float(value).hex() for at, value in values.items()}


def workers(run: Run) -> None:
    """Compare a sweep by a worker of a cluster with the same in this process."""
    try:
        import distributed  # noqa: F401 - what comes next needs it
    except ModuleNotFoundError:
        run.add("workers", left_out="Dask is not installed")
        return
    network, pair, settings = _case(run)
    settings |= {"draws": 2, "batch_size": 32 if run.quick else 500, "show_progress": False}
    here, here_ms = _once(run, partial(layerscope.sweep, network, pair, **settings))
    with sweeping.connect("local:1") as client:
        there, there_ms = _once(
            run, partial(layerscope.sweep, network, pair, client=client, **settings)
        )
    seconds = {"here_s": round(here_ms / 1000, 2), "there_s": round(there_ms / 1000, 2)}
    equal = here.value.identical(there.value) and here.baseline.identical(there.baseline)
    run.add("workers", cells=int(here.value.isel(metric=0).notnull().sum()), equal=equal, **seconds)


# The paper's scale


@contextmanager
def trainings(options: argparse.Namespace) -> Iterator[None]:
    """Train the paper's networks in the background, one process a seed of each."""
    recipe = ["--lr", "0.05", "--clip", "1.0", "--augment", "shift-flip"]
    record = ["--record", *(str(epoch) for epoch in (0, 1, 10, 100) if epoch <= options.epochs)]
    where = ["--data-root", options.data_root] if options.data_root else []
    started = []
    for network, seed, folder in _asked(options):
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "layerscope.cli", "train", network]
        command += ["--data", options.data, "--seed", str(seed), "--epochs", str(options.epochs)]
        command += ["--device", options.device, "--out", str(folder), *recipe, *record, *where]
        log = (folder / "log.txt").open("w")
        started.append(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT))
    try:
        yield
    finally:
        for process in started:
            process.terminate()
            process.wait()


def _asked(options: argparse.Namespace) -> list[tuple[str, int, Path]]:
    """Name networks and seeds with the folders that their series are in."""
    each = itertools.product(options.paper, range(options.seeds))
    return [(name, seed, options.series / f"{name}-seed{seed}") for name, seed in each]


def paper(run: Run, options: argparse.Namespace) -> None:
    """Wait for the trainings, and sweep those that are finished."""
    for network, seed, folder in _asked(options):
        began = time.monotonic()
        series = _finished(folder, until=time.monotonic() + run.left() - _TIMED_S)
        if series is None:
            last = (folder / "log.txt").read_text().split("\r")[-1].strip()
            run.add("paper", network=network, seed=seed, left_out=last[-200:])
            continue
        ds = layerscope.sweep(
            models.rebuild(series),
            layerscope.load_data(options.data, options.data_root).test,
            checkpoints=series,
            view="block",
            norms="with",
            device=run.device,
            show_progress=False,
        )
        path = layerscope.save(ds, run.out / f"{network}-seed{seed}.nc")
        error = float(ds.baseline.sel(metric="error"))
        waited = round(time.monotonic() - began, 1)
        run.add("paper", network=network, seed=seed, error=error, kept=path.name, s=waited)


def _finished(folder: Path, until: float) -> checkpoints.Series | None:
    """Wait for a training; even without any time, take one that is finished."""
    while True:
        for manifest in folder.glob("*/manifest.json"):
            if json.loads(manifest.read_text()).get("finished"):
                return checkpoints.open_series(manifest.parent)
        if time.monotonic() >= until:
            return None
        time.sleep(1)


# Time


def lm(run: Run) -> None:
    """Measure a decoder language model."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    sizes = (1000, 64, 3, 4, 128) if run.quick else (50304, 768, 12, 12, 3072)
    words, width, blocks, heads, inner = sizes
    config = GPTNeoXConfig(
        vocab_size=words,
        hidden_size=width,
        num_hidden_layers=blocks,
        num_attention_heads=heads,
        intermediate_size=inner,
        use_cache=False,
    )
    forms = ((64, 2),) if run.quick else ((512, 16), (2048, 8))
    for dtype in (torch.float32, torch.bfloat16):
        for length, batch in forms:
            what = f"{str(dtype).removeprefix('torch.')}, {batch}×{length}"
            if run.fits("lm", what):
                torch.manual_seed(0)
                network: Any = GPTNeoXForCausalLM(config)
                network = network.to(run.device, dtype).eval()
                tokens = torch.randint(0, words, (batch, length), device=run.device)
                run.add("lm", what=what, **_blocks(run, network, tokens))


def _blocks(run: Run, network: Any, tokens: Tensor) -> Facts:
    call, swapper, stem = caller(run, network, tokens), Swapper(network), "gpt_neox.layers"
    blocks = network.gpt_neox.layers
    groups = [
        Group.of(*(f"{stem}.{index}.{name}" for name in holders(block, 1000)))
        for index, block in enumerate(blocks)
    ]
    wanted, spent = metrics.parse(("error", "loss")), dict.fromkeys(("plain", "replay"), 0.0)
    equal, scored, targets = True, 0.0, tokens.roll(-1, 1)
    with Recorder(network) as recorder:
        reference = recorder.record(call, groups)
        recording = _peak(run)
        for index, group in enumerate(groups):
            values = {
                f"{stem}.{index}.{name}": old.detach().flatten().flip(0).view(old.shape)
                for name, old in blocks[index].named_parameters()
            }
            with swapper.swapped(values):
                outputs, ms = _once(run, partial(recorder.replay, call, group))
                spent["replay"] += ms
                plain, ms = _once(run, call)
                spent["plain"] += ms
            equal = equal and torch.equal(outputs.logits, plain.logits)
            del plain
            score = partial(metrics.measure, wanted, outputs, targets, reference)
            _, scored = _once(run, score)
            recorder.forget(group)
    size = sum(p.numel() * p.element_size() for p in network.parameters())
    return {
        "equal": equal,
        "ratio": round(spent["plain"] / spent["replay"], 2),
        "plain_ms": round(spent["plain"] / len(groups), 1),
        "score_ms": round(scored, 1),
        "network_MB": size >> 20,
        "logits_MB": outputs.logits.nbytes >> 20,
        "peak_recording_MB": recording,
        "peak_scoring_MB": _peak(run),
    }


_ROUTES = ("skip", "skip_attention", "skip_mlp", "repeat", "reverse", "shuffle", "parallel", "swap")
_SHAPES: dict[str, Facts] = {
    "llama": {
        "hidden_size": 576,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "intermediate_size": 1536,
        "vocab_size": 49152,
    },
    "gpt2": {},
}
_SMALL: dict[str, Facts] = {
    "llama": {
        "hidden_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 48,
        "vocab_size": 97,
    },
    "gpt2": {"n_embd": 32, "n_layer": 4, "n_head": 4, "vocab_size": 97},
}


def decoder(run: Run) -> None:
    """Hold sweeps over decoders against the specification, and time them."""
    from transformers import AutoConfig, AutoModelForCausalLM

    for kind, shape in (_SMALL if run.quick else _SHAPES).items():
        for dtype in (torch.float32, torch.bfloat16):
            what = f"{kind}, {str(dtype).removeprefix('torch.')}"
            if run.fits("decoder", what):
                torch.manual_seed(0)
                names = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
                make: Any = AutoModelForCausalLM.from_config
                network = make(AutoConfig.for_model(kind, **shape, **names))
                network = network.to(run.device, dtype).eval()
                run.add("decoder", what=what, **_decoded(run, network))


def _decoded(run: Run, network: Any) -> Facts:
    count, length = (4, 16) if run.quick else (32, 512)
    words = network.config.vocab_size
    tokens = torch.randint(
        0, words, (count, length + 1), generator=torch.Generator().manual_seed(0)
    )
    pair = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    size, shared = count // 2, {"view": "block", "metrics": ["loss"], "whole": False}
    options: Facts = {**shared, "batch_size": size, "device": run.device, "show_progress": False}
    names = [row.name for row in layers.blocks(network)]
    groups = {"one": names[1], "two": [names[0], names[2]], "three": names[1:4]}
    series = checkpoints.open_series({0: network.state_dict()}).fit(network)
    ends = [
        (pair[0][at : at + size].to(run.device), pair[1][at : at + size].to(run.device))
        for at in range(0, count, size)
    ]
    _, plain_ms = _once(run, partial(plain.evaluate, network, ends, ["loss"]))
    _peak(run)
    _, plain_ms = _once(run, partial(plain.evaluate, network, ends, ["loss"]))
    plain_peak = _peak(run)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that cells are refused
        ds = layerscope.sweep(
            network,
            pair,
            checkpoints=series,
            layers=groups,
            draws=1,
            perturbations=_ROUTES,
            **options,
        )
        swept = partial(layerscope.sweep, network, pair, layers=names, **options)
        _peak(run)
        each, ms = _once(run, partial(swept, perturbations=_ROUTES[:3]))
    peak, unequal = _peak(run), []
    for row in layers.find(network, "block", wanted=groups):
        for kind in perturb.parse(_ROUTES):
            found = ds.value.sel(layer=row.name, perturbation=kind.name, draw=0, epoch=-1)
            if found.notnull().all():
                right = plain.cell(network, series, ends, row, kind, wanted=["loss"])
                if found.item() != right["loss"].mean:
                    unequal.append(f"{row.name} {kind.name}")
    cells = int(each.value.notnull().sum())
    return {
        "cells": int(ds.value.notnull().sum()),
        "unequal": unequal,
        "timed_cells": cells,
        "sweep_s": round(ms / 1000, 2),
        "ratio": round((cells + 1) * plain_ms / ms, 2),
        "plain_peak_MB": plain_peak,
        "sweep_peak_MB": peak,
    }


def _once(run: Run, call: Call) -> tuple[Any, float]:
    run.wait()
    began = time.perf_counter()
    result = call()
    run.wait()
    return result, 1000 * (time.perf_counter() - began)


def _peak(run: Run) -> int:
    """Return the most memory since the last call, in MB."""
    if run.device.type != "cuda":
        return 0
    most = torch.cuda.max_memory_allocated(run.device) >> 20
    torch.cuda.reset_peak_memory_stats(run.device)
    return most


def speed(run: Run) -> None:
    """Time plain passes, replays and recordings."""
    for name, network, shape in networks(run):
        for batch in (4,) if run.quick else (16, 256):
            if run.fits("speed", f"{name}, {batch}"):
                facts = _passes(run, network, pictures(run, batch, shape))
                run.add("speed", network=name, batch=batch, **facts)


def _passes(run: Run, network: nn.Module, inputs: Tensor) -> Facts:
    call, rows = caller(run, network, inputs), holders(network, 4 if run.quick else 12)
    groups = [Group.of(row) for row in rows]
    plain, plain_host = run.timed(call)
    shares, swapper, replays = _shares(run, network, call, rows), Swapper(network), []
    with devices.KeepMemory(run.device), Recorder(network) as recorder:
        recorder.record(call, groups)
        recording, _ = run.timed(lambda: recorder.record(call, groups), 3, 1)
        for row, group in zip(rows, groups, strict=True):
            values = {n: t.to(run.device) for n, t in other_weights(network, row).items()}
            with swapper.swapped(values):
                replays.append(run.timed(partial(recorder.replay, call, group), 3, 1))
    replay = sum(wall for wall, _ in replays) / len(rows)
    return {
        "plain_ms": round(plain, 2),
        "plain_host_ms": round(plain_host, 2),
        "replay_ms": round(replay, 2),
        "replay_host_ms": round(sum(host for _, host in replays) / len(rows), 2),
        "record_ms": round(recording, 2),
        "ratio": round(plain / replay, 2),
        "bound": round(len(rows) / sum(shares), 2),
    }


def _shares(run: Run, network: nn.Module, call: Call, rows: Sequence[str]) -> list[float]:
    """Measure which share of a plain pass runs from the start of each row on."""
    first: dict[str, float] = {}

    def note(row: str) -> Callable[..., None]:
        def hook(*_: object) -> None:
            run.wait()
            first.setdefault(row, time.perf_counter())

        return hook

    handles = [network.get_submodule(r).register_forward_pre_hook(note(r)) for r in rows]
    run.wait()
    began = time.perf_counter()
    call()
    run.wait()
    ended = time.perf_counter()
    for handle in handles:
        handle.remove()
    return [(ended - first.get(row, began)) / (ended - began) for row in rows]


def _case(run: Run) -> tuple[nn.Module, tuple[Tensor, Tensor], dict[str, Any]]:
    """Return a network, data, and the arguments of a sweep over three states."""
    build = torchvision.models.resnet18 if run.quick else torchvision.models.resnet50
    count, size = (64, 32) if run.quick else (2000, 64)
    states = {}
    for epoch in range(3):
        torch.manual_seed(epoch)
        states[epoch] = build(num_classes=10).state_dict()
    inputs = torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))
    settings = {"checkpoints": states, "norms": "with", "device": run.device}
    return build(num_classes=10), (inputs, torch.arange(count) % 10), settings


def waits(run: Run) -> None:
    """Count where the host waits for the device."""
    if run.device.type != "cuda":
        run.add("waits", left_out="only the host of a GPU waits")
        return
    network, pair, settings = _case(run)
    settings |= {"draws": 1, "whole": False, "show_progress": False}
    settings |= {"layers": ["conv1", "layer2.*", "fc"]}
    layerscope.sweep(network, pair, batch_size=500, **settings)
    few, cells = _waiting(partial(layerscope.sweep, network, pair, batch_size=500, **settings))
    many, _ = _waiting(partial(layerscope.sweep, network, pair, batch_size=250, **settings))
    each = {line: (many[line] - few[line]) / 4 for line in many}  # eight batches, and four
    for line in sorted(many, key=lambda line: (-each[line], -few[line]))[:12]:
        run.add("waits", line=line, in_all=few[line], per_batch=round(each[line], 2))
    run.add("waits", cells=cells, per_batch=round(sum(each.values()), 2))


def _waiting(call: Call) -> tuple[Counter[str], int]:
    """Count the lines where the host waits, and the cells of the sweep."""
    lines: Counter[str] = Counter()

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        if "synchronizing" in str(message):
            ours = [f for f in traceback.extract_stack() if "/layerscope/" in f.filename]
            lines[f"{Path(ours[-1].filename).name}: {ours[-1].line}" if ours else "torch"] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = show
        torch.cuda.set_sync_debug_mode("warn")
        try:
            ds = call()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return lines, int(ds.value.isel(metric=0).notnull().sum())


def sweep(run: Run) -> None:
    """Time a sweep against a script."""
    network, pair, settings = _case(run)
    size = 32 if run.quick else 500
    settings |= {"draws": 1, "whole": False, "perturbations": ["reinitialize"]}

    def ours() -> Any:
        return layerscope.sweep(network, pair, batch_size=size, show_progress=False, **settings)

    ds, ms = _once(run, ours)
    states = settings["checkpoints"]
    trained = plain.copy_with(network, states[2]).to(run.device)
    inputs, targets = (tensor.to(run.device) for tensor in pair)
    batches = [
        (inputs[start : start + size], targets[start : start + size])
        for start in range(0, len(targets), size)
    ]
    rows = [str(row) for row in ds.layer.values]
    _, script = _once(run, partial(_script, trained, states, rows, batches))
    cells = int(ds.value.isel(metric=0).notnull().sum())
    facts = {"sweep_s": round(ms / 1000, 2), "script_s": round(script / 1000, 2)}
    run.add("sweep", cells=cells, batches=len(batches), ratio=round(script / ms, 2), **facts)


@torch.no_grad()
def _script(
    network: nn.Module,
    states: dict[int, dict[str, Tensor]],
    rows: Sequence[str],
    batches: Sequence[tuple[Tensor, Tensor]],
) -> None:
    """Put each row to each state, trained last, and evaluate."""
    own = network.state_dict(keep_vars=True)
    for row in rows:
        for state in states.values():
            for name in own:
                if name.rpartition(".")[0] == row:
                    own[name].copy_(state[name])
            float(sum((network(x).argmax(-1) != y).sum() for x, y in batches))


def explorer(run: Run) -> None:
    """Time clicks."""
    network, pair, settings = _case(run)
    chance, first, whole = random.Random(0), [], []
    with Session(network, pair, batch_size=32 if run.quick else 250, **settings) as session:
        rows = [row.name for row in session.rows()][:-1]
        for _ in range(6 if run.quick else 40):
            state = {
                row: ("reinitialize", chance.choice((0, 1)))
                for row in chance.sample(rows, chance.choice((1, 2)))
            }
            began = time.perf_counter()
            for index, _ in enumerate(session.evaluate(state)):
                if index == 0:
                    first.append(time.perf_counter() - began)
            whole.append(time.perf_counter() - began)
    shares = {"": 0.5, "_95": 0.95}
    facts = {
        f"{name}_ms{suffix}": round(1000 * sorted(times)[int(share * (len(times) - 1))], 1)
        for name, times in (("first", first), ("whole", whole))
        for suffix, share in shares.items()
    }
    run.add("explorer", examples=len(pair[1]), **facts)


def train(run: Run) -> None:
    """Count images a second."""
    count, generator = 256 if run.quick else 20_000, torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
    whole = Examples(images, torch.arange(count) % 10, (0.5,) * 3, (0.25,) * 3, "noise")
    noise = ImageData("noise", whole, whole.first(256), 10, "noise")
    for precision in ("float32", "bfloat16"):
        if run.fits("train", precision):
            epochs, size = (1, 64) if run.quick else (4, 128)
            recipe = training.Recipe(epochs=epochs, batch_size=size, lr=0.01, autocast=precision)
            ours = _trained(run, noise, recipe)
            bare = _bare(run, whole, recipe)
            run.add("train", autocast=precision, ours=ours, bare=bare, share=round(ours / bare, 2))


def _trained(run: Run, images: ImageData, recipe: training.Recipe) -> int:
    network = torchvision.models.resnet18(num_classes=10)
    with tempfile.TemporaryDirectory() as folder:
        _, ms = _once(
            run,
            lambda: training.train(
                network, images, recipe, out=folder, record=(), device=run.device,
                show_progress=False,
            ),
        )  # fmt: skip
    return round(1000 * len(images.train) * recipe.epochs / ms)


def _bare(run: Run, examples: Examples, recipe: training.Recipe) -> int:
    network = torchvision.models.resnet18(num_classes=10).to(run.device).train()
    low = torch.bfloat16 if recipe.autocast == "bfloat16" else None
    if low:
        network = network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), recipe.lr, momentum=recipe.momentum)
    images, targets = examples.inputs.to(run.device), examples.targets.to(run.device)

    def steps(epoch: int) -> None:
        order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(epoch))
        for start in range(0, len(order), recipe.batch_size):
            some = order[start : start + recipe.batch_size].to(run.device)
            inputs = (images[some].float() / 255 - 0.5) / 0.25
            with devices.autocast(run.device, low):
                loss = nn.functional.cross_entropy(network(inputs), targets[some])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    def whole() -> None:
        for epoch in range(recipe.epochs):
            steps(epoch)

    _, ms = _once(run, whole)
    return round(1000 * len(targets) * recipe.epochs / ms)


# All of it


Section = Callable[[Run], None]
UNTIMED: dict[str, Section] = {"exact": exact, "processes": processes, "workers": workers}
TIMED: dict[str, Section] = {
    "lm": lm,
    "decoder": decoder,
    "speed": speed,
    "waits": waits,
    "sweep": sweep,
    "explorer": explorer,
    "train": train,
}


def attempt(run: Run, section: str, do: Callable[[], None]) -> None:
    """Run a section; what it raises is kept, and the next one goes on."""
    if section in _LEAST_S and not run.fits(section, "all of it"):
        return
    try:
        do()
    except Exception as error:  # noqa: BLE001 - the others are worth having
        traceback.print_exc()
        run.add(section, failed=repr(error)[:300])
    gc.collect()
    devices.release(run.device)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument(
        "--sections", nargs="*", choices=(names := [*UNTIMED, *TIMED]), default=names
    )
    parser.add_argument("--paper", nargs="*", default=["vgg11", "resnet18"])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--data", default="cifar10-jpeg")
    parser.add_argument("--data-root", default=None)
    parser.add_argument("--series", type=Path, default=Path("papermill_runs/series/gpu"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--digests", default="", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def _trainable(run: Run, options: argparse.Namespace) -> list[str]:
    """Name the paper's networks, if what they are trained on is there."""
    if not options.paper:
        return []
    if run.left() < _TIMED_S:
        run.add("paper", left_out="all of it")
        return []
    try:
        layerscope.load_data(options.data, options.data_root)
    except layerscope.LayerscopeError as error:
        run.add("paper", left_out=str(error)[:200])
        return []
    return list(options.paper)


def main() -> None:
    """Run every section that is asked for."""
    options = parse()
    run = Run(options.device, quick=options.quick, minutes=options.minutes, out=options.out)
    if options.digests:
        print(json.dumps(digests(run, options.digests)))
        return
    run.add(
        "machine",
        layerscope=layerscope.__version__,
        torch=torch.__version__,
        cuda=torch.version.cuda,
        cudnn=torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        device=devices.describe(run.device),
        quick=run.quick,
        arithmetic=devices.arithmetic(run.device),
    )
    options.paper = _trainable(run, options)
    with trainings(options):
        for name in options.sections:
            if name in UNTIMED:
                attempt(run, name, partial(UNTIMED[name], run))
        if options.paper:
            attempt(run, "paper", partial(paper, run, options))
    for name in options.sections:
        if name in TIMED:
            attempt(run, name, partial(TIMED[name], run))
    named = ("exact", "workers", "lm", "decoder")
    tried = [each for name in named for each in run.found.get(name, []) if "left_out" not in each]
    unequal = [facts for facts in tried if facts.get("unequal") or not facts.get("equal", True)]
    unequal += [facts for facts in tried if "failed" in facts]
    run.add("verdict", exact=bool(tried) and not unequal, unequal=unequal)


if __name__ == "__main__":
    main()
