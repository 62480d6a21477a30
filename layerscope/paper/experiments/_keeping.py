"""Files that an experiment leaves in its folder."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import shlex
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerscope.base.writing import write_bytes

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from layerscope.paper.analyses import Finding

__all__ = ["SUMMARY", "command", "compared", "folder_name", "hand_on", "keep", "told"]

SUMMARY = "summary.json"
_WORST_FIRST = ("critical", "not finite", "intermediate", "robust", "not moved", "undecided")
_MOST_TOLD = 4
_LONGEST = 60  # characters of what a folder's name says of parameters


def keep(
    out: str | os.PathLike[str] | None,
    *,
    title: str,
    finding: str | None = None,
    findings: Iterable[Finding] = (),
    comparisons: Mapping[str, pd.DataFrame] | None = None,
    datasets: Mapping[str, xr.Dataset] | None = None,
    figures: Mapping[str, Any] | None = None,
    tables: Mapping[str, pd.DataFrame] | None = None,
) -> list[Path]:
    """Write an experiment's results into a folder.

    Parameters
    ----------
    out : path or None
        None keeps nothing.
    title : str
        One line that says what was run.
    finding : str, optional
        One sentence that says what came out, see `told`; which statements agree, if not given.
    findings : iterable of Finding
    comparisons : mapping, optional
        Tables of printed numbers beside ours, as `reference.errors` makes them, by what they are
        of; each is told as one more statement, see `compared`.
    datasets, figures, tables : mapping, optional
        By name of the file without its suffix: written as ``.nc``, ``.png`` with ``.svg``, and
        ``.csv``.

    Returns
    -------
    list of Path
        What was written, ``summary.json`` first. A run's manifest takes it up: ``title``;
        ``finding``, a sentence; ``claims``, what the paper says, what was measured, and whether
        it ``agrees`` (None: undecided); ``findings``, the same with the fields of
        `analyses.Finding`; ``figure``, the first one; the names of all ``figures`` and
        ``tables``. Comparisons are among the ``claims`` alone.
    """
    if out is None:
        return []
    from layerscope import plots, results

    folder = Path(out)
    written = [results.save(ds, folder / f"{name}.nc") for name, ds in (datasets or {}).items()]
    for name, figure in (figures or {}).items():
        written += [plots.save(figure, folder / f"{name}.{suffix}") for suffix in ("png", "svg")]
    for name, table in (tables or {}).items():
        text = table.to_csv(index=False).encode()
        written.append(write_bytes(folder / f"{name}.csv", text))
    found, drawn = list(findings), [path.name for path in written if path.suffix == ".png"]
    claims = [_claim(each) for each in found]
    claims += [compared(*each) for each in (comparisons or {}).items() if len(each[1])]
    about = {
        "title": title,
        "finding": finding or _sentence(title, claims),
        "claims": claims,
        "findings": [each.plain() for each in found],
        "figure": drawn[0] if drawn else None,
        "figures": drawn,
        "tables": [path.name for path in written if path.suffix == ".csv"],
    }
    content = json.dumps(about, indent=1, ensure_ascii=False).encode()
    return [write_bytes(folder / SUMMARY, content), *written]


def hand_on(old: Path, folder: Path, manifest: str) -> None:
    """Move into a new run's folder what the run before it did not leave, and remove the rest.

    Files of the user's are that, and files of the run that were edited since; one whose name is
    taken gets the suffix ``.kept``.

    Parameters
    ----------
    old, folder : Path
    manifest : str
        Name of the file that lists a run's files with their SHA-256.
    """
    left = _left(old / manifest)
    for path in [each for each in old.rglob("*") if each.is_symlink() or not each.is_dir()]:
        name = path.relative_to(old)
        # Nothing else is opened: a pipe would never end.
        plain = path.is_file() and not path.is_symlink()
        if name.as_posix() == manifest and left:
            continue
        if plain and hashlib.sha256(path.read_bytes()).hexdigest() == left.get(name.as_posix()):
            continue
        target = folder / name
        while os.path.lexists(target):
            target = target.with_name(f"{target.name}.kept")
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)
    shutil.rmtree(old, ignore_errors=True)


def _left(manifest: Path) -> dict[str, str]:
    """SHA-256 of the files that a run left, by name; empty where nothing says."""
    try:
        files = json.loads(manifest.read_text(encoding="utf-8"))["files"]
        return {str(name): str(each["sha256"]) for name, each in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def told(title: str, runs: Mapping[str, xr.Dataset], metric: str = "error") -> str:
    """Say in a sentence which layers are critical, which robust, at their initial values.

    Parameters
    ----------
    title : str
        What was run.
    runs : mapping of str to Dataset
        Results by name; the name of a single one is not repeated.
    metric : str
        Its limits are those of `analyses.limits`.

    Returns
    -------
    str

    Examples
    --------
    >>> from layerscope import testing
    >>> told("A network", {"net": testing.dataset(layers=2)})
    'A network. Trained, its error is 0.02; back at the initial values, critical: layer1, layer2.'
    """
    from layerscope import stats
    from layerscope.paper import analyses

    parts = [title]
    for name, ds in runs.items():
        table = stats.classify(ds, **analyses.limits(ds, metric))
        verdicts = [
            f"{verdict}: {', '.join(layers)}"
            for verdict in _WORST_FIRST
            if len(layers := table.loc[table["verdict"] == verdict, "layer"])
        ]
        level = float(ds["baseline"].sel(metric=metric).mean())
        begin = f"{name}: trained" if len(runs) > 1 else "Trained"
        said = f"its {metric} is {level:.3g}; back at the initial values, {'; '.join(verdicts)}"
        parts.append(f"{begin}, {said}")
    return f"{'. '.join(parts)}."


def folder_name(scale: str, changed: Mapping[str, Any]) -> str:
    """Name the folder of a run after its scale and the parameters that are not the scale's.

    Parameters
    ----------
    scale : str
    changed : mapping
        By name. Where they would make a long name the network stays readable, and a hash stands
        for all of them; the run's manifest has them in full.

    Examples
    --------
    >>> folder_name("small", {"seeds": 1, "network": "fcn-5x256"})
    'small+network=fcn-5x256+seeds=1'
    """

    def part(key: str) -> str:
        value = changed[key]
        text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        return f"{key}=" + "".join(c if c.isalnum() or c in "-.," else "_" for c in text)

    parts = list(map(part, sorted(changed)))
    if len("+".join(parts)) <= _LONGEST:
        return "+".join([scale, *parts])
    whole = json.dumps(dict(changed), sort_keys=True, default=str)
    digest = hashlib.sha256(whole.encode()).hexdigest()[:8]
    network = [each for each in parts if each.startswith("network") and len(each) <= _LONGEST]
    return "+".join([scale, *network, digest])


def command(name: str, scale: str, changed: Mapping[str, Any]) -> str:
    """Write the command that makes a run, for a POSIX shell.

    Parameters
    ----------
    name, scale : str
    changed : mapping
        Parameters that are not the scale's.

    Examples
    --------
    >>> command("joint", "small", {"seeds": 1, "network": "vgg11", "record": [0, 1]})
    "layerscope reproduce joint --scale small -p network=vgg11 -p 'record=[0, 1]' --seeds 1"
    """
    given = "".join(
        f" --seeds {value}" if key == "seeds" else f" -p {shlex.quote(f'{key}={_text(value)}')}"
        for key, value in sorted(changed.items())
    )
    return f"layerscope reproduce {shlex.quote(name)} --scale {scale}{given}"


def _text(value: Any) -> str:
    """Write a value so that ``-p`` reads it; a text that reads as itself needs no marks."""
    if isinstance(value, str):
        try:
            ast.literal_eval(value)
        except (ValueError, SyntaxError):
            return value
    return repr(value)


def compared(what: str, table: pd.DataFrame) -> dict[str, Any]:
    """Tell a table of printed numbers beside ours as one statement.

    Parameters
    ----------
    what : str
        What the numbers are, such as ``"test errors of fcn-3x256"``.
    table : DataFrame
        As `reference.errors` or `reference.distances` makes it, with at least one row.

    Returns
    -------
    dict
        ``paper``, ``measured`` (every cell outside its interval is named) and ``agrees``: True if
        95 % intervals leave as many cells outside by chance in at least one case of twenty
        (binomial, cells taken as independent); None with one run, which has no intervals.

    Examples
    --------
    >>> import pandas as pd
    >>> table = pd.DataFrame({"agrees": [True] * 9, "difference": 0.0})
    >>> table = table.assign(column="0", lower=0.1, upper=0.2)
    >>> compared("test errors", table)["measured"]
    '9 of 9 cells agree; root mean square difference 0.000.'
    """
    from scipy.stats import binom

    from layerscope.paper import reference

    outside = table[~table["agrees"].astype(bool)]
    by_chance = bool(binom.sf(len(outside) - 1, len(table), 0.05) >= 0.05)
    said = f"{reference.verdict(table)}."
    if len(outside):
        cells = [
            f"{row.layer} at {row.column} (paper {row.paper}, measured {row.measured:.3g}, "
            f"{row.lower:.3g} to {row.upper:.3g})"
            for row in outside.itertuples()
        ]
        said += f" Outside: {'; '.join(cells)}."
        said += " Intervals of 95 % leave as many outside by chance." if by_chance else ""
    # Fresh random values have several draws in a single run.
    over_runs = table[table["column"] != "rand"]
    known = bool((over_runs["lower"] < over_runs["upper"]).any())
    said += "" if known else " One run has no interval."
    return {
        "paper": f"{len(table)} {what}",
        "measured": said,
        "agrees": by_chance if known else None,
    }


def _sentence(title: str, claims: Sequence[Mapping[str, Any]]) -> str:
    words = ((True, "Agrees"), (False, "Disagrees"), (None, "Undecided"))
    found = {
        word: [each["paper"] for each in claims if each["agrees"] is answer]
        for answer, word in words
    }
    # Of many the ones that agree are counted: the others are what has to be read.
    if len(found["Agrees"]) > _MOST_TOLD:
        found["Agrees"] = [f"{len(found['Agrees'])} statements"]
    parts = [f"{word}: {'; '.join(those)}." for word, those in found.items() if those]
    return " ".join([f"{title}.", *parts])


def _claim(found: Finding) -> dict[str, Any]:
    runs = f"{found.runs} run{'' if found.runs == 1 else 's'}"
    number = f"{found.value:.3g}" if found.runs else "unknown"
    between = f", 95 % interval {found.lower:.3g} to {found.upper:.3g}" if found.runs > 1 else ""
    return {
        "paper": found.claim,
        "measured": f"{found.measured}: {number} ({runs}{between}); agrees if {found.condition}",
        "agrees": {"agrees": True, "disagrees": False}.get(found.verdict),
    }
