"""Settings of a result, and the code that computes it again."""

from __future__ import annotations

import json
import keyword
import re
from collections.abc import Mapping
from typing import Any

import xarray as xr
from markupsafe import Markup

from layerscope import results
from layerscope.base.templates import render

__all__ = ["again", "argument", "settings_table"]

# Sweeps that did not record their call said these things under the names of the arguments.
_EARLIER: Mapping[str, Any] = {
    "view": "leaf",
    "norms": {"parameters": "own", "statistics": "own"},
    "epochs": None,
    "perturbations": ["reinitialize", "rerandomize"],
    "metrics": ["error", "loss"],
    "draws": 3,
    "dtype": "",
    "seed": 0,
    "outcomes": False,
}
_USUAL_BATCH = 1000

_KEYS = (
    *("network", "data", "view", "layers", "epochs", "perturbations", "metrics", "draws", "seed"),
    *("batch_size", "device", "dtype", "stopping", "norms", "rule", "wall_time_s"),
    *("layerscope", "torch", "platform", "threads"),
)

_LONGEST_VALUE = 300


def settings_table(ds: xr.Dataset) -> Markup:
    """Make a table of the settings, all of them folded away below."""
    about = results.settings(ds)
    runs = _runs(about)
    first = about | {
        key: value for key, value in (runs[0] if runs else {}).items() if key not in about
    }
    rows = [
        [key.replace("_", " "), _short(first[key])] for key in _KEYS if _is_known(first.get(key))
    ]
    trained = [run["training"] for run in runs if isinstance(run.get("training"), dict)]
    if trained:
        rows.append(["training", _short(trained[0].get("recipe", ""))])
        seconds = [f"{float(run['seconds']):.0f}" for run in trained if "seconds" in run]
        rows.append(["training seconds, by seed", ", ".join(seconds)])
    if "seed" in ds.coords and runs:
        rows = [row for row in rows if row[0] != "seed"]
        rows.insert(2, ["seeds", ", ".join(map(str, ds["seed"].values.ravel()))])
    everything = json.dumps(about, indent=1, ensure_ascii=False, default=str)
    return render("report/templates/settings.html.jinja", rows=rows, everything=everything)


def again(ds: xr.Dataset) -> str:
    """Write what computes a result again: the command, or the Python call.

    What only the user has, such as a function, stands there by its name, with a comment.

    Examples
    --------
    >>> from layerscope import testing
    >>> print(again(testing.dataset().assign_attrs(command="layerscope reproduce fcn-mnist")))
    layerscope reproduce fcn-mnist
    """
    about = results.settings(ds)
    if isinstance(about.get("command"), str):
        return str(about["command"])
    runs = _runs(about)
    trained = [run["training"] for run in runs if isinstance(run.get("training"), dict)]
    if trained and len(trained) == len(runs):
        return _probe(ds, runs[0], trained)
    return _call(about | {k: v for k, v in (runs[0] if runs else {}).items() if k not in about})


def _probe(ds: xr.Dataset, about: Mapping[str, Any], trained: list[dict[str, Any]]) -> str:
    """Write the call of a study that trained its networks itself."""
    first = trained[0]
    recipe = ", ".join(f"{key}={value!r}" for key, value in first.get("recipe", {}).items())
    data = _mapping(first.get("data"))
    given = {"draws": about.get("draws", 3)} | _arguments(about)
    given.pop("seed", None)  # each run has its own
    if _mapping(about.get("data")).get("sha256") == data.get("sha256"):
        given["part"] = "train"
    if "epoch" in ds.coords and ds["epoch"].attrs.get("units") == "epoch":
        given["record"] = [int(epoch) for epoch in _mapping(about.get("checkpoints"))]
    if first.get("augment"):
        given["augment"] = {results.YOURS: first["augment"]}
    return "\n".join(
        [
            "import layerscope",
            "from layerscope import experiments",
            "",
            f"data = layerscope.load_data({data.get('name')!r})  # training part: {_hash(data)}",
            f"recipe = layerscope.Recipe({recipe})",
            "ds = experiments.probe(",
            f"    {first.get('network')!r},",
            "    data,",
            "    recipe,",
            f"    seeds={[int(seed) for seed in ds['seed'].values.ravel()]!r},",
            *(argument(name, value) for name, value in given.items()),
            ")",
        ]
    )


def _call(about: Mapping[str, Any]) -> str:
    """Write the call of a sweep over checkpoints of the user's own."""
    network, data = _mapping(about.get("network")), _mapping(about.get("data"))
    given = _arguments(about)
    path = given.pop("model", None)  # where it was given by its name
    kind = f"{network.get('class') or 'your own'}, {network.get('parameters', '?')} parameters"
    known = f"{data.get('name') or 'your own'}, {data.get('examples', '?')} examples, {_hash(data)}"
    recorded = f"epochs {_epochs(about)}; their SHA-256 are listed above"
    series = [] if about.get("weights") else [_comment("checkpoints=checkpoints,", recorded)]
    if weights := about.get("weights"):
        kind += f", weights {_hash({'sha256': weights})}"
    return "\n".join(
        [
            "import layerscope",
            "",
            "ds = layerscope.sweep(",
            _comment("network," if path is None else f"{path!r},", kind),
            _comment("data,", known),
            *series,
            *(argument(name, value) for name, value in given.items()),
            ")",
        ]
    )


def _arguments(about: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the sweep, by name, with what it took where that was left to it."""
    call = about.get("call")
    given = dict(call) if isinstance(call, dict) else _earlier(about)
    given.pop("batch_size", None)
    # A number that it was cut to, as when memory ran out; own batches have it already.
    if isinstance(size := about.get("batch_size"), int) and size != _USUAL_BATCH:
        given["batch_size"] = size
    if device := about.get("device"):
        given["device"] = device
    if given.get("outcomes"):
        given["out"] = "again"
    return given


def _earlier(about: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a sweep that did not record its call."""
    groups, rows = _mapping(about.get("groups")), about.get("layers")
    given: dict[str, Any] = {}
    if isinstance(rows, list):
        names = [name for name in rows if name != results.FULL_MODEL]
        # Groups of the user's own have the names of no view.
        own = groups and about.get("view", "leaf") == "leaf"
        given["layers"] = {name: groups.get(name, [name]) for name in names} if own else names
        given["whole"] = results.FULL_MODEL in rows
    given |= {
        name: about[name]
        for name, default in _EARLIER.items()
        if name in about and about[name] != default
    }
    if stopping := about.get("stopping"):
        given["decide" if "critical" in stopping else "tolerance"] = stopping
    return given


def argument(name: str, value: Any) -> str:
    """Write an argument of a call as a line of Python.

    Parameters
    ----------
    name : str
    value : plain value
        What only the user has is marked by `results.YOURS`, and stands there by its name.

    Examples
    --------
    >>> print(argument("perturbations", ["zero", {"__yours__": "halve"}]))
        perturbations=['zero', halve],  # halve: your own halve, pass the same
    """
    yours: dict[str, str] = {}
    text = f"{name}={_to_python(value, yours)},"
    words = [f"{short}: your own {one}, pass the same" for short, one in yours.items()]
    return _comment(text, "any new folder" if name == "out" else "; ".join(words))


def _comment(code: str, words: str) -> str:
    # No line of a comment may end where a text from a file does.
    return f"    {code}  # {' '.join(words.split())}" if words else f"    {code}"


def _to_python(value: Any, yours: dict[str, str]) -> str:
    """Write a value as Python; what only the user has as a name, which is added to `yours`."""
    if isinstance(value, (list, tuple)):
        each = ", ".join(_to_python(each, yours) for each in value)
        return f"[{each}]" if isinstance(value, list) else f"({each}{',' * (len(value) == 1)})"
    if not isinstance(value, dict):
        return repr(value)
    if set(value) == {results.YOURS}:
        name = str(value[results.YOURS])
        short = re.sub(r"\W+", "_", name).strip("_")
        short = short if short.isidentifier() and not keyword.iskeyword(short) else "mine"
        yours[short] = name
        return short
    pairs = (f"{key!r}: {_to_python(each, yours)}" for key, each in value.items())
    return f"{{{', '.join(pairs)}}}"


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _epochs(about: Mapping[str, Any]) -> str:
    kept = about.get("checkpoints") or {str(epoch): "" for epoch in about.get("epochs", ())}
    return ", ".join(map(str, kept)) or "?"


def _hash(data: Mapping[str, Any]) -> str:
    return f"SHA-256 {' '.join(str(data.get('sha256', '?')).split())[:16]}"


def _runs(about: Mapping[str, Any]) -> list[dict[str, Any]]:
    runs = about.get("runs")
    return [run for run in runs if isinstance(run, dict)] if isinstance(runs, list) else []


def _is_known(value: object) -> bool:
    return value not in (None, "", {}, [])


def _short(value: object) -> str:
    if isinstance(value, dict):
        told = {key: each for key, each in value.items() if _is_known(each)}
        text = "; ".join(f"{key} {_short(each)}" for key, each in told.items())
    elif isinstance(value, list):
        text = ", ".join(map(str, value))
    else:
        text = str(value)
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 1] + "…"
