"""How a sweep is best split among workers: simulated, with module times measured here.

    python benchmarks/splitting.py [--json FILE] [--figure FILE] [--from FILE]
    python benchmarks/splitting.py --check [--json FILE]

VGG16, ResNet-50, ViT-B/16 and a decoder of 32 blocks run once over a few small inputs, timed module
by module, so that it is known which share of a pass is left to a replay of each row. The planner of
the package then cuts sweeps of four sizes for up to 512 workers, and its simulation says how well
they are used: the time that the work would take if it were divided without loss, each batch
recorded once and weights made for nothing, over the time until the last worker is done.

one task a cell
    Every cell is a task of its own, over all batches; nothing is reused.
rows only, batches only
    The best cut into groups of rows over all batches, or into batches of all rows.
tiles
    Some batches by some groups of rows, as `layerscope.core.sweep` does it.

``--from`` takes the module times from an earlier JSON file instead of measuring. ``--check`` has
real clusters of 1, 2 and 4 workers sweep a network whose modules sleep, so that four workers do not
wait for the cores of a small machine, and compares what they take with what was simulated.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from layerscope import plots
from layerscope.core import layers
from layerscope.core.perturb import Perturbation
from layerscope.core.reuse import Group, Recorder, time_passes
from layerscope.core.sweep import sweep
from layerscope.core.sweep._tiles import Costs, Tiling, even_columns, makespan, tiling

WORKERS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_TABLE = (2, 8, 64, 512)
_SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)


@dataclass(frozen=True)
class Scenario:
    """Size of a sweep.

    Attributes
    ----------
    name : str
    seconds : float
        Of a pass over a batch.
    cells : int
        Of every row.
    batches : int
    setup : float
        Seconds of a worker before its first task.
    making : float
        Seconds for the weights of one cell; made once in every task.
    """

    name: str
    seconds: float
    cells: int
    batches: int
    setup: float = 15.0
    making: float = 0.0


SCENARIOS = (
    Scenario("long passes", 10.0, 6, 10),
    Scenario("short sweep", 0.05, 6, 10),
    Scenario("many batches", 0.2, 6, 200),
    Scenario("dear weights", 0.5, 12, 64, setup=60.0, making=0.3),
)


def networks() -> dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str]]:
    """Name what makes each network, the form of its inputs, and the view that its rows are of."""
    import timm
    import torchvision

    return {
        "VGG16": (torchvision.models.vgg16, (4, 3, 64, 64), "leaf"),
        "ResNet-50": (torchvision.models.resnet50, (4, 3, 64, 64), "leaf"),
        "ViT-B/16": (
            partial(timm.create_model, "vit_base_patch16_224", img_size=64),
            (4, 3, 64, 64),
            "component",
        ),
        "LM, 32 blocks": (decoder, (2, 64), "component"),
    }


def decoder() -> nn.Module:
    """Build a decoder of 32 narrow blocks and a vocabulary in proportion, as of Llama 7B."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=2048, hidden_size=256, intermediate_size=688, num_hidden_layers=32,
            num_attention_heads=4,
        )
    )  # fmt: skip


@torch.no_grad()
def shares(build: Callable[[], nn.Module], form: tuple[int, ...], view: str) -> list[float]:
    """Measure for each row in execution order which share of a pass is left to its cells."""
    model = build().eval()
    tokens = len(form) == 2
    inputs = torch.randint(2048, form) if tokens else torch.randn(form)

    def call(batch: Tensor) -> Any:
        return model(input_ids=batch, use_cache=False).logits if tokens else model(batch)

    with Recorder(model) as recorder:
        recorder.watch(partial(call, inputs))
        rows = layers.sort_by_call(layers.find(model, view=view), recorder.called)
        groups = [Group.of(*(name.rpartition(".")[0] for name in row.tensors)) for row in rows]
        costs = time_passes(
            recorder, partial(call, inputs), partial(call, inputs), 1.0, groups,
            torch.device("cpu"),
        )  # fmt: skip
    return [costs.groups[group].seconds / costs.whole.seconds for group in groups]


def costs_of(rows: list[float], size: Scenario) -> Costs:
    """Scale what was measured to the size of a sweep."""
    return Costs(
        parts=[size.cells * size.seconds * share for share in rows],
        recording=size.seconds,
        weights=[size.cells * size.making] * len(rows) if size.making else (),
        together=size.batches,
        setup=size.setup,
    )


def cuts(costs: Costs, rows: int, size: Scenario, workers: int) -> Iterator[tuple[str, Any, float]]:
    """Yield the best cut of every kind, and the seconds until all workers are done."""
    cells = rows * size.cells
    alone = Costs(
        parts=[size.seconds] * cells,
        recording=0.0,
        weights=[size.making] * cells if size.making else (),
        together=size.batches,
        setup=size.setup,
    )
    one = Tiling(size.batches, tuple((cell, cell + 1) for cell in range(cells)))
    yield "one task a cell", one, makespan(alone, one, size.batches, workers)
    wide = [Tiling(size.batches, even_columns(costs, count)) for count in (*_SIZES, rows)]
    long = [Tiling(count, ((0, rows),)) for count in (*_SIZES, size.batches)]
    for name, known in (("rows only", wide), ("batches only", long)):
        took = {cut: makespan(costs, cut, size.batches, workers) for cut in known}
        best = min(took, key=lambda cut: took[cut])
        yield name, best, took[best]
    found = tiling(costs, size.batches, workers)
    yield "tiles", found, makespan(costs, found, size.batches, workers)


def simulate(measured: Mapping[str, list[float]]) -> list[dict[str, Any]]:
    """Simulate every network at every size, with every number of workers and kind of cut."""
    found = []
    for size in SCENARIOS:
        for name, rows in measured.items():
            costs = costs_of(rows, size)
            for workers in WORKERS:
                ideal = costs.ideal(size.batches) / workers
                for kind, cut, seconds in cuts(costs, len(rows), size, workers):
                    found.append({
                        "scenario": size.name, "network": name, "workers": workers, "cut": kind,
                        "seconds": seconds, "ideal": ideal, "efficiency": ideal / seconds,
                        "groups": len(cut.columns), "batches": cut.batches,
                    })  # fmt: skip
    return found


class Sleeper(nn.Module):
    """Takes a known time and no core."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        self.scale = nn.Parameter(torch.rand(8))

    def forward(self, inputs: Tensor) -> Tensor:
        """Sleep and scale."""
        time.sleep(self.seconds)
        return inputs * self.scale


def check(batches: int = 24, cells: int = 3) -> list[dict[str, Any]]:
    """Compare simulated workers with real ones, which are started and have PyTorch beforehand."""
    from distributed import Client, LocalCluster

    times = [0.06, 0.05, 0.05, 0.04, 0.03, 0.03, 0.02, 0.02, 0.01, 0.01, 0.01, 0.01]
    net = nn.Sequential(*(Sleeper(seconds) for seconds in times))
    data = torch.rand(batches * 4, 8), torch.arange(batches * 4) % 8
    kinds = [scaled(f"half-{number}") for number in range(cells)]
    left = [sum(times[place:]) for place in range(len(times))]
    costs = Costs([cells * each for each in left], sum(times), setup=2 * sum(times))
    found = []
    for workers in (1, 2, 4):
        with (
            LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=":0") as made,
            Client(made) as client,
        ):
            client.wait_for_workers(workers)
            client.run(_imported)
            began = time.perf_counter()
            sweep(net, data, perturbations=kinds, batch_size=4, client=client, whole=False,
                  device="cpu", show_progress=False)  # fmt: skip
            seconds = time.perf_counter() - began
        told = makespan(costs, tiling(costs, batches, workers), batches, workers)
        found.append({
            "workers": workers, "seconds": seconds, "simulated": told, "ratio": seconds / told,
            "efficiency": costs.ideal(batches) / workers / seconds,
        })  # fmt: skip
        print(
            f"{workers} workers: {seconds:.1f} s, {told:.1f} simulated ({seconds / told:.2f}); "
            f"{found[-1]['efficiency']:.0%} of the ideal"
        )
    return found


def scaled(name: str) -> Perturbation:
    """Halve the weights of a row."""
    return Perturbation(name, _halved)


def _halved(site: Any) -> dict[str, Tensor]:
    return {name: tensor / 2 for name, tensor in site.trained.items()}


def _imported() -> None:
    import layerscope.core.sweep  # noqa: F401


def show(found: list[dict[str, Any]]) -> None:
    """Print a table for each size of sweep."""
    kinds = list(dict.fromkeys(row["cut"] for row in found))
    for size in SCENARIOS:
        print(
            f"\n{size.name}: pass {size.seconds} s a batch, {size.cells} cells a row, "
            f"{size.batches} batches, setup {size.setup} s a worker, "
            f"{size.making} s to make a cell's weights"
        )
        print(f"{'network':<15}{'W':>4}{'ideal':>11}" + "".join(f"{kind:>17}" for kind in kinds))
        rows = [row for row in found if row["scenario"] == size.name and row["workers"] in _TABLE]
        for at in dict.fromkeys((row["network"], row["workers"]) for row in rows):
            own = [row for row in rows if (row["network"], row["workers"]) == at]
            print(f"{at[0]:<15}{at[1]:>4}{own[0]['ideal']:>10.1f}s", end="")
            print("".join(f"{row['efficiency']:>17.0%}" for row in own), end="")
            print(f"   {own[-1]['groups']} × {own[-1]['batches']}")


def draw(found: list[dict[str, Any]], path: Path) -> None:
    """Draw how well workers are used, against their number."""
    from matplotlib.figure import Figure

    sizes = [size for size in SCENARIOS if size.name != "short sweep"]
    names = list(dict.fromkeys(row["network"] for row in found))
    figure = Figure(figsize=(2.4 * len(names), 2.1 * len(sizes)), layout="constrained")
    axes = figure.subplots(len(sizes), len(names), sharex=True, sharey=True)
    for line, size in zip(axes, sizes, strict=True):
        for place, name in zip(line, names, strict=True):
            own = [row for row in found if (row["scenario"], row["network"]) == (size.name, name)]
            for kind in dict.fromkeys(row["cut"] for row in own):
                known = [row for row in own if row["cut"] == kind]
                at, used = zip(*((r["workers"], r["efficiency"]) for r in known), strict=True)
                place.plot(at, used, marker=".", label=kind, lw=2 if kind == "tiles" else 1)
            place.set_xscale("log", base=2)
            place.set_xticks([1, 8, 64, 512], ["1", "8", "64", "512"])
            place.set_ylim(0, 1.05)
            place.grid(alpha=0.3)
        line[0].set_ylabel(f"{size.name}\nshare of the ideal")
    for place, name in zip(axes[0], names, strict=True):
        place.set_title(name)
    for place in axes[-1]:
        place.set_xlabel("workers")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    plots.save(figure, path)


def _lines(known: Mapping[str, Any], found: list[dict[str, Any]]) -> str:
    """Write one line for each simulation."""
    rows = [
        json.dumps(
            {name: round(v, 4) if isinstance(v, float) else v for name, v in row.items()},
            ensure_ascii=False,
        )
        for row in found
    ]
    first = json.dumps(dict(known), ensure_ascii=False).removesuffix("}")
    return f'{first}, "simulated": [\n' + ",\n".join(rows) + "\n]}\n"


def main() -> None:
    """Measure, simulate, print and draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw them there")
    parser.add_argument("--from", type=Path, dest="known", metavar="FILE", help="module times")
    parser.add_argument("--check", action="store_true", help="against real workers")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.check:
        found = check()
        if options.json:
            options.json.write_text(json.dumps({"checked": found}, indent=1) + "\n")
        return
    if options.known:
        measured = json.loads(options.known.read_text())["shares"]
    else:
        measured = {name: shares(*how) for name, how in networks().items()}
    found = simulate(measured)
    show(found)
    if options.figure:
        draw(found, options.figure)
    if options.json:
        settings = {"torch": torch.__version__, "cores": os.cpu_count(), "load": os.getloadavg()}
        known = {name: [round(share, 4) for share in rows] for name, rows in measured.items()}
        options.json.write_text(_lines({"settings": settings, "shares": known}, found))


if __name__ == "__main__":
    main()
