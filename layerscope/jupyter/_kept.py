"""States that were given a name: found in the Dataset, kept in it, compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from layerscope import results
from layerscope.core.session import Change, Estimate, with_scenario
from layerscope.errors import choose
from layerscope.jupyter import _tools as tools, _words as words
from layerscope.jupyter._history import Scene
from layerscope.results import KeptState

__all__ = ["KeptStates"]


class KeptStates:
    """States of one task by name, with what was measured of them.

    Parameters
    ----------
    ds : Dataset, optional
        With those that were kept before, as `core.session.with_scenario` gives.
    """

    def __init__(self, ds: xr.Dataset | None = None) -> None:
        self.dataset = results.scenarios_of(ds)

    @property
    def names(self) -> list[str]:
        """Names in the order in which they were kept."""
        return [] if self.dataset is None else [str(n) for n in self.dataset["scenario"].values]

    def keep(self, name: str, scene: Scene, estimate: Estimate) -> None:
        """Keep a state; an earlier one of that name goes."""
        self.dataset = with_scenario(self.dataset, name, scene.state, estimate, scene.view)

    def delete(self, name: str) -> None:
        """Forget a state."""
        choose(name, self.names, "kept state")
        ds = self.dataset
        assert ds is not None
        left = ds.sel(scenario=ds["scenario"] != name)
        self.dataset = left if left.sizes["scenario"] else None

    def scene(self, name: str, known: Sequence[Change]) -> Scene:
        """Give a state as it was set.

        Raises
        ------
        OptionError
            If a perturbation in it is the user's own, and is not among those known.
        """
        kept = self._at(name)
        return Scene(kept.view, tools.parse(kept.changes, tools.objects(known)))

    def rows(self, metric: str, now: Scene) -> list[dict[str, Any]]:
        """Write the states as the table's lines."""
        states = results.kept_states(self.dataset)
        values = [state.values.get(metric, np.nan) for state in states]
        top = float(np.nanmax(np.abs(values))) if np.isfinite(values).any() else 0.0
        return [
            {
                "name": state.name,
                "value": words.number(value, self._fraction(metric)),
                "change": self._change(state, metric),
                "share": abs(value) / top if top and np.isfinite(value) else 0.0,
                "state": state.words,
                "now": _is(state, now),
            }
            for state, value in zip(states, values, strict=True)
        ]

    def comparison(self, names: Sequence[str]) -> dict[str, Any]:
        """Set two states side by side: each metric, and the layers in which they differ."""
        if len(names) != 2:
            return {}
        one, other = (self._at(name) for name in names)
        rows = [self._compared(metric, one, other) for metric in one.values]
        for row in dict.fromkeys([*one.said, *other.said]):
            said = [each.said.get(row, "trained") for each in (one, other)]
            rows += [[row, *said, ""]] if said[0] != said[1] else []
        return {"names": list(names), "rows": rows}

    def _compared(self, metric: str, one: KeptState, other: KeptState) -> list[str]:
        fraction = self._fraction(metric)
        first, second = one.values[metric], other.values[metric]
        moved = words.signed(second - first, fraction) + (" points" if fraction else "")
        return [metric, words.number(first, fraction), words.number(second, fraction), moved]

    def _change(self, state: KeptState, metric: str) -> str:
        if not state.changes:
            return "0"
        fraction = self._fraction(metric)
        moved = words.signed(state.differences.get(metric, np.nan), fraction)
        return moved + (" points" if fraction else "")

    def _fraction(self, metric: str) -> bool:
        return bool(results.metric(self.dataset, metric).fraction_of)

    def _at(self, name: str) -> KeptState:
        choose(name, self.names, "kept state")
        return next(each for each in results.kept_states(self.dataset) if each.name == name)


def _is(state: KeptState, now: Scene) -> bool:
    plain = {row: _plain(change.plain) for row, change in now.state.items()}
    return {row: _plain(change) for row, change in state.changes.items()} == plain and (
        state.view == now.view or not plain
    )


def _plain(change: Any) -> Any:
    return list(change) if isinstance(change, (tuple, list)) else change
