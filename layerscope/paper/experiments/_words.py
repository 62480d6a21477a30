"""Networks, data and findings in words for people who have not seen the project."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from layerscope.paper import rules
from layerscope.paper.experiments._summary import Claim

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["agreement", "compose", "data_words", "matter", "network_words"]

_DATA = {
    "mnist": "all of MNIST",
    "mnist-5k": "5,000 images of MNIST",
    "cifar10": "CIFAR-10",
    "cifar10-jpeg": "CIFAR-10 (JPEG)",
    "imagenet": "ImageNet",
    "lm1b": "LM1B",
    "news": "news articles",
    "python-docs": "the Python documentation",
    "gratings": "drawn gratings",
}
_WIDTHS = {"0.5": "half the width", "0.25": "a quarter of the width", "0.125": "an eighth of it"}
_FORMS = (
    (r"fcn-(\d+)x(\d+)", r"fully connected network \1×\2"),
    (r"vgg(\d+)", r"VGG\1"),
    (r"resnet(\d+)", r"ResNet-\1"),
    (r"transformer-(\d+)x(\d+)", r"Transformer of \2 blocks, width \1"),
    (r"lstm-(\d+)x(\d+)", r"LSTM of \2 layers, width \1"),
    (r"vit-(\d+)x(\d+)-p(\d+)", r"Vision Transformer of \2 blocks, width \1"),
    (r"mixer-(\d+)x(\d+)-p(\d+)", r"MLP-Mixer of \2 blocks, width \1"),
    (r"smollm2", "SmolLM2, 135 million parameters"),
)
_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_MOST_NAMED = 6
_MOST_SAID = 3  # statements that one sentence has room for


def network_words(network: str) -> str:
    """Say in words what a network's name says.

    Examples
    --------
    >>> network_words("vgg11-bn-w0.25")
    'VGG11 with BatchNorm, a quarter of the width'
    """
    plain, _, width = re.sub(r"-w([\d.]+)$", r"|\1", network).partition("|")
    known = {"-bn": " with BatchNorm", "-nonorm": " without normalisation"}
    more = "".join(words for mark, words in known.items() if mark in plain)
    for mark in known:
        plain = plain.replace(mark, "")
    for form, words in _FORMS:
        if re.fullmatch(form, plain):
            plain = re.sub(form, words, plain)
            break
    narrow = f", {_WIDTHS.get(width, f'{width} of the width')}" if width else ""
    return f"{plain}{more}{narrow}"


def data_words(name: str) -> str:
    """Say in words what a data set's name says; what was taken of it is left out.

    Examples
    --------
    >>> data_words("mnist-5k+size=500@0")
    '5,000 images of MNIST'
    """
    plain = name.partition("+")[0]
    return _DATA.get(plain, plain)


def matter(runs: Mapping[str, xr.Dataset], metric: str = "error", unit: str = "layer") -> str:
    """Say in one sentence which layers can't go back to their initial values.

    Parameters
    ----------
    runs : mapping of str to Dataset
        By network.
    metric : str
        Its limits are those of `analyses.limits`.
    unit : str
        What a row is called, such as "block".

    Examples
    --------
    >>> from layerscope import testing
    >>> matter({"net": testing.dataset(layers=4)})
    'The lowest two of 4 layers matter; whether the other 2 can go back is open'
    >>> matter({"vgg11-w0.5": testing.dataset(layers=4), "lstm": testing.dataset(layers=2)})
    'VGG11: the lowest two of 4 layers matter; lstm: every layer matters'
    """
    said = {name: _pattern(*_judged(ds, metric), unit) for name, ds in runs.items()}
    if len(said) == 1:
        return next(iter(said.values()))
    # Of several networks what is critical has to do: the table below has the rest.
    heads = {name: each.partition("; ")[0] for name, each in said.items()}
    if len(set(heads.values())) == 1:
        both = "both" if len(heads) == 2 else f"all {_number(len(heads))}"
        return f"{next(iter(heads.values()))} in {both} networks"
    short = [
        f"{network_words(name).partition(',')[0]}: {each[0].lower()}{each[1:]}"
        for name, each in heads.items()
    ]
    return _capitalised("; ".join(short))


def _judged(ds: xr.Dataset, metric: str) -> tuple[list[str], dict[str, list[str]]]:
    from layerscope import stats
    from layerscope.paper import analyses

    table = stats.classify(ds, **analyses.limits(ds, metric))
    known = {
        verdict: list(table.loc[table["verdict"] == verdict, "layer"])
        for verdict in ("critical", "robust", "undecided")
    }
    # Judged alone, not among so many.
    alone = (table["verdict"] == "undecided") & (table["share_lower"] >= rules.CRITICAL)
    return list(table["layer"]), {**known, "probable": list(table.loc[alone, "layer"])}


def _pattern(rows: Sequence[str], known: Mapping[str, Sequence[str]], unit: str) -> str:
    """Say which rows are critical, and how many of the others are robust, by where they stand."""
    critical, robust, probable = (known[kind] for kind in ("critical", "robust", "probable"))
    count, left = len(critical), len(rows) - len(critical) - len(probable)
    rest = f"; {_rest(robust, left, 'other ' if critical or probable else '')}" if left else ""
    if not critical and probable:
        return f"{_capitalised(_probable(probable))}, none surely{rest}"
    rest = f"; {_probable(probable)}, too{rest}" if probable else rest
    if count == len(rows):
        return f"Every {unit} matters"
    if not critical:
        said = f"No {unit} surely matters"
    elif list(critical) != list(rows[:count]):
        where = _where(critical, known["undecided"], rows)
        said = f"{_number(count).capitalize()} of {len(rows)} {unit}s matter, {where}"
    elif count == 1:
        said = f"Only the first {unit} matters"
        if len(robust) == len(rows) - 1:
            return said
        said = f"{said} for certain"
    else:
        said = f"The lowest {_number(count)} of {len(rows)} {unit}s matter"
    return f"{said}{rest}"


def _probable(rows: Sequence[str]) -> str:
    """Say which rows would be critical if each were judged alone."""
    if len(rows) > _MOST_NAMED:
        return f"{_number(len(rows))} probably matter"
    return f"{', '.join(rows)} probably {_do(len(rows), 'matters', 'matter')}"


def _rest(robust: Sequence[str], left: int, other: str) -> str:
    """Say how many of the rows that are not critical can go back at no cost."""
    if not robust:
        return f"whether the {other}{left} can go back is open"
    if len(robust) == left:
        return "all others can go back to where training began"
    return f"{_number(len(robust))} of the {other}{left} can surely go back to where training began"


def _where(critical: Sequence[str], undecided: Sequence[str], rows: Sequence[str]) -> str:
    """Say where rows stand that are not the lowest; those between them may be undecided."""
    at = [list(rows).index(name) for name in critical]
    between = set(rows[: at[-1]]) - set(critical)
    named = f" ({', '.join(critical)})" if len(critical) <= _MOST_NAMED else ""
    if between <= set(undecided) and at[-1] + 1 < len(rows):
        return f"all of them among the lowest {_number(at[-1] + 1)}{named}"
    ends = at[0] == 0 and at[-1] == len(rows) - 1
    return ("at both ends" if ends and _gaps(at) == 1 else "spread over depth") + named


def _gaps(at: Sequence[int]) -> int:
    return sum(later - earlier > 1 for earlier, later in pairwise(at))


def _number(count: int) -> str:
    return _NUMBERS[count] if count < len(_NUMBERS) else str(count)


def agreement(claims: Sequence[Claim]) -> str:
    """Count in words which statements agree; one run, which decides nothing, says so.

    Examples
    --------
    >>> agreement([Claim("a", "b", True, runs=3), Claim("a", "b", None, runs=3)])
    '1 of 2 agree, 1 undecided'
    """
    counted = [each for each in claims if each.of_paper]
    if not counted:
        return "no statements of the paper to compare with"
    if _single(counted):
        side = sum(bool(each.holds) for each in counted)
        return f"one run decides nothing; {side} of {len(counted)} on the paper's side"
    count = {answer: sum(c.agrees is answer for c in counted) for answer in (True, False, None)}
    said = [f"{count[True]} of {len(counted)} agree"]
    said += [f"{count[False]} disagree"] if count[False] else []
    said += [f"{count[None]} undecided"] if count[None] else []
    return ", ".join(said)


def compose(lead: str, claims: Sequence[Claim]) -> tuple[str, str]:
    """Say in a sentence what was found, and in one whether the paper agrees.

    Parameters
    ----------
    lead : str
        What was found; by default the statements themselves say it.
    claims : sequence of Claim

    Examples
    --------
    >>> compose("Only the first layer matters", [Claim("a", "b", True, runs=3)])
    ('Only the first layer matters', 'the paper says the same')
    """
    counted = [each for each in claims if each.of_paper]
    checks = _checks([each for each in claims if not each.of_paper])
    beside = "; ".join(part for part in (_beside(counted) if counted else "", checks) if part)
    said = (lead or _of_claims(counted)).rstrip(".")
    return f"In a single run: {said}" if claims and _single(claims) else said, beside


def _checks(checks: Sequence[Claim]) -> str:
    """Say how many checks of ours fail, or are open."""
    if not checks or _single(checks):
        return ""
    failed, still = (sum(c.agrees is answer for c in checks) for answer in (False, None))
    said = [f"{_number(failed)} {_do(failed, 'fails', 'fail')}"] if failed else []
    said += [f"{_number(still)} {_do(still, 'stays', 'stay')} open"] if still else []
    return f"of {len(checks)} checks of ours {' and '.join(said) or 'none fails'}"


def _beside(claims: Sequence[Claim]) -> str:
    """Say whether the paper agrees: its statements first, then its printed numbers."""
    if _single(claims):
        return "one run decides nothing"
    numbers = [each for each in claims if each.rule.startswith("printed")]
    said = [part for part in (_statements(claims), _printed(numbers)) if part]
    refuted = any(each.agrees is False for each in claims if each not in numbers)
    missed = any(each.agrees is False for each in numbers)
    return (", but " if missed and not refuted else ", and ").join(said)


def _statements(claims: Sequence[Claim]) -> str:
    those = [each for each in claims if not each.rule.startswith("printed")]
    count = {answer: sum(c.agrees is answer for c in those) for answer in (True, False, None)}
    if not those:
        return ""
    if count[True] == len(those):
        return "the paper says the same"
    if count[None] == len(those):
        return "the runs are too few to say whether the paper is right"
    if count[False] == 1:
        (one,) = (each for each in those if each.agrees is False)
        return f"against the paper, {_of_rule([one])}"
    if count[False]:
        return f"of the paper's {len(those)} statements {_number(count[False])} do not hold"
    hold = _do(count[True], "holds", "hold")
    return f"{_number(count[True])} of the paper's {len(those)} statements {hold}, none is refuted"


def _printed(numbers: Sequence[Claim]) -> str:
    words = {"printed-errors": "test errors", "printed-distances": "distances"}
    missed = dict.fromkeys(words[each.rule] for each in numbers if each.agrees is False)
    met = dict.fromkeys(words[each.rule] for each in numbers if each.agrees)
    smaller = any(each.reduced for each in numbers)
    whose = "the printed" if not smaller else "the full experiment's printed"
    if missed:
        return f"{whose} {' and '.join(missed)} are not met"
    return f"{whose} {' and '.join(met)} are met as often as chance allows" if met else ""


def _do(count: int, one: str, several: str) -> str:
    return one if count == 1 else several


def _single(claims: Iterable[Claim]) -> bool:
    return all(each.agrees is None and each.runs <= 1 for each in claims)


def _of_claims(claims: Sequence[Claim]) -> str:
    """Say what became of each statement, those of one rule together, and count what is left."""
    rules_ = dict.fromkeys(each.rule or each.paper for each in claims)
    those = [[each for each in claims if (each.rule or each.paper) == rule] for rule in rules_]
    decided = [_of_rule(each) for each in those if any(c.agrees is not None for c in each)]
    still = [_of_rule(each) for each in those if all(c.agrees is None for c in each)]
    if not decided and len(claims) > 2:
        return _leaning(those)
    parts = decided[:_MOST_SAID]
    left = len(decided) - len(parts) + len(still)
    if len(decided) <= _MOST_SAID and (len(still) == 1 or not decided):
        parts, left = [*parts, *still], 0
    whole = "; ".join(parts)
    return _capitalised(f"{whole}; {_number(left)} more below" if left else whole)


def _leaning(those: Sequence[Sequence[Claim]]) -> str:
    """Say of statements none of which is decided to which side they lean, and which least."""
    tests = [each for claims in those for each in claims]
    for_it = sum(each.holds is True for each in tests)
    said = f"Nothing is certain: {for_it} of {len(tests)} tests lean to the paper's side"
    against = [sum(each.holds is False for each in claims) for claims in those]
    if not max(against):
        return said
    worst = those[against.index(max(against))]
    often = f" in {_number(max(against))} of {_number(len(worst))} cases" if len(worst) > 1 else ""
    return f"{said}; against it leans “{_claimed(worst[0])}”{often}"


def _claimed(one: Claim) -> str:
    """Say what is claimed, in the words of its rule where it has one."""
    known = rules.RULES.get(one.rule)
    return known.claim if known else one.paper


def _capitalised(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}"


def _of_rule(those: Sequence[Claim]) -> str:
    known, claim = rules.RULES.get(those[0].rule), _claimed(those[0])
    otherwise = known.otherwise if known else f"not so: {claim}"
    count = {answer: sum(c.agrees is answer for c in those) for answer in (True, False, None)}
    if len(those) > 1 and count[None] == len(those):
        return f"whether {claim} stays open in all {_number(len(those))} cases"
    if len(those) > 1:
        return f"{claim} in {count[True]} of {len(those)} cases, not so in {count[False]}"
    answer = those[0].agrees
    if answer is None:
        return f"whether {claim} stays open"
    return claim if answer else otherwise
