"""The ipywidgets that the explorer is made of, and how they are laid out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ipywidgets as widgets

from layerscope.base import devices
from layerscope.core.layers import VIEWS
from layerscope.jupyter._colouring import COLOURINGS
from layerscope.jupyter._saving import Code, Saved
from layerscope.jupyter._strip import Grid, Kept, Status, Strip
from layerscope.results import NO_EPOCH

__all__ = ["UNCHOSEN", "Controls"]

UNCHOSEN = "none is shown; choose one"
"""What the list of sweeps says where none is chosen."""


class Controls:
    """Everything that can be seen and pressed.

    Parameters
    ----------
    epochs : sequence of int
    unit : str
        What checkpoints are counted in.
    tools : sequence of (str, str)
        What a click can do to a layer: in words, and the name of the perturbation.
    device : str
    live : bool
        Whether there is a network to ask.
    tasks : sequence of str
        Names of the data sets, where there are several.

    Attributes
    ----------
    offering : bool
        True while other checkpoints or sweeps are offered, or a state is followed, which chooses
        none.
    """

    offering = False

    def __init__(
        self,
        epochs: Sequence[int],
        unit: str,
        tools: Sequence[tuple[str, str]],
        device: str,
        live: bool,
        tasks: Sequence[str] = (),
    ) -> None:
        self.title, self.cards, self.status = widgets.HTML(), widgets.HTML(), Status()
        self.classes, self.confusion, self.changed = (widgets.HTML() for _ in range(3))
        self.strip, self.grid = Strip(label="Layers"), Grid(label="Heat map")
        self.kept = Kept(label="Kept states")
        self.kind = widgets.ToggleButtons(
            options=list(tools),
            tooltips=[name for _, name in tools],
            style={"button_width": "auto"},
            layout=widgets.Layout(width="auto"),
        )
        self.epoch = widgets.SelectionSlider(
            options=[(str(epoch), epoch) for epoch in epochs] or [("–", NO_EPOCH)],
            description=unit,
            disabled=not epochs,  # nothing to go back to
            continuous_update=True,
            layout=widgets.Layout(width="320px", display=None if epochs else "none"),
        )
        self.preset = widgets.Dropdown(
            options=["–"], description="preset", layout=widgets.Layout(width="310px")
        )
        self.undo = _button("Undo", "rotate-left", "72px")
        self.redo = _button("Redo", "rotate-right", "72px")
        self.view = widgets.Dropdown(
            options=VIEWS, description="view", layout=widgets.Layout(width="190px")
        )
        self.task = widgets.Dropdown(
            options=list(tasks), description="task", layout=widgets.Layout(width="190px")
        )
        self.task.layout.display = None if tasks else "none"
        found = devices.present()
        names = list(dict.fromkeys([device, *found])) if live else [device or "–"]
        self.device = widgets.Dropdown(
            options=names, description="device", layout=widgets.Layout(width="190px")
        )
        self.device.disabled = len(names) == 1
        self.colour = widgets.Dropdown(
            options=COLOURINGS, description="colour by", layout=widgets.Layout(width="190px")
        )
        self.swept = widgets.Dropdown(
            options=[], description="sweep", layout=widgets.Layout(width="100%")
        )
        self.swept.layout.display = "none"
        self.start = _button("Sweep", "play", "90px", "Compute the whole heat map")
        self.cancel = _button("Cancel", "stop", "90px")
        self.cancel.disabled = True
        self.progress = widgets.FloatProgress(
            min=0, max=1, layout=widgets.Layout(width="130px", height="18px")
        )
        self.left = widgets.Label("")
        self.name = widgets.Text(
            placeholder="name of this scenario", layout=widgets.Layout(width="200px")
        )
        self.keep = _button("Keep", "bookmark", "80px", "Keep this state in the Dataset")
        self.copy = _button("Python", "code", "90px", "Show the call that gives this state")
        self.path = widgets.Text(value="layers.png", layout=widgets.Layout(width="140px"))
        self.save = _button("Save figure", "image", "120px")
        tip = "Write all of this as one HTML page that needs no kernel"
        self.export = _button("Export page", "file-export", "130px", tip)
        tip = "Write what was swept, and the states that were kept, as netCDF"
        self.store = _button("Save Dataset", "database", "130px", tip)
        self.saved, self.code = Saved(), Code()

    def offer_sweeps(self, labels: Sequence[str], chosen: str | None) -> None:
        """Offer these sweeps, of which one or none is shown; a single shown one is no choice."""
        self.offering = True
        # A list without a choice is drawn as an empty box.
        offered = [*([UNCHOSEN] if chosen is None and labels else []), *labels]
        try:
            self.swept.options, self.swept.value = offered, chosen or next(iter(offered), None)
        finally:
            self.offering = False
        self.swept.layout.display = "none" if list(labels) in ([], [chosen]) else None

    def offer(self, epochs: Sequence[tuple[str, int]]) -> None:
        """Offer these checkpoints, in words and by number; the one that is chosen stays so."""
        chosen, self.offering = self.epoch.value, True  # of new options the first is chosen
        try:
            self.epoch.options, self.epoch.value = epochs, chosen
        finally:
            self.offering = False

    def follow(self, kind: str, epoch: int) -> None:
        """Show what was done to layers where one did it by other means than these controls."""
        self.offering = True
        try:
            if kind in [name for _, name in self.kind.options]:
                self.kind.value = kind
            if epoch in [number for _, number in self.epoch.options]:
                self.epoch.value = epoch
        finally:
            self.offering = False

    def parts(self) -> list[Any]:
        """List every widget."""
        return [part for part in vars(self).values() if isinstance(part, widgets.Widget)]

    def rows(self, texts: Any) -> list[Any]:
        """Lay the widgets out, in rows from top to bottom; below the answer what is of texts."""
        row = widgets.Layout(flex_flow="row wrap", align_items="center", grid_gap="4px 8px")
        spread = widgets.Layout(
            flex_flow="row wrap", align_items="center", justify_content="space-between"
        )
        # Stays in view, whatever of strip and heat map is scrolled to.
        answer = widgets.VBox([self.status, self.cards], _dom_classes=("ls-answer",))
        left = widgets.VBox(
            [self.changed, self.classes, self.confusion], layout=widgets.Layout(flex="1 1 380px")
        )
        sweep = widgets.HBox([self.start, self.cancel, self.progress, self.left], layout=row)
        swept = [sweep, self.swept, self.grid]
        right = widgets.VBox(swept, layout=widgets.Layout(flex="1 1 380px"))
        columns = widgets.Layout(
            flex_flow="row wrap", align_items="flex-start", grid_gap="8px 20px"
        )
        return [
            widgets.HBox(
                [self.title, widgets.HBox([self.task, self.view, self.device])], layout=spread
            ),
            self.strip,
            self.kept,
            widgets.HBox([widgets.Label("a clicked layer is"), self.kind, self.epoch], layout=row),
            widgets.HBox([self.preset, self.undo, self.redo, self.colour], layout=row),
            answer,
            texts,
            widgets.HBox([left, right], layout=columns),
            widgets.HBox(
                [self.name, self.keep, self.copy, self.path, self.save, self.export, self.store],
                layout=row,
            ),
            self.saved,
            self.code,
        ]


def _button(text: str, icon: str, width: str, tip: str = "") -> Any:
    return widgets.Button(
        description=text, icon=icon, tooltip=tip or text, layout=widgets.Layout(width=width)
    )
