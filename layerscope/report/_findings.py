"""Findings, in a sentence and in a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd
import xarray as xr
from markupsafe import Markup

from layerscope import results, stats
from layerscope.base.templates import render
from layerscope.errors import ResultError

__all__ = [
    "classify",
    "finding",
    "name_some",
    "refusal_rows",
    "unperturbed",
    "verdict_table",
    "verdicts",
]

_TEMPLATE = "report/templates/verdicts.html.jinja"
_NORM = "l2_fan_in"
_MOST_NAMED = 6


def classify(
    ds: xr.Dataset,
    metric: str,
    critical: float | None = None,
    perturbation: str | None = None,
) -> pd.DataFrame | None:
    """Classify the layers at the first checkpoint; None where no limit for "critical" is known.

    ``attrs`` also holds "perturbation", and "done", what was done to the layers in words.
    """
    if critical is None and results.metric(ds, metric).by_chance(0.0) is None:
        return None
    cells = stats.summary(ds, metric)
    chosen = perturbation or _first(ds, cells)
    done = cells[cells["perturbation"] == chosen]
    epoch = int(done["epoch"].min())
    table = stats.classify(ds, metric, critical=critical, epoch=epoch, perturbation=chosen)
    table.attrs |= {"perturbation": chosen, "done": _done(ds, chosen, epoch)}
    return table


def finding(ds: xr.Dataset, metric: str | None = None, critical: float | None = None) -> str:
    """Say in a few sentences which layers are critical.

    Parameters
    ----------
    ds : Dataset
    metric : str
    critical : float, optional
        As `stats.classify` takes it.

    Returns
    -------
    str

    Examples
    --------
    >>> from layerscope import testing
    >>> finding(testing.dataset(layers=2)).split(":")[0]
    '2 of 2 layers are critical when reset to checkpoint 0'
    """
    metric = results.metric_name(ds, metric)
    level = unperturbed(ds, metric, unit=True)
    rest = f"Of the unperturbed network the test {metric} is {level}."
    table = classify(ds, metric, critical)
    if table is None:
        return f"No verdicts: what chance gives is not known for {metric}. {rest}"
    worst = table[table["verdict"] == "critical"].sort_values("degradation", ascending=False)
    count, judged = len(worst), table.attrs["judged"]
    first = f"{count or 'None'} of {judged} layers {'is' if count < 2 else 'are'} critical "
    first += f"when {table.attrs['done']}"
    if count:
        info = results.metric(ds, metric)
        named = [_measured(row, info, at == 0) for at, row in enumerate(_rows(worst))]
        first += f": {name_some(named)}"
    return f"{first}.{_others(table)}{_left_out(table)} {rest}"


def _others(table: pd.DataFrame) -> str:
    """Count the layers that are not critical, and name those that nothing is known of."""
    said = []
    for kind in ("intermediate", "robust", results.NOT_FINITE, results.NOT_MOVED, "undecided"):
        if names := list(table.loc[table["verdict"] == kind, "layer"]):
            named = kind in ("undecided", results.NOT_FINITE) and len(names) < len(table)
            of = f" ({name_some(names)})" if named else ""
            said.append(f"{len(names)} {'is' if len(names) == 1 else 'are'} {kind}{of}")
    return f" {', '.join(said)}." if said else ""


def name_some(names: Sequence[str]) -> str:
    """Name layers, the first ones where there are many.

    Examples
    --------
    >>> name_some(["fc1", "fc2"]), name_some([f"fc{at}" for at in range(9)])
    ('fc1, fc2', 'fc0, fc1, fc2, fc3, fc4, fc5 and 3 more')
    """
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return f"{', '.join(names[:_MOST_NAMED])}{more}"


def _left_out(table: pd.DataFrame) -> str:
    """Say how many layers there are no verdicts for, since their cell can't be computed."""
    missing = table.attrs["layers"] - table.attrs["judged"]
    if not missing:
        return ""
    there = f"{'is' if missing == 1 else 'are'} not among them: it can't be computed"
    there = there if missing == 1 else there.replace("it can't", "they can't")
    return f" {missing} of all {table.attrs['layers']} layers {there}, as is said below."


def refusal_rows(ds: xr.Dataset) -> list[list[str]]:
    """Say which cells can't be computed: what would be done, to how many and which rows, and why.

    Returns
    -------
    list of list of str
        One row per perturbation and reason; empty where all cells can be.
    """
    total = ds.sizes.get("layer", 0)
    return [
        [
            _done(ds, perturbation, 0),
            f"{len(layers)} of {total}",
            ", ".join(layers),
            why,
        ]
        for perturbation, why, layers in results.refusals_by_reason(ds)
    ]


def verdict_table(ds: xr.Dataset, metric: str, critical: float | None) -> Markup:
    """Make the tables of verdicts, one for each perturbation; all but the first folded away."""
    cells = stats.summary(ds, metric)
    first, info = _first(ds, cells), results.metric(ds, metric)
    table = classify(ds, metric, critical, first)
    if table is None:
        values = _values(ds, cells, metric)
        return render(_TEMPLATE, tables=[], values=values, metric=metric)
    tables = [_verdicts(ds, table, info)]
    for name in map(str, cells["perturbation"].unique()):
        if name != first:
            more = classify(ds, metric, critical, name)
            assert more is not None
            tables.append(_verdicts(ds, more, info))
    return render(_TEMPLATE, tables=tables, limits=_limits(table, info))


class _Table(NamedTuple):
    """Texts below columns, and what was done to the layers."""

    columns: list[str]
    rows: list[list[str]]
    done: str


def _verdicts(ds: xr.Dataset, table: pd.DataFrame, metric: results.MetricInfo) -> _Table:
    """Write a row for each layer; its verdict comes last."""
    facts, refused = _facts(ds), results.refusals(ds)
    rows = []
    for row in _rows(table):
        why = refused.get((row.layer, table.attrs["perturbation"]))
        measured = f"can't be computed: {why}" if why else _number(row.degradation, metric)
        measured = row.verdict if row.verdict == results.NOT_FINITE else measured
        doubt = table.attrs.get("doubt", {}).get(row.layer)
        verdict = f"{row.verdict}: {doubt}" if doubt else row.verdict
        rows.append([row.layer, *facts[row.layer], measured, _range(row, metric), verdict])
    way = "fall" if metric.higher_is_better else "rise"
    done = table.attrs["done"]
    what = f"{way} of test {metric.name} when {done}"
    return _Table(["layer", *facts["names"], what, "95 % interval", "verdict"], rows, done)


def verdicts(ds: xr.Dataset, metric: str, critical: float | None = None) -> _Table | None:
    """List how much worse each layer makes a network, with its interval and its verdict.

    At the first checkpoint; None where no limit for "critical" is known.
    """
    table = classify(ds, metric, critical)
    if table is None:
        return None
    made = _verdicts(ds, table, results.metric(ds, metric))
    way = "fall" if results.metric(ds, metric).higher_is_better else "rise"
    columns = ["layer", f"{way} of {metric}", made.columns[-2], made.columns[-1]]
    return made._replace(columns=columns, rows=[[row[0], *row[-3:]] for row in made.rows])


def _values(ds: xr.Dataset, cells: pd.DataFrame, metric: str) -> _Table:
    """Without verdicts: the values at the first checkpoint."""
    facts = _facts(ds)
    first = _first(ds, cells)
    cells = cells[cells["perturbation"] == first]
    epoch = int(cells["epoch"].min())
    cells = cells[cells["epoch"] == epoch]
    done = _done(ds, first, epoch)
    what = f"test {results.metric(ds, metric).label} when {done}"
    columns = ["layer", *facts["names"], what, "95 % interval"]
    rows = [
        [row.layer, *facts[row.layer], _write_value(row.value), _range(row)]
        for row in _rows(cells)
        if row.layer in facts
    ]
    return _Table(columns, rows, done)


def _limits(table: pd.DataFrame, metric: results.MetricInfo) -> str:
    unit, share = (" points", 100) if metric.fraction_of else (_unit(metric), 1)
    points = "A point is 0.01 of it. " if metric.fraction_of else ""
    return (
        f"{metric.sentence} {points}"
        f"Robust: the whole interval is at or below {share * table.attrs['tolerance']:.3g}{unit}. "
        f"Critical: at or above {share * table.attrs['critical']:.3g}{unit}. Intermediate: between "
        "the two. Else undecided. Not moved: the layer has the same values at the first and at the "
        "last checkpoint. Refused: can't be computed. Not finite: it was computed, and is NaN. An "
        "interval over seeds covers other training runs, over draws other random values, over "
        "examples another test set. Intervals are of each layer by itself; verdicts hold for all "
        "layers at once, so that one whose interval is clear may be undecided."
    )


def _first(ds: xr.Dataset, cells: pd.DataFrame) -> str:
    """Choose the perturbation to judge by: to the first checkpoint where there is that."""
    if cells.empty:
        raise ResultError("every cell of this Dataset is NaN: nothing was computed yet.")
    names = [str(name) for name in cells["perturbation"].unique()]
    resets = [name for name in results.resets(ds) if name in names]
    return (resets or names)[0]


def _facts(ds: xr.Dataset) -> dict[str, list[str]]:
    """Facts of each layer beside its values; under "names" what they are."""
    layers = stats.layer_order(ds)
    columns: dict[str, list[str]] = {}
    if "module_type" in ds.coords:
        columns["module"] = [str(ds["module_type"].sel(layer=name).item()) for name in layers]
    if "parameters" in ds.coords:
        columns["parameters"] = [f"{int(ds['parameters'].sel(layer=name)):,}" for name in layers]
    if "distance" in ds and _NORM in ds["norm"].values:
        moved = stats.distances(ds, _NORM)
        moved = moved[moved["epoch"] == moved["epoch"].max()].set_index("layer")["value"]
        columns["distance, ‖Δ‖₂/√fan_in"] = [
            f"{moved[name]:.3g}" if name in moved else "–" for name in layers
        ]
    facts = {name: [column[at] for column in columns.values()] for at, name in enumerate(layers)}
    return facts | {"names": list(columns)}


def _rows(table: pd.DataFrame) -> list[Any]:
    return list(table.itertuples())


def _done(ds: xr.Dataset, perturbation: str, epoch: int) -> str:
    return results.perturbation(ds, perturbation).words_at(epoch)


def _number(value: float, metric: results.MetricInfo) -> str:
    if pd.isna(value):
        return "not computed"
    return metric.write_change(value)


def unperturbed(ds: xr.Dataset, metric: str, *, unit: bool = False) -> str:
    """Write the mean of a metric over the unperturbed networks, with its unit if it is wanted."""
    level = results.require(ds, "metric", variable="baseline").sel(metric=metric).mean()
    return _write_value(float(level)) + (_unit(results.metric(ds, metric)) if unit else "")


def _unit(metric: results.MetricInfo) -> str:
    return "" if metric.unit == "1" else f" {metric.unit}"


def _write_value(value: float) -> str:
    """Write a value that was computed; NaN is no number then, rather than one not computed."""
    return results.NOT_FINITE if pd.isna(value) else f"{value:.4g}"


def _range(row: Any, metric: results.MetricInfo | None = None) -> str:
    if pd.isna(row.lower) or pd.isna(row.upper):
        return "–"
    if metric is not None and metric.fraction_of:
        return f"{100 * row.lower:+.1f} to {100 * row.upper:+.1f}, over {row.interval_kind}"
    return f"{row.lower:.4g} to {row.upper:.4g}, over {row.interval_kind}"


def _measured(row: Any, metric: results.MetricInfo, first: bool) -> str:
    """Name a layer with its numbers; the first one says what the numbers are."""
    what = f"test {metric.name} {_number(row.degradation, metric)}, 95 % interval "
    where = f" over {row.interval_kind}" if first else ""
    bounds = _range(row, metric).partition(", over")[0]
    if not first:
        return f"{row.layer} ({_number(row.degradation, metric)}, {bounds})"
    return f"{row.layer} ({what}{bounds}{where})"
