"""From a finding to a file: a network without the blocks that a sweep found dispensable.

>>> import layerscope
>>> ds = layerscope.sweep(net, data, layers=layerscope.layers.ranges(net), view="block",
...     perturbations=["skip"])                                             # doctest: +SKIP
>>> layerscope.export(net, "smaller", ds.sel(layer="model.layers.20-24"), data=data)
...                                                                         # doctest: +SKIP

What is written is loaded again before it gets its name, and must give exactly what a sweep gives
for the network whose blocks are skipped.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
import xarray as xr
from torch import Tensor, nn

from layerscope import results
from layerscope._version import __version__
from layerscope.base import owners, validate
from layerscope.base.extras import extra
from layerscope.base.writing import failures, make_folder, sync_files, sync_folder, write_bytes
from layerscope.core import batches, layers, metrics as metrics_
from layerscope.core.checkpoints import Series, open_series
from layerscope.core.export import (
    _measuring as measuring,
    _plain as plain,
    _transformers as pretrained,
)
from layerscope.core.export._blocks import SKIP, BlockList, left_out, list_of, values_in, values_of
from layerscope.core.export._card import card
from layerscope.core.metrics import Metric
from layerscope.core.sweep import sweep
from layerscope.errors import LayerscopeError, OptionError, ResultError, SweepWarning

__all__ = ["export"]

RECORD = "layerscope.json"
_CARD = "README.md"
_CHECKED = (4, 32)
"""Shape of the random tokens that a network is checked with where no data are given."""


def export(
    model: nn.Module,
    folder: str | os.PathLike[str],
    without: str | Sequence[str] | xr.Dataset,
    *,
    margin: float | None = None,
    metric: str | None = None,
    data: Any = None,
    metrics: Sequence[str | Metric] | None = None,
    batch_size: int | None = None,
    checkpoints: Series | Mapping[int, Any] | str | os.PathLike[str] | None = None,
    tokenizer: Any = None,
) -> dict[str, Any]:
    """Write a network without some of its blocks, and what that costs and gains.

    A network of transformers becomes a folder that plain transformers loads:
    ``AutoModelForCausalLM.from_pretrained(folder)``. Its configuration is cut to the blocks that
    stay, which are numbered anew, so that caches work; generation settings, tied weights and the
    tokenizer come along; weights that were quantised once (GGUF) are written as they were loaded.
    Of any other network whose blocks stand in one ``nn.ModuleList`` or ``nn.Sequential`` it is
    ``model.safetensors``, for the same network without them.

    Parameters
    ----------
    model : nn.Module
        On the device where it is to be measured. It stays as it is.
    folder : path
        New; nothing is there until everything is.
    without : str, sequence of str, or Dataset
        Blocks by name (``"model.layers.3"``) or place (``"3"``), ranges of them
        (``"model.layers.3-5"``, ``"3-5"``), or a Dataset: one row of a sweep, ``ds.sel(layer=…)``,
        or with `margin` all; or what `layerscope.prune` returns, up to the step that is wanted,
        ``path.sel(step=slice(5))``, or with `margin` all.
    margin : float, optional
        Of a sweep, every block that is robust within this degradation is left out: that by itself
        costs no more, the whole interval counted, see `stats.classify`. What several cost together
        is another question, which ``predicted`` answers. Of a path, the blocks up to the last step
        whose degradation lies within it, likewise.
    metric : str, optional
        Of `margin`; by default as `stats.classify`.
    data : optional
        What predicted and measured loss and speed are of, in any form that a sweep takes; without
        it, tokens at random check that the network is the right one, and no loss is said.
    metrics : sequence of str or Metric, optional
        As for `layerscope.sweep`.
    batch_size : int, optional
        By default that of the Dataset, if one is given, else 8.
    checkpoints : series, mapping, or folder, optional
        The last of them holds the weights; by default those that the network has.
    tokenizer : optional
        What has ``save_pretrained``, or the folder of one; by default that of the folder that the
        network was loaded from, if there is one.

    Returns
    -------
    dict
        What also stands in ``layerscope.json``, and in words in ``README.md``: ``removed`` and
        ``kept`` blocks, ``parameters`` before and after; with `data`, ``baseline``, ``predicted``
        (of the network whose blocks are skipped) and ``measured`` (of the network that was loaded
        from the folder) by metric, and ``speed``; ``of_the_sweep``, the values of the Dataset's row
        for just these blocks; ``cache``, whether the network says the same with a cache of keys and
        values as without.

    Raises
    ------
    LayerError
        If a name is no block, blocks don't stand in one list, nothing or everything is left out,
        or the architecture can't have fewer blocks.
    ResultError
        If the folder is there already, or can't be written; if a Dataset does not say which blocks
        its rows are.
    OptionError
        If there is neither data nor a vocabulary to check the network with.
    LayerscopeError
        If what was written does not give, bit for bit, what was predicted; nothing is kept then.
    """
    model = layers.require_network(model)
    place = validate.path(folder, "folder", "smaller")
    if place.exists() or place.is_symlink():
        raise ResultError(f"{place} is there already; give the name of a new folder.")
    blocks = list_of(model)
    gone = left_out(model, without, blocks, margin, metric)
    state = _state(model, checkpoints)
    known = values_of(without, blocks, gone) if isinstance(without, xr.Dataset) else {}
    size = _batch_size(batch_size, without)
    asked = data if data is not None else _random_tokens(model)
    record: dict[str, Any] = {
        "layerscope": __version__,
        "network": type(model).__name__,
        "removed": gone,
        "kept": [name for name in blocks.names if name not in gone],
        "of_the_sweep": known,
    }
    ds = _skipped(model, asked, state, gone, metrics, size)
    record |= {
        "baseline": values_in(ds["baseline"]),
        "predicted": values_in(ds["value"].isel(layer=0)),
    }
    owners.sweep_drafts(place.parent, [place.name])
    draft = owners.draft_of(place)
    try:
        make_folder(draft, place)
        network = _written(model, blocks, blocks.kept(gone), state, draft, tokenizer, record)
        record |= _measured(model, network, asked, metrics, size, record)
        if data is None:
            for said in ("baseline", "predicted", "measured", "speed"):
                del record[said]
        write_bytes(draft / RECORD, f"{json.dumps(record, indent=1)}\n".encode())
        write_bytes(draft / _CARD, card(record).encode())
        sync_files(draft)
        _publish(draft, place)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return record


def _state(model: nn.Module, checkpoints: Any) -> dict[str, Tensor]:
    if checkpoints is None:
        return model.state_dict()
    series = open_series(checkpoints).fit(model)
    return {**model.state_dict(), **series.read(series.last)}


def _batch_size(given: int | None, without: Any) -> int:
    if given is not None:
        return validate.integer(given, "batch_size", 1, 8)
    swept = results.settings(without).get("batch_size") if isinstance(without, xr.Dataset) else None
    # A file gives it as NumPy's; "5 to 16, as given" is none.
    return int(swept) if isinstance(swept, Integral) else 8


def _random_tokens(model: nn.Module) -> tuple[Tensor, Tensor]:
    config: Any = getattr(model, "config", None)
    vocabulary = getattr(config, "vocab_size", None)
    if not isinstance(vocabulary, int):
        raise OptionError(
            "nothing tells what this network takes, so that what is written can't be checked; give "
            "data=, such as the data of the sweep."
        )
    chance = torch.Generator().manual_seed(0)
    tokens = torch.randint(vocabulary, (_CHECKED[0], _CHECKED[1] + 1), generator=chance)
    return tokens[:, :-1], tokens[:, 1:]


def _skipped(
    model: nn.Module,
    data: Any,
    state: Mapping[str, Tensor],
    gone: list[str],
    metrics: Sequence[str | Metric] | None,
    size: int,
) -> xr.Dataset:
    """Sweep the one cell in which the blocks are skipped."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SweepWarning)  # the sweep before has said it
        return sweep(
            model,
            data,
            checkpoints={0: state},
            layers={"without": gone},
            view="block",
            perturbations=[SKIP],
            metrics=metrics,
            batch_size=size,
            device=str(_device(model)),
            whole=False,
            show_progress=False,
        )


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _publish(draft: Path, place: Path) -> None:
    try:
        draft.rename(place)
    except OSError as error:
        raise ResultError(
            f"can't give {place} its name: {error.strerror}; is another process writing it?"
        ) from None
    sync_folder(place.parent)


@contextmanager
def _failures(folder: Path) -> Iterator[None]:
    """Say of what other libraries can't write what is said of our own files."""
    from safetensors import SafetensorError

    with failures(folder):
        try:
            yield
        except SafetensorError as error:
            number = re.search(r"os error (\d+)", str(error))
            raise OSError(int(number[1]) if number else errno.EIO, str(error)) from None


def _written(
    model: nn.Module,
    blocks: BlockList,
    kept: Sequence[int],
    state: Mapping[str, Tensor],
    folder: Path,
    tokenizer: Any,
    record: dict[str, Any],
) -> nn.Module:
    """Write the network and load it again, as whoever gets the folder will."""
    device = _device(model)
    record["parameters"] = sum(p.numel() for p in model.parameters())
    if not pretrained.is_pretrained(model):
        network = plain.cut(model, blocks, kept, state)
        with _failures(folder):
            plain.save_weights(network, folder)
        plain.load_weights(network, folder)
    else:
        with extra("huggingface", "a folder that transformers loads"):
            from transformers import AutoModelForCausalLM

        smaller = pretrained.without_blocks(model, blocks, kept, state)
        with _failures(folder):
            pretrained.save(smaller, model, folder)
            record["tokenizer"] = pretrained.save_tokenizer(model, tokenizer, folder)
        network = pretrained.load(folder, type(model), model.config, AutoModelForCausalLM)
        if network.can_generate():
            _, width = _CHECKED
            prompt = _random_tokens(model)[0][:1, : width // 4].to(device)
            record["cache"] = pretrained.same_tokens(network.to(device).eval(), prompt)
    record["parameters_left"] = sum(p.numel() for p in network.parameters())
    return network.to(device).eval()


def _measured(
    model: nn.Module,
    network: nn.Module,
    data: Any,
    metrics: Sequence[str | Metric] | None,
    size: int,
    record: Mapping[str, Any],
) -> dict[str, Any]:
    """Evaluate what was loaded; refuse it unless it gives exactly what was predicted."""
    device = _device(model)
    predicted = record["predicted"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SweepWarning)
        wanted = list(predicted) if metrics is None else metrics
        with torch.no_grad():
            tallies = metrics_.evaluate(network, data, wanted, size, device)
    found = {name: tally.mean for name, tally in tallies.items()}
    unlike = [n for n in predicted if found[n] != predicted[n] and predicted[n] == predicted[n]]
    if unlike:
        raise LayerscopeError(
            f"the network that was written gives {unlike[0]} {found[unlike[0]]!r}, but without "
            f"these blocks it is {predicted[unlike[0]]!r}: {_why(model, network)} Nothing was kept."
        )
    inputs, _ = next(iter(batches.batches(data, size)))
    return {
        "measured": found,
        "speed": measuring.speeds({"before": model, "after": network}, inputs, device),
    }


def _why(model: nn.Module, network: nn.Module) -> str:
    """Say why a network that was loaded may compute something else than the one it was made of."""
    loaded, saved = dict(network.named_buffers()), network.state_dict().keys()
    for name, held in model.named_buffers():
        if name in loaded and name not in saved and loaded[name].dtype != held.dtype:
            return (
                f"{name}, which files don't hold, is {held.dtype} here and {loaded[name].dtype} in "
                "what is loaded; load the network in its precision, from_pretrained(…, dtype=…), "
                "in place of converting it."
            )
    return (
        "this architecture computes something from the place of a block, which changes where "
        "blocks before it go."
    )
