"""Texts beside the runs: how to read the page, its words, and the rules in words."""

from __future__ import annotations

from layerscope.paper import rules

__all__ = ["ABOUT", "GLOSSARY", "HEADERS", "LEGEND", "TITLE", "rule_rows"]

TITLE = "Are all layers created equal? The paper's experiments, run again"
ABOUT = (
    "Zhang, Bengio and Singer (“Are All Layers Created Equal?”, JMLR 2022) trained networks, put "
    "one layer at a time back to the values that it had before training, and looked how much worse "
    "the network got. Often only the lowest layers mattered. Here their experiments are run again; "
    "every statement of the paper that can be tested stands beside what was measured, and where "
    "the two disagree it says so."
)

LEGEND = (
    "A layer “matters” (is critical) if putting it back costs at least a quarter of what separates "
    "the network from chance; it “can go back” (is robust) if that costs at most 5 points of "
    "error. “Probably” it matters if its own interval says so and the one that is corrected for "
    "the number of layers does not. A statement agrees or disagrees where the whole 95 % interval "
    "of the training runs lies on one side of its threshold, and is else undecided."
)

GLOSSARY: tuple[tuple[str, str], ...] = (
    ("layer, block", "A row of a heat map: one layer, or a block of a network with all in it."),
    ("reset", "A layer of the trained network gets earlier values back, all others stay trained."),
    ("0, 1, 10 …", "Reset to the values after so many epochs; 0 is before training."),
    ("rand", "Reset to fresh random values of the kind that training began with."),
    ("error", "Share of test examples that are classified wrongly; 0.9 is chance of ten classes."),
    ("damage", "How far a reset takes the network from trained (0) to as good as untrained (1)."),
    ("robust", "A reset to the values before training costs at most 5 points of error."),
    ("critical", "It costs at least a quarter of what separates the network from chance."),
    ("run, seed", "One training from its own random start; intervals are over several."),
    (
        "agrees",
        "The whole 95 % interval lies on the statement's side of a threshold that was fixed "
        "beforehand or, for runs older than the rule, after they were seen.",
    ),
    (
        "undecided",
        "The interval reaches over the threshold. Its row says, where that can be told, about how "
        "many runs would decide it, or that further runs of networks with so few layers would not.",
    ),
    (
        "tell what is … away",
        "So far from the threshold a true value must lie for so many runs to agree or disagree in "
        "80 % of cases, by the scatter of these runs.",
    ),
    (
        "corrected",
        "Of many statements some agree by luck. Those of one experiment are corrected for each "
        "other (Holm, 1979).",
    ),
    (
        "printed numbers",
        "Read off the paper's figures. One agrees if it lies where 95 % of further runs of ours "
        "would, and that is no further away than 0.1 (of distances, a tenth): runs that scatter "
        "more would agree with anything. They count at reduced scale, where they need not agree.",
    ),
    (
        "check of ours",
        "A statement that the paper makes of other networks, or a rival that it does not name; "
        "it is shown and not counted.",
    ),
    ("base", "The paper's figure marks a cell as no worse than the trained network."),
    ("≥", "A colour bar of the paper's ends there."),
    (
        "l2_fan_in, linf",
        "How far a layer's weights are from their values before training: the Euclidean norm of "
        "the difference with each tensor divided by √fan-in, and its largest entry.",
    ),
    ("JPEG", "Pictures that were saved as JPEG once; the paper's were not."),
    ("reduced", "Less data, a smaller network or fewer epochs than in the paper; it says which."),
)

HEADERS = ("statement of the paper", "holds if", "reason for the threshold", "fixed on")


def rule_rows() -> list[tuple[str, str, str, str]]:
    """Every rule in words, a reason that several have once."""
    first: dict[str, str] = {}
    return [
        (
            rule.claim if rule.of_paper else f"{rule.claim} (a check of ours)",
            f"{rule.quantity}: {rule.condition}",
            f"{rule.reason}."
            if first.setdefault(rule.reason, rule.claim) == rule.claim
            else f"As for “{first[rule.reason]}”.",
            rule.fixed,
        )
        for rule in rules.RULES.values()
    ]
