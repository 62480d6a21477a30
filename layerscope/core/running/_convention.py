"""Convention of targets: tokens at their own positions, or those that follow."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from layerscope.core.batches import (
    FOLLOWING,
    NO_TARGET,
    SAME,
    Arguments,
    BatchReader,
    alignments,
    tokens,
)
from layerscope.core.running._outputs import find_logits
from layerscope.errors import DataError

__all__ = ["infer_reader"]

_ROWS = 2  # that a network is asked about
_DECODED = {"decoder_input_ids", "decoder_inputs_embeds", "labels"}
_CLOSE = 1e-4  # relative

_SEES_THEM = (
    "targets are the very tokens that the network sees, and it looks at none after them, so that "
    "naming them says nothing. Give those that follow: torch.cat([input_ids[:, 1:], "
    "torch.full_like(input_ids[:, :1], -100)], 1)."
)
_SOMETHING_ELSE = (
    "the network's own loss holds each position against the label after it, and these targets are "
    "neither its tokens nor those that follow. If they are labels as the network takes them, give "
    "them among its arguments: {'input_ids': …, 'labels': …}. If each stands at the position that "
    "is to predict it, wrap the network in a module that returns its logits alone."
)


class _Metric(Protocol):
    """A metric, of which only this is asked: their room stands above this one."""

    @property
    def classes(self) -> bool: ...


_Run = Callable[[Any], Any]


def infer_reader(
    model: nn.Module,
    run: Callable[[nn.Module, Any], Any],
    inputs: Any,
    targets: Any,
    wanted: Sequence[_Metric],
) -> BatchReader:
    """Find out how batches are to be read for a network, from the first of them.

    Causal networks of Hugging Face's shift their labels themselves. Targets that equal the tokens,
    or came as such labels, are shifted for the metrics too, if the network's own loss says so.

    Parameters
    ----------
    model : nn.Module
    run : callable
        Runs it, in evaluation mode, on inputs, and returns what it returned.
    inputs, targets
        Of the first batch, on the device of the network.
    wanted : sequence of Metric
        What is measured. Where nothing takes class indices, targets are left as they are.

    Raises
    ------
    DataError
        If a network that sees no later token is to name the very tokens it sees, and has no loss
        of its own to say that it shifts them; or if its own loss shifts targets that are neither
        the tokens nor those that follow.
    """
    within = _inner(model)
    takes = _parameters(within)
    named = {"input_ids", "attention_mask"} <= {*takes} and _two(inputs)
    if getattr(getattr(within, "config", None), "is_encoder_decoder", False):
        decoded = isinstance(inputs, Mapping) and _DECODED & inputs.keys()
        sequences = torch.is_tensor(targets) and targets.ndim == 2
        beside = {"labels", "decoder_input_ids"} <= {*takes} and sequences and not decoded
        return BatchReader(named=named, beside=beside)
    plain = BatchReader(masked=True, named=named)
    read, counted = plain(inputs, targets)
    seen = alignments(read, counted)
    if seen == (FOLLOWING,):
        return BatchReader(masked=True, named=named, expected=FOLLOWING)
    if tokens(read, counted) is None or not any(m.classes for m in wanted):
        return plain
    labelled = isinstance(inputs, Arguments)
    asked, wanted_there = _asked(read, counted)
    ids = tokens(asked, wanted_there)
    assert ids is not None
    ask = partial(run, within)
    shifts = _shifts(ask, asked, ids, takes)
    if shifts is None and SAME in seen:
        shifts = _causal(ask, asked, ids, wanted_there)
        if shifts and not labelled:
            raise DataError(_SEES_THEM)
    if not shifts:
        return plain
    if not labelled and SAME not in seen:
        raise DataError(_SOMETHING_ELSE)
    return BatchReader(masked=True, shifted=True, named=named, expected="" if labelled else SAME)


def _inner(model: nn.Module) -> nn.Module:
    """The network in what compiles or distributes it, which names no arguments."""
    within = getattr(model, "_orig_mod", None)
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        within = model.module
    return _inner(within) if isinstance(within, nn.Module) else model


def _parameters(model: nn.Module) -> list[str]:
    try:
        return list(inspect.signature(model.forward).parameters)
    except (TypeError, ValueError):  # of a traced network
        return []


def _two(inputs: Any) -> bool:
    """Recognise two tensors of one shape, such as tokens and their attention mask."""
    pair = isinstance(inputs, (tuple, list)) and len(inputs) == 2
    return pair and all(map(torch.is_tensor, inputs)) and inputs[0].shape == inputs[1].shape


def _asked(inputs: Any, targets: Tensor) -> tuple[Any, Tensor]:
    """Those rows of a batch that have the most targets."""
    rows = (targets != NO_TARGET).sum(1).topk(min(_ROWS, len(targets))).indices

    def some(value: Any) -> Any:
        if torch.is_tensor(value):
            return value[rows] if value.ndim and len(value) == len(targets) else value
        if isinstance(value, Mapping):
            return {name: some(each) for name, each in value.items()}
        return tuple(map(some, value)) if isinstance(value, (tuple, list)) else value

    return some(inputs), targets[rows]


def _shifts(run: _Run, inputs: Any, ids: Tensor, takes: Sequence[str]) -> bool | None:
    """Check whether the network's own loss holds each position against the token after it.

    None where it has no loss of its own, or one that is neither that nor the unshifted.
    """
    if "labels" not in takes:
        return None
    given = inputs if isinstance(inputs, Mapping) else _by_place(takes, inputs)
    said = find_logits(run(given)).float()
    if said.shape[:-1] != ids.shape or int(ids.max()) >= said.shape[-1]:
        return False  # not of tokens
    mask = given.get("attention_mask")
    labels = ids if mask is None or mask.shape != ids.shape else ids.where(mask != 0, NO_TARGET)
    try:
        told = run({**given, "labels": labels})
    except (TypeError, ValueError, DataError):
        return None
    loss = told[0] if isinstance(told, tuple) and told else getattr(told, "loss", None)
    if not torch.is_tensor(loss) or loss.ndim > 0:
        return None
    means = _mean(said[:, :-1], labels[:, 1:]), _mean(said, labels)
    moved, kept = (abs(float(loss) - float(mean)) for mean in means)
    # One is rounding, coarse in half precision, and the other is not: else it is another loss.
    if min(moved, kept) > 1e-2 * abs(float(loss)) or max(moved, kept) <= 10 * min(moved, kept):
        return None
    return moved < kept


def _by_place(takes: Sequence[str], inputs: Any) -> dict[str, Any]:
    given = inputs if isinstance(inputs, (tuple, list)) else (inputs,)
    return dict(zip(takes, given, strict=False))


def _mean(said: Tensor, labels: Tensor) -> Tensor:
    return nn.functional.cross_entropy(
        said.flatten(0, 1), labels.flatten().long(), ignore_index=NO_TARGET
    )


def _causal(run: _Run, inputs: Any, ids: Tensor, targets: Tensor) -> bool:
    """Check that what the network says at a position stays when all later tokens change."""
    # In the middle of the first row, without what fills it up.
    places = (targets[0] != NO_TARGET).nonzero()
    half = (int(places.max()) + 1) // 2 if len(places) else 0
    if half == 0:
        return False
    others = ids.clone()
    # Tokens that occur, so that they are in its vocabulary.
    others[:, half:] = torch.where(ids[:, half:] == ids.min(), ids.max(), ids.min())
    if torch.equal(others, ids):
        return False

    def exchanged(value: Any) -> Any:
        if torch.is_tensor(value):
            return others if value is ids else value
        if isinstance(value, Mapping):
            return {name: exchanged(each) for name, each in value.items()}
        return tuple(map(exchanged, value)) if isinstance(value, (tuple, list)) else value

    before, after = (
        find_logits(run(each))[:, :half].float() for each in (inputs, exchanged(inputs))
    )
    return torch.allclose(before, after, rtol=_CLOSE, atol=1e-5 * float(before.abs().max()))
