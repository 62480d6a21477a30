"""Texts as rows of tokens, in the form that networks of Hugging Face's take."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from layerscope.base import validate
from layerscope.base.validate import describe
from layerscope.core.batches import NO_TARGET
from layerscope.errors import DataError, OptionError
from layerscope.zoo.data._tokens import Tokenizer

__all__ = ["tokenize"]


def tokenize(
    texts: Iterable[str], tokenizer: Any, length: int = 512, *, pack: bool = True
) -> dict[str, Tensor]:
    """Turn texts into rows of tokens of a fixed length, as a causal language model takes them.

    Parameters
    ----------
    texts : iterable of str
        Documents, such as articles or answers.
    tokenizer : object
        As `layerscope.open_tokenizer` gives it, or any of transformers'; or a `Tokenizer`.
    length : int
        Tokens in a row, at least 2.
    pack : bool
        Put one document after the other, each closed by the token that ends a text, and cut: only
        the last row is filled up, and what comes first in a row may follow on from the row before.
        Otherwise each document is a row of its own, cut off after `length`.

    Returns
    -------
    dict of str to Tensor
        ``input_ids``, ``attention_mask`` and ``labels``, each of shape ``(rows, length)``,
        ``int64``. Labels are the tokens themselves, which networks and metrics shift by one, and
        −100 where a row is filled up.

    Raises
    ------
    DataError
        If there is no text, or one is empty of tokens throughout.
    OptionError
        If the tokenizer is none, or the length is below 2.

    Examples
    --------
    >>> from layerscope.zoo.data import Tokenizer
    >>> rows = tokenize(["a b", "b"], Tokenizer.train(["a b"], vocab=257), length=4)
    >>> rows["input_ids"].shape, rows["attention_mask"].sum().item()
    (torch.Size([2, 4]), 6)
    """
    length = validate.integer(length, "length", 2, 512)
    documents = _documents(texts)
    encoded = list(_encoded(documents, tokenizer, closed=pack))
    if pack:
        stream = [token for tokens in encoded for token in tokens]
        encoded = [stream[at : at + length] for at in range(0, len(stream), length)]
    encoded = [tokens[:length] for tokens in encoded if tokens]
    if not encoded:
        raise DataError("the texts hold no tokens; give at least one that is not empty.")
    return _filled(encoded, length, _filler(tokenizer))


def _documents(texts: Iterable[str]) -> list[str]:
    if isinstance(texts, str) or not isinstance(texts, Iterable):
        raise DataError(
            f"texts came as {describe(texts)}; give a list of texts, each a document: [text]."
        )
    found = list(texts)
    for each in found:
        if not isinstance(each, str):
            raise DataError(f"a text came as {describe(each)}; give texts (str).")
    return found


def _encoded(documents: list[str], tokenizer: Any, closed: bool) -> Iterator[list[int]]:
    """Give the tokens of each document; where it is closed, with the end of a text behind it."""
    if isinstance(tokenizer, Tokenizer):
        yield from (tokenizer.encode([text]).tolist() for text in documents)
        return
    if not callable(tokenizer) or not hasattr(tokenizer, "eos_token_id"):
        raise OptionError(
            f"tokenizer is {describe(tokenizer)}; give one of transformers, such as "
            "layerscope.open_tokenizer(folder)."
        )
    end = tokenizer.eos_token_id
    for text in documents:
        # `verbose` would say that a document is longer than what the network was trained on.
        tokens = list(tokenizer(text, verbose=False)["input_ids"])
        needs_end = closed and tokens and end is not None and tokens[-1] != end
        yield [*tokens, int(end)] if needs_end else tokens


def _filler(tokenizer: Any) -> int:
    """Choose what rows are filled up with: attention is masked there, so that any token does."""
    names = ("pad_token_id", "eos_token_id", "end")
    known = (getattr(tokenizer, name, None) for name in names)
    return next((int(token) for token in known if token is not None), 0)


def _filled(rows: list[list[int]], length: int, filler: int) -> dict[str, Tensor]:
    ids = torch.full((len(rows), length), filler)
    mask = torch.zeros_like(ids)
    for at, tokens in enumerate(rows):
        ids[at, : len(tokens)] = torch.tensor(tokens)
        mask[at, : len(tokens)] = 1
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "labels": ids.where(mask.bool(), NO_TARGET),
    }
