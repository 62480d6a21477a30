"""Opening a series from any of the forms in which a user may hold it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from layerscope.base.files import file_beside, is_file, is_folder
from layerscope.core.checkpoints import _source as files
from layerscope.core.checkpoints._damage import DAMAGED
from layerscope.core.checkpoints._series import Series
from layerscope.core.checkpoints._writer import MANIFEST, read_manifest
from layerscope.errors import CheckpointError

__all__ = ["open_series"]


def open_series(
    checkpoints: Series
    | Mapping[int, Any]
    | Sequence[str | os.PathLike[str]]
    | str
    | os.PathLike[str],
    *,
    ignore: Iterable[str] = (),
    damaged: str = DAMAGED[0],
) -> Series:
    """Open a series from any of the forms in which a user may hold it.

    Parameters
    ----------
    checkpoints : Series, mapping, sequence, or path of a folder
        A mapping goes from epoch, or step, to state dict, path or revision on the Hugging Face hub:
        ``{step: f"EleutherAI/pythia-70m@step{step}" for step in (0, 1000)}``. A folder holds a
        series that layerscope recorded, or checkpoints that are all named by epoch or step:
        ``epoch-3.pt``, ``3.safetensors``, ``model_3.pth``, ``checkpoint-3.pth.tar``,
        ``iter_0000300.pt`` (step 300), folders such as ``checkpoint-500`` (step 500), and
        Lightning's ``epoch=3-step=400.ckpt`` (step 400) or ``epoch=3.ckpt`` (the step that it says
        inside, since Lightning counts epochs from 0). A sequence holds paths or revisions that are
        named so. A LoRA adapter is merged into the one network beside it, as in
        ``{0: base, 1: adapter}``, or else into the one that it says it was trained on.
    ignore : iterable of str
        Names or patterns (``"*.mask"``) of tensors that may be in a checkpoint though the network
        does not have them. Those that networks once saved and no longer do, such as ``inv_freq``
        and ``position_ids``, are left aside without it.
    damaged : {"refuse", "leave out"}
        What becomes of checkpoints before the last that can't be read, or turn out to be of another
        network: an error, as everywhere by default, or they are left out, and the series says in
        ``damaged`` which and why. A series that was opened before stays as it is.

    Raises
    ------
    CheckpointError
        If there is nothing there, a file is damaged, or two files claim one epoch; of the last
        checkpoint, which is the trained network, whatever `damaged` says.

    Examples
    --------
    >>> import torch
    >>> states = {epoch: {"weight": torch.full((2,), epoch)} for epoch in (1, 2)}
    >>> series = open_series({0: "gone.pt", **states}, damaged="leave out")
    >>> series.epochs, series.damaged
    ((1, 2), {0: "can't read gone.pt: No such file or directory."})
    """
    ignored = (ignore,) if isinstance(ignore, str) else tuple(ignore)
    if isinstance(checkpoints, Series):
        return checkpoints.ignoring(ignored) if ignored else checkpoints
    if isinstance(checkpoints, Mapping):
        return Series(checkpoints, damaged=damaged).ignoring(ignored)
    if isinstance(checkpoints, (list, tuple)) and checkpoints and all(map(_is_named, checkpoints)):
        return _listed(checkpoints, damaged).ignoring(ignored)
    if not isinstance(checkpoints, (str, os.PathLike)):
        raise CheckpointError(
            f"checkpoints is a {type(checkpoints).__name__}; give a series, a folder, or a mapping "
            "from epoch to state dict or path, such as {0: 'start.pt', 90: 'trained.pt'}."
        )
    folder = Path(checkpoints)
    if is_file(folder):
        raise CheckpointError(
            f"{folder} is one checkpoint; give a mapping from epoch to path, such as "
            f"{{0: 'start.pt', 90: '{folder.name}'}}, or a folder."
        )
    if not is_folder(folder):
        raise CheckpointError(
            f"there is no folder {folder}; give a folder of checkpoints, or a mapping from epoch "
            "to state dict or path."
        )
    path = folder / MANIFEST
    recorded = os.path.lexists(path)
    series = (
        _recorded(folder, read_manifest(path), damaged) if recorded else _collected(folder, damaged)
    )
    return series.ignoring(ignored)


def _is_named(item: object) -> bool:
    return isinstance(item, (str, os.PathLike))


def _listed(items: Sequence[str | os.PathLike[str]], damaged: str) -> Series:
    """Open paths and revisions, each of which says its epoch or step."""
    sources: dict[int, Any] = {}
    by_step = []
    for item in items:
        there = is_file(item) or is_folder(item)
        last = Path(item) if there else Path(str(item).rpartition("@")[2])
        match = _named(last)
        if match is None:
            raise CheckpointError(
                f"{item} does not say its epoch, as epoch-3.pt, step_10.pt or name@step1000 "
                "would; give a mapping from epoch to path or revision."
            )
        epoch = int(match["count"] or match["bare"])
        if epoch in sources:
            raise CheckpointError(f"{sources[epoch]} and {item} both say epoch {epoch}.")
        sources[epoch] = item
        by_step.append((match["word"] or "").lower() in _BY_STEP or is_folder(last))
    unit = "step" if all(by_step) else "epoch"
    return Series(sources, unit=unit, damaged=damaged)


def _recorded(folder: Path, manifest: Mapping[str, Any], damaged: str) -> Series:
    sources = {
        int(epoch): file_beside(folder / MANIFEST, entry["file"], error=CheckpointError)
        for epoch, entry in manifest["epochs"].items()
    }
    if not sources:
        raise CheckpointError(
            f"{folder / MANIFEST} names no checkpoints: nothing was recorded yet. The same call "
            "that began the training goes on with it."
        )
    for epoch, source in sources.items():
        said = _RECORDED.fullmatch(source.name)
        if said and int(said[1]) != epoch:
            raise CheckpointError(
                f"{folder / MANIFEST} names {source.name} as checkpoint {epoch}: one of the two is "
                "damaged. Put the number of the file there."
            )
    return Series(sources, folder, manifest, damaged=damaged)


_RECORDED = re.compile(r"(?:epoch|step)-(\d{4,})\.safetensors", re.ASCII)
"""Files of a recorded series, which `SeriesWriter` names."""

_NAMED_BY_EPOCH = re.compile(
    r"(?:.*[-_.])?(?P<word>epoch|step|iter|iteration|ckpt|checkpoint|model)s?[-_=]?(?P<count>\d+)"
    r"|(?P<bare>\d+)",
    re.I,
)
_BY_STEP = ("step", "iter", "iteration")
_SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".pt.tar", ".pth.tar", ".gguf")
_TOKENS = re.compile(r"-tokens\d+[a-z]?", re.I)
"""What suites say beside the step: ``step1000-tokens4B``."""


def _collected(folder: Path, damaged: str) -> Series:
    found = sorted(filter(_is_checkpoint, folder.iterdir()))
    if not found:
        raise CheckpointError(
            f"{folder} holds neither a {MANIFEST} nor checkpoints, such as epoch-3.safetensors or "
            "step-10.pt; give a mapping from epoch to path."
        )
    sources: dict[int, Path] = {}
    by_step = []
    for path in found:
        match = _named(path)
        if match is None:
            # Left out, it might be the trained network; a number in it might be an accuracy.
            raise CheckpointError(
                f"{path.name} in {folder} does not say its epoch, as epoch-3.pt, step_10.pt or "
                "3.pt would; rename it, or give a mapping from epoch to path."
            )
        word, epoch = (match["word"] or "").lower(), int(match["count"] or match["bare"])
        lightning = word == "epoch" and path.suffix == ".ckpt"
        if lightning:
            epoch = _step_of(path)
        by_step.append(word in _BY_STEP or path.is_dir() or lightning)
        if epoch in sources:
            raise CheckpointError(
                f"{sources[epoch].name} and {path.name} in {folder} both say epoch {epoch}; "
                "give a mapping from epoch to path."
            )
        sources[epoch] = path
    unit = "step" if all(by_step) else "epoch"
    return Series(sources, folder, unit=unit, damaged=damaged)


def _step_of(path: Path) -> int:
    """Steps that a checkpoint of Lightning's says that it is after."""
    step = files.TorchFile(path).beside("global_step")
    if step is None:
        raise CheckpointError(
            f"{path.name} in {path.parent}: Lightning counts epochs from 0, so that this may be "
            "the first trained epoch, and the file does not say how many steps it is after "
            "(global_step); give a mapping from the number of finished epochs to path."
        )
    return step


def _named(path: Path) -> re.Match[str] | None:
    suffix = max((end for end in _SUFFIXES if path.name.endswith(end)), key=len, default="")
    name = _TOKENS.sub("", path.name if path.is_dir() else path.name.removesuffix(suffix))
    return _NAMED_BY_EPOCH.fullmatch(name)


def _is_checkpoint(path: Path) -> bool:
    """A file of weights, or a folder that is named as Hugging Face names them: checkpoint-500."""
    if path.is_dir():
        match = _named(path)
        return match is not None and match["word"] is not None
    return path.name.endswith(_SUFFIXES)
