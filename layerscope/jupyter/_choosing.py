"""Choices from lists: another view, task, device or sweep, or a state of many layers at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import xarray as xr

from layerscope.core.layers import Layer
from layerscope.core.session import Change
from layerscope.errors import LayerscopeError, OptionError
from layerscope.jupyter import _drawing as drawing, _rows as rows, _tools as tools
from layerscope.jupyter._backend import Backend
from layerscope.jupyter._controls import UNCHOSEN, Controls
from layerscope.jupyter._display import Display
from layerscope.jupyter._history import History, Scene
from layerscope.jupyter._known import Known
from layerscope.jupyter._source import Source
from layerscope.jupyter._sweeps import HERE
from layerscope.jupyter._worker import Worker

__all__ = ["Choosing"]


class Choosing:
    """Part of the explorer that follows its lists."""

    controls: Controls
    _history: History
    _backend: Backend | None
    _display: Display
    _known: Known
    _tools: Mapping[str, Change]
    _source: Source
    _worker: Worker

    if TYPE_CHECKING:

        def _swept(self) -> xr.Dataset | None: ...
        def _layers(self) -> Sequence[Layer]: ...
        def _go(self, scene: Scene) -> None: ...
        def _set(self, scene: Scene, note: str = "") -> None: ...
        def _refresh(self, note: str = "") -> None: ...
        def _ask(self, note: str = "") -> None: ...
        def _look_over(self, source: Source) -> None: ...

    def _on_preset(self) -> None:
        preset = str(self.controls.preset.value)
        if preset == "–":
            return
        self.controls.preset.value = "–"
        found = drawing.verdicts(self._swept(), self._known.metric)
        chosen = drawing.preset_rows(preset, self._layers(), found)
        epochs = (epoch for _, epoch in self.controls.epoch.options)
        sound = next(epoch for epoch in epochs if epoch not in self._display.damaged)
        first = tools.at(tools.resetting(self._tools), sound)
        self._go(Scene(self._history.now.view, dict.fromkeys(chosen, first)))

    def _on_view(self) -> None:
        view, now = self.controls.view.value, self._history.now
        if view == now.view:
            return
        try:
            if self._backend is None:
                raise OptionError("a Dataset alone has one view; give the network to see others.")
            scene, lost = rows.carry(self._backend.session, now, view)
        except LayerscopeError:
            self.controls.view.value = now.view  # which is what is shown
            raise
        self.controls.strip.selected = []
        hidden = self._known.swept(now.view) is not None and self._known.swept(view) is None
        note = [rows.uncarried(lost, view), rows.unswept(now.view, view) if hidden else ""]
        self._set(scene, " ".join(filter(None, note)))

    def _on_task(self) -> None:
        self._known.task = self.controls.task.value
        self._refresh()

    def _on_device(self) -> None:
        backend, device = self._backend, self.controls.device.value
        if backend is not None and device != backend.options["device"]:
            backend.options["device"] = device
            self._ask()

    def _on_sweep(self) -> None:
        label = str(self.controls.swept.value)
        if self.controls.offering or label == UNCHOSEN:
            return
        if UNCHOSEN in self.controls.swept.options:
            self.controls.offer_sweeps(list(self._source.sweeps), label)
        ds = self._source.sweeps[label]
        view, now = self._known.show(ds), self._history.now
        self._source = replace(self._source, dataset=ds)
        self._worker.start(lambda _: self._look_over(self._source))
        if view == now.view:
            self._refresh()
        else:
            self.controls.view.value = view  # which carries over what is changed

    def _follow(self) -> None:
        """Let buttons and slider show what is done to the selected rows, if that is one thing."""
        state, selected = self._history.now.state, self.controls.strip.selected
        done = {state[row] for row in selected if row in state}
        if len(done) == 1:
            (change,) = done
            self.controls.follow(change.perturbation, change.epoch)

    def _offer_sweeps(self) -> None:
        """Offer the sweeps of the run, and say which can't be shown."""
        source = self._source
        shown = (label for label, ds in source.sweeps.items() if ds is source.dataset)
        self.controls.offer_sweeps(list(source.sweeps), next(shown, None))
        if source.unshown:
            self._display.doubt("note", source.unshown)

    def _take_sweep(self, ds: xr.Dataset, first: bool) -> bool:
        """Offer what was swept here beside the sweeps that were there; tell if it is to be shown.

        It is not where another was chosen since.
        """
        sweeps = self._source.sweeps
        if not sweeps or self._known.tasks:
            return True
        sweeps[HERE] = ds
        if first:
            self.controls.offer_sweeps(list(sweeps), HERE)
        return bool(self.controls.swept.value == HERE)
