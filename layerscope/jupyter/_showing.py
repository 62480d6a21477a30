"""Parts of the explorer that outlive its kernel: its output in a notebook, and its own page."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import xarray as xr

from layerscope import plots, results
from layerscope.base import writing
from layerscope.core.session import Estimate
from layerscope.errors import OptionError
from layerscope.jupyter import _rows as rows, _words as words
from layerscope.jupyter._backend import Backend
from layerscope.jupyter._controls import Controls
from layerscope.jupyter._display import Display
from layerscope.jupyter._figure import Look, of_state
from layerscope.jupyter._history import History
from layerscope.jupyter._known import Known
from layerscope.jupyter._page import page
from layerscope.jupyter._saving import Saver
from layerscope.jupyter._still import bundle, still

__all__ = ["Showing"]


class Showing:
    """Part of the explorer that shows its present state where no kernel runs."""

    controls: Controls
    _history: History
    _known: Known
    _saver: Saver
    _display: Display
    _backend: Backend | None
    _shown_as: str | None = None

    if TYPE_CHECKING:

        @property
        def estimate(self) -> Estimate | None: ...
        @property
        def code(self) -> str: ...
        @property
        def dataset(self) -> xr.Dataset | None: ...
        def _title(self) -> str: ...
        def _swept(self) -> xr.Dataset | None: ...

    def save_figure(self, path: str | os.PathLike[str], width: float | str | None = None) -> None:
        """Write the present state as one figure: the strip, the numbers, the heat map if swept.

        `path` and `width` are as for `layerscope.plots.save`.
        """
        self._figure(width)(Path(path))

    def _figure(self, width: float | str | None = None) -> Callable[[Path], object]:
        """Take down what is shown; return what draws that into a file, later as well."""
        if self._backend is not None and self.estimate is None:
            raise OptionError("this state is not measured yet; wait until examples were seen.")
        strip = self.controls.strip
        shown = self._title(), self._history.now, Look(strip.blocks, strip.legend), self.estimate
        given = *shown, self._swept(), self._known.metric
        more: dict[str, Any] = {
            "by": str(self.controls.colour.value),
            "kept": self.controls.kept.rows,
            "note": self._display.note,
        }
        return lambda path: plots.save(of_state(*given, **more), path, width=width)

    def _save_figure(self) -> None:
        self._saver.save(self._path(), self._figure())

    def _save_page(self) -> None:
        content = self._page()
        self._saver.save(
            self._path().with_suffix(".html"),
            lambda path: writing.write_bytes(path, content.encode()),
        )

    def _save_dataset(self) -> None:
        if (ds := self.dataset) is None:
            raise OptionError("there is no Dataset yet; press Sweep, or keep a state.")
        self._saver.save(self._path().with_suffix(".nc"), lambda path: results.save(ds, path))

    def _path(self) -> Path:
        return Path(str(self.controls.path.value))

    def export_page(self, path: str | os.PathLike[str]) -> Path:
        """Write the present state as one HTML page that needs neither a kernel nor a network.

        The strip, the numbers, the heat map, and the states that were kept; a click on a layer or a
        cell that was swept says what was measured there.

        Parameters
        ----------
        path : path
            Ends in ``.html``; a file that is there is replaced.

        Returns
        -------
        Path

        Raises
        ------
        OptionError
            If the path ends in something else.
        OutputError
            If it can't be written.

        Examples
        --------
        >>> explorer.export_page("layers.html")                             # doctest: +SKIP
        """
        target = Path(path)
        if target.suffix.lower() not in (".html", ".htm"):
            raise OptionError(
                f"a page is HTML; got {target.name!r}, give a name such as page.html."
            )
        return writing.write_bytes(target, self._page().encode())

    def _page(self) -> str:
        parts = self.controls
        return page(
            *self._heading(), parts.strip, parts.grid, self._readings(), self.code, self.dataset,
            self._still(),
        )  # fmt: skip

    def _heading(self) -> tuple[str, str, str]:
        estimate = self.estimate
        seen = words.coverage(estimate) if estimate else self._display.wrong
        return self._title(), rows.name(self._history.now), seen

    def _readings(self) -> list[words.Reading]:
        return words.readings(self.estimate) if self.estimate else []

    def _still(self) -> str:
        state = {row: change.words for row, change in self._history.now.state.items()}
        return still(*self._heading(), state, self._readings(), self.controls.grid)

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        """Give Jupyter the live explorer, and a still page for where there is no kernel."""
        live = super()._repr_mimebundle_(**kwargs)  # type: ignore[misc]
        return bundle(live, self._still())

    def _ipython_display_(self, **kwargs: Any) -> None:
        """Show the live explorer, and below it, where it is not seen, a page that is kept up.

        What a notebook saves of a widget is what it was when it was shown; another output can be
        replaced without drawing the widget anew.
        """
        from IPython.display import display

        live = super()._repr_mimebundle_(**kwargs)  # type: ignore[misc]
        first = live[0] if isinstance(live, tuple) else live
        display({**(first or {}), "text/html": ""}, raw=True)  # type: ignore[no-untyped-call]
        self._shown_as = uuid4().hex
        display(self._output(), raw=True, display_id=self._shown_as)  # type: ignore[no-untyped-call]

    def _output(self) -> dict[str, str]:
        return {"text/html": self._still(), "text/plain": ": ".join(self._heading()[:2])}

    def _watch(self) -> None:
        """Keep the page below the explorer up to date, whenever an answer or a sweep is whole."""

        def renew(change: dict[str, Any]) -> None:
            if self._shown_as is None:
                return
            value = change["new"]
            if isinstance(value, str) and 'data-final="true"' not in value:
                return
            from IPython.display import update_display

            update_display(self._output(), raw=True, display_id=self._shown_as)  # type: ignore[no-untyped-call]

        self.controls.cards.observe(renew, "value")
        self.controls.grid.observe(renew, "marked")
        self.controls.start.observe(renew, "disabled")
