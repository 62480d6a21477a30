"""How often cells that stop early are settled wrongly, and how often intervals and tests are wrong.

    python benchmarks/coverage.py [--runs 400] [--quick] [--part stopping|runs] [--json FILE]

Each run is one cell: a finite data set with a known mean, in random order. Four ways look at it
after every batch and stop when they are sure at 99 %:

betting
    `layerscope.core.stopping`, whose confidence holds for all looks at once.
peeking
    An ordinary 99 % interval, as if each look were the only one.
Bonferroni
    The same interval at 1 − 0.01 / number of looks.
Bernstein
    As Bonferroni, with an interval whose confidence is proved for every number of examples: the
    empirical Bernstein–Serfling inequality (Bardenet and Maillard 2015, theorem 4.3).

The ordinary interval is that of the normal distribution with two more examples, half of them
right or split over the four cells of the pairs (Agresti and Coull 1998, Agresti and Min 2005), and
with the correction for a finite population. It is an approximation: far out in the tails, where
Bonferroni needs it, nothing guarantees its confidence.

A decision is wrong where the true mean over the data set says otherwise; "robust" is a mean
difference of at most 0.02. An interval is wrong if it excludes the true mean after any batch until
it is narrow enough. Examples are in per cent of the data set.

A second table is of examples with several targets each, of one length and of different ones, and of
targets that are ignored; what is to be found is the mean over targets that count. Longer sequences
are the worse ones, so that the mean over examples of their means is another. There "peeking" is the
interval of a ratio of sums (Cochran 1977, section 2.11). "bias" is how far the values of the cells
that stopped are from the true mean, on average, in per cent of it.

The second part, "runs", is of intervals and tests over runs:

runs × examples
    How often 95 % intervals hold the mean over all runs and all examples, where runs share a test
    set: by `stats.crossed`, the same without what every example gave ("shared"), by Student's t
    over runs, by the bootstrap over runs and over examples at once, of percentiles.
layers at once
    In how many networks any layer is wrongly called robust, all at the limit but those that are
    clear: by Holm, by Bonferroni and each by itself; runs share a part of their noise over layers.
    "found" is the share of layers that are robust and are called so.
agreement
    How often a mean that lies right at the margin is said to agree; normal and skewed (log-normal)
    runs, and how often a detectable difference is found.
orders
    How often unrelated orders pass at 5 %: a correlation above 0, the permutation test, and the
    partial one where both orders follow the rival but not each other.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from layerscope import stats
from layerscope.core.stopping import Decision, Settler, Tolerance
from layerscope.stats._crossed import resampled_half_width
from layerscope.stats._simultaneous import CORRECTIONS, step_down

Floats = NDArray[np.float64]

LIMIT = 0.02
CONFIDENCE = 0.99
WAYS = ("betting", "peeking", "Bonferroni", "Bernstein")


@dataclass
class Case:
    """A data set: the mean to be found, and how many examples change sides, if it is a difference.

    `over` is added to the number of examples that are wrong.
    """

    what: str
    mean: float
    discordance: float | None = None
    over: int = 0

    def outcomes(self, population: int, runs: int, seed: int) -> Floats:
        """Draw random orders, shape ``(runs, population)``."""
        total = round(self.mean * population) + self.over
        if self.discordance is None:
            values = np.repeat([1.0, 0.0], [total, population - total])
        else:
            changed = max(round(self.discordance * population), abs(total))
            changed += (changed - total) % 2
            worse, better = (changed + total) // 2, (changed - total) // 2
            values = np.repeat([1.0, -1.0, 0.0], [worse, better, population - changed])
        return np.random.default_rng(seed).permuted(np.tile(values, (runs, 1)), axis=1)


DECISIONS = [
    Case("at the limit", 0.02, 0.04),
    Case("one beyond", 0.02, 0.04, over=1),
    Case("0 %, 1 % change", 0.0, 0.01),
    Case("0 %, 3 % change", 0.0, 0.03),
    Case("0.5 %, 1 % change", 0.005, 0.01),
    Case("0.5 %, 3 % change", 0.005, 0.03),
    Case("1 %, 1 % change", 0.01, 0.01),
    Case("1 %, 3 % change", 0.01, 0.03),
    Case("5 points", 0.05, 0.07),
    Case("20 points", 0.2, 0.22),
    Case("50 points", 0.5, 0.52),
]

INTERVALS = [Case(f"error {share:g}", share) for share in (0.02, 0.1, 0.3, 0.6)]


def ordinary(seen: Floats, n: int, population: int, risk: float, pairs: bool) -> tuple[Floats, ...]:
    """Bounds of the means by the normal distribution, from the sums of `n` values and squares."""
    total, squares = seen
    more = 0.0 if pairs else 1.0
    mean = (total + more) / (n + 2)
    variance = (squares + 1) / (n + 2) - mean**2
    left = (population - n) / (population - 1)
    half = norm.isf(risk / 2) * np.sqrt(np.maximum(variance, 0) * left / (n + 2))
    return mean - half, mean + half


def bernstein(
    seen: Floats, n: int, population: int, risk: float, pairs: bool
) -> tuple[Floats, ...]:
    """Bounds of the means by the empirical Bernstein–Serfling inequality."""
    total, squares = seen
    mean, few = total / n, n <= population / 2
    log = np.log(5 * 2 / risk)
    rho = 1 - (n - 1) / population if few else (1 - n / population) * (1 + 1 / n)
    spread = np.sqrt(np.maximum(squares / n - mean**2, 0) * 2 * rho * log / n)
    half = spread + (7 / 3 + 3 / np.sqrt(2)) * (2 if pairs else 1) * log / n
    return mean - half, mean + half


def look(
    rule: Decision | Tolerance,
    low: Floats,
    high: Floats,
    truth: Floats | float,
    going: NDArray[np.bool_],
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which runs an interval stops, and which it gets wrong."""
    if isinstance(rule, Decision):
        stop = going & ((high <= LIMIT) | (low > LIMIT))
        return stop, stop & ((high <= LIMIT) != (truth <= LIMIT))
    return going & (high - low <= 2 * rule.width), going & ((truth < low) | (truth > high))


def plain(
    outcomes: Floats,
    batch: int,
    rule: Decision | Tolerance,
    bounds: Callable[..., tuple[Floats, ...]],
    corrected: bool,
) -> tuple[NDArray[np.bool_], Floats]:
    """Which runs an interval for one look settles wrongly, and after how many examples."""
    runs, population = outcomes.shape
    truth = outcomes.mean(axis=1)
    ends = [*range(batch, population, batch), population]
    risk = (1 - CONFIDENCE) / (len(ends) if corrected else 1)
    sums, squares = np.cumsum(outcomes, axis=1), np.cumsum(outcomes**2, axis=1)
    wrong, counts = np.zeros(runs, bool), np.full(runs, float(population))
    going = np.ones(runs, bool)
    for n in ends[:-1]:
        seen = np.stack([sums[:, n - 1], squares[:, n - 1]])
        low, high = bounds(seen, n, population, risk, isinstance(rule, Decision))
        stop, missed = look(rule, low, high, truth, going)
        wrong |= missed
        counts[stop] = n
        going &= ~stop
    return wrong, counts


def betting(
    outcomes: Floats, batch: int, rule: Decision | Tolerance
) -> tuple[NDArray[np.bool_], Floats]:
    """Which runs are settled wrongly by betting, and after how many examples."""
    runs, population = outcomes.shape
    truth = outcomes.mean(axis=1)
    settler = Settler(rule, runs, population)
    wrong = np.zeros(runs, bool)
    for start in range(0, population, batch):
        settler.add(outcomes[:, start : start + batch])
        if isinstance(rule, Tolerance):
            wrong |= (settler.lower > truth) | (settler.upper < truth)
        if settler.settled.all():
            break
    if isinstance(rule, Decision):
        wrong = (settler.verdicts == "robust") != (truth <= LIMIT)
    return wrong, settler.counts.astype(float)


def row(
    case: Case, rule: Decision | Tolerance, population: int, batch: int, runs: int
) -> dict[str, Any]:
    """Compare the three ways on the same runs."""
    outcomes = case.outcomes(population, runs, seed=population + batch)
    found: dict[str, Any] = {
        "case": case.what,
        "rule": rule.describe(),
        "examples": population,
        "batch": batch,
        "runs": runs,
    }
    for way, (wrong, counts) in {
        "betting": betting(outcomes, batch, rule),
        "peeking": plain(outcomes, batch, rule, ordinary, corrected=False),
        "Bonferroni": plain(outcomes, batch, rule, ordinary, corrected=True),
        "Bernstein": plain(outcomes, batch, rule, bernstein, corrected=True),
    }.items():
        found[way] = {"wrong": float(wrong.mean()), "used": float(counts.mean() / population)}
    return found


@dataclass
class Sequences:
    """A data set of examples with several values each.

    `lengths` draws how many values each of n examples has.
    """

    what: str
    lengths: Callable[[np.random.Generator, int], NDArray[np.int64]]

    def examples(self, mean: float, over: int, population: int, pairs: bool) -> Floats:
        """Sums and weights, shape (2, population), whose ratio is `mean`, and `over` values more.

        Where they are differences, a hundredth of the values change for the better, too.
        """
        rng = np.random.default_rng(population)
        weights = self.lengths(rng, population)
        total = int(mean * weights.sum()) + over
        better = rng.binomial(weights, 0.01) if pairs else np.zeros(population, int)
        worse = np.zeros(population, int)
        room, missing = weights - better, total + better.sum()
        # Most of it to long examples, in clumps, as texts of one kind are hard as a whole.
        while missing > 0:
            at = rng.choice(population, p=weights.astype(float) ** 2 / (weights**2.0).sum())
            step = min(missing, room[at] - worse[at], 1 + weights[at] // 2)
            worse[at] += step
            missing -= step
        return np.stack([worse - better, weights]).astype(float)


def _tailed(rng: np.random.Generator, n: int) -> NDArray[np.int64]:
    drawn: NDArray[np.int64] = 1 + rng.lognormal(2, 1, n).astype(np.int64)
    return drawn.clip(max=64)


SEQUENCES = [
    Sequences("16 each", lambda _, n: np.full(n, 16)),
    Sequences("1 to 32", lambda rng, n: rng.integers(1, 33, n)),
    Sequences("up to 64, few long", _tailed),
    Sequences("60 % ignored", lambda rng, n: (rng.random(n) < 0.4).astype(int)),
    Sequences("0 to 16, a third 0", lambda rng, n: np.maximum(0, rng.integers(-8, 17, n))),
]

AT = [("at the limit", 0.02, 0), ("one beyond", 0.02, 1), ("5 points", 0.05, 0)]


def weighed(
    sums: Floats, weights: Floats, batch: int, rule: Decision | Tolerance, truth: float
) -> dict[str, float]:
    """How runs of one data set are settled by betting."""
    runs, population = sums.shape
    settler = Settler(rule, runs, population, float(weights.max()))
    wrong = np.zeros(runs, bool)
    for start in range(0, population, batch):
        cut = slice(start, start + batch)
        settler.add(sums[:, cut], weights=weights[:, cut])
        if isinstance(rule, Tolerance):
            wrong |= (settler.lower > truth) | (settler.upper < truth)
    if isinstance(rule, Decision):
        wrong = (settler.verdicts == "robust") != (truth <= LIMIT)
    seen = np.arange(population) < settler.counts[:, None]
    values = (sums * seen).sum(axis=1) / (weights * seen).sum(axis=1)
    early = settler.counts < population
    bias = float(values[early].mean() / truth - 1) if early.any() else 0.0
    used = float(settler.counts.mean() / population)
    return {"wrong": float(wrong.mean()), "used": used, "bias": bias}


def peeked(
    sums: Floats, weights: Floats, batch: int, rule: Decision | Tolerance, truth: float
) -> dict[str, float]:
    """How the same runs are settled by the interval of a ratio, as if each look were the only."""
    runs, population = sums.shape
    going, wrong = np.ones((2, runs), bool)
    wrong[:], counts = False, np.full(runs, population)
    for n in range(2 * batch, population, batch):
        y, w = sums[:, :n], weights[:, :n]
        ratio = y.sum(axis=1) / w.sum(axis=1)
        spread = ((y - ratio[:, None] * w) ** 2).sum(axis=1) / (n - 1)
        half = norm.isf((1 - CONFIDENCE) / 2) * np.sqrt(spread * (1 - n / population) / n)
        low, high = (ratio + sign * half / w.mean(axis=1) for sign in (-1, 1))
        stop, missed = look(rule, low, high, truth, going)
        wrong |= missed
        counts[stop] = n
        going &= ~stop
    return {"wrong": float(wrong.mean()), "used": float(counts.mean() / population)}


def sequence_rows(runs: int, population: int, batch: int) -> list[dict[str, Any]]:
    """Compare both ways on sequences, and print a line for each."""
    found = []
    print(f"\n{'examples with several targets':<42}|{'betting':^26}|{'peeking':^18}")
    print(" " * 42 + "|  wrong % used %  bias %  |  wrong % used %")
    rules: list[Decision | Tolerance] = [Decision(LIMIT), Tolerance(0.02)]
    for rule in rules:
        pairs = isinstance(rule, Decision)
        for case in SEQUENCES:
            for what, mean, over in AT if pairs else [("error 0.1", 0.1, 0), ("error 0.4", 0.4, 0)]:
                data = case.examples(mean, over, population, pairs)
                truth = data[0].sum() / data[1].sum()
                order = np.tile(np.arange(population), (runs, 1))
                order = np.random.default_rng(1).permuted(order, axis=1)
                sums, weights = data[0][order], data[1][order]
                bet = weighed(sums, weights, batch, rule, truth)
                peek = peeked(sums, weights, batch, rule, truth)
                numbers = [bet["wrong"], bet["used"], bet["bias"], peek["wrong"], peek["used"]]
                print(
                    f"{case.what:<20} {what:<14} {runs:>6,}| {{:8.2f}} {{:6.1f}} {{:7.1f}}  |"
                    " {:8.2f} {:6.1f}".format(*(100 * number for number in numbers)),
                    flush=True,
                )
                found.append(
                    {"case": f"{case.what}, {what}", "rule": rule.describe(), "runs": runs}
                    | {"examples": population, "batch": batch, "betting": bet, "peeking": peek}
                )
    return found


def shown(found: dict[str, Any]) -> str:
    """One line of the table."""
    parts = [f"{100 * found[way]['wrong']:7.1f} {100 * found[way]['used']:6.1f}" for way in WAYS]
    start = f"{found['case']:<18} {found['examples']:>7,} {found['batch']:>6,} {found['runs']:>6,}"
    return start + "  |  " + "  |  ".join(parts)


def crossed_row(
    runs: int, seeds: int, examples: int, spread: float, together: float
) -> dict[str, Any]:
    """Coverage where seeds share a test set; example noise .3, of it a share in common."""
    rng = np.random.default_rng([seeds, examples])
    held = dict.fromkeys(("crossed", "shared", "seeds", "bootstrap"), 0)
    for _ in range(runs):
        common = rng.normal(0, 0.3 * together**0.5, examples)
        own = rng.normal(0, 0.3 * (1 - together) ** 0.5, (seeds, examples))
        values = rng.normal(0, spread, (seeds, 1)) + common + own
        means = values.mean(1)
        error = values.std(1, ddof=1)[None, :, None] / examples**0.5
        half = resampled_half_width(means[None, :, None], error, None, ("seed", "example"), 0.95)
        bounds: dict[str, Any] = {
            "crossed": stats.crossed(values)[1:],
            "shared": (means.mean() - half[0], means.mean() + half[0]),
            "seeds": stats.student(means)[1:],
            "bootstrap": twice_drawn(values, rng),
        }
        for way, (low, high) in bounds.items():
            held[way] += bool(low <= 0 <= high)
    about = {"case": f"{seeds} seeds, {examples} examples, spread {spread}, {together:.0%} shared"}
    return about | {"part": "runs x examples"} | {way: n / runs for way, n in held.items()}


def twice_drawn(values: Floats, rng: np.random.Generator, repeats: int = 400) -> Floats:
    """Percentiles of means with runs and examples drawn anew, each on its own."""
    seeds, examples = values.shape
    first = rng.multinomial(seeds, np.full(seeds, 1 / seeds), repeats) / seeds
    second = rng.multinomial(examples, np.full(examples, 1 / examples), repeats) / examples
    drawn = ((first @ values) * second).sum(1)
    return np.asarray(np.quantile(drawn, [0.025, 0.975]))


def over_runs(values: Floats, confidence: float) -> tuple[Any, Any]:
    """Bounds of means over the first axis."""
    _, lower, upper = stats.student(values, 0, confidence)
    return lower, upper


def family_row(runs: int, layers: int, clear: int, together: float) -> dict[str, Any]:
    """How often any layer at the limit is wrongly robust, over three seeds."""
    rng = np.random.default_rng([layers, clear])
    means = np.repeat([0.0, LIMIT + 1e-9], [clear, layers - clear])
    wrong, found = dict.fromkeys(CORRECTIONS, 0), dict.fromkeys(CORRECTIONS, 0.0)
    for _ in range(runs):
        noise = rng.normal(0, 0.01 * (1 - together) ** 0.5, (3, layers))
        values = means + noise + rng.normal(0, 0.01 * together**0.5, (3, 1))
        for way in CORRECTIONS:
            _, upper = step_down(
                partial(over_runs, values),
                lambda low, high: (high <= LIMIT) | (low > LIMIT),
                np.ones(layers, bool),
                0.95,
                way,
            )
            wrong[way] += bool((upper[clear:] <= LIMIT).any())
            found[way] += float((upper[:clear] <= LIMIT).mean()) if clear else 0.0
    about = {"part": "layers at once", "case": f"{layers} layers, {clear} clear, {together:.0%}"}
    rates = {f"{way} wrong": n / runs for way, n in wrong.items()}
    return about | rates | {f"{way} found": n / runs for way, n in found.items()}


def equivalence_row(runs: int, n: int, skewed: bool) -> dict[str, Any]:
    """How often what lies at the margin agrees, and a detectable difference is found."""
    rng = np.random.default_rng(n)
    # Log-normal with σ = 1, less its lower end, so that its mean is 1 as that of the others.
    if skewed:
        values = rng.lognormal(-0.5, 1, (runs, n))
        spread = (np.e - 1) ** 0.5
    else:
        values, spread = rng.normal(1, 0.3, (runs, n)), 0.3
    margin = 1 - 1e-9
    agrees = (stats.equivalence(values, margin).verdict == "agrees").mean()
    mean_below = (values.mean(1) <= margin).mean()
    shift = float(stats.detectable_difference(spread, n))
    _, low, _ = stats.student(values - 1 + shift)
    about = {"part": "agreement", "case": f"{n} runs, {'skewed' if skewed else 'normal'}"}
    rates = {"agrees": agrees, "mean below": mean_below, "detected": (low > 0).mean()}
    return about | {name: float(rate) for name, rate in rates.items()}


def order_row(runs: int, layers: int, seeds: int) -> dict[str, Any]:
    """How often unrelated orders pass."""
    rng = np.random.default_rng([layers, seeds])
    counts = dict.fromkeys(("above 0", "permuted", "rival: permuted", "rival: partial"), 0)
    depth = np.arange(layers)
    for _ in range(runs):
        expected, own = rng.normal(size=(2, layers))
        found = own + 0.3 * rng.normal(size=(seeds, layers))
        test = stats.order_test(expected, found, permutations=199)
        # Both follow depth, and are unrelated beyond that.
        rising = expected + 0.6 * depth, found + 0.6 * depth
        beside = stats.order_test(*rising, depth, permutations=199)
        counts["above 0"] += test.correlation > 0
        counts["permuted"] += test.p_value <= 0.05
        counts["rival: permuted"] += beside.p_value <= 0.05
        counts["rival: partial"] += beside.p_partial <= 0.05
    about = {"part": "orders", "case": f"{layers} layers, {seeds} seeds"}
    return about | {name: n / runs for name, n in counts.items()}


def run_rows(runs: int, quick: bool) -> list[dict[str, Any]]:
    """Intervals and tests over runs, a line for each."""
    spreads = [(3, 0.01), (5, 0.01), (10, 0.005), (3, 0.002), (5, 0.0), (3, 0.05)]
    sizes, few = [10, 50, 160], [(4, 3), (6, 3), (11, 3), (20, 5)]
    if quick:
        spreads, sizes, few = spreads[:1], sizes[:1], few[:1]
    work: list[tuple[Callable[..., dict[str, Any]], tuple[Any, ...]]] = []
    work += [(crossed_row, (runs, seeds, 1000, spread, 0.5)) for seeds, spread in spreads]
    for layers in sizes:
        clear = layers * 4 // 5
        work += [(family_row, (runs, layers, *each)) for each in [(0, 0), (clear, 0), (clear, 0.5)]]
    work += [(equivalence_row, (25 * runs, n, skewed)) for n in (3, 5, 10) for skewed in (0, 1)]
    work += [(order_row, (runs // 2, layers, seeds)) for layers, seeds in few]
    rows: list[dict[str, Any]] = []
    for function, arguments in work:
        each = function(*arguments)
        names = [name for name in each if name not in ("part", "case")]
        if not rows or each["part"] != rows[-1]["part"]:
            print(f"\n{each['part']:<48}" + "".join(f"{name:>17}" for name in names))
        print(f"{each['case']:<48}" + "".join(f"{100 * each[name]:>16.1f}%" for name in names))
        rows.append(each)
    return rows


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--runs", type=int, default=400)
    parser.add_argument("--quick", action="store_true", help="batches of 64, 1,000 examples")
    parser.add_argument("--part", choices=["stopping", "runs"], help="by default both")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = [] if options.part == "runs" else stopping_rows(options.runs, options.quick)
    rows += [] if options.part == "stopping" else run_rows(options.runs, options.quick)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


def stopping_rows(wanted: int, quick: bool) -> list[dict[str, Any]]:
    """Cells that stop early, a line for each."""
    sizes = [(1000, 1), (1000, 64), (10_000, 64), (10_000, 1000)]
    print(" " * 42 + "".join(f"|{way:^18}" for way in WAYS))
    print(f"{'case':<18} {'of':>7} {'batch':>6} {'runs':>6}" + "  |  wrong % used %" * len(WAYS))
    rows = []
    for rule, cases in ((Decision(LIMIT), DECISIONS), (Tolerance(0.02), INTERVALS)):
        print(rule)
        for population, batch in [(1000, 64)] if quick else sizes:
            for case in cases:
                # Errors are rare, so that more runs are needed where they are counted.
                runs = wanted * (5 if case.what in ("at the limit", "one beyond") else 1)
                rows.append(row(case, rule, population, batch, runs))
                print(shown(rows[-1]), flush=True)
    rows += sequence_rows(wanted * 5, 1000, 32)
    return rows


if __name__ == "__main__":
    main()
