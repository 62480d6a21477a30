"""How often the rules of `layerscope.paper.rules` are wrong, and what differences they can see.

    python benchmarks/power.py [RUNS] [--repeats 1000] [--parts limit see without]
                               [--json FILE] [--out FILE]

Nothing is trained: chance is taken from the committed runs. Three tables:

at the limit
    Each rule's number lies right at its limit. How often runs as many as the committed ones agree
    or disagree all the same: where they are normal, where they are as skewed as the committed ones
    of that rule (gamma), and where they are strongly skewed, towards the side that makes it worse
    (log-normal, σ = 1).
can see
    The distance from the limit that the committed runs can see in 80 % of cases, among the
    statements of their experiment, by formula, and how often it is seen in simulation.
without what is said
    Runs in which what a rule says is not so, or is: damages of a committed run changed so, with
    normal noise that has the covariance of its runs over layers. "before" is the rule that stood
    earlier, on the same runs.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from power_page import PARTS, Row, Rows, judged_again, page
from scipy.stats import kendalltau, skew, spearmanr

from layerscope import analyses, results
from layerscope.paper import reference, rules
from layerscope.paper.analyses._simultaneous import by_rule_of_all

Floats = NDArray[np.float64]

FCN, VGG = "fcn-mnist/paper/fcn_mnist.nc", "vgg-cifar10/small/vgg_cifar10_vgg11-w0.25.nc"
RESNET = "resnet-cifar10/small+seeds=3/resnet_cifar10_resnet18-nonorm-w0.25.nc"
RECIPE = "training-recipe/small/vgg11-w0.25_BatchNorm_weight_decay.nc"


def committed(runs: Path) -> dict[str, list[dict[str, Any]]]:
    """Findings over several runs, by rule."""
    found = defaultdict(list)
    for path in sorted(runs.glob("*/*/manifest.json")):
        for each in (json.loads(path.read_text("utf-8")).get("summary") or {}).get("findings", ()):
            if each["runs"] > 1 and None not in each.get("samples", [None]):
                found[each["rule"]].append(each)
    return {name: found[name] for name in rules.RULES if name in found}


def skewness(samples: list[list[float]]) -> tuple[float, float | None]:
    """Mean of the runs' adjusted skewness over statements, and its standard error.

    That of three runs lies within 1.73 whatever they are: of one statement it says nothing.
    """
    several = [np.array(each) for each in samples if len(each) > 2]
    found = [skew(each, bias=False) for each in several if np.ptp(each) > 0]
    if len(found) < 2:
        return 0.0, None
    return float(np.mean(found)), float(np.std(found, ddof=1) / len(found) ** 0.5)


def noises(lean: float, worse: float, size: tuple[int, int], seed: int) -> dict[str, Floats]:
    """Runs with mean 0 and deviation 1, of three shapes; `worse` is the sign of the worst."""
    draw = np.random.default_rng(seed)
    shape = 4 / lean**2 if lean else 0.0
    gamma = (draw.gamma(shape, 1, size) - shape) / shape**0.5 if lean else draw.normal(size=size)
    tailed = (draw.lognormal(0, 1, size) - np.e**0.5) / ((np.e - 1) * np.e) ** 0.5
    return {
        "normal": draw.normal(size=size),
        "as measured": np.sign(lean or 1) * gamma,
        "strongly skewed": worse * tailed,
    }


def verdict(samples: Floats, side: str, limit: float, confidence: float = 0.95) -> str:
    """Verdict on runs, by a limit to one side, or to both."""
    given: dict[str, Any] = {side: limit}
    return analyses.finding("", "", samples, **given, confidence=confidence).verdict


def at_the_limit(found: dict[str, list[dict[str, Any]]], repeats: int) -> Rows:
    """Rates of each rule right at its limit."""
    rows = []
    for name, each in found.items():
        rule, (side, limit, *_) = rules.RULES[name], each[0]["condition"].split()
        n = int(np.median([one["runs"] for one in each]))
        lean, error = skewness([one["samples"] for one in each])
        row: Row = {"rule": name, "runs": n, "skewness": lean, "skewness_error": error}
        for shape, noise in noises(lean, 1 if side != "above" else -1, (repeats, n), 7).items():
            scale = 0.2 * abs(float(limit)) or 1.0
            values = float(limit) + scale * noise
            said = [verdict(one, side, float(limit)) for one in values]
            row[f"{shape} agrees"] = said.count("agrees") / repeats
            row[f"{shape} disagrees"] = said.count("disagrees") / repeats
            if rule.within is not None:
                old = [analyses.finding("", "", one, below=rule.within).verdict for one in values]
                row[f"{shape} agrees, before"] = old.count("agrees") / repeats
        rows.append(row)
    return rows


def can_see(found: dict[str, list[dict[str, Any]]], repeats: int) -> Rows:
    """What the committed runs can see, and how often they do."""
    rows = []
    for name, each in found.items():
        known = [one for one in each if one["detectable"]]
        if not known:
            continue
        seen, (lean, _) = [], skewness([one["samples"] for one in each])
        for at, one in enumerate(known):
            side, limit, *_ = one["condition"].split()
            away = one["detectable"] if side == "above" else -one["detectable"]
            noise = noises(lean, 1.0, (max(repeats // 4, 1), one["runs"]), at)["as measured"]
            values = float(limit) + away + one["spread"] * noise
            level = 1 - 0.05 / one["statements"]
            said = [verdict(runs, side, float(limit), level) for runs in values]
            seen.append(said.count("agrees") / len(said))
        differences = [one["detectable"] for one in known]
        rows.append(
            {
                "rule": name,
                "statements": len(known),
                "runs": int(np.median([one["runs"] for one in known])),
                "least": min(differences),
                "median": float(np.median(differences)),
                "most": max(differences),
                "seen": float(np.mean(seen)),
                "undecided": sum(one["verdict"] == "undecided" for one in each),
                "would take": float(np.median([one["needed"] or np.nan for one in known])),
            }
        )
    return rows


class Runs:
    """A committed Dataset whose damages are replaced, with its noise."""

    def __init__(self, path: Path, epoch: int = 0, redrawn: bool = False) -> None:
        self.ds = results.open_dataset(path).sel(metric=["error"]).load()
        self.act = results.redraws(self.ds)[0] if redrawn else results.resets(self.ds)[0]
        self.known = analyses.damage(self.ds, self.act, epoch).values
        self.layers = [str(each) for each in analyses.damage(self.ds)["layer"].values]
        self.means = self.known.mean(0)
        self.left = (self.known - self.means) / (len(self.known) - 1) ** 0.5
        self.plain = self.ds.drop_vars(["difference", "difference_standard_error"], errors="ignore")

    def noise(self, draw: np.random.Generator) -> Floats:
        """Normal deviations of as many runs, with the covariance of these over layers."""
        return np.asarray(draw.normal(size=(len(self.left),) * 2) @ self.left)

    def anywhere(self, draw: np.random.Generator) -> Floats:
        """Damages as measured, of layers in another order."""
        order = draw.permutation(len(self.layers))
        return np.asarray((self.means + self.noise(draw))[:, order])

    def changed(self, damages: Floats, epoch: int = 0) -> xr.Dataset:
        """The Dataset with damages of (run, layer) in place of its own."""
        ds = self.plain.copy(deep=True)
        base = ds["baseline"].sel(metric="error").values
        way = np.broadcast_to(ds["chance"].values, base.shape) - base
        values = base[:, None] + damages * way[:, None]
        redrawn = self.act in results.redraws(ds)
        at: dict[str, Any] = {"layer": self.layers, "perturbation": self.act, "metric": "error"}
        at["epoch"] = results.NO_EPOCH if redrawn else epoch
        cell = ds["value"].sel(at)
        new = xr.DataArray(values, {"seed": ds["seed"], "layer": self.layers}, ("seed", "layer"))
        ds["value"].loc[at] = new.broadcast_like(cell).transpose(*cell.dims).where(cell.notnull())
        return ds


Case = tuple[str, str, str, Callable[[np.random.Generator], tuple[str, str]]]


def cases(runs: Path) -> Iterator[Case]:
    """Rule, what is so, whether it then should agree, and one draw: verdicts now and before."""
    for network, path in (("fcn-3x256", FCN), ("vgg11", VGG)):
        yield from order_cases(network, Runs(runs / path))
    for path in (FCN, VGG):
        yield from half_cases(Runs(runs / path))
    yield from pick_cases(runs)
    yield "criticality-over-parameters", "measures unrelated to the gap", "no", unrelated_measures
    yield from printed_cases(Runs(runs / FCN))


def order_cases(network: str, of: Runs) -> Iterator[Case]:
    """Orders of layers."""
    printed = [reference.ERROR[network][name]["0"] for name in of.layers]
    theirs = np.array([float(each) for each in printed])
    own = (theirs - theirs.min()) / (0.9 - theirs.min())
    far = of.ds["distance"].sel(norm="l2_fan_in", layer=of.layers).isel(epoch=-1).mean("seed")
    by_distance = np.argsort(of.means)[np.argsort(np.argsort(far.values))]
    none = unordered(of, far.values)
    count = len(of.layers)

    def same(damages: Floats) -> tuple[str, str]:
        rho = [spearmanr(theirs, each).statistic for each in damages]
        old = analyses.finding("", "", rho, above=0, step=analyses.rank_step(count)).verdict
        return reference.same_layers_matter(of.changed(damages), network).verdict, old

    def tells(damages: Floats) -> tuple[str, str]:
        rho = [abs(spearmanr(far, each).statistic) for each in damages]
        old = analyses.finding("", "", rho, below=0.8, step=analyses.rank_step(count)).verdict
        return analyses.distance_tells_little(of.changed(damages)).verdict, old

    name, rule = f"{network}, {len(of.known)} runs", "same-layers"
    yield rule, f"{name}: unrelated order", "no", lambda d: same(of.anywhere(d))
    yield rule, f"{name}: the paper's damages", "yes", lambda d: same(own + of.noise(d))
    rule = "distance-tells-little"
    case = f"{name}: damage in the order of distance"
    yield rule, case, "no", lambda d: tells((of.means + of.noise(d))[:, by_distance])
    case = f"{name}: no more pairs in the order of distance than against it"
    yield rule, case, "yes", lambda d: tells((of.means + of.noise(d))[:, none])
    yield rule, f"{name}: unrelated order", "no rule", lambda d: tells(of.anywhere(d))


def unordered(of: Runs, far: Floats) -> NDArray[np.intp]:
    """Order of the layers' damages that has least to do with distance, of a thousand."""
    draw = np.random.default_rng(0)
    orders = [draw.permutation(len(far)) for _ in range(1000)]
    return min(orders, key=lambda each: abs(kendalltau(of.means[each], far).statistic))


def half_cases(of: Runs) -> Iterator[Case]:
    """Upper and lower layers."""
    count, name = len(of.layers), f"{len(of.layers)} layers, {len(of.known)} runs"
    equal = np.full(count, of.means.mean())
    one = np.where(np.arange(count) == count - 1, rules.CRITICAL, 0.02)

    def upper(means: Floats, draw: np.random.Generator) -> tuple[str, str]:
        damages = means + of.noise(draw)
        depth = range(count)
        rho = [spearmanr(depth, each).statistic for each in damages]
        old = analyses.finding("", "", rho, below=0, step=analyses.rank_step(count)).verdict
        return analyses.upper_robust(of.changed(damages)).verdict, old

    def critical(means: Floats, draw: np.random.Generator) -> tuple[str, str]:
        damages = means + of.noise(draw)
        worst = damages[:, count - count // 2 :].max(1)
        old = analyses.finding("", "", worst, below=rules.CRITICAL).verdict
        return analyses.no_upper_critical(of.changed(damages)).verdict, old

    rule = "upper-more-robust"
    yield rule, f"{name}: all layers matter alike", "no", lambda d: upper(equal, d)
    yield rule, f"{name}: as measured", "yes", lambda d: upper(of.means, d)
    yield "no-upper-critical", f"{name}: one layer at the limit", "no", lambda d: critical(one, d)


def pick_cases(runs: Path) -> Iterator[Case]:
    """The worst of many rows."""
    first, zero = Runs(runs / RECIPE, 1), Runs(runs / RECIPE, 0)
    blocks, redrawn = Runs(runs / RESNET), Runs(runs / FCN, redrawn=True)
    least = np.where(np.arange(len(redrawn.layers)) == 1, 1 - rules.CHANCE_MARGIN, 1.0)
    limit = blocks.means.copy()
    at = blocks.layers.index("s3.1")
    gap = stage_gaps(blocks.layers, limit[None])[0]
    limit[at] -= gap[1] - rules.CRITICAL

    def worse(draw: np.random.Generator) -> tuple[str, str]:
        damages = [zero.means + each.noise(draw) for each in (zero, first)]
        ds = zero.changed(damages[0])
        later = first.changed(damages[1], 1)["value"]
        both = ds["value"].where(ds["epoch"] != 1, later)
        more = damages[1] - damages[0]
        old = analyses.finding("", "", more[:, more.mean(0).argmax()], above=0).verdict
        ds["value"] = both.transpose(*ds["value"].dims)
        return analyses.first_epoch_worse(ds).verdict, old

    def starts(means: Floats, draw: np.random.Generator) -> tuple[str, str]:
        damages = means + blocks.noise(draw)
        worst = stage_gaps(blocks.layers, damages).min(1)
        old = analyses.finding("", "", worst, above=rules.CRITICAL).verdict
        return analyses.stage_starts_matter(blocks.changed(damages)).verdict, old

    def fails(means: Floats, draw: np.random.Generator) -> tuple[str, str]:
        damages = means + redrawn.noise(draw)
        old = analyses.finding("", "", damages.min(1), above=1 - rules.CHANCE_MARGIN).verdict
        return analyses.random_fails(redrawn.changed(damages)).verdict, old

    yield "first-epoch-worse", "11 layers, 3 runs: no difference", "no", worse
    case = "10 blocks, 3 runs: one stage at the limit"
    yield "stage-starts", case, "no", lambda d: starts(limit, d)
    yield "stage-starts", "10 blocks, 3 runs: as measured", "yes", lambda d: starts(blocks.means, d)
    case = "4 layers, 5 runs: one layer a tenth short of chance"
    yield "random-fails", case, "no", lambda d: fails(least, d)
    case = "4 layers, 5 runs: as measured"
    yield "random-fails", case, "yes", lambda d: fails(redrawn.means, d)


def stage_gaps(layers: list[str], damages: Floats) -> Floats:
    """Damage of the first block of stages 2 to 4 less the mean of the others."""
    found = []
    for stage in (2, 3, 4):
        those = [at for at, name in enumerate(layers) if name.startswith(f"s{stage}.")]
        first = layers.index(f"s{stage}.1")
        rest = [at for at in those if at != first]
        found.append(damages[:, first] - damages[:, rest].mean(1))
    return np.stack(found, 1)


def skewed_cases(repeats: int) -> Rows:
    """The worst of several layers, right at the limit: its mean, and every layer by itself."""
    rows = []
    for runs, layers, wide in ((3, 4, 1), (3, 11, 1), (3, 4, 4), (3, 11, 3), (5, 4, 4)):
        draw = np.random.default_rng(0)
        spreads = np.array([wide, *[1] * (layers - 1)]) / 50
        noise = spreads * draw.normal(size=(repeats, runs, layers))
        worst = noise.min(2)
        mean = worst.mean()
        alone = noise + np.array([0, *[1] * (layers - 1)])
        said = [
            [analyses.finding("", "", each - mean, above=0).verdict for each in worst],
            [every_layer(each) for each in alone],
            [every_layer(each) for each in noise],
        ]
        rows.append(
            {"runs": runs, "layers": layers, "wide": wide, "skewness": float(skew(worst.ravel()))}
            | {"worst agrees": said[0].count("agrees") / repeats}
            | {"one at the limit agrees": said[1].count("agrees") / repeats}
            | {"all at the limit disagrees": said[2].count("disagrees") / repeats}
        )
    return rows


def every_layer(noise: Floats) -> str:
    """Verdict on layers whose true damage lies at the limit of `random-fails`, plus noise."""
    names = [str(each) for each in range(noise.shape[1])]
    samples = xr.DataArray(1 - rules.CHANCE_MARGIN + noise, {"layer": names}, ("seed", "layer"))
    return by_rule_of_all("random-fails", samples).verdict


def unrelated_measures(draw: np.random.Generator) -> tuple[str, str]:
    """Five networks, three tasks, three runs; a network has its gap, and measures of its own."""
    index = pd.MultiIndex.from_product([range(5), range(3), range(3)])
    table = index.to_frame(index=False, name=["network", "random labels", "seed"])
    for column in ("gap", "criticality", "parameters"):
        table[column] = draw.normal(size=5)[table["network"]] + 0.3 * draw.normal(size=len(table))
    table["gap"] += 5 * table["random labels"]
    table["criticality"] += 5 * table["random labels"]  # grows with the share as the gap does
    ranks = analyses.rank_with(table, "gap")
    old = analyses.finding("", "", ranks["criticality"] - ranks["parameters"], above=0).verdict
    return analyses.goes_with_more(table, "criticality", "parameters").verdict, old


def printed_cases(of: Runs) -> Iterator[Case]:
    """Printed numbers: ours, and others."""
    trained = of.ds["baseline"].sel(metric="error").mean().item()
    own = trained + of.means[0] * (0.9 - trained)

    def compared(cells: dict[str, float], draw: np.random.Generator) -> tuple[str, str]:
        ds = of.changed(of.means + of.noise(draw))
        table = reference.errors(ds, "fcn-3x256")
        value = trained + of.means * (0.9 - trained)
        printed = dict(zip(of.layers, value, strict=True)) | cells
        inside, told = [], []
        for row in table[table["column"] == "0"].to_dict("records"):
            if row["layer"] in printed:
                close = row["lower"] - 0.01 <= printed[row["layer"]] <= row["upper"] + 0.01
                inside.append(close)
                told.append(not close or row["upper"] - row["measured"] <= rules.PRINTED_MARGIN)
        answer = "agrees" if all(inside) else "disagrees"
        half = sum(told) * 2 > len(told) or not all(inside)
        return ("undecided" if all(inside) and not all(told) else answer), (
            answer if half else "undecided"
        )

    rule = "printed-errors"
    yield rule, "column 0, 5 runs: our own means", "yes", partial(compared, {})
    for off in (0.1, 0.2):
        name = f"column 0, 5 runs: layer1 off by {off:g}"
        yield rule, name, "no", partial(compared, {"layer1": own - off})


def without(runs: Path, repeats: int) -> Rows:
    """Verdicts where what is said is not so, or is."""
    rows = []
    for at, (rule, what, should, once) in enumerate(cases(runs)):
        draw = np.random.default_rng(at)
        said = [once(draw) for _ in range(repeats)]
        now, before = zip(*said, strict=True)
        row: Row = {"rule": rule, "case": what, "should agree": should}
        row |= {"agrees": now.count("agrees") / repeats}
        row |= {"disagrees": now.count("disagrees") / repeats}
        row |= {"agrees, before": before.count("agrees") / repeats if before[0] else None}
        rows.append(row)
        print(row, flush=True)
    return rows


def main() -> None:
    """Simulate, print, and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="?", default=Path("papermill_runs"))
    parser.add_argument("--repeats", type=int, default=1000)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, metavar="PART")
    parser.add_argument(
        "--before", type=Path, metavar="RUNS", help="the same runs as they were judged before"
    )
    parser.add_argument("--json", type=Path, help="parts that are not asked for stay as in it")
    parser.add_argument("--out", type=Path, metavar="FILE")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    found, repeats = committed(options.runs), options.repeats
    there = options.json and options.json.is_file()
    rows = json.loads(options.json.read_text("utf-8")) if there else {}
    rows |= {
        part: {
            "limit": lambda: at_the_limit(found, repeats),
            "see": lambda: can_see(found, repeats),
            # Each takes a tenth of a second.
            "without": lambda: without(options.runs, max(repeats // 5, 1)),
            "worst": lambda: skewed_cases(repeats),
        }[part]()
        for part in options.parts
    }
    if options.before:
        rows["again"] = judged_again(options.before, options.runs)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    if rows.keys() >= set(PARTS):
        print(page(rows))
        if options.out:
            options.out.write_text(page(rows))


if __name__ == "__main__":
    main()
