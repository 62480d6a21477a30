"""Reasons why the present state has no number: marked in strip and heat map, said in a line."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from layerscope import results
from layerscope.core.session import Estimate
from layerscope.errors import LayerscopeError
from layerscope.jupyter import _drawing as drawing, _words as words
from layerscope.jupyter._history import Scene

__all__ = ["Trouble", "of_error", "of_estimate"]

_LOOKS = {
    "refused": ("⊘", "grey with dots: can't be computed"),
    "failed": ("!", "exclamation mark: failed when it was measured"),
    "crossed": ("✕", "crossed: outputs or value not finite"),
}
"""By kind of trouble: the sign of its layers, and how its cell looks."""


class Trouble(NamedTuple):
    """Reason why a state has no number, or none that says anything.

    Attributes
    ----------
    scene : Scene
    kind : {"refused", "failed", "crossed"}
        Not to be computed; went wrong on the way; not finite.
    why : str
    """

    scene: Scene
    kind: str
    why: str

    def blocks(self, drawn: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Mark the layers that are changed, in the strip as `drawing.blocks` gives it."""
        sign, _ = _LOOKS[self.kind]
        mark = {"badge": sign, "trouble": f"{self.named}: {self.why}"}
        return [
            {**block, **mark, "tip": f"{block['tip']}\n{mark['trouble']}"}
            if block["name"] in self.scene.state
            else dict(block)
            for block in drawn
        ]

    @property
    def named(self) -> str:
        """The kind, in words."""
        return {"refused": "can't be computed", "failed": "failed"}.get(
            self.kind, results.NOT_FINITE
        )

    @property
    def sign(self) -> dict[str, str]:
        """Meaning of the sign of its layers, for the legend."""
        return {"kind": "sign", "text": f"{_LOOKS[self.kind][0]} now: {self.named}"}

    @property
    def cell(self) -> dict[str, Any]:
        """Mark of the heat map's cell; empty where several layers are changed, which is none."""
        if len(self.scene.state) != 1:
            return {}
        ((row, change),) = self.scene.state.items()
        return {
            "row": row,
            "column": drawing.column_of(change),
            "kind": self.kind,
            "why": f"{self.named}: {self.why}",
            "legend": _LOOKS[self.kind][1],
        }


def of_error(scene: Scene, error: BaseException) -> Trouble:
    """Tell what can't be computed from what went wrong."""
    kind = "refused" if isinstance(error, LayerscopeError) else "failed"
    return Trouble(scene, kind, words.said(error))


def of_estimate(scene: Scene, estimate: Estimate) -> Trouble | None:
    """Tell whether outputs or values are not finite; None where all are."""
    named = estimate.predicted.flatten(1) if estimate.predicted.ndim > 1 else estimate.predicted
    broken = int(((named < 0).any(1) if named.ndim > 1 else named < 0).sum())
    values = [name for name in estimate.tallies if not math.isfinite(estimate.mean(name))]
    if not broken and not values:
        return None
    said = [f"outputs are NaN for {broken:,} of {estimate.examples:,} examples"] if broken else []
    if values:
        said.append(f"{', '.join(values)} {'is' if len(values) == 1 else 'are'} no number")
    return Trouble(scene, "crossed", "; ".join(said))
