"""How a result was computed, and what computes it again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import xarray as xr

from layerscope import results
from layerscope.report import markup

__all__ = ["again", "settings_table"]

# What `layerscope.sweep` takes under the same name, with the defaults that need not be said.
_ARGUMENTS: Mapping[str, Any] = {
    "view": "leaf",
    "norms": {"parameters": "own", "statistics": "own"},
    "epochs": None,
    "perturbations": ["reinitialize", "rerandomize"],
    "metrics": ["error", "loss"],
    "draws": 3,
    "batch_size": 1000,
    "dtype": "",
    "seed": 0,
    "outcomes": False,
}

_SHOWN = (
    *("network", "data", "view", "layers", "epochs", "perturbations", "metrics", "draws", "seed"),
    *("batch_size", "device", "dtype", "stopping", "norms", "rule", "wall_time_s"),
    *("layerscope", "torch", "platform", "threads"),
)

_MOST_SHOWN = 300


def settings_table(ds: xr.Dataset) -> str:
    """Make a table of the settings, all of them folded away below."""
    about = results.settings(ds)
    runs = _runs(about)
    first = about | {
        key: value for key, value in (runs[0] if runs else {}).items() if key not in about
    }
    rows = [[key.replace("_", " "), _short(first[key])] for key in _SHOWN if _told(first.get(key))]
    trained = [run["training"] for run in runs if isinstance(run.get("training"), dict)]
    if trained:
        rows.append(["training", _short(trained[0].get("recipe", ""))])
        seconds = [f"{float(run['seconds']):.0f}" for run in trained if "seconds" in run]
        rows.append(["training seconds, by seed", ", ".join(seconds)])
    if "seed" in ds.coords and runs:
        rows = [row for row in rows if row[0] != "seed"]
        rows.insert(2, ["seeds", ", ".join(map(str, ds["seed"].values.ravel()))])
    table = markup.table(
        ["setting", "value"], [list(map(markup.text, row)) for row in rows], "settings"
    )
    everything = markup.element("pre", json.dumps(about, indent=1, ensure_ascii=False, default=str))
    return (
        table
        + "\n"
        + markup.fold("Everything that is known, checkpoint hashes included", everything)
    )


def again(ds: xr.Dataset) -> str:
    """Write what computes a result again: the command, or the Python call.

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
        return _probe(ds, about, trained)
    return _call(about | {k: v for k, v in (runs[0] if runs else {}).items() if k not in about})


def _probe(ds: xr.Dataset, about: Mapping[str, Any], trained: list[dict[str, Any]]) -> str:
    """The call of a study that trained its networks itself."""
    first = trained[0]
    recipe = ", ".join(f"{key}={value!r}" for key, value in first.get("recipe", {}).items())
    data = first.get("data", {})
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
            f"    draws={about.get('draws', 3)!r},",
            ")",
        ]
    )


def _call(about: Mapping[str, Any]) -> str:
    """The call of a sweep over checkpoints of the user's own."""
    network, data = (about.get(name) for name in ("network", "data"))
    network = network if isinstance(network, dict) else {}
    data = data if isinstance(data, dict) else {}
    lines = [
        "import layerscope",
        "",
        "ds = layerscope.sweep(",
        f"    network,  # {_of(network, 'class')}, {network.get('parameters', '?')} parameters",
        f"    data,  # {_of(data, 'name')}, {data.get('examples', '?')} examples, {_hash(data)}",
        f"    checkpoints=checkpoints,  # epochs {_epochs(about)}; their SHA-256 are listed above",
    ]
    # Groups of the user's own have the names of no view.
    if about.get("groups") and about.get("view", "leaf") == "leaf":
        lines.append(f"    layers={about['groups']!r},")
    lines += [
        f"    {name}={about[name]!r},"
        for name, default in _ARGUMENTS.items()
        if name in about and about[name] != default
    ]
    if stopping := about.get("stopping"):
        lines.append(f"    {_rule(stopping)}={stopping!r},")
    lines = [line.replace("\n", " ") for line in lines]
    return "\n".join([*lines, ")"])


def _of(about: Mapping[str, Any], key: str) -> str:
    return str(about.get(key) or "your own")


def _rule(stopping: Mapping[str, Any]) -> str:
    return "decide" if "critical" in stopping else "tolerance"


def _epochs(about: Mapping[str, Any]) -> str:
    kept = about.get("checkpoints") or {str(epoch): "" for epoch in about.get("epochs", ())}
    return ", ".join(map(str, kept)) or "?"


def _hash(data: Mapping[str, Any]) -> str:
    return f"SHA-256 {str(data.get('sha256', '?'))[:16]}"


def _runs(about: Mapping[str, Any]) -> list[dict[str, Any]]:
    runs = about.get("runs")
    return [run for run in runs if isinstance(run, dict)] if isinstance(runs, list) else []


def _told(value: object) -> bool:
    return value not in (None, "", {}, [])


def _short(value: object) -> str:
    if isinstance(value, dict):
        told = {key: each for key, each in value.items() if _told(each)}
        text = "; ".join(f"{key} {_short(each)}" for key, each in told.items())
    elif isinstance(value, list):
        text = ", ".join(map(str, value))
    else:
        text = str(value)
    return text if len(text) <= _MOST_SHOWN else text[: _MOST_SHOWN - 1] + "…"
