"""The explorer itself: what is set, who is asked, and where the answers go."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import ipywidgets as widgets
import torch
import xarray as xr
from torch import nn

from layerscope.core import perturb
from layerscope.core.layers import Layer, Norms
from layerscope.core.metrics import Metric
from layerscope.core.running import OutputSpec
from layerscope.core.session import Change, Estimate
from layerscope.errors import LayerscopeError, OptionError, choose
from layerscope.jupyter import (
    _damage as damage,
    _drawing as drawing,
    _rows as rows,
    _tools as tools,
)
from layerscope.jupyter._backend import Backend, sweep_only
from layerscope.jupyter._choosing import Choosing
from layerscope.jupyter._closing import close_parts, supersede
from layerscope.jupyter._controls import Controls
from layerscope.jupyter._display import Display
from layerscope.jupyter._guarding import guard
from layerscope.jupyter._history import History, Scene
from layerscope.jupyter._keeping import Keeper, open_kept
from layerscope.jupyter._known import Known
from layerscope.jupyter._measuring import Measurement, Question
from layerscope.jupyter._origin import differing
from layerscope.jupyter._progress import progress
from layerscope.jupyter._saving import Saver
from layerscope.jupyter._showing import Showing
from layerscope.jupyter._source import Source, resolve, script
from layerscope.jupyter._texts import Texts, is_text
from layerscope.jupyter._worker import Worker
from layerscope.results import FULL_MODEL

__all__ = ["LayerExplorer"]


class LayerExplorer(Showing, Choosing, widgets.VBox):  # type: ignore[misc]
    """A trained network as a strip of layers: click one, and see what is lost without it.

    Parameters
    ----------
    source : path, Series, Dataset or nn.Module
        The folder of a run that layerscope trained; a Dataset, which is shown as it is; or a
        network, with `data`, and `checkpoints` where there are any. The network is copied and
        never touched.
    data : pair of tensors, Examples, TextData, iterable of batches, or mapping of these, optional
        By default the test part of what a run was trained on. Of a text its test part; what its
        tokens say is shown in place of their numbers. Of a mapping of several data sets one is
        measured at a time, which a selector chooses; what is done to the layers stays.
    checkpoints : Series, mapping or folder, optional
    dataset : Dataset or path, optional
        A sweep of this network; colours the strip. Computed on demand otherwise.
    data_root : path, optional
        Folder with the data sets.
    tokenizer : Tokenizer, path or object, optional
        Says what tokens are, in texts and prompts: transformers', that of the package tokenizers,
        or any with ``encode`` and ``decode``; or the folder of one. By default that of a text, of
        a run, or of the folder that the network was loaded from. Else tokens are numbers.
    metric : str, optional
        What the strip and the heat map show; by default the error, or the first there is.
    view, norms, metrics, batch_size, device, dtype, seed, fresh, output
        As for `layerscope.sweep`. A smaller batch gives a first estimate sooner;
        ``dtype="bfloat16"`` answers faster, and no longer to the last bit, where the device
        multiplies such numbers.
    perturbations : sequence of str, Perturbation or function, optional
        As for `layerscope.sweep`. All of them can be clicked, and those that need no arguments.
    **sweep
        Whatever else `layerscope.sweep` takes, such as ``draws=10``, ``epochs=[0, 5]`` or
        ``decide=True``, for the sweep that the button starts.

    Attributes
    ----------
    state : dict
        What is done to each row, as `layerscope.session` takes it; can be set.
    task : str or None
        Which of several data sets is measured; can be set.
    dataset : Dataset or None
        What was swept of it, and the scenarios that were kept.
    estimate : Estimate or None
        What is known of the present state.
    texts : object
        Of a language model: ``texts.prompt`` and ``texts.said``, widgets with a prompt and what
        it is continued by.

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
    _backend: Backend | None = None
    _closed_layers: Sequence[Layer] = ()
    controls: Controls = None  # type: ignore[assignment]
    texts: Texts = None  # type: ignore[assignment]

    def __init__(
        self,
        source: Any,
        data: Any = None,
        checkpoints: Any = None,
        *,
        dataset: xr.Dataset | str | os.PathLike[str] | None = None,
        data_root: str | os.PathLike[str] | None = None,
        tokenizer: Any = None,
        metric: str | None = None,
        view: str = "leaf",
        norms: Norms | str | Mapping[str, str] = "own",
        perturbations: Sequence[perturb.PerturbationLike] | None = None,
        metrics: Sequence[str | Metric] | None = None,
        batch_size: int = 1000,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype | None = None,
        seed: int = 0,
        fresh: Callable[[], nn.Module] | None = None,
        output: OutputSpec = None,
        **sweep: Any,
    ) -> None:
        options = dict[str, Any](norms=norms, metrics=metrics, batch_size=batch_size, device=device)
        options |= {"dtype": dtype, "seed": seed, "fresh": fresh, "output": output}
        more = {"perturbations": perturbations, **sweep_only(sweep)}
        given = source, data, checkpoints, dataset, data_root, tokenizer, view, metric
        self._source = source_ = resolve(*given)
        kept = functools.partial(open_kept, source_.folder)
        self._known = Known(source_.dataset, source_.tasks(metrics), metric, metrics, kept)
        view = view if source_.model is not None else self._known.first_view or view
        if source_.model is not None:
            self._backend = Backend(source_, options, more)
            self._tools = tools.of_network(source_.series, perturbations)
        else:
            self._tools = tools.of_dataset(rows.require(source_.dataset))
        self._history = History(Scene(view))
        self.controls = self._make_controls()
        self._keeper = Keeper(self.controls.kept, self._known, source_.folder, self._go)
        texts = self._backend is not None and is_text(self._backend.session)
        self._display = Display(self.controls, source_.tokenizer, texts)
        self.texts = Texts(source_.tokenizer, texts)
        self._measurement = Measurement(self._display, self.texts)
        self._worker, self._saver = Worker(self._display.fail), Saver(self.controls.saved)
        super().__init__(self.controls.rows(self.texts.box), _dom_classes=("ls-explorer",))
        self._wire()
        self._display.say("Click a layer; arrow keys and Enter do the same.")
        damage.show(source_.series, self._display, self.controls)
        self._offer_sweeps()
        self._refresh()
        self._worker.start(lambda _: self._look_over(source_))
        supersede(self)

    def _look_over(self, source: Source) -> None:
        """Show which files are not those that were recorded, or swept."""
        self._display.doubt("error", differing(source))
        if source.series is not None and source.series.damaged != self._display.damaged:
            damage.show(source.series, self._display, self.controls)
            self._draw()

    def _make_controls(self) -> Controls:
        source, backend = self._source, self._backend
        epochs = backend.session.epochs if backend else rows.epochs_of(source.dataset)
        unit = source.series.unit if source.series else "epoch"
        device = str(backend.session.device) if backend else ""
        buttons = [(tools.button(tool.about), name) for name, tool in self._tools.items()]
        return Controls(epochs, unit, buttons, device, backend is not None, self._known.tasks)

    # What others may use.

    @property
    def state(self) -> dict[str, str | tuple[str, int]]:
        """Present change of each row."""
        return {row: change.plain for row, change in self._history.now.state.items()}

    @state.setter
    def state(self, state: Mapping[str, Any]) -> None:
        parsed = tools.parse(state, tools.objects(self._changes()))
        self._go(Scene(self._history.now.view, parsed))

    @property
    def task(self) -> str | None:
        """Name of the data set that is measured, where there are several; can be set."""
        return self._known.task

    @task.setter
    def task(self, task: str) -> None:
        self.controls.task.value = choose(task, self._known.tasks, "task")

    @property
    def estimate(self) -> Estimate | None:
        """Estimate of the present state; None before the first batch."""
        return self._measurement.estimate

    @property
    def layers(self) -> list[str]:
        """Names of the rows of the present view, in execution order."""
        return self._names()

    @property
    def dataset(self) -> xr.Dataset | None:
        """Dataset swept of this task in this view, with the scenarios kept; None without any."""
        return self._known.dataset(self._history.now.view)

    @property
    def code(self) -> str:
        """Python that measures the present state again."""
        scene = self._history.now
        given = self._backend.script(self._known.task) if self._backend else {}
        return script(self._source, given, tools.plain(scene.state), scene.view)

    def sweep(self, again: bool = False) -> None:
        """Fill the heat map of the present view in the background, or do it again."""
        if again or self._swept() is None:
            self._sweep()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until everything that was asked is answered; whether it was in time (seconds)."""
        return self._worker.wait(timeout) and self._saver.wait(timeout)

    def close(self) -> None:
        """End the thread, free network and memory, and take the explorer off the page.

        What was swept and kept stays in `dataset`. A cell that is run again closes what it made.
        """
        if self._worker is not None:
            self._worker.close()
            self._saver.wait()
            self._free()
            close_parts(self, *self.controls.parts(), *self.texts.parts())
        elif self._backend is not None:
            self._backend.close()
        super().close()

    def _free(self) -> None:
        """Let go of network, checkpoints and data; the closed explorer itself may stay."""
        if self._backend is not None:
            self._closed_layers = self._layers()
            self._backend.close()
            self._backend = None
        self._source = replace(self._source, model=None, data=None, series=None)

    # What is pressed.

    def _wire(self) -> None:
        parts = self.controls
        parts.strip.on_pick(self._on_strip)
        parts.grid.on_pick(self._on_cell)
        parts.kept.on_pick(self._on_kept)
        for button, pressed in [
            (parts.undo, lambda: self._back(self._history.undo)),
            (parts.redo, lambda: self._back(self._history.redo)),
            (parts.start, self._sweep),
            (parts.cancel, self._worker.cancel),
            (parts.keep, lambda: self.keep(self.controls.name.value)),
            (parts.copy, self._show_code),
            (self.texts.go, self._continue),
            (parts.save, self._save_figure),
            (parts.export, self._save_page),
            (parts.store, self._save_dataset),
        ]:
            button.on_click(lambda _, pressed=pressed: self._do(pressed))
        self._watch()
        for part, changed in [
            (parts.epoch, self._on_tool),
            (parts.kind, self._on_tool),
            (parts.preset, self._on_preset),
            (parts.view, self._on_view),
            (parts.task, self._on_task),
            (parts.device, self._on_device),
            (parts.colour, self._draw),
            (parts.swept, self._on_sweep),
        ]:
            part.observe(lambda _, changed=changed: self._do(changed), "value")

    @guard
    def _do(self, action: Callable[[], object]) -> None:
        action()

    @guard
    def _on_strip(self, picked: dict[str, Any]) -> None:
        name, scene, strip = str(picked["name"]), self._history.now, self.controls.strip
        if picked["kind"] == "select":
            strip.selected = [r for r in self._names() if r in {*strip.selected} ^ {name}]
            return
        chosen = [name]
        if picked["kind"] == "range" and strip.selected:
            names = self._names()
            ends = sorted((names.index(strip.selected[-1]), names.index(name)))
            chosen = names[ends[0] : ends[1] + 1]
        strip.selected = chosen
        clear = picked["kind"] == "clear" or (picked["kind"] == "toggle" and name in scene.state)
        self._set(scene.having(dict.fromkeys(chosen, None if clear else self._tool())))

    @guard
    def _on_cell(self, picked: dict[str, Any]) -> None:
        row, column, ds = str(picked["row"]), str(picked["column"]), rows.require(self._swept())
        change = damage.change_at(ds, column, self._display.damaged)
        change = change or drawing.change_of(ds, self._known.metric, column)
        known = self._tools.get(change.perturbation, change)
        change = replace(change, kind=known.kind)
        chosen = self._names() if row == FULL_MODEL else [row]
        self._go(Scene(self._history.now.view, dict.fromkeys(chosen, change)))

    @guard
    def _on_kept(self, picked: dict[str, Any]) -> None:
        if said := self._keeper.pick(picked, self._changes(), self._history.now):
            self._display.say(said)

    def _on_tool(self) -> None:
        chosen = [] if self.controls.offering else self.controls.strip.selected
        # Those that are changed already; if none is, the slider still does something.
        changed = [row for row in chosen if row in self._history.now.state] or list(chosen)
        if changed:
            self._set(self._history.now.having(dict.fromkeys(changed, self._tool())))

    def _back(self, move: Callable[[], Scene]) -> None:
        move()
        self._refresh()

    def keep(self, name: str) -> None:
        """Keep the present state under a name, as a scenario in `dataset`."""
        self._display.say(self._keeper.keep(name, self._history.now, self.estimate))

    def _show_code(self) -> None:
        self.controls.code.text = self.code

    # What is shown.

    def _go(self, scene: Scene) -> None:
        """Show another state, with the rows that it changes selected."""
        self._history.add(scene)
        self.controls.strip.selected = [row for row in self._names() if row in scene.state]
        self._refresh()

    def _set(self, scene: Scene, note: str = "") -> None:
        self._history.add(scene)
        self._refresh(note)

    def _refresh(self, note: str = "") -> None:
        """Show the present scene and ask about it; a note is said with the answer."""
        backend = self._backend
        about = f"{backend.session.data.count:,} examples" if backend else "from a Dataset"
        about = about if self.task is None else f"task {self.task}"  # which may not be open yet
        self._display.frame(self._history, self._layers(), self._source.name, about)
        self._follow()
        self._draw()
        self._ask(note)

    def _draw(self) -> None:
        with self._display.drawing:
            scene, layers = self._history.now, self._layers()
            self._display.draw(scene, layers, self._swept(), self._known.metric)
            self._keeper.draw(scene)

    # Who is asked.

    def _ask(self, note: str = "") -> None:
        if self._backend is not None:
            asked = Question(self._history.now, self._known.task, self._known.metric, note)
            self._worker.ask(self._measurement.ask(self._backend, asked))

    def _continue(self) -> None:
        """Continue the prompt; after what is still being asked."""
        backend, scene = self._backend, self._history.now
        if backend is None or self.estimate is None or not self.estimate.final:
            self._ask()
        else:
            self._worker.ask(lambda: self.texts.continuations(backend.session, scene))

    def _sweep(self) -> None:
        if self._backend is None:
            raise OptionError("a Dataset alone can't be swept; give the network, too.")
        self.controls.start.disabled, self.controls.cancel.disabled = True, False
        what = self._known.task, self._history.now.view
        self._worker.start(functools.partial(self._sweep_in_background, self._backend, *what))

    def _sweep_in_background(
        self, backend: Backend, task: str | None, view: str, between: Callable[[], None]
    ) -> None:
        shown: list[xr.Dataset] = []

        def show(ds: xr.Dataset) -> None:
            if self._take_sweep(ds, first=not shown):
                self._known.put(task, view, ds)
            shown[:] = [ds]
            with suppress(LayerscopeError):  # nothing is known yet
                self._draw()

        steps = functools.partial(backend.steps, view)
        with progress(self.controls, steps, between, self._display.stopped) as count:
            if notices := backend.sweep(task, view, show, count):
                self._display.say(notices)

    # What there is.

    def _layers(self) -> Sequence[Layer]:
        if self._backend is None:
            return self._closed_layers or rows.layers_of(self._source.dataset)
        return self._backend.layers(self._history.now.view)

    def _swept(self) -> xr.Dataset | None:
        return self._known.swept(self._history.now.view)

    def _title(self) -> str:
        return ", ".join(filter(None, (self._source.name, self._known.task)))

    def _names(self) -> list[str]:
        return [layer.name for layer in self._layers()]

    def _changes(self) -> list[Change]:
        return [*self._tools.values(), *self._history.now.state.values()]

    def _tool(self) -> Change:
        return tools.at(self._tools[self.controls.kind.value], int(self.controls.epoch.value))
