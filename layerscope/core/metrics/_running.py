"""Running a network on batches, and adding up what comes out."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils._pytree import tree_leaves, tree_map

from layerscope.base import devices
from layerscope.base.undoing import Undo
from layerscope.base.validate import kind_of
from layerscope.core import batches as data_module
from layerscope.core.layers import require_network
from layerscope.core.metrics._convention import infer_reader
from layerscope.core.metrics._named import Metric, parse
from layerscope.core.metrics._outputs import OutputFinder, OutputSpec, tensor_version
from layerscope.core.metrics._per_example import check_in_place, check_labels, measure
from layerscope.core.metrics._tally import Tally
from layerscope.errors import DataError, LayerscopeError, SweepWarning

__all__ = [
    "add_batch",
    "call_and_restore",
    "evaluate",
    "evaluation_mode",
    "explain_mismatch",
    "run_network",
]


def run_network(model: nn.Module, inputs: Any) -> Any:
    """Run the network on a tensor, a tuple of arguments or a mapping of keyword arguments.

    Anything else is one argument, such as a graph or a ``PackedSequence``; so is what stands alone
    in a tuple, such as a list of images: ``([image, image],)``.

    Raises
    ------
    DataError
        If a token is beyond the network's vocabulary.
    """
    try:
        if isinstance(inputs, Mapping):
            return model(**inputs)
        several = isinstance(inputs, (tuple, list)) and not isinstance(inputs, PackedSequence)
        return model(*inputs) if several else model(inputs)
    except IndexError as error:
        if "index out of range in self" not in str(error):  # torch's words of an embedding
            raise
        raise DataError(
            "a batch holds a token that is beyond the network's vocabulary; use the tokenizer that "
            "the network was trained with: tokenizer='RUN/tokenizer.json' for texts by name."
        ) from error


def add_batch(
    tallies: Mapping[str, Tally],
    metrics: Sequence[Metric],
    outputs: Any,
    targets: Any,
    reference: Any = None,
) -> None:
    """Add one batch's outputs to the tally of every metric; the rest is as for `measure`."""
    for name, outcome in measure(metrics, outputs, targets, reference).items():
        tally = tallies[name]
        tally += Tally.of(outcome)


@contextmanager
def explain_mismatch(inputs: Any) -> Iterator[None]:
    """Say of an error in the unchanged network that network and data do not go together.

    Raises
    ------
    DataError
        In place of what the network raised; running out of memory, and what layerscope itself
        refuses, come through as they are.
    """
    try:
        yield
    except LayerscopeError:
        raise
    except Exception as error:
        if devices.exhausted(error):
            raise
        scaled = (
            " Bytes reach it as they are: scale pixels, as images / 255, or give tokens.long()."
        )
        raise DataError(
            f"the network can't take the first batch, {_form(inputs)}: {type(error).__name__}: "
            f"{error}. Give inputs with which model(inputs) works by itself, of the type and shape "
            f"that it was trained on.{scaled if 'uint8' in _form(inputs) else ''}"
        ) from error


def _form(inputs: Any) -> str:
    """Describe inputs in a message, such as "float32 of shape (30, 4)"."""
    if torch.is_tensor(inputs):
        return f"{str(inputs.dtype).removeprefix('torch.')} of shape {tuple(inputs.shape)}"
    if isinstance(inputs, Mapping):
        return ", ".join(f"{name}: {_form(value)}" for name, value in inputs.items())
    if isinstance(inputs, (tuple, list)):
        return " and ".join(map(_form, inputs))
    return kind_of(inputs)


class evaluation_mode(Undo):  # noqa: N801
    """Evaluation mode without gradients; afterwards every module has its own mode again."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._model = model

    def begin(self) -> nn.Module:
        """Change the modes."""
        self.enter(devices.NoGradients())
        modes = [(module, module.training) for module in self._model.modules()]

        def restore() -> None:
            for module, mode in modes:
                module.training = mode

        self.add(restore)
        return self._model.eval()


def evaluate(
    model: nn.Module,
    data: Any,
    metrics: Sequence[str | Metric] = ("error", "loss"),
    batch_size: int = 1000,
    device: str | torch.device = "auto",
    reference: nn.Module | None = None,
    output: OutputSpec = None,
) -> dict[str, Tally]:
    """Evaluate a network as it stands on data of any form: every batch, one after the other.

    A sweep gives the same bits for a copy that holds the same weights, see `layerscope.core.plain`.

    Parameters
    ----------
    model : nn.Module
        Already on `device`; its mode is put back afterwards.
    data : Examples, pair of tensors, or iterable of batches
    metrics : sequence of str or Metric
    batch_size : int
    device : str or torch.device
        Where batches are moved to.
    reference : nn.Module, optional
        The unperturbed network, for metrics that compare with it; treated as `model`.
    output : str, int or callable, optional
        What metrics read, as for `layerscope.sweep`.

    Returns
    -------
    dict of str to Tally

    Raises
    ------
    OptionError
        If there is no such metric, or it needs a reference and there is none.
    DataError
        If outputs and targets do not go together, or no target counts.

    Examples
    --------
    >>> from layerscope import models
    >>> net = models.build("fcn-1x8", inputs=(4,), classes=2)
    >>> tallies = evaluate(net, (torch.zeros(6, 4), torch.zeros(6, dtype=torch.long)), device="cpu")
    >>> tallies["error"].count
    6
    """
    require_network(model)
    if reference is not None:
        require_network(reference, "reference")
    place = devices.resolve(device)
    wanted = parse(metrics)
    tallies = {metric.name: Tally() for metric in wanted}
    with Undo() as undo, undo:
        for each in [model] if reference is None else [model, reference]:
            undo.enter(evaluation_mode(each))
        read: data_module.BatchReader | None = None
        find = OutputFinder(output)
        for given in data_module.batches(data, batch_size):
            first = read is None
            if read is None:
                inputs, targets = data_module.move(given, place)
                read = infer_reader(model, _asked, inputs, targets, wanted)
                if read.guessed:
                    warnings.warn(str(read), SweepWarning, stacklevel=2)
            inputs, targets = read(*given)
            labels = data_module.label_range(targets)
            inputs, targets = data_module.move((inputs, targets), place)
            with explain_mismatch(inputs):
                said = call_and_restore(model, inputs)
            if first:
                find = find.fitted(find(said), inputs, targets)
            outputs = find(said)
            against = None if reference is None else find(call_and_restore(reference, inputs))
            check_labels(wanted, outputs, labels)
            if first:
                check_in_place(wanted, outputs, targets, against)
            add_batch(tallies, wanted, outputs, targets, against)
    if read is not None and not any(tally.count for tally in tallies.values()):
        raise DataError(
            "no target counts: all are -100, or at padding. Give the class that is right for at "
            "least one."
        )
    return tallies


def _asked(model: nn.Module, inputs: Any) -> Any:
    with explain_mismatch(inputs):
        return run_network(model, inputs)


def call_and_restore(model: nn.Module, inputs: Any) -> Any:
    """Run the network as `call` does, and put back inputs that it changed in place.

    They are put back and not copied, since a copy may lie otherwise in memory, and kernels may
    then sum in another order.
    """
    tensors = [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)]
    before = [(tensor, tensor.clone(), tensor_version(tensor)) for tensor in tensors]
    outputs = run_network(model, inputs)
    changed = [
        (tensor, kept) for tensor, kept, number in before if tensor_version(tensor) != number
    ]
    if changed:
        # They may be in the same memory.
        outputs = tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, outputs)
    for tensor, kept in changed:
        tensor.copy_(kept)
    return outputs
