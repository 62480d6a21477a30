"""Page of what `power.py` found: its tables in Markdown, and the words around them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Rows = list[Row]
PARTS = ["limit", "see", "without", "worst"]


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
    return "" if value is None else f"{100 * value:.1f}"


def page(found: dict[str, Rows]) -> str:
    """Lay the tables out in Markdown."""
    parts = [ABOUT, *at_limit(found["limit"]), *of_worst(found["worst"])]
    parts += [*of_cases(found["without"]), *seen(found["see"])]
    parts += changed(found["again"]) if "again" in found else []
    return "\n".join(parts) + "\n"


def at_limit(rows: Rows) -> list[str]:
    """Rates right at the limit."""
    shapes = ("normal", "as measured", "strongly skewed")
    head = ["rule", "runs", "skewness", *shapes, "disagrees, normal"]
    lines = ["", "## At the limit", "", LIMIT, "", *header(head)]
    for row in rows:
        rates = [percent(row[f"{shape} agrees"]) for shape in shapes]
        error = row["skewness_error"]
        lean = "not told" if error is None else f"{row['skewness']:.1f} ± {error:.1f}"
        lines.append(line(f"`{row['rule']}`", row["runs"], lean, *rates,
                          percent(row["normal disagrees"])))  # fmt: skip
    return lines


def of_worst(rows: Rows) -> list[str]:
    """Rates of a statement on every layer."""
    names = ["worst agrees", "one at the limit agrees", "all at the limit disagrees"]
    head = ["runs", "layers", "spread of the first", "skewness of the worst", *names]
    lines = ["", "## Every layer, and the worst of them", "", WORST, "", *header(head)]
    for row in rows:
        wide = "as the others'" if row["wide"] == 1 else f"{row['wide']} times the others'"
        cells = [row["runs"], row["layers"], wide, f"{row['skewness']:.1f}"]
        lines.append(line(*cells, *(percent(row[name]) for name in names)))
    return lines


def of_cases(rows: Rows) -> list[str]:
    """Rates where what is said is not so, or is."""
    lines = ["", "## Where what is said is not so, or is", "", WITHOUT, ""]
    lines += header(["rule", "case", "should agree", "agrees", "disagrees", "agrees, before"])
    for row in rows:
        rates = [percent(row[each]) for each in ("agrees", "disagrees", "agrees, before")]
        lines.append(line(f"`{row['rule']}`", row["case"], row["should agree"], *rates))
    return lines


def seen(rows: Rows) -> list[str]:
    """Differences that the committed runs can see."""
    lines = ["", "## What the committed runs can see", "", SEE, ""]
    lines += header(["rule", "statements", "runs", "least", "median", "most", "seen", "undecided"])
    for row in rows:
        ways = [f"{row[each]:.2g}" for each in ("least", "median", "most")]
        cells = [f"`{row['rule']}`", row["statements"], row["runs"], *ways]
        lines.append(line(*cells, percent(row["seen"]), row["undecided"]))
    return lines


def changed(rows: Rows) -> list[str]:
    """Statements that were judged otherwise."""
    lines = ["", "## What was judged otherwise before", "", AGAIN, ""]
    lines += header(["run", "statement", "before", "after", "why"])
    for row in rows:
        cells = [row["run"], row["statement"], row["before"], row["after"]]
        lines.append(line(*cells, WHY.get(row["rule"], BESIDE)))
    return lines


def line(*cells: Any) -> str:
    """Row of a table."""
    return f"| {' | '.join(map(str, cells))} |"


def header(names: list[str]) -> list[str]:
    """First two lines of a table."""
    return [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]


ABOUT = """# How often the rules are wrong, and what they can see

Made by `python benchmarks/power.py --repeats 200 --json benchmarks/results/power.json --out
docs/power.md` from the committed runs; nothing is trained for it. The last table needs `--before`
besides: a folder with the same runs as an earlier version judged them. A rule
(`layerscope.paper.rules`) agrees or disagrees by a two-sided interval of 95 %, so that right at its
limit it should agree in 2.5 % of cases and disagree in as many. All numbers are per cent of cases:
200 in the first two tables, where 2.5 % may come out as 0.5 to 5, and 40 of each case of the
third. How often one of several statements is decided wrongly is counted by
`benchmarks/coverage.py`."""
LIMIT = """How often it agrees right at the limit, by the shape of runs: normal; as skewed as the
committed runs of that rule (the mean of their skewness over statements, with its standard error;
three runs show little of it, and one statement nothing); and strongly skewed (log-normal, σ = 1).
What is asked of one more run ("within") agrees less often than 2.5 %, and holds up where runs are
skewed. The others do not hold where runs are strongly skewed. Of a statement on every layer the
runs are those of the layer that decides."""
WORST = """A statement on every layer (`random-fails`, `no-upper-critical`, `stage-starts`) was
judged by the mean of each run's worst layer. Where one layer scatters more than the others that is
skewed, though every layer is normal, and right at the limit it agreed too often ("worst agrees").
Judged by every layer it holds the 2.5 % in its worst case, one layer at the limit and the others
far from it; and with all of them at the limit one of them seldom refutes it. Over the 415 layers
of the committed runs that were drawn anew the mean skewness is −0.01 ± 0.06."""
WITHOUT = """Damages of a committed run, changed so that a statement is wrong or right, with normal
noise that has the covariance of its runs. "Before" is the rule that stood earlier, on the same
runs: a rank correlation above 0 (`same-layers`), below 0 (`upper-more-robust`) or below 0.8
(`distance-tells-little`), the worst layer picked by the same runs (`first-epoch-worse`), the mean
of each run's worst layer (`random-fails`, `no-upper-critical`, `stage-starts`), runs of the same
networks (`criticality-over-parameters`), half of the cells told (`printed-errors`). Of unrelated
orders some do go with distance and some do not, so that no answer is the right one. No statement
is corrected here."""
SEE = """Distance from the limit, in the rule's unit, that runs as many as there are can see in 80 %
of cases, among the statements of their experiment: the least, the median and the most of the
committed statements, and how often it is seen where runs are as skewed as measured. A statement
within limits that are narrower than that, as `distance-tells-little`, can't be shown by so few."""
AGAIN = """Statements of the same runs, from the same Datasets, by the first rules that stood in one
file and by those of today (all dated 2026-11-28, after the runs were seen)."""
WORDS = {True: "agrees", False: "disagrees", None: "undecided", "not asked": "not asked"}
BESIDE = "corrected for another number of statements, or others of their experiment count"
WHY = {
    "same-layers": "orders of layers are permuted, in place of a limit that few layers can't reach",
    "distance-tells-little": "within limits to either side, where lack of power is no agreement",
    "random-fails": "every layer by itself, in place of the mean of each run's worst",
    "no-upper-critical": "every layer by itself, in place of the mean of each run's worst",
    "stage-starts": "every stage by itself, in place of the mean of each run's worst",
    "frozen-costs-little": "asked of one more run, and to either side",
    "removed-costs-little": "asked of one more run, and to either side",
    "printed-errors": "it agrees only where every cell tells",
    "printed-distances": "it agrees only where every cell tells",
} | {
    f"{better}-over-{worse}": "within a task, and over networks in place of runs of the same ones"
    for better in ("critical", "criticality")
    for worse in ("parameters", "frobenius", "distance", "random labels")
}
