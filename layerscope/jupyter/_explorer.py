"""The explorer itself: what is set, who is asked, and where the answers go."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import ipywidgets as widgets
import xarray as xr

from layerscope import plots, results, stats
from layerscope.core.layers import Layer
from layerscope.core.session import Change, Estimate, Session, as_call, changes, with_scenario
from layerscope.errors import CheckpointError, LayerscopeError, OptionError
from layerscope.jupyter import (
    _drawing as drawing,
    _figure as figure,
    _rows as rows,
    _words as words,
)
from layerscope.jupyter._controls import OFFERED, Controls
from layerscope.jupyter._history import History, Scene
from layerscope.jupyter._source import metric_of, resolve
from layerscope.jupyter._still import bundle
from layerscope.jupyter._sweeping import shown_progress, sweep
from layerscope.jupyter._worker import Worker
from layerscope.results import FULL_MODEL

__all__ = ["LayerExplorer"]

F = TypeVar("F", bound=Callable[..., Any])


def _told(method: F) -> F:
    """Show what a method raises in the status line; Jupyter would drop it silently."""

    @functools.wraps(method)
    def guarded(self: LayerExplorer, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(self, *args, **kwargs)
        except Exception as error:  # noqa: BLE001 - shown to the user
            self._fail(error)
            return None

    return guarded  # type: ignore[return-value]


class LayerExplorer(widgets.VBox):  # type: ignore[misc]
    """A trained network as a strip of layers: click one, and see what is lost without it.

    Parameters
    ----------
    source : path, Series, Dataset or nn.Module
        The folder of a run that layerscope trained; a Dataset, which is shown as it is; or a
        network, with `data` and `checkpoints`. The network is copied and never touched.
    data : pair of tensors, Examples, TextData, or iterable of batches, optional
        By default the test part of what a run was trained on. Of a text its test part; what its
        tokens say is shown in place of their numbers.
    checkpoints : Series, mapping or folder, optional
    dataset : Dataset or path, optional
        A sweep of this network; colours the strip. Computed on demand otherwise.
    view : {"leaf", "component", "block", "stage"}
    metric : str, optional
        What the strip and the heat map show; by default the error, or the first there is.
    metrics : sequence of str or Metric
        What is measured.
    batch_size : int
        The first estimate comes after one batch.
    device, dtype, seed, fresh, output
        As for `layerscope.sweep`; ``dtype="bfloat16"`` answers faster, and no longer to the last
        bit, where the device multiplies such numbers.
    data_root : path, optional
        Folder with the data sets.

    Attributes
    ----------
    state : dict
        What is done to each row, as `layerscope.session` takes it; can be set.
    dataset : Dataset or None
        What was swept, and the scenarios that were kept.
    estimate : Estimate or None
        What is known of the present state.

    Raises
    ------
    CheckpointError, DataError, LayerError, OptionError, ResultError
        If what came can't be opened.

    Examples
    --------
    >>> explorer = LayerExplorer("series/fcn-3x256-mnist-5k-seed0")         # doctest: +SKIP
    >>> explorer.state = {"layer1": ("reinitialize", 0)}                    # doctest: +SKIP
    """

    # Jupyter closes also what could not be made.
    _worker: Worker = None  # type: ignore[assignment]
    _session: Session | None = None
    controls: Controls = None  # type: ignore[assignment]

    def __init__(
        self,
        source: Any,
        data: Any = None,
        checkpoints: Any = None,
        *,
        dataset: xr.Dataset | str | os.PathLike[str] | None = None,
        view: str = "leaf",
        metric: str | None = None,
        metrics: Sequence[Any] = ("error", "loss"),
        batch_size: int = 500,
        device: str = "auto",
        dtype: str | None = None,
        seed: int = 0,
        fresh: Any = None,
        output: Any = None,
        data_root: str | os.PathLike[str] | None = None,
    ) -> None:
        self._source = resolve(source, data, checkpoints, dataset, data_root)
        self._metric = metric_of(metric, metrics, self._source.dataset)
        self._options = dict[str, Any](metrics=metrics, batch_size=batch_size, fresh=fresh)
        self._options |= {"device": device, "dtype": dtype, "seed": seed, "output": output}
        self._scenarios: list[tuple[str, Scene, Estimate]] = []
        self._swept: dict[str, xr.Dataset] = {}
        self._rows: dict[str, list[Layer]] = {}
        if self._source.dataset is not None:
            known = results.settings(self._source.dataset).get("view", "leaf")
            self._swept[str(known)] = self._source.dataset
            view = str(known) if self._source.model is None else view
        self._answered: tuple[int, Estimate] | None = None
        self._seq = 0
        if self._source.model is not None:
            self._session = self._opened()
        self._history = History(Scene(view))
        epochs = self._session.epochs if self._session else rows.epochs_of(self._source.dataset)
        unit = self._source.series.unit if self._source.series else "epoch"
        place = str(self._session.device) if self._session else ""
        self.controls = Controls(epochs, unit, place, self._session is not None)
        self._worker = Worker(self._fail)
        super().__init__(self.controls.laid_out(), _dom_classes=("ls-explorer",))
        self._wire()
        self._say("Click a layer; arrow keys and Enter do the same.")
        self._refresh()

    # What others may use.

    @property
    def state(self) -> dict[str, str | tuple[str, int]]:
        """Present change of each row."""
        return {row: change.plain for row, change in self._history.now.state.items()}

    @state.setter
    def state(self, state: Mapping[str, Any]) -> None:
        self._set(Scene(self._history.now.view, changes(state)))

    @property
    def estimate(self) -> Estimate | None:
        """Estimate of the present state; None before the first batch."""
        seq, estimate = self._answered or (-1, None)
        return estimate if seq == self._seq else None

    @property
    def layers(self) -> list[str]:
        """Names of the rows of the present view, in execution order."""
        return self._names()

    @property
    def dataset(self) -> xr.Dataset | None:
        """Dataset swept in this view, with the scenarios that were kept; None without any."""
        ds = self._swept.get(self._history.now.view)
        for name, scene, estimate in self._scenarios:
            ds = with_scenario(ds, name, scene.state, estimate, scene.view)
        return ds

    @property
    def code(self) -> str:
        """Python that measures the present state again."""
        scene, same = self._history.now, ("batch_size", "dtype", "seed")
        given = {name: self._options[name] for name in same if self._options[name] is not None}
        return self._source.script(as_call(scene.state, scene.view), given)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until everything that was asked is answered; whether it was in time (seconds)."""
        return self._worker.wait(timeout)

    def close(self) -> None:
        """End the thread, free the memory and take the explorer off the page."""
        if self._worker is not None:
            self._worker.close()
        if self._session is not None:
            self._session.close()
        for part in self.controls.parts() if self.controls is not None else ():
            part.close()
        super().close()

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        """Give Jupyter the live explorer, and a still picture for where there is no kernel."""
        live = super()._repr_mimebundle_(**kwargs)
        ds = self._swept.get(self._history.now.view)
        return bundle(live, self._source.name, self.state, self.estimate, ds, self._metric)

    # What is pressed.

    def _wire(self) -> None:
        parts = self.controls
        parts.strip.on_pick(self._on_strip)
        parts.grid.on_pick(self._on_cell)
        for button, pressed in [
            (parts.undo, lambda: self._back(self._history.undo)),
            (parts.redo, lambda: self._back(self._history.redo)),
            (parts.start, self._sweep),
            (parts.cancel, self._worker.cancel),
            (parts.keep, lambda: self.keep(self.controls.name.value)),
            (parts.copy, self._show_code),
            (parts.save, lambda: self.save_figure(self.controls.path.value)),
        ]:
            button.on_click(lambda _, pressed=pressed: self._do(pressed))
        for part, changed in [
            (parts.epoch, self._on_tool),
            (parts.kind, self._on_tool),
            (parts.preset, self._on_preset),
            (parts.view, self._on_view),
            (parts.device, self._on_device),
        ]:
            part.observe(lambda _, changed=changed: self._do(changed), "value")

    @_told
    def _do(self, action: Callable[[], object]) -> None:
        action()

    @_told
    def _on_strip(self, picked: dict[str, Any]) -> None:
        name, scene, strip = str(picked["name"]), self._history.now, self.controls.strip
        if picked["kind"] == "select":
            kept = set(strip.selected) ^ {name}
            strip.selected = [row for row in self._names() if row in kept]
            return
        chosen = [name]
        if picked["kind"] == "range" and strip.selected:
            names = self._names()
            ends = sorted((names.index(strip.selected[-1]), names.index(name)))
            chosen = names[ends[0] : ends[1] + 1]
        strip.selected = chosen
        clear = picked["kind"] == "clear" or (picked["kind"] == "toggle" and name in scene.state)
        self._set(scene.having(dict.fromkeys(chosen, None if clear else self._tool())))

    @_told
    def _on_cell(self, picked: dict[str, Any]) -> None:
        row, ds = str(picked["row"]), self._swept[self._history.now.view]
        change = drawing.change_of(ds, self._metric, str(picked["column"]))
        chosen = self._names() if row == FULL_MODEL else [row]
        self.controls.strip.selected = chosen
        self._set(Scene(self._history.now.view, dict.fromkeys(chosen, change)))

    def _on_tool(self) -> None:
        chosen = self.controls.strip.selected
        # Those that are changed already; if none is, the slider still does something.
        changed = [row for row in chosen if row in self._history.now.state] or list(chosen)
        if changed:
            self._set(self._history.now.having(dict.fromkeys(changed, self._tool())))

    def _on_preset(self) -> None:
        preset = str(self.controls.preset.value)
        if preset == "–":
            return
        self.controls.preset.value = "–"
        found = drawing.verdicts(self._swept.get(self._history.now.view), self._metric)
        chosen = drawing.preset_rows(preset, self._layers(), found)
        reset = next(info.name for info in OFFERED if info.resets)
        first = Change(reset, self.controls.epoch.options[0][1])
        self._set(Scene(self._history.now.view, dict.fromkeys(chosen, first)))

    def _on_view(self) -> None:
        if (view := self.controls.view.value) != self._history.now.view:
            self.controls.strip.selected = []
            if self._session is None:
                raise OptionError("a Dataset alone has one view; give the network to see others.")
            self._set(rows.carried(self._session, self._history.now, view))

    def _on_device(self) -> None:
        if self.controls.device.value != self._options["device"]:
            self._options["device"] = self.controls.device.value
            self._ask()

    def _back(self, move: Callable[[], Scene]) -> None:
        move()
        self._refresh()

    def keep(self, name: str) -> None:
        """Keep the present state under a name, as a scenario in `dataset`."""
        estimate = self.estimate
        if estimate is None or not estimate.final:
            raise OptionError("this state is not measured yet; wait until all examples are seen.")
        kept = [each for each in self._scenarios if each[0] != name.strip()]
        with_scenario(None, name, self._history.now.state, estimate)  # refuses a bad name
        self._scenarios = [*kept, (name.strip(), self._history.now, estimate)]
        self._say(f"Kept as {name.strip()!r}; explorer.dataset has {len(self._scenarios)} so far.")

    def save_figure(self, path: str | os.PathLike[str], width: float | str | None = None) -> None:
        """Write the present state as one figure: the strip, the numbers, the heat map if swept.

        `path` and `width` are as for `layerscope.plots.save`.
        """
        estimate, scene = self.estimate, self._history.now
        if self._session is not None and estimate is None:
            raise OptionError("this state is not measured yet; wait until examples were seen.")
        ds, blocks = self._swept.get(scene.view), self.controls.strip.blocks
        picture = figure.of_state(self._source.name, scene, blocks, estimate, ds, self._metric)
        self._say(f"Saved {plots.save(picture, path, width=width)}.")

    def _show_code(self) -> None:
        self.controls.code.value = words.code(self.code)

    # What is shown.

    def _set(self, scene: Scene) -> None:
        self._history.add(scene)
        self._refresh()

    def _refresh(self) -> None:
        """Draw the present scene and ask about it."""
        parts, scene = self.controls, self._history.now
        parts.undo.disabled = not self._history.can_undo
        parts.redo.disabled = not self._history.can_redo
        parts.view.value = scene.view
        parts.preset.options = ["–", *drawing.presets(self._layers())]
        parts.code.value = ""
        about = f"{self._session.data.count:,} examples" if self._session else "from a Dataset"
        about = f"{len(self._layers())} rows, {about}"
        parts.title.value = words.title(self._source.name, about)
        self._draw()
        self._ask()

    def _draw(self) -> None:
        parts, scene = self.controls, self._history.now
        ds = self._swept.get(scene.view)
        table = stats.summary(ds, self._metric) if ds is not None else None
        found = drawing.verdicts(ds, self._metric)
        metric = results.metric(ds, self._metric)
        parts.strip.blocks = drawing.blocks(self._layers(), scene.state, table, found, metric)
        if ds is not None and table is not None:
            rows, columns, cells = drawing.cells(ds, table, self._metric, self._names())
            with parts.grid.hold_sync():
                parts.grid.rows, parts.grid.columns, parts.grid.cells = rows, columns, cells
        parts.grid.marked = [[r, drawing.column_of(c)] for r, c in scene.state.items()]

    def _say(self, text: str, kind: str = "info") -> None:
        self.controls.status.value = words.status(text, kind)

    def _fail(self, error: BaseException) -> None:
        known = isinstance(error, LayerscopeError)
        text = str(error) if known else f"{type(error).__name__}: {error}"
        if isinstance(error, CheckpointError):
            text += " Put it right, or choose another checkpoint; Undo goes back."
        self._say(text, "error")

    # Who is asked.

    def _opened(self) -> Session:
        source, options = self._source, self._options
        assert source.model is not None
        return Session(source.model, source.data, checkpoints=source.series, **options)

    def _moved(self) -> Exception | None:
        """Open the session where it is wanted, or where it was; return what spoke against it."""
        assert self._session is not None
        before, wanted = str(self._session.device), self._options["device"]
        if not self._session.closed and wanted in ("auto", before):
            return None
        self._session.close()
        try:
            self._session = self._opened()
        except Exception as error:  # noqa: BLE001 - told with the answer
            # What is pressed next must still be answered.
            self._options["device"] = self.controls.device.value = before
            self._session = self._opened()
            return error.with_traceback(None)  # which holds on to what was opened halfway
        return None

    def _ask(self) -> None:
        self._seq += 1
        if self._session is not None:
            self._worker.ask(functools.partial(self._answers, self._history.now, self._seq))

    def _answers(self, scene: Scene, seq: int) -> Iterator[None]:
        assert self._session is not None
        trouble = self._moved()
        began = time.monotonic()
        try:
            for estimate in self._session.evaluate(scene.state, scene.view):
                if seq != self._seq:
                    return
                self._answered = seq, estimate
                self.controls.cards.value = words.cards(estimate, seq)
                if estimate.final:
                    self._say(rows.described(scene, estimate, time.monotonic() - began))
                    self._detail(estimate)
                if trouble:
                    self._fail(trouble)
                yield
        except Exception:
            # Numbers of another state must not stay beside this one.
            self._answered, parts = None, self.controls
            parts.cards.value = words.unmeasured(seq)
            parts.changed.value = parts.classes.value = parts.confusion.value = ""
            raise

    def _detail(self, estimate: Estimate) -> None:
        assert self._session is not None
        places, tokenizer = words.chosen(estimate), self._source.tokenizer
        inputs = self._session.inputs(places)
        self.controls.changed.value = words.changed(estimate, places, inputs, tokenizer)
        self.controls.classes.value = words.classes(estimate, tokenizer)
        self.controls.confusion.value = words.confusion(estimate, tokenizer)

    def _sweep(self) -> None:
        if self._session is None:
            raise OptionError("a Dataset alone can't be swept; give the network, too.")
        self.controls.start.disabled, self.controls.cancel.disabled = True, False
        self._worker.start(functools.partial(self._swept_in_background, self._history.now.view))

    def _swept_in_background(self, view: str, between: Callable[[], None]) -> None:
        def show(ds: xr.Dataset) -> None:
            self._swept[view] = ds
            with suppress(LayerscopeError):  # nothing is known yet
                self._draw()

        assert self._session is not None
        with shown_progress(self.controls, self._session, view, between) as count:
            if told := sweep(self._session, self._source.data, view, self._options, show, count):
                self._say(told)

    # What there is.

    def _layers(self) -> list[Layer]:
        view = self._history.now.view
        if self._session is None:
            return rows.layers_of(self._source.dataset)
        # Kept, since the session may just be moving to another device.
        if view not in self._rows:
            found = self._session.rows(view)
            self._rows[view] = [row for row in found if row.name != FULL_MODEL]
        return self._rows[view]

    def _names(self) -> list[str]:
        return [layer.name for layer in self._layers()]

    def _tool(self) -> Change:
        change, epoch = Change(self.controls.kind.value), int(self.controls.epoch.value)
        return Change(change.perturbation, epoch) if change.about.uses_checkpoint else change
