"""Source of the explorer, in any of the forms in which a user may hold it."""

from __future__ import annotations

import copy
import os
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import xarray as xr
from torch import nn

from layerscope import results
from layerscope.core import checkpoints as checkpoints_
from layerscope.core.checkpoints import Series
from layerscope.core.metrics import Metric
from layerscope.core.networks import is_network, open_network, open_tokenizer
from layerscope.core.sweep import tasks_of
from layerscope.errors import CheckpointError, ExtraError, OptionError
from layerscope.jupyter._reader import TokenReader, find_reader, reader_of
from layerscope.jupyter._sweeps import find_sweeps, first_of
from layerscope.report import argument
from layerscope.zoo import data as data_, models, training
from layerscope.zoo.data import TextData, Tokenizer

__all__ = ["Source", "resolve", "script"]


@dataclass
class Source:
    """A network with data and checkpoints, what was swept of it, or both.

    Attributes
    ----------
    model : nn.Module or None
        Nobody else's: it may be lent for as long as the explorer is open.
    data, series
        As for a sweep; None without a network.
    dataset : Dataset or None
    name : str
        What to call it.
    code : str
        Python that gives those of ``model``, ``data`` and ``checkpoints`` that are not the user's.
    tokenizer : TokenReader or None
        Of a text: what its tokens say.
    folder : Path or None
        That of a run, beside whose checkpoints states are kept.
    sweeps : dict of str to Dataset
        What lies in the run besides, by what tells one from the other; empty where there is one.
    unshown : str
        Which sweeps of the run can't be shown, and why.
    """

    model: nn.Module | None
    data: Any
    series: Series | None
    dataset: xr.Dataset | None
    name: str
    code: str = ""
    tokenizer: TokenReader | None = None
    folder: Path | None = None
    sweeps: dict[str, xr.Dataset] = field(default_factory=dict)
    unshown: str = ""

    def tasks(self, measured: Sequence[str | Metric] | None) -> dict[str, Any]:
        """Name the data sets where there are several; empty where there is one, or no network."""
        return {} if self.model is None else tasks_of(self.model, self.data, measured) or {}


def script(source: Source, options: Mapping[str, Any], state: Mapping[str, Any], view: str) -> str:
    """Write Python that measures a state in a session of its own.

    Parameters
    ----------
    source : Source
    options : mapping
        Arguments of the session that are not at their defaults, in plain values.
    state : mapping
        Likewise.
    view : str
    """
    where = {"state": state} | ({} if view == "leaf" else {"view": view})
    call = [argument(name, value) for name, value in where.items()]
    past = source.series is None or bool(source.series.epochs)
    names = ["model", "data", *(["checkpoints"] if past else [])]
    return "\n".join(
        [
            "import layerscope",
            "",
            *_given(source, names),
            "with layerscope.Session(",
            "    model,",
            "    data,",
            *(["    checkpoints=checkpoints,"] if past else []),
            *(argument(name, value) for name, value in options.items()),
            ") as session:",
            "    estimate = session.measure(",
            textwrap.indent("\n".join(call), "    "),
            "    )",
        ]
    )


def _given(source: Source, names: list[str]) -> list[str]:
    """Write what gives the network, its data and checkpoints, as far as that is known."""
    code = source.code.rstrip()
    unsaid = [name for name in names if f"{name} = " not in code]
    said = f"# {', '.join(unsaid)}: as {'it was' if len(unsaid) == 1 else 'they were'} given"
    return [*([code] if code else []), *([said] if unsaid else [])]


def resolve(
    source: Any,
    data: Any = None,
    checkpoints: Any = None,
    dataset: xr.Dataset | str | os.PathLike[str] | None = None,
    data_root: str | os.PathLike[str] | None = None,
    tokenizer: Any = None,
    view: str = "leaf",
    metric: str | Metric | None = None,
) -> Source:
    """Find network, data, checkpoints and results of what the user gave.

    Of several sweeps of a run the first of `view` that has `metric` is the one to begin with.

    Raises
    ------
    OptionError
        If it is nothing of that kind, or something is missing.
    """
    if tokenizer is None:
        texts = data.values() if isinstance(data, Mapping) else [data]
        tokenizer = next((each.tokenizer for each in texts if isinstance(each, TextData)), None)
    tokenizer = reader_of(tokenizer)
    data = _tested(data)
    known = results.open_dataset(dataset) if isinstance(dataset, (str, os.PathLike)) else dataset
    if isinstance(source, xr.Dataset) or str(source).endswith(".nc"):
        if not isinstance(source, xr.Dataset):
            source = results.open_dataset(source)
        results.require(source, "layer", "epoch", "perturbation", "draw", "metric")
        about = results.settings(source).get("network")
        kind = about.get("class", "") if isinstance(about, dict) else ""
        return Source(None, None, None, source, _short(kind) or "Dataset")
    if data is not None and is_network(source):
        reader = tokenizer or _tokenizer_of(source)
        code = f"model = layerscope.open_network({os.fspath(source)!r})\n"
        name, source = os.fspath(source).rstrip("/").rpartition("/")[2], open_network(source)
        made = resolve(source, data, checkpoints, known, tokenizer=reader)
        return replace(made, name=name, code=code)
    if isinstance(source, nn.Module):
        if data is None:
            raise OptionError(
                "a network came alone; pass LayerExplorer(network, data), and checkpoints if any."
            )
        model, name = _own(source), type(source).__name__
        series = Series.of(model) if checkpoints is None else _series(checkpoints)
        found = tokenizer or find_reader(source)
        return Source(model, data, series, known, name, tokenizer=found)
    if isinstance(source, (str, os.PathLike, Series)):
        return _of_run(_series(source), data, known, data_root, tokenizer, (view, metric))
    raise OptionError(
        f"a {type(source).__name__} can't be explored; give the folder of a run, a Dataset, or "
        "network, data and checkpoints."
    )


def _series(checkpoints: Any) -> Series:
    """Open checkpoints; of damaged ones those that are sound can be asked about all the same."""
    return checkpoints_.open_series(checkpoints, damaged="leave out")


def _tested(data: Any) -> Any:
    """Take the test part of texts, alone or among several data sets."""
    if type(data) is dict:
        return {name: _tested(each) for name, each in data.items()}
    # Session and sweep both run through it.
    data = list(data) if isinstance(data, Iterator) else data
    return data.test if isinstance(data, TextData) else data


def _tokenizer_of(source: Any) -> TokenReader | None:
    with suppress(CheckpointError, ExtraError):  # without one, numbers are shown
        return reader_of(open_tokenizer(source))
    return None


def _of_run(
    series: Series,
    data: Any,
    dataset: xr.Dataset | None,
    root: Any,
    tokenizer: TokenReader | None,
    first: tuple[str, str | Metric | None],
) -> Source:
    model = models.rebuild(series)
    name = _short(series.folder.name if series.folder else type(model).__name__)
    torn = ', damaged="leave out"' if series.damaged else ""
    code = f"checkpoints = layerscope.open_series({str(series.folder)!r}{torn})\n"
    code += "model = layerscope.models.rebuild(checkpoints)\n"
    kept = Path(series.folder) / training.TOKENIZER if series.folder else None
    # The network knows the tokens that it was trained on, whatever the text would give today.
    same: dict[str, Any] = {"tokenizer": str(kept)} if kept and kept.is_file() else {}
    if same and tokenizer is None:
        tokenizer = reader_of(Tokenizer.load(same["tokenizer"]))
    if data is None:
        kind = series.data_name
        if kind is None:
            raise CheckpointError("the run does not say what it was trained on; pass data=.")
        data = data_.load(kind, root, **same).test
        place = {} if root is None else {"root": str(root)}
        more = "".join(f", {option}={value!r}" for option, value in (place | same).items())
        code += f"data = layerscope.load_data({kind!r}{more}).test\n"
    made = Source(model, data, series, dataset, name, code, tokenizer)
    if series.folder is None:
        return replace(made, code="")
    folder = Path(series.folder)
    swept, broken = find_sweeps(folder, isinstance(data, Mapping))
    if dataset is None:
        dataset = swept.get(first_of(swept, *first) or "")
    elif swept:
        swept = {"as it was given": dataset, **swept}
    unshown = f"Sweeps that can't be shown: {'; '.join(broken)}." if broken else ""
    return replace(made, dataset=dataset, folder=folder, sweeps=swept, unshown=unshown)


def _own(model: nn.Module) -> nn.Module:
    """Copy a network, so that its owner may go on with it while the explorer is open."""
    try:
        return copy.deepcopy(model)
    except RuntimeError as error:
        raise OptionError(
            f"this {type(model).__name__} can't be copied ({error}); call it once under "
            "torch.no_grad(), or pass the folder of its run."
        ) from None


def _short(name: str) -> str:
    return str(name).rpartition(".")[2]
