"""Subword tokens: byte-level byte-pair encoding that is kept with a run as one JSON file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from layerscope.base.extras import extra
from layerscope.base.writing import write_bytes
from layerscope.core.networks import is_panic, load_model, read_tokenizer
from layerscope.errors import DataError, OptionError

__all__ = ["Tokenizer"]

_END = "<eol>"
_LINES, _LETTERS = 10_000, 2**20
"""Of a text that is divided at once; bounds what the package holds besides the numbers."""
_BYTES = 256
_TRIAL = "A dog, naïve – 中文 😀 1,234\t"
"""Letters of several kinds, at which a damaged tokenizer shows itself."""


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """Turns lines of text into numbers and back, without loss.

    Parameters
    ----------
    json : str
        As the package tokenizers writes it.
    end_token : str
        The token that ends a line.

    Examples
    --------
    >>> from layerscope.zoo.data import Tokenizer
    >>> tokenizer = Tokenizer.train(["a dog, a cat", "a dog"], vocab=260)
    >>> tokenizer.vocab, tokenizer.end
    (260, 0)
    >>> tokens = tokenizer.encode(["a dog", "Ω"])
    >>> tokenizer.decode(tokens)
    ['a dog', 'Ω']
    """

    json: str
    end_token: str = _END

    @classmethod
    def of(cls, tokenizer: Any) -> Tokenizer:
        """Take over the tokens of a fast tokenizer of transformers.

        Raises
        ------
        OptionError
            If it is none, or has no token that ends a text.
        """
        backend, end = (
            getattr(tokenizer, name, None) for name in ("backend_tokenizer", "eos_token")
        )
        if backend is None:
            raise OptionError(
                f"tokenizer is a {type(tokenizer).__name__}; give a Tokenizer, its file, or a fast "
                "tokenizer of transformers."
            )
        if not isinstance(end, str):
            raise OptionError(
                f"the {type(tokenizer).__name__} has no token that ends a text, which is put "
                "between texts; name one of its own: tokenizer.eos_token = '…', such as its "
                "pad_token or sep_token."
            )
        return cls(backend.to_str(), end)

    @classmethod
    def train(cls, lines: Iterable[str], vocab: int) -> Tokenizer:
        """Learn the `vocab` tokens that shorten `lines` most (Sennrich, Haddow, Birch 2016).

        The same lines give the same tokenizer. Every byte is a token, so that any text can be
        written; token 0 ends a line. Small texts may have fewer pairs to learn than asked for.

        Raises
        ------
        OptionError
            If `vocab` leaves no room for the 256 bytes and the line end.
        """
        with extra("zoo", "dividing text into tokens"):
            from tokenizers import Tokenizer as Model, decoders, models, pre_tokenizers, trainers

        if vocab <= _BYTES:
            raise OptionError(
                f"vocab is {vocab}; it must be at least {_BYTES + 1}: every byte, and the line end."
            )
        model = Model(models.BPE())
        model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        model.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab,
            special_tokens=[_END],
            # Sorted, since the package lists them in another order each time.
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        model.train_from_iterator(lines, trainer)
        return cls(model.to_str())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Tokenizer:
        """Read a tokenizer that `save`, or the package tokenizers, has written.

        Raises
        ------
        DataError
            If the file is missing, is no tokenizer, or has no token that ends a line.
        """
        file = Path(path)
        found = cls(read_tokenizer(file, DataError))
        try:
            found._model  # noqa: B018 – read here, so that a broken file is named here
        except DataError as error:
            raise DataError(f"{file} {error}") from None
        try:
            found._encode([_TRIAL])
        except DataError as error:
            raise DataError(f"{file}: {error}") from None
        return found

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the tokenizer, by custom as ``tokenizer.json``."""
        return write_bytes(Path(path), self.json.encode())

    @cached_property
    def sha256(self) -> str:
        """Digest of the JSON."""
        return hashlib.sha256(self.json.encode()).hexdigest()

    @cached_property
    def _model(self) -> Any:
        model = load_model(self.json, "", DataError)
        if model.token_to_id(self.end_token) is None:
            raise DataError(
                f"is a tokenizer without the token {self.end_token}, which ends a line."
            )
        # A line that holds the special token's letters is text like any other.
        model.encode_special_tokens = True
        return model

    def __repr__(self) -> str:
        return f"<tokenizer of {self.vocab:,} tokens, {self.sha256[:12]}>"

    @property
    def vocab(self) -> int:
        """Number of tokens."""
        return int(self._model.get_vocab_size())

    @property
    def end(self) -> int:
        """The token that ends a line."""
        return int(self._model.token_to_id(self.end_token))

    def encode(self, lines: Sequence[str]) -> Tensor:
        """Tokens of all lines, each followed by the line end; shape ``(tokens,)``, ``int64``."""
        end, tokens = self.end, []
        for batch in _batches(lines):
            part: list[int] = []
            # What some tokenizers put before a text would stand before every line.
            for line in self._encode(batch):
                part += line.ids
                part.append(end)
            tokens.append(torch.tensor(part, dtype=torch.int64))
        return torch.cat(tokens) if tokens else torch.zeros(0, dtype=torch.int64)

    def _encode(self, batch: list[str]) -> Any:
        try:
            return self._model.encode_batch_fast(batch, add_special_tokens=False)
        # The package raises bare exceptions, and others where Rust panics.
        except BaseException as error:
            if not isinstance(error, Exception) and not is_panic(error):
                raise
            raise DataError(
                f"{self!r} can't divide this text: {error}. Was its file damaged?"
            ) from None

    def decode(self, tokens: Tensor | Sequence[int]) -> list[str]:
        """Lines of text that `tokens`, shape ``(tokens,)``, stand for."""
        lines: list[list[int]] = [[]]
        for token in torch.as_tensor(tokens).tolist():
            if token == self.end:
                lines.append([])
            else:
                lines[-1].append(token)
        if not lines[-1]:
            lines.pop()
        return [str(self._model.decode(line)) for line in lines]

    def id_to_token(self, token: int) -> str | None:
        """Name of a token in the vocabulary, as the package tokenizers has it; None without one."""
        found: str | None = self._model.id_to_token(token)
        return found

    def check(self, outputs: int, network: str = "the network") -> None:
        """Refuse a network whose vocabulary is another one.

        Parameters
        ----------
        outputs : int
            How many tokens the network knows.
        network : str
            What the message calls it.

        Raises
        ------
        DataError
            If that is not the size of this vocabulary.
        """
        if outputs != self.vocab:
            raise DataError(
                f"{network} knows {outputs:,} tokens and the tokenizer {self.vocab:,}; they must "
                "be those it was trained with. Give the run's own file, "
                "tokenizer='RUN/tokenizer.json', or build the network for this vocabulary."
            )


def _batches(lines: Iterable[str]) -> Iterator[list[str]]:
    """Put lines together until they are many, or long."""
    batch: list[str] = []
    letters = 0
    for line in lines:
        batch.append(line)
        letters += len(line)
        if len(batch) == _LINES or letters >= _LETTERS:
            yield batch
            batch, letters = [], 0
    if batch:
        yield batch
