"""The paper's statements and the rules by which they are judged: the one place for every threshold.

>>> from layerscope.paper import rules
>>> rule = rules.RULES["lowest-critical"]
>>> rule.claim, rule.condition
('the lowest layer is critical', 'above 0.25')

A finding is judged by the interval of its quantity over training runs (Student's t, 95 %): it
agrees where all of it is on the rule's side, disagrees where none is, and else is undecided; then
it says how large a difference so many runs can see, and how many would decide it. The
statements of one experiment are corrected for each other (Holm, 1979). Damage is 0 where a reset
changes nothing and 1 where the network is as good as untrained.

Most rules were written down when the committed runs had been seen, and say so by their date: for
runs from before it they are a description, and a test only for runs that begin later.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass

from layerscope.errors import OptionError

__all__ = [
    "CHANCE_MARGIN",
    "CRITICAL",
    "DISTANCE_TELLS",
    "PRINTED_MARGIN",
    "ROBUST",
    "RULES",
    "Rule",
    "digest",
]

ROBUST = 0.05
"""Damage up to which a row is robust; as `stats.classify` has it in points of error."""

CRITICAL = 0.25
"""Damage from which on a row is critical; as for `stats.classify`."""

CHANCE_MARGIN = 0.1
"""Share of the way from trained to chance that a network "at chance" may still be short of it."""

DISTANCE_TELLS = 0.4
"""γ, of either sign, from which on distance tells robust layers from critical ones: AUC 0.7."""

PRINTED_MARGIN = 0.1
"""How far to a side the interval of a cell may reach, so that lying in it tells anything."""

_GAP = (
    "The paper's own layers leave a gap there: back at the initial values the damage of those it "
    "calls critical is 0.41 and more in its figures of FCN and VGG11, that of all others 0.12 and "
    "less; 0.25 lies in the middle, and any limit in the gap parts them alike"
)
_NO_COST = (
    "What a reset may cost in the paper's own figures without a layer being called anything but "
    "robust: up to 0.05"
)
_SIGN = (
    "The paper names a direction and no size, so any difference counts that chance would not make"
)

_EVERY = (
    "Every {row} is judged by its own mean over runs: all intervals must be on that side (an "
    "intersection-union test, Berger 1982, wrong in no more than 2.5 % of cases), or one on the "
    "other at a confidence that holds for all. Until 2026-11-28 the worst {row} of each run was "
    "taken and its mean judged: where their spreads differ that is skewed though no {row} is, and "
    "right at the limit it agreed in 8 to 10 % of cases"
)

_AS_GOOD = (
    "5 points of error: as much as a robust layer may cost when it is reset. As good as the full "
    "training is what lies within to either side. It is asked of one more run, not of the mean: "
    "with three runs whose costs are strongly skewed a mean at the limit passes in 16 % of cases"
)


@dataclass(frozen=True)
class Rule:
    """One statement and when it holds.

    Parameters
    ----------
    claim : str
        What the paper says.
    otherwise : str
        What it comes to where the opposite holds.
    quantity : str
        Which number is measured, one per training run.
    reason : str
        For the threshold.
    above, below, within : float, optional
        Threshold; of "within", to either side of 0. None where `reason` says how it is judged.
    unit : str
        Of what there is one number each: a training "run", or a "network".
    fixed : str
        Day on which it was written down.
    source : str
        Where the paper says it.
    of_paper : bool
        False for a check of ours, which does not count where agreement is counted.
    """

    claim: str
    otherwise: str
    quantity: str
    reason: str
    above: float | None = None
    below: float | None = None
    within: float | None = None
    unit: str = "run"
    fixed: str = "2026-11-28"
    source: str = ""
    of_paper: bool = True

    @property
    def condition(self) -> str:
        """The threshold in words."""
        if self.above is not None:
            return f"above {self.above:g}"
        if self.within is not None:
            return f"within {self.within:g} of 0"
        return "as the reason says" if self.below is None else f"below {self.below:g}"


def _difference(setting: str, better: str, what: str, column: str, *, more: bool) -> Rule:
    """Rule on the largest setting less the smallest, by training run."""
    word = "more" if more else "less"
    return Rule(
        claim=f"{better} networks have more robust {what}",
        otherwise=f"{better} networks do not have more robust {what}",
        quantity=f"{column}, largest {setting} less smallest ({word} is said)",
        reason=_SIGN,
        above=0.0 if more else None,
        below=None if more else 0.0,
        source="the section on capacity",
    )


def _rival(better: str, worse: str, *, of_paper: bool) -> Rule:
    return Rule(
        claim=f"{better} goes with the gap more than {worse} does",
        otherwise=f"{better} goes with the gap no more than {worse} does",
        quantity="difference of the rank correlations with the gap, over the networks of a task",
        reason=f"{_SIGN}. Within a task, since over tasks the share of random labels orders the "
        "gaps by itself; over networks, since runs of the same networks are no others",
        above=0.0,
        unit="network",
        source="the section on generalisation" if of_paper else "",
        of_paper=of_paper,
    )


_LAYERS: Mapping[str, Rule] = {
    "random-fails": Rule(
        claim="re-randomising any one layer takes the network to chance",
        otherwise="some layer can have fresh random values without taking the network to chance",
        quantity="least mean damage over layers",
        reason="A tenth of the way is 9 points of error among ten classes: a network that still "
        "knows something of one class of ten is not counted as ruined, one that guesses unevenly "
        f"is. To be worse than chance is no objection. {_EVERY.format(row='layer')}",
        above=1 - CHANCE_MARGIN,
        source="Figures of FCN and VGG, column rand",
    ),
    "lowest-critical": Rule(
        claim="the lowest layer is critical",
        otherwise="the lowest layer is not critical",
        quantity="damage of re-initialising the lowest layer",
        reason=_GAP,
        above=CRITICAL,
        source="Figure 1",
    ),
    "upper-more-robust": Rule(
        claim="upper layers are more robust than lower ones",
        otherwise="upper layers are no more robust than lower ones",
        quantity="mean damage of the upper half of the layers less that of the lower half",
        reason="Halves are compared, not ranks: among layers that all cost nothing the order is "
        f"noise. {_NO_COST}",
        below=-ROBUST,
        source="Figures of FCN and VGG, column 0",
    ),
    "no-upper-critical": Rule(
        claim="no layer of the upper half is critical",
        otherwise="some layer of the upper half is critical",
        quantity="largest mean damage in the upper half of the layers",
        reason=f"{_GAP}. It stands beside the statement on halves, which a network could fulfil "
        f"all of whose layers are critical. {_EVERY.format(row='layer')}",
        below=CRITICAL,
        source="Figures of FCN and VGG, column 0",
    ),
    "distance-tells-little": Rule(
        claim="the distance from the start alone does not tell robust layers from critical ones",
        otherwise="the distance from the start tells robust layers from critical ones",
        quantity="Goodman and Kruskal's γ of distance and damage over the pairs of layers that "
        f"differ in damage by more than {ROBUST:g}",
        reason="γ of 0.4, of either sign, is an area under the ROC curve of 0.7, up to which "
        "discrimination is called poor (Hosmer, Lemeshow and Sturdivant, 2013): seven of ten pairs "
        "stand in one order by both. A correlation that was not found is no evidence "
        "that there is none, so one more run must lie within; and that it tells is said only of an "
        "order of the layers that chance seldom gives. Until 2026-11-28 it was below 0.8 without "
        "its sign, which called an order of nine pairs of ten little. Pairs that differ by less do "
        "not count: layers that all cost next to nothing have an order by chance, which no "
        "distance could tell",
        within=DISTANCE_TELLS,
        source="Figure 1, distances",
    ),
    "same-layers": Rule(
        claim="the layers that matter in the paper's figure matter here",
        otherwise="other layers matter here than in the paper's figure",
        quantity="rank correlation over layers with the paper's test errors, column 0",
        reason="Above what chance gives, over runs and among all orders of the layers: runs of one "
        "network are no independent evidence of an order. It disagrees only where no run after "
        "another has any such order, since rows whose printed numbers hardly differ may stand in "
        "either",
        above=0.0,
        source="Figures of FCN, VGG11 and ResNet-50",
    ),
    "stage-starts": Rule(
        claim="critical blocks are spread over depth, at the beginnings of stages",
        otherwise="the first blocks of stages matter no more than the others",
        quantity="damage of a stage's first block less the mean of its others, least mean over "
        "the stages above the first",
        reason=f"{_GAP}. {_EVERY.format(row='stage')}",
        above=CRITICAL,
        source="Figures of ResNets",
    ),
    "others-survive": Rule(
        claim="blocks that are no first ones survive even fresh random values",
        otherwise="blocks that are no first ones do not survive fresh random values",
        quantity="median damage of re-randomising them",
        reason=_GAP,
        below=CRITICAL,
        source="Figure of ResNets on ImageNet",
    ),
    "norms-matter": Rule(
        claim="a part of the damage comes from normalisation",
        otherwise="no part of the damage comes from normalisation",
        quantity="mean damage of a row with its normalisation less that without",
        reason=_SIGN,
        above=0.0,
        source="the section on Vision Transformers",
    ),
    "first-epoch-worse": Rule(
        claim="going back to checkpoint 1 can hurt a layer more than going back to checkpoint 0",
        otherwise="no layer is hurt more by going back to checkpoint 1 than to checkpoint 0",
        quantity="difference of the damages, of the layer that is worst off in the other runs",
        reason="Of many layers one comes out worse by chance, also where it is picked by the other "
        f"runs; a margin keeps that out. {_NO_COST}",
        above=ROBUST,
        source="the section on training",
    ),
}

_TOGETHER: Mapping[str, Rule] = {
    "not-jointly-robust": Rule(
        claim="layers that are robust one by one are not robust together",
        otherwise="layers that are robust one by one are robust together as well",
        quantity="damage of all at once less the largest of one",
        reason=_NO_COST,
        above=ROBUST,
        source="the section on joint robustness",
    ),
    "halves-survive": Rule(
        claim="every second of them can be reset together",
        otherwise="not even every second of them can be reset together",
        quantity="mean damage of the odd and of the even rows",
        reason=_GAP,
        below=CRITICAL,
        source="the section on joint robustness",
    ),
    "frozen-costs-little": Rule(
        claim="training with the robust layers frozen costs little",
        otherwise="training with the robust layers frozen costs more than a little",
        quantity="test error with them frozen less that in full, of one more run",
        reason=_AS_GOOD,
        within=ROBUST,
        source="the section on what robust layers are for",
    ),
    "removed-costs-little": Rule(
        claim="training without the robust layers that can be removed costs little",
        otherwise="training without the robust layers that can be removed costs more than a little",
        quantity="test error with them removed less that in full, of one more run",
        reason=_AS_GOOD,
        within=ROBUST,
        source="the section on what robust layers are for",
    ),
}

_HALF = "mean damage of a layer in the upper half"
_SETTINGS: Mapping[str, Rule] = {
    f"{setting}-{column}": _difference(setting, better, what, quantity, more=more)
    for setting, better in (("width", "wider"), ("depth", "deeper"))
    for column, what, quantity, more in (
        ("upper_damage", "upper layers", _HALF, False),
        ("robust_share", "layers, by their share", "share of robust layers", True),
        ("damage", "layers, by their mean damage", "mean damage of a layer", False),
    )
} | {
    "difficulty-critical_share": Rule(
        claim="harder tasks leave more layers critical",
        otherwise="harder tasks do not leave more layers critical",
        quantity="share of critical layers, most random labels less fewest",
        reason=_SIGN,
        above=0.0,
        source="the section on the difficulty of the task",
    ),
    "difficulty-damage": Rule(
        claim="the harder the task, the more a layer matters on average",
        otherwise="harder tasks do not make a layer matter more on average",
        quantity="mean damage of a layer, most random labels less fewest",
        reason=_SIGN,
        above=0.0,
        source="the section on the difficulty of the task",
    ),
}

MEASURES = {
    "critical": "the number of critical layers",
    "criticality": "network criticality",
    "parameters": "the number of parameters",
    "frobenius": "the norm of all weights",
    "distance": "the distance of all weights from their start",
}
"""Measures of a network that are held against the generalisation gap, by column."""

_MEASURES: Mapping[str, Rule] = {
    f"{better}-over-{worse}": _rival(
        MEASURES[better], MEASURES[worse], of_paper=worse in ("parameters", "frobenius")
    )
    for better in ("critical", "criticality")
    for worse in ("parameters", "frobenius", "distance")
}

_NUMBERS: Mapping[str, Rule] = {
    name: Rule(
        claim=f"{what} as printed",
        otherwise=f"{what} other than printed",
        quantity="cells whose printed number lies outside of where 95 % of further runs would lie",
        reason="As many cells outside as intervals of 95 % leave there by chance in one case of "
        "twenty or more (binomial, cells taken as independent). Cells in intervals that reach "
        f"further than {PRINTED_MARGIN:g} to a side (of distances, a tenth of ours) tell nothing, "
        "since numbers of quite other layers lie there as well: with any such cell it does not "
        "agree, but is undecided. Until 2026-11-28 half of them could be such cells, and the one "
        "that mattered with them. It disagrees all the same where more lie outside than chance "
        "leaves, whatever the others would say. It counts at reduced scale, too",
        source=source,
    )
    for name, what, source in (
        ("printed-errors", "test errors", "Figures of FCN, VGG11 and ResNet-50"),
        ("printed-distances", "distances from the initial values", "Figure 1, distances"),
    )
}

RULES: Mapping[str, Rule] = {**_LAYERS, **_TOGETHER, **_SETTINGS, **_MEASURES, **_NUMBERS}
"""Every rule by name."""


def find(name: str) -> Rule:
    """Find a rule.

    Raises
    ------
    OptionError
        If there is none of this name.
    """
    if name not in RULES:
        raise OptionError(f"there is no rule {name!r}; layerscope.paper.rules.RULES has them all.")
    return RULES[name]


def digest(names: Iterable[str] = tuple(RULES)) -> str:
    """Hash rules, so that a run says by which it was judged.

    Examples
    --------
    >>> len(digest())
    12
    """
    said = repr([(name, astuple(RULES[name])) for name in sorted(names)])
    return hashlib.sha256(said.encode()).hexdigest()[:12]
