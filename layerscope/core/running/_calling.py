"""Running a network, and leaving it and what it was given as they were."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils._pytree import tree_leaves, tree_map

from layerscope.base import devices
from layerscope.base.undoing import Undo
from layerscope.base.validate import kind_of
from layerscope.core.running._outputs import tensor_version
from layerscope.errors import DataError, LayerscopeError

__all__ = [
    "call_and_restore",
    "evaluation_mode",
    "explain_mismatch",
    "run_network",
    "without_cache",
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
        if devices.out_of_memory(error):
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
    """Evaluation mode without gradients or cache; afterwards every module is as it was."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._model = model

    def begin(self) -> nn.Module:
        """Change the modes."""
        self.enter(devices.NoGradients())
        self.enter(without_cache(self._model))
        modes = [(module, module.training) for module in self._model.modules()]

        def restore() -> None:
            for module, mode in modes:
                module.training = mode

        self.add(restore)
        return self._model.eval()


class without_cache(Undo):  # noqa: N801
    """Let no decoder keep keys and values for tokens to come; afterwards it may again.

    Nothing is generated here, and a cache is an object that blocks change as they run: one that
    does not run in its turn would leave it with gaps. Decoders of transformers ask the attribute
    ``use_cache`` of their configuration.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._model = model

    def begin(self) -> nn.Module:
        """Change the configurations, each once, whoever holds it."""
        held = (getattr(module, "config", None) for module in self._model.modules())
        for config in {id(each): each for each in held}.values():
            if getattr(config, "use_cache", None) is True:
                self.add(partial(_let_cache, config, True))
                _let_cache(config, False)
        return self._model


def _let_cache(config: Any, use: bool) -> None:
    with suppress(AttributeError):  # of one that is frozen
        config.use_cache = use


def call_and_restore(model: nn.Module, inputs: Any) -> Any:
    """Run the network as `run_network` does, without a cache, and put back changed inputs.

    They are put back and not copied, since a copy may lie otherwise in memory, and kernels may
    then sum in another order.
    """
    tensors = [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)]
    before = [(tensor, tensor.clone(), tensor_version(tensor)) for tensor in tensors]
    with Undo() as undo, undo:
        undo.enter(without_cache(model))
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
