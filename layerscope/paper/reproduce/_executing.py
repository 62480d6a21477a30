"""A notebook executed, with its own progress shown while it runs."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from layerscope.base import notebooks, progress, validate
from layerscope.base.extras import extra
from layerscope.base.writing import failures, write_bytes, write_error
from layerscope.errors import LayerscopeError
from layerscope.paper import experiments
from layerscope.zoo import data

__all__ = ["PURPOSE", "NotebookError", "environment", "execute", "failed", "reporting"]

PURPOSE = "running the paper's experiments"


class NotebookError(LayerscopeError):
    """A cell of a notebook failed."""


@contextmanager
def environment(
    root: Path, data_root: str | os.PathLike[str] | None, more: Mapping[str, str]
) -> Iterator[None]:
    """Tell the kernel where things are on this machine without writing it into the notebook."""
    values = {
        **more,
        experiments.SERIES_VARIABLE: str(validate.resolve(root / "series")),
        "LAYERSCOPE_STILL": "1",
        # Kernels of Jupyter warn about it at every start, on standard error.
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }
    if data_root is not None:
        values[data.ROOT_VARIABLE] = str(validate.resolve(validate.expand(data_root)))
    before = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


def execute(source: Path, draft: Path, values: Mapping[str, Any], folder: Path) -> None:
    """Execute a notebook in a folder, with those of the values that it declares.

    Raises
    ------
    NotebookError
        If a cell fails; the notebook up to there is kept beside `folder`.
    """
    with extra("paper", PURPOSE):
        import papermill

    declared = notebooks.parameters(source)
    given = {key: value for key, value in values.items() if key in declared}
    target = draft / source.name
    try:
        papermill.execute_notebook(
            str(source),
            str(target),
            given,
            cwd=str(draft),
            progress_bar=False,
            # Kernels of recent versions warn at every start that loopback is not encrypted.
            extra_arguments=["--Application.log_level=40"],
            # Also of notebooks that do not say so themselves.
            kernel_name="python3",
            language="python",
        )
    except OSError as error:
        raise write_error(error.filename or target, error) from None
    except papermill.PapermillExecutionError as error:
        kept = failed(folder)
        with failures(kept):
            target.replace(kept)
        last = error.evalue.splitlines()[0] if error.evalue else ""
        raise NotebookError(
            f"cell {error.exec_count} of {source.name} failed: {error.ename}: {last} "
            f"(the notebook up to there is {kept})"
        ) from None
    _clean(target, set(given) == set(declared))


def failed(folder: Path) -> Path:
    """Name the notebook that is kept where a cell of it fails."""
    return folder.with_name(f"{folder.name}.failed.ipynb")


_FOLDED = ("parameters", "injected-parameters", "bookkeeping")
"""Tags of cells whose code is out of sight in an executed notebook, and a click away."""


def _clean(path: Path, all_given: bool) -> None:
    """Take out of an executed notebook what tells of this machine or this minute.

    What a reader does not look for is put out of sight: the code of parameters and of what is kept
    is folded, for JupyterLab and for MyST-NB, and left out are the declaration of scales, and the
    defaults of parameters where they were all given.
    """
    with extra("paper", PURPOSE):
        import nbformat

    book = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    book.metadata.pop("papermill", None)
    book.metadata.pop("widgets", None)
    given = any("injected-parameters" in cell.metadata.get("tags", ()) for cell in book.cells)
    hidden = {notebooks.SCALES, *(["parameters"] if given and all_given else [])}
    shown = [cell for cell in book.cells if not hidden & set(cell.metadata.get("tags", ()))]
    book.cells = shown
    for cell in shown:
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        tags = cell.metadata.get("tags", [])
        if set(tags) & set(_FOLDED):
            cell.metadata["jupyter"] = {"source_hidden": True}
            cell.metadata["tags"] = [*tags, "hide-input"]
    # Not by nbformat, nor as papermill left it: the run is put in place, and must last.
    write_bytes(path, f"{nbformat.writes(book)}\n".encode())  # type: ignore[no-untyped-call]


@contextmanager
def reporting(what: str, draft: Path, show: bool) -> Iterator[None]:
    """Show what the notebook's own progress bars say while it runs."""
    relay = draft / "progress.tmp.json"
    os.environ[progress.RELAY] = str(relay.resolve())
    over = threading.Event()
    watcher = threading.Thread(target=_watch, args=(what, relay, over), daemon=True)
    try:
        if show:
            watcher.start()
        yield
    finally:
        over.set()
        if show:
            watcher.join()
        os.environ.pop(progress.RELAY, None)
        with suppress(OSError):  # it goes with the draft's folder
            relay.unlink()


def _watch(what: str, relay: Path, over: threading.Event) -> None:
    from rich.console import Console

    console = Console(stderr=True)
    began, said, told = time.monotonic(), "", 0.0
    with console.status(f"{what}: starting") as status:
        while not over.wait(0.25):
            line = progress.read_relay(relay)
            spent = time.monotonic() - began
            status.update(f"{what}, {spent:.0f} s: {line or 'starting'}")
            # Where there is no terminal to redraw a line in, a line now and then.
            if not console.is_terminal and line != said and spent - told > 20:
                console.print(f"{what}, {spent:.0f} s: {line}", highlight=False)
                said, told = line, spent
