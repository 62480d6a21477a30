"""Whether the audit of a series finds what was planted, and nothing in sound series.

    python benchmarks/audit.py [--seeds 1] [--cases NAME …] [--cuts] [--json FILE]

Twenty short trainings, which differ in network, optimiser, rate and what is recorded when, are
recorded and audited as they are ("alarms": findings that should not be there). Then each series is
spoilt in every way below with the help of a second run from another seed, and audited again: a dot
where the right kind of fault was found at the right checkpoint, else what was found.

last as first
    The trained weights are served as the first checkpoint.
last served
    They are served as a checkpoint in the middle.
neighbours
    A checkpoint is served twice, the second time as the next one.
other start
    The first checkpoint is that of the second run.
other run
    A checkpoint in the middle is that of the second run.
first shard, middle shard
    A third of the tensors, in the order of the file, is of the second run, at the first checkpoint
    or in the middle. Counters of BatchNorm come first: of a ResNet only small weights are in it.
shard copied
    A third of the tensors of a checkpoint in the middle is that of the last.
damaged
    The largest tensor of a checkpoint in the middle is in another order.
not a number
    It holds one NaN.

With ``--cuts`` the third is cut in other ways as well, of which not all can be found: by name, from
the end of the file, and at random; at the first checkpoint, in the middle, and at the last.

"held" is the most bytes of tensors that were held at once over those of the largest tensor.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from layerscope import Series, checkpoints, models
from layerscope.zoo.recorders import CheckpointRecorder

Network = Callable[[int], nn.Module]
Schedule = Callable[[int, int], float]
State = dict[str, Tensor]

STEPS = 60
"""Of the optimiser in a training."""


# Data that a network of any kind can learn a little of


def vectors(seed: int, n: int = 32) -> tuple[Tensor, Tensor]:
    """Noisy points around ten centres, and which."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(10, (n,), generator=draw)
    centres = torch.randn(10, 64, generator=torch.Generator().manual_seed(0))
    return centres[labels] + torch.randn(n, 64, generator=draw), labels


def pictures(seed: int) -> tuple[Tensor, Tensor]:
    """The points as pictures of three channels."""
    flat, labels = vectors(seed, 16)
    return flat.view(-1, 1, 8, 8).repeat(1, 3, 4, 4), labels


def tokens(seed: int) -> tuple[Tensor, Tensor]:
    """Lines that go up by threes, and the token after each."""
    draw = torch.Generator().manual_seed(seed)
    first = torch.randint(97, (8, 1), generator=draw)
    line = (first + 3 * torch.arange(17)) % 97
    return line[:, :-1], line[:, 1:]


# Networks


def mlp(seed: int) -> nn.Module:
    """Three hidden layers."""
    return models.build("fcn-3x128", seed, inputs=(64,), classes=10)


def bare(seed: int) -> nn.Module:
    """A single hidden layer."""
    return models.build("fcn-1x64", seed, inputs=(64,), classes=10)


def vgg(seed: int) -> nn.Module:
    """Convolutions with BatchNorm."""
    return models.build("vgg11-bn-w0.125", seed, inputs=(3, 32, 32), classes=10)


def resnet(seed: int) -> nn.Module:
    """Residual blocks with BatchNorm."""
    return models.build("resnet18-w0.125", seed, inputs=(3, 32, 32), classes=10)


def dropout(seed: int) -> nn.Module:
    """Dropout and LayerNorm."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(64, 96), nn.ReLU(), nn.Dropout(0.3), nn.Linear(96, 96), nn.GELU(),
        nn.LayerNorm(96), nn.Linear(96, 10),
    )  # fmt: skip


def transformers_(kind: str, **sizes: int) -> Network:
    """A causal language model of transformers, of these sizes."""

    def build(seed: int) -> nn.Module:
        from transformers import AutoConfig, AutoModelForCausalLM

        torch.manual_seed(seed)
        make: Any = AutoModelForCausalLM.from_config
        net: nn.Module = make(AutoConfig.for_model(kind, **sizes))
        return net

    return build


llama = transformers_(
    "llama", hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, vocab_size=97, max_position_embeddings=64,
)  # fmt: skip
gpt2 = transformers_("gpt2", n_embd=32, n_layer=2, n_head=4, vocab_size=97, n_positions=64)
mixtral = transformers_(
    "mixtral", hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, vocab_size=97, max_position_embeddings=64, num_local_experts=4,
)  # fmt: skip


def frozen(build: Network, pattern: str) -> Network:
    """The network with parameters of this name frozen."""

    def within(seed: int) -> nn.Module:
        net = build(seed)
        for name, parameter in net.named_parameters():
            parameter.requires_grad_(pattern not in name)
        return net

    return within


def half(build: Network) -> Network:
    """The network in bfloat16."""
    return lambda seed: build(seed).bfloat16()


# Rates, as multiples of the first


def constant(_step: int, _steps: int) -> float:
    """No schedule."""
    return 1.0


def cosine(step: int, steps: int) -> float:
    """Down to 0 along a cosine."""
    return 0.5 * (1 + math.cos(math.pi * step / steps))


def restarts(step: int, steps: int) -> float:
    """Three times down to 0."""
    third = steps // 3
    return cosine(step % third, third)


def warm(step: int, steps: int) -> float:
    """Up, then down to 0 in a straight line."""
    return min(1.0, (step + 1) / (steps / 4)) * (1 - step / steps)


def stairs(step: int, steps: int) -> float:
    """Three steps, each a tenth of the one before."""
    return float(0.1 ** (3 * step // steps))


# Trainings


@dataclass(frozen=True)
class Case:
    """A training, and when it is recorded."""

    network: Network
    batch: Callable[[int], tuple[Tensor, Tensor]]
    optimiser: Callable[..., torch.optim.Optimizer]
    settings: Mapping[str, Any]
    rate: Schedule = constant
    record: Sequence[int] = tuple(range(0, STEPS + 1, 10))
    scale: float = 1.0  # of the loss; 0 leaves weight decay alone


SGD, ADAM, ADAMW, RMS = torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop
DOUBLING = (0, 1, 2, 4, 8, 16, 32, 60)
UNEVEN = (0, 1, 2, 3, 8, 40, 58, 60)

CASES = {
    "mlp sgd": Case(mlp, vectors, SGD, {"lr": 0.1}),
    "mlp momentum, cosine to 0": Case(mlp, vectors, SGD, {"lr": 0.1, "momentum": 0.9}, cosine),
    "mlp adam, uneven": Case(mlp, vectors, ADAM, {"lr": 1e-3}, record=UNEVEN),
    "mlp adam, large rate": Case(mlp, vectors, ADAM, {"lr": 3e-2}),
    "mlp rmsprop, doubling": Case(mlp, vectors, RMS, {"lr": 1e-3}, record=DOUBLING),
    "mlp weight decay alone": Case(mlp, vectors, SGD, {"lr": 0.1, "weight_decay": 0.2}, scale=0.0),
    "mlp large weight decay": Case(mlp, vectors, ADAMW, {"lr": 1e-2, "weight_decay": 5.0}),
    "small mlp sgd, large rate": Case(bare, vectors, SGD, {"lr": 1.0}),
    "dropout adam, restarts": Case(dropout, vectors, ADAM, {"lr": 3e-3}, restarts),
    "vgg bn sgd": Case(vgg, pictures, SGD, {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4}),
    "vgg bn, cosine to 0": Case(vgg, pictures, SGD, {"lr": 0.1, "momentum": 0.9}, cosine),
    "resnet bn, stairs": Case(resnet, pictures, SGD, {"lr": 0.1, "momentum": 0.9}, stairs),
    "resnet bn, adamw, doubling": Case(resnet, pictures, ADAMW, {"lr": 3e-3}, record=DOUBLING),
    "llama adamw, warm": Case(llama, tokens, ADAMW, {"lr": 3e-3, "weight_decay": 0.1}, warm),
    "llama adamw, cosine to 0": Case(llama, tokens, ADAMW, {"lr": 1e-2}, cosine, DOUBLING),
    "llama frozen embedding": Case(frozen(llama, "embed"), tokens, ADAMW, {"lr": 3e-3}),
    "llama bfloat16": Case(half(llama), tokens, ADAMW, {"lr": 1e-3}, warm),
    "gpt2 tied, adam": Case(gpt2, tokens, ADAM, {"lr": 3e-3}, cosine),
    "gpt2 sgd, large rate": Case(gpt2, tokens, SGD, {"lr": 0.5, "momentum": 0.9}),
    "mixtral adamw": Case(mixtral, tokens, ADAMW, {"lr": 3e-3}, cosine),
}  # fmt: skip


def train(case: Case, seed: int, folder: Path) -> Series:
    """Train, recording as users do."""
    net = case.network(seed)
    recorder = CheckpointRecorder(folder, net, epochs=case.record, unit="step")
    free = [p for p in net.parameters() if p.requires_grad]
    optimiser = case.optimiser(free, **case.settings)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda n: case.rate(n, STEPS))
    net.train()
    torch.manual_seed(seed)
    for step in range(STEPS):
        inputs, labels = case.batch(1000 * seed + step)
        outputs = net(inputs)
        logits = getattr(outputs, "logits", outputs).float()
        loss = functional.cross_entropy(logits.flatten(0, -2), labels.flatten())
        optimiser.zero_grad()
        (case.scale * loss).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(free, 1.0)
        optimiser.step()
        schedule.step()
        recorder.step(step + 1)
    return recorder.series()


# Faults


@dataclass(frozen=True)
class Fault:
    """Something done to the states of a series; the kinds that say it, and at which checkpoint."""

    plant: Callable[[list[State], list[State]], None]
    kinds: tuple[str, ...]
    at: int | str


def _place(at: int | str, steps: int) -> int:
    return {0: 0, "middle": steps // 2, "last": steps - 1}[at]


Order = Callable[[list[str]], list[str]]


def _shard(
    at: int | str, other: bool, order: Order = list
) -> Callable[[list[State], list[State]], None]:
    def plant(own: list[State], others: list[State]) -> None:
        place = _place(at, len(own))
        source = others[place] if other else own[-1]
        names = order(list(own[place]))
        third = names[: max(2, len(names) // 3)]
        own[place] = own[place] | {n: source[n].clone() for n in third}

    return plant


def _shuffled(names: list[str]) -> list[str]:
    return random.Random(7).sample(sorted(names), len(names))


ORDERS: dict[str, Order] = {
    "by name": sorted,
    "from the end": lambda names: names[::-1],
    "at random": _shuffled,
}


def _replaced(at: int, source: Callable[[list[State], list[State]], State]) -> Any:
    def plant(own: list[State], others: list[State]) -> None:
        place = len(own) // 2 if at else 0
        own[place] = {name: t.clone() for name, t in source(own, others).items()}

    return plant


def _largest(state: State) -> str:
    return max(
        (n for n, t in state.items() if t.is_floating_point()), key=lambda n: state[n].numel()
    )


def _disordered(own: list[State], _: list[State]) -> None:
    place = len(own) // 2
    name = _largest(own[place])
    flat = own[place][name].flatten()
    draw = torch.randperm(len(flat), generator=torch.Generator().manual_seed(0))
    own[place] = own[place] | {name: flat[draw].view_as(own[place][name])}


def _nan(own: list[State], _: list[State]) -> None:
    place = len(own) // 2
    name = _largest(own[place])
    broken = own[place][name].clone()
    broken.view(-1)[0] = math.nan
    own[place] = own[place] | {name: broken}


FAULTS = {
    "last as first": Fault(_replaced(0, lambda own, _: own[-1]), ("copy",), 0),
    "last served": Fault(_replaced(1, lambda own, _: own[-1]), ("copy",), "middle"),
    "neighbours": Fault(_replaced(1, lambda own, _: own[len(own) // 2 - 1]), ("copy",), "middle"),
    "other start": Fault(_replaced(0, lambda _, others: others[0]), ("start",), 0),
    "other run": Fault(
        _replaced(1, lambda own, others: others[len(own) // 2]), ("foreign", "jump"), "middle"
    ),
    "first shard": Fault(_shard(0, other=True), ("foreign", "jump"), 0),
    "middle shard": Fault(_shard("middle", other=True), ("foreign", "jump"), "middle"),
    "shard copied": Fault(_shard("middle", other=False), ("copy",), "middle"),
    "damaged": Fault(_disordered, ("foreign", "jump"), "middle"),
    "not a number": Fault(_nan, ("not finite",), "middle"),
}

CUTS = {
    f"{how}, {'first' if at == 0 else at}": Fault(
        _shard(at, other=True, order=order), ("foreign", "jump"), at
    )
    for how, order in ORDERS.items()
    for at in (0, "middle", "last")
}


def spoilt(series: Series, other: Series, fault: Fault) -> dict[int, State]:
    """Plant a fault."""
    own = [series.read(epoch) for epoch in series.epochs]
    fault.plant(own, [other.read(epoch) for epoch in other.epochs])
    return dict(zip(series.epochs, own, strict=True))


def outcome(series: Series, other: Series, fault: Fault) -> str:
    """Say "." if a fault is found where it is, and nothing else."""
    found = checkpoints.audit(spoilt(series, other, fault), show_progress=False).faults
    place = series.epochs[_place(fault.at, len(series.epochs))]
    right = [f for f in found if f.kind in fault.kinds and place in f.epochs]
    if right and len(right) == len(found):
        return "."
    return "; ".join(f"{f.kind} at {f.epochs}" for f in found) or "nothing"


@contextmanager
def counted() -> Iterator[dict[str, int]]:
    """Count the bytes of tensors that `Series.read` has given and that are still held."""
    held = {"now": 0, "most": 0}
    read = Series.read

    def add(size: int) -> None:
        held["now"] += size
        held["most"] = max(held["most"], held["now"])

    def watched(self: Series, *args: Any) -> State:
        found = read(self, *args)
        for tensor in found.values():
            size = tensor.numel() * tensor.element_size()
            add(size)
            weakref.finalize(tensor, add, -size)
        return found

    Series.read = watched  # type: ignore[assignment, method-assign]
    try:
        yield held
    finally:
        Series.read = read  # type: ignore[method-assign]


def run(
    case: Case, seed: int, folder: Path, faults: Mapping[str, Fault] = FAULTS
) -> dict[str, Any]:
    """Audit one training, as it is and spoilt."""
    series = train(case, seed, folder / "own")
    other = train(case, seed + 500, folder / "other")
    with counted() as held:
        clean = checkpoints.audit(series, show_progress=False)
    largest = max(t.numel() * t.element_size() for t in series.read(0).values())
    return {
        "alarms": [finding.sentence for finding in clean.faults],
        **{name: outcome(series, other, fault) for name, fault in faults.items()},
        "held": round(held["most"] / largest, 2),
    }


def main() -> None:
    """Run the cases and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--cases", nargs="*", default=list(CASES))
    parser.add_argument("--cuts", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    faults = FAULTS | (CUTS if options.cuts else {})
    torch.set_num_threads(1)
    rows = []
    for name in options.cases:
        for seed in range(options.seeds):
            with tempfile.TemporaryDirectory() as folder:
                found = run(CASES[name], seed, Path(folder), faults)
            rows.append({"case": name, "seed": seed, **found})
            wrong = {fault: found[fault] for fault in faults if found[fault] != "."}
            alarms, held = found["alarms"] or "none", found["held"]
            print(f"{name} ({seed}): alarms {alarms}, missed {wrong or 'none'}, held {held}")
    hits = ", ".join(f"{fault} {sum(row[fault] == '.' for row in rows)}" for fault in faults)
    print(
        f"{len(rows)} series, {sum(bool(row['alarms']) for row in rows)} with alarms; found {hits}"
    )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
