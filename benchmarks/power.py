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
    its noise (deviations of its runs from their mean, drawn anew with random signs, which keeps
    what layers have in common). "before" is an earlier form of the rule, on the same runs.
"""

from __future__ import annotations

# mypy: ignore-errors
import argparse
import json
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from scipy.stats import spearmanr

from layerscope import analyses, results
from layerscope.paper import reference, rules

Floats = NDArray[np.float64]
Rows = list[dict[str, Any]]

FCN, VGG = "fcn-mnist/paper/fcn_mnist.nc", "vgg-cifar10/small/vgg_cifar10_vgg11-w0.25.nc"
RESNET = "resnet-cifar10/small+seeds=3/resnet_cifar10_resnet18-nonorm-w0.25.nc"
PARTS = ["limit", "see", "without"]
RECIPE = "training-recipe/small/vgg11-w0.25_BatchNorm_weight_decay.nc"


def committed(runs: Path) -> dict[str, list[dict[str, Any]]]:
    """Findings over several runs, by rule."""
    found = defaultdict(list)
    for path in sorted(runs.glob("*/*/manifest.json")):
        for each in (json.loads(path.read_text("utf-8")).get("summary") or {}).get("findings", ()):
            if each["runs"] > 1 and None not in each.get("samples", [None]):
                found[each["rule"]].append(each)
    return {name: found[name] for name in rules.RULES if name in found}


def skewness(samples: list[list[float]]) -> float:
    """Third moment of runs about their mean, in their standard deviation cubed, pooled."""
    third, scale = 0.0, 0.0
    for each in samples:
        values, n = np.array(each), len(each)
        if n > 2:
            third += n / ((n - 1) * (n - 2)) * ((values - values.mean()) ** 3).sum()
            scale += values.std(ddof=1) ** 3
    return float(np.clip(third / scale, -3, 3)) if scale else 0.0


def noises(skew: float, worse: float, size: tuple[int, int], seed: int) -> dict[str, Floats]:
    """Runs with mean 0 and deviation 1, of three shapes; `worse` is the sign of the worst."""
    draw = np.random.default_rng(seed)
    shape = 4 / skew**2 if skew else 0.0
    gamma = (draw.gamma(shape, 1, size) - shape) / shape**0.5 if skew else draw.normal(size=size)
    tailed = (draw.lognormal(0, 1, size) - np.e**0.5) / ((np.e - 1) * np.e) ** 0.5
    return {
        "normal": draw.normal(size=size),
        "as measured": np.sign(skew or 1) * gamma,
        "strongly skewed": worse * tailed,
    }


def at_the_limit(found: dict[str, list[dict[str, Any]]], repeats: int) -> Rows:
    """Rates of each rule right at its limit."""
    rows = []
    for name, each in found.items():
        rule, (side, limit, *_) = rules.RULES[name], each[0]["condition"].split()
        n = int(np.median([one["runs"] for one in each]))
        skew = skewness([one["samples"] for one in each])
        row: dict[str, Any] = {"rule": name, "runs": n, "skewness": skew}
        for shape, noise in noises(skew, 1 if side != "above" else -1, (repeats, n), 7).items():
            scale = 0.2 * abs(float(limit)) or 1.0
            values = float(limit) + scale * noise
            said = [analyses.finding("", "", one, **{side: float(limit)}).verdict for one in values]
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
        seen, skew = [], skewness([one["samples"] for one in each])
        for at, one in enumerate(known):
            side, limit, *_ = one["condition"].split()
            away = one["detectable"] if side == "above" else -one["detectable"]
            noise = noises(skew, 1.0, (max(repeats // 4, 1), one["runs"]), at)["as measured"]
            values = float(limit) + away + one["spread"] * noise
            level = 1 - 0.05 / one["statements"]
            said = [
                analyses.finding("", "", v, **{side: float(limit)}, confidence=level).verdict
                for v in values
            ]
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
        self.left = (self.known - self.means) * (len(self.known) / (len(self.known) - 1)) ** 0.5
        self.plain = self.ds.drop_vars(["difference", "difference_standard_error"], errors="ignore")

    def noise(self, draw: np.random.Generator) -> Floats:
        """Deviations of as many runs, drawn anew with random signs."""
        count = len(self.left)
        signs = draw.choice([-1.0, 1.0], size=(count, 1))
        return np.asarray(self.left[draw.integers(count, size=count)] * signs)

    def anywhere(self, draw: np.random.Generator) -> Floats:
        """Damages as measured, of layers in another order."""
        return (self.means + self.noise(draw))[:, draw.permutation(len(self.layers))]

    def changed(self, damages: Floats, epoch: int = 0) -> xr.Dataset:
        """The Dataset with damages of (run, layer) in place of its own."""
        ds = self.plain.copy(deep=True)
        base = ds["baseline"].sel(metric="error").values
        way = np.broadcast_to(ds["chance"].values, base.shape) - base
        values = base[:, None] + damages * way[:, None]
        redrawn = self.act in results.redraws(ds)
        at = {"layer": self.layers, "perturbation": self.act, "metric": "error"}
        at |= {"epoch": results.NO_EPOCH if redrawn else epoch}
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
    yield rule, f"{name}: unrelated order", "yes", lambda d: tells(of.anywhere(d))


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
        return analyses.no_upper_critical(of.changed(means + of.noise(draw))).verdict, ""

    rule = "upper-more-robust"
    yield rule, f"{name}: all layers matter alike", "no", lambda d: upper(equal, d)
    yield rule, f"{name}: as measured", "yes", lambda d: upper(of.means, d)
    yield "no-upper-critical", f"{name}: one layer at the limit", "no", lambda d: critical(one, d)


def pick_cases(runs: Path) -> Iterator[Case]:
    """The worst of many rows."""
    first, zero = Runs(runs / RECIPE, 1), Runs(runs / RECIPE, 0)
    blocks, redrawn = Runs(runs / RESNET), Runs(runs / FCN, redrawn=True)
    least = np.where(np.arange(len(redrawn.layers)) == 1, 1 - rules.CHANCE_MARGIN, 1.0)

    def worse(draw: np.random.Generator) -> tuple[str, str]:
        damages = [zero.means + each.noise(draw) for each in (zero, first)]
        ds = zero.changed(damages[0])
        both = xr.where(ds["epoch"] == 1, first.changed(damages[1], 1)["value"], ds["value"])
        more = damages[1] - damages[0]
        old = analyses.finding("", "", more[:, more.mean(0).argmax()], above=0).verdict
        ds["value"] = both.transpose(*ds["value"].dims)
        return analyses.first_epoch_worse(ds).verdict, old

    def starts(draw: np.random.Generator) -> tuple[str, str]:
        return analyses.stage_starts_matter(blocks.changed(blocks.anywhere(draw))).verdict, ""

    def fails(draw: np.random.Generator) -> tuple[str, str]:
        return analyses.random_fails(redrawn.changed(least + redrawn.noise(draw))).verdict, ""

    yield "first-epoch-worse", "11 layers, 3 runs: no difference", "no", worse
    yield "stage-starts", "10 blocks, 3 runs: damages anywhere", "no", starts
    yield "random-fails", "4 layers, 5 runs: one layer a tenth short of chance", "no", fails


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

    def compared(cells: dict[str, Any], draw: np.random.Generator) -> tuple[str, str]:
        ds = of.changed(of.means + of.noise(draw))
        table = reference.errors(ds, "fcn-3x256")
        value = trained + of.means * (0.9 - trained)
        printed = dict(zip(of.layers, value, strict=True)) | cells
        inside, told = [], []
        for row in table[table["column"] == "0"].itertuples():
            if row.layer in printed:
                inside.append(row.lower - 0.01 <= printed[row.layer] <= row.upper + 0.01)
                told.append(not inside[-1] or row.upper - row.measured <= rules.PRINTED_MARGIN)
        verdict = "agrees" if all(inside) else "disagrees"
        half = sum(told) * 2 > len(told)
        return (verdict if half or verdict == "disagrees" else "undecided"), verdict

    rule = "printed-errors"
    yield rule, "column 0, 5 runs: our own means", "yes", lambda d: compared({}, d)
    for off in (0.1, 0.2):
        name = f"column 0, 5 runs: layer1 off by {off:g}"
        yield rule, name, "no", lambda d, off=off: compared({"layer1": own - off}, d)


def without(runs: Path, repeats: int) -> Rows:
    """Verdicts where what is said is not so, or is."""
    rows = []
    for at, (rule, what, should, once) in enumerate(cases(runs)):
        draw = np.random.default_rng(at)
        said = [once(draw) for _ in range(repeats)]
        now, before = zip(*said, strict=True)
        row = {"rule": rule, "case": what, "should agree": should}
        row |= {"agrees": now.count("agrees") / repeats}
        row |= {"disagrees": now.count("disagrees") / repeats}
        row |= {"agrees, before": before.count("agrees") / repeats if before[0] else None}
        rows.append(row)
        print(row, flush=True)
    return rows


def judged_again(before: Path, after: Path) -> Rows:
    """Statements that were judged otherwise in the same runs by earlier rules."""
    rows = []
    for path in sorted(after.glob("*/*/manifest.json")):
        place = path.relative_to(after)
        if not (before / place).is_file():
            continue
        claims = [
            {
                (each["rule"], each["paper"]): each["agrees"]
                for each in (json.loads(file.read_text("utf-8")).get("summary") or {}).get(
                    "claims", ()
                )
            }
            for file in (before / place, path)
        ]
        for key in {**claims[0], **claims[1]}:
            said = [each.get(key, "not asked") for each in claims]
            if said[0] != said[1]:
                row = {"run": str(place.parent), "rule": key[0], "statement": key[1]}
                rows.append(row | {"before": WORDS[said[0]], "after": WORDS[said[1]]})
    return rows


def percent(value: float | None) -> str:
    """A rate in the table."""
    return "" if value is None or np.isnan(value) else f"{100 * value:.1f}"


def page(found: dict[str, Rows]) -> str:
    """Lay the tables out in Markdown."""
    limit, see, cases_ = (found[each] for each in PARTS)
    shapes = ("normal", "as measured", "strongly skewed")
    head = ["rule", "runs", "skewness", *shapes, "disagrees, normal"]
    lines = [ABOUT, "", "## At the limit", "", LIMIT, "", *header(head)]
    for row in limit:
        rates = [percent(row[f"{shape} agrees"]) for shape in shapes]
        cells = [f"`{row['rule']}`", str(row["runs"]), f"{row['skewness']:.1f}", *rates]
        lines.append(f"| {' | '.join([*cells, percent(row['normal disagrees'])])} |")
    lines += ["", "## Where what is said is not so, or is", "", WITHOUT, ""]
    lines += header(["rule", "case", "should agree", "agrees", "disagrees", "agrees, before"])
    for row in cases_:
        rates = [percent(row[each]) for each in ("agrees", "disagrees", "agrees, before")]
        lines.append(f"| `{row['rule']}` | {row['case']} | {row['should agree']} | "
                     f"{' | '.join(rates)} |")  # fmt: skip
    lines += ["", "## What the committed runs can see", "", SEE, ""]
    lines += header(["rule", "statements", "runs", "least", "median", "most", "seen", "undecided"])
    for row in see:
        ways = [f"{row[each]:.2g}" for each in ("least", "median", "most")]
        cells = [f"`{row['rule']}`", str(row["statements"]), str(row["runs"]), *ways]
        lines.append(f"| {' | '.join([*cells, percent(row['seen']), str(row['undecided'])])} |")
    if "again" in found:
        lines += ["", "## What was judged otherwise before", "", AGAIN, ""]
        lines += header(["run", "statement", "before", "after", "why"])
        for row in found["again"]:
            cells = [row["run"], row["statement"], row["before"], row["after"]]
            lines.append(f"| {' | '.join([*cells, WHY.get(row['rule'], BESIDE)])} |")
    return "\n".join(lines) + "\n"


def header(names: list[str]) -> list[str]:
    """First two lines of a table."""
    return [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]


ABOUT = """# How often the rules are wrong, and what they can see

Made by `python benchmarks/power.py --out docs/power.md` from the committed runs; nothing was
trained for it. A rule (`layerscope.paper.rules`) agrees or disagrees by a two-sided interval of
95 %, so that right at its limit it should agree in 2.5 % of cases and disagree in as many; all
numbers are per cent of cases: 200 at the limit, 120 of each case below it, where three in a
hundred cases of three runs are decided because the same deviation is drawn thrice. How often one of
several statements is decided wrongly is counted by `benchmarks/coverage.py`."""
LIMIT = """How often it agrees right at the limit, by the shape of runs: normal; as skewed as the
committed runs of that rule; and strongly skewed (log-normal, σ = 1). What is asked of one more run
("within") agrees less often than 2.5 %, and holds up where runs are skewed. The others do not hold
where runs are strongly skewed."""
WITHOUT = """Damages of a committed run, changed so that a statement is wrong or right, with the
noise of its runs. "Before" is an earlier form of the rule on the same runs: a rank correlation
above 0 (`same-layers`), below 0 (`upper-more-robust`) or below 0.8 (`distance-tells-little`), the
worst layer picked by the same runs (`first-epoch-worse`), runs of the same networks
(`criticality-over-parameters`), any cell in its interval however wide (`printed-errors`, which
still agrees where one cell of four is too wide to tell). No statement is corrected here."""
SEE = """Distance from the limit, in the rule's unit, that runs as many as there are can see in 80 %
of cases, among the statements of their experiment: the least, the median and the most of the
committed statements, and how often it is seen where runs are as skewed as measured."""
AGAIN = """Statements of the same runs, from the same Datasets, by the rules that stood before (all
dated 2026-11-28, after the runs were seen) and by those of today."""
WORDS = {True: "agrees", False: "disagrees", None: "undecided", "not asked": "not asked"}
BESIDE = "corrected for another number of statements, or others of their experiment count"
WHY = {
    "same-layers": "orders of layers are permuted, in place of a limit that few layers can't reach",
    "distance-tells-little": "only pairs of layers count that differ in damage by more than 0.05",
    "frozen-costs-little": "asked of one more run, and to either side",
    "removed-costs-little": "asked of one more run, and to either side",
    "printed-errors": "cells in intervals that are too wide tell nothing",
    "printed-distances": "cells in intervals that are too wide tell nothing",
} | {
    f"{better}-over-{worse}": "within a task, and over networks in place of runs of the same ones"
    for better in ("critical", "criticality")
    for worse in ("parameters", "frobenius", "distance", "random labels")
}


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
