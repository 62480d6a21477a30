"""The table of kept states: what is pressed in it, and where it is saved."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import xarray as xr

from layerscope import results
from layerscope.base import files
from layerscope.core.session import Change, Estimate
from layerscope.errors import LayerscopeError, OptionError
from layerscope.jupyter._history import Scene
from layerscope.jupyter._kept import KeptStates
from layerscope.jupyter._known import Known
from layerscope.jupyter._strip import Kept

__all__ = ["Keeper", "open_kept"]


def kept_file(folder: Path | None, task: str | None) -> Path | None:
    """Name the file with the states that were kept of a run, of one of its tasks if it has any."""
    if folder is None or task is None:
        return folder and folder / results.KEPT
    # The name of a task may hold what that of a file can't.
    return folder / Path(results.KEPT).stem / f"{quote(task, safe=' ')}.nc"


def open_kept(folder: Path | None, task: str | None) -> xr.Dataset | None:
    """Open the states that were kept of a run; None where there are none."""
    file = kept_file(folder, task)
    return results.open_dataset(file) if file is not None and files.is_file(file) else None


class Keeper:
    """Keeps states, and shows them.

    Parameters
    ----------
    table : Kept
    known : Known
    folder : Path or None
        That of a run, where they are saved beside its checkpoints.
    go : callable
        Called with a scene to return to.
    """

    def __init__(
        self,
        table: Kept,
        known: Known,
        folder: Path | None,
        go: Callable[[Scene], object],
    ) -> None:
        self._table, self._known, self._folder, self._go = table, known, folder, go

    @property
    def _kept(self) -> KeptStates:
        return self._known.kept

    def draw(self, now: Scene) -> None:
        """Show the states of the present task, and those of them that are compared."""
        metric = self._known.metric
        with self._table.hold_sync():
            chosen = [name for name in self._table.chosen if name in self._kept.names]
            self._table.metric, self._table.chosen = metric, chosen
            self._table.rows = self._kept.rows(metric, now)
            self._table.comparison = self._kept.comparison(chosen)

    def keep(self, name: str, scene: Scene, estimate: Estimate | None) -> str:
        """Keep a state that is measured; return what to say of it."""
        if estimate is None or not estimate.final:
            raise OptionError("this state is not measured yet; wait until all examples are seen.")
        self._kept.keep(name, scene, estimate)
        self.draw(scene)
        count = len(self._kept.names)
        return f"Kept as {name.strip()!r}; explorer.dataset has {count} so far. {self._save()}"

    def pick(self, picked: Mapping[str, Any], known: list[Change], now: Scene) -> str:
        """Do what was pressed in the table; return what to say of it, if anything."""
        kind, name = picked["kind"], str(picked["name"])
        if kind == "return":
            self._go(self._kept.scene(name, known))
            return ""
        if kind == "choose":
            others = [each for each in self._table.chosen if each != name]
            # The two that were chosen last.
            self._table.chosen = others if name in self._table.chosen else [*others, name][-2:]
            self.draw(now)
            return ""
        self._kept.delete(name)
        self.draw(now)
        return f"Deleted {name!r}. {self._save()}"

    def _save(self) -> str:
        """Save the states of a run beside its checkpoints; say where, or why not."""
        if (file := kept_file(self._folder, self._known.task)) is None:
            return ""
        try:
            if self._kept.dataset is None:
                file.unlink(missing_ok=True)
            else:
                results.save(self._kept.dataset, file)
        except (LayerscopeError, OSError) as error:
            return f"Not saved: {error}"
        return f"Saved in {file}."
