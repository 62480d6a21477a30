"""Sweeps over several data sets, or over several trained networks of one series: an outer loop.

Each part is an ordinary sweep with a folder of its own below ``out``, so that a part which was
finished is never computed again; what they gave is joined along the new dimensions.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import xarray as xr

from layerscope import results
from layerscope.base import progress
from layerscope.base.validate import integers
from layerscope.core.checkpoints import Series
from layerscope.core.perturb import Perturbation
from layerscope.core.sweep._single import Show, SingleSweep
from layerscope.core.sweep._store import DATASET, IDENTITY, FinishedElsewhere, Store, digest
from layerscope.errors import LayerscopeError, OptionError
from layerscope.results import Place

__all__ = ["OuterSweep", "folder_of", "naming", "trained_epochs"]


class OuterSweep:
    """Ordinary sweeps at places in the outer dimensions, one after the other.

    Parameters
    ----------
    parts : sequence of (place, SingleSweep)
    folder : Path, optional
        Where the joined Dataset is kept.
    call : mapping
        The call that it is, in plain values.
    """

    def __init__(
        self,
        parts: Sequence[tuple[Place, SingleSweep]],
        *,
        folder: Path | None,
        call: Mapping[str, Any],
    ) -> None:
        self._parts, self._call = parts, dict(call)
        if folder is None or not (folder / DATASET).is_file():
            for place, part in parts:
                # The last of them may be reached after days.
                with naming(place):
                    part.rehearse()
        self._identity = _identity(parts)
        self._store = Store(folder, self._identity) if folder is not None else None
        for _, part in parts:
            # Not before: the folder may be another sweep's.
            part.open()

    def run(
        self,
        callback: Show | None = None,
        between: Callable[[], object] | None = None,
        *,
        show_progress: bool = True,
    ) -> xr.Dataset:
        """Run the parts that are not done yet; the arguments are those of `layerscope.sweep`."""
        store = self._store
        if store is not None and (finished := store.finished()) is not None:
            return finished
        done: list[tuple[Place, xr.Dataset]] = []
        total = sum(part.size for _, part in self._parts)
        with progress.joint(total, "sweep", "example", show=show_progress) as bar:
            for place, part in self._parts:
                with bar.share(part.size):
                    show = self._showing(callback, done, place)
                    ds = part.run(show, between, show_progress=show_progress)
                    done.append((place, ds))
                if store is not None and len(done) < len(self._parts):
                    store.show(self._joined(done))
        ds = self._joined(done)
        try:
            if store is not None:
                store.finish(ds)
        except FinishedElsewhere:
            return cast("xr.Dataset", store.finished()) if store is not None else ds
        return ds

    def _showing(
        self, callback: Show | None, done: Sequence[tuple[Place, xr.Dataset]], place: Place
    ) -> Show | None:
        """Show a part beside those before it."""
        if callback is None:
            return None
        return lambda known: callback(self._joined([*done, (place, known)]))

    def _joined(self, known: Sequence[tuple[Place, xr.Dataset]]) -> xr.Dataset:
        ds = results.join(known)
        ds.attrs |= {IDENTITY: digest(self._identity), "call": json.dumps(self._call)}
        return ds


def trained_epochs(
    series: Series,
    wanted: Sequence[int] | None,
    epochs: Sequence[int] | None,
    perturbations: Sequence[Perturbation],
) -> list[int | None]:
    """Check which checkpoints are to count as the trained network, one after the other.

    Returns
    -------
    list of int or None
        None where nothing was asked for: then it is the last one.

    Raises
    ------
    CheckpointError
        If one was not recorded.
    OptionError
        If none is named, or there is nothing to set it back to.
    """
    if wanted is None:
        return [None]
    known = sorted(set(integers(wanted, "model_epochs")))
    if not known:
        raise OptionError("model_epochs is empty; leave it out to take the last epoch as trained.")
    series.require(known)
    if epochs is None or not any(each.uses_checkpoint for each in perturbations):
        return list(known)
    if early := [each for each in known if each < min(integers(epochs, "epochs"))]:
        raise OptionError(
            f"the network of {series.unit} {early[0]} can't be set back to any of "
            f"epochs={list(epochs)}, which all come after it; add an earlier one, such as "
            f"{series.epochs[0]}."
        )
    return list(known)


@contextmanager
def naming(place: Place) -> Iterator[None]:
    """Let an error say in which task it arose."""
    try:
        yield
    except LayerscopeError as error:
        if "task" not in place:
            raise
        raise type(error)(f"task {place['task']!r}: {error}") from error


def folder_of(folder: Path | None, place: Place) -> Path | None:
    """Name the folder of one part, below that of the whole.

    >>> folder_of(Path("out"), {"task": "news", "model_epoch": 8}).as_posix()
    'out/task-news/model_epoch-8'
    """
    if folder is None:
        return None
    return folder.joinpath(*(f"{dim}-{_file_name(str(value))}" for dim, value in place.items()))


def _file_name(name: str) -> str:
    plain = re.sub(r"[^\w.+-]+", "_", name)[:60]
    # Two names may become the same.
    return plain if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _identity(parts: Sequence[tuple[Place, SingleSweep]]) -> dict[str, Any]:
    """Describe all parts: what they have in common, and what each has of its own."""
    each = {results.words(place): part.identity for place, part in parts}
    first, *others = each.values()
    common = {k: v for k, v in first.items() if all(o.get(k) == v for o in others)}
    own = {at: {k: v for k, v in told.items() if k not in common} for at, told in each.items()}
    # What every example gave is kept with the parts.
    kept = {"outcomes_of_parts": common.pop("outcomes", False)}
    return common | kept | {"parts": {at: digest(told) for at, told in own.items()}}
