"""Text as sequences of tokens, each to be predicted from those before it."""

from __future__ import annotations

import codecs
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from layerscope.base import files
from layerscope.core.batches import NO_TARGET, Examples
from layerscope.errors import DataError, OptionError, choose
from layerscope.zoo.data._modify import Modifiers
from layerscope.zoo.data._tokens import Tokenizer

__all__ = ["TextData", "from_lines", "pack", "read_lines"]

_PARTS = ("train", "valid", "test")

_PIECE = 2**20
_LONGEST_LINE = 2**20
"""Characters; tokens of one line are found at once, which takes up to 300 bytes a character."""

_LONGEST_WORD = 2**16
_WORD = re.compile(r"\w+|[^\w\s]+")


@dataclass(frozen=True, eq=False)
class TextData(Modifiers):
    """A named text in tokens.

    Parameters
    ----------
    name : str
        The name it is loaded by, and labelled with in every result.
    train, valid, test : Examples
        Inputs of shape ``(n, T)``, ``int64`` tokens; targets of the same shape, the token that
        comes next, −100 beyond the end.
    classes : int
        Number of tokens in the vocabulary.
    origin : str
        Where the text comes from.
    tokenizer : Tokenizer
        To be kept with what is trained on it; its hash is part of the fingerprints.
    """

    name: str
    train: Examples
    valid: Examples
    test: Examples
    classes: int
    origin: str
    tokenizer: Tokenizer

    def __repr__(self) -> str:
        sizes = " + ".join(f"{self.tokens(part):,}" for part in _PARTS)
        return f"<{self.name}: {sizes} tokens of {self.classes:,} in sequences of {self.shape[0]}>"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input: the length of a sequence."""
        return tuple(self.train.inputs.shape[1:])

    def tokens(self, part: str = "test") -> int:
        """Number of tokens to be predicted in a part."""
        return len(self._targets(part))

    def unigram_perplexity(self, part: str = "test") -> float:
        """Perplexity of guessing each token by how often it stands in the training part.

        A language model must stay below this to have learned more than the frequency of words.
        One is added to every count, so that no token is impossible (Laplace):
        ``exp(−Σ log((count + 1)/(N + V)) / M)`` over the M tokens of the part, with N training
        tokens and a vocabulary of V.

        Parameters
        ----------
        part : str
            ``"train"``, ``"valid"`` or ``"test"``.
        """
        counts = torch.bincount(self._targets("train"), minlength=self.classes).double() + 1
        cost = -(counts / counts.sum()).log()
        return math.exp(float(cost[self._targets(part)].mean()))

    def _targets(self, part: str) -> Tensor:
        targets: Tensor = getattr(self, choose(part, _PARTS, "part")).targets
        return targets[targets != NO_TARGET]


def pack(tokens: Tensor, length: int, end: int) -> tuple[Tensor, Tensor]:
    """Cut a text into sequences of equal length.

    Parameters
    ----------
    tokens : Tensor
        Shape ``(tokens,)``, ``int64``.
    length : int
        Tokens in a sequence.
    end : int
        The token that ends a line: stands before the first, and where the last sequence is empty.

    Returns
    -------
    inputs, targets : Tensor
        Shape ``(n, length)``, n = ⌈tokens/length⌉. Each token is a target exactly once, with the
        one before it as its input; beyond the end targets are −100.

    Examples
    --------
    >>> inputs, targets = pack(torch.tensor([5, 6, 7]), length=2, end=0)
    >>> inputs.tolist(), targets.tolist()
    ([[0, 5], [6, 0]], [[5, 6], [7, -100]])
    """
    if length < 1:
        raise OptionError(f"length is {length}; a sequence must hold at least 1 token.")
    rows = -(-len(tokens) // length)
    inputs = torch.full((rows * length,), end, dtype=torch.int64)
    targets = torch.full((rows * length,), NO_TARGET, dtype=torch.int64)
    inputs[1 : len(tokens)] = tokens[:-1]
    targets[: len(tokens)] = tokens
    return inputs.reshape(rows, length), targets.reshape(rows, length)


def from_lines(
    name: str,
    parts: Mapping[str, Sequence[str]],
    origin: str,
    *,
    vocab: int,
    length: int,
    tokenizer: Tokenizer | None = None,
) -> TextData:
    """Make a `TextData` of lines of text.

    Parameters
    ----------
    name, origin : str
    parts : mapping
        Lines of ``"train"``, ``"valid"`` and ``"test"``.
    vocab : int
        Tokens that are learned from the training lines, where there is no tokenizer yet.
    length : int
        Tokens in a sequence.
    tokenizer : Tokenizer, optional
        One that a network was trained with.

    Raises
    ------
    DataError
        If a part holds no text.
    """
    for part in _PARTS:
        if not any(parts[part]):
            raise DataError(
                f"the {part} part of {name} ({origin}) holds no text; give it at least one line."
            )
    chosen = tokenizer or Tokenizer.train(parts["train"], vocab)
    found = {}
    for part in _PARTS:
        inputs, targets = pack(chosen.encode(parts[part]), length, chosen.end)
        found[part] = Examples(inputs, targets, name=f"{name} {part}", about=chosen.sha256)
    return TextData(name, **found, classes=chosen.vocab, origin=origin, tokenizer=chosen)


def read_lines(path: Path, encoding: str = "utf-8") -> list[str]:
    """Lines of a text file that are not blank, without what surrounds them.

    Raises
    ------
    DataError
        If it is no file that can be read, holds bytes that are not of this encoding, a NUL, or a
        line that is too long for text.
    OptionError
        If there is no such encoding.
    """
    decoder = _decoder(encoding)
    with files.open_file(path, error=DataError, what="a text file") as file:
        pieces = _decoded(path, file, encoding, decoder)
        return [line for each in _lines(path, pieces) if (line := each.strip())]


def _decoder(encoding: str) -> codecs.IncrementalDecoder:
    try:
        # With a mark at its start or without: both are UTF-8.
        plain = encoding.lower().replace("_", "-") in ("utf-8", "utf8")
        found = codecs.lookup("utf-8-sig" if plain else encoding)
        if found._is_text_encoding:
            return codecs.getincrementaldecoder(found.name)()
    except (LookupError, ValueError, TypeError, AttributeError):
        pass
    raise OptionError(
        f"there is no encoding {encoding!r}; give one that Python knows, such as 'latin-1'."
    )


def _decoded(
    path: Path, file: IO[bytes], encoding: str, decoder: codecs.IncrementalDecoder
) -> Iterator[str]:
    """Decode a file piece by piece."""
    seen = 0
    while True:
        content = file.read(_PIECE)
        before = seen - len(decoder.getstate()[0])
        seen += len(content)
        try:
            text = decoder.decode(content, final=not content)
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path} is not in {encoding}: byte 0x{error.object[error.start]:02x} at offset "
                f"{before + error.start:,}. Say which encoding it has, such as "
                "encoding='latin-1', or rewrite it as UTF-8."
            ) from None
        except UnicodeError as error:
            raise DataError(f"{path} is not in {encoding}: {error}.") from None
        if "\0" in text:
            raise DataError(
                f"{path} holds a NUL, so that it is no text in {encoding}. Say which encoding it "
                "has, such as encoding='utf-16', or rewrite it as UTF-8."
            )
        yield text
        if not content:
            return


def _lines(path: Path, pieces: Iterable[str]) -> Iterator[str]:
    """Divide at line ends alone, not at signs that stand inside a line, such as U+2028."""
    begun: list[str] = []
    length = number = 0
    for piece in pieces:
        *ended, rest = piece.split("\n")
        for line in ended:
            number, length = number + 1, 0
            yield _with_words(path, number, "".join([*begun, line]))
            begun.clear()
        begun.append(rest)
        length += len(rest)
        _require_length(path, number + 1, length)
    yield _with_words(path, number + 1, "".join(begun))


def _with_words(path: Path, number: int, line: str) -> str:
    """Refuse a long line, or one with a word from which tokens would be learned for hours."""
    _require_length(path, number, len(line))
    if len(line) > _LONGEST_WORD and any(
        word.end() - word.start() > _LONGEST_WORD for word in _WORD.finditer(line)
    ):
        raise DataError(
            f"line {number:,} of {path} has a word of over {_LONGEST_WORD:,} characters, which no "
            "text has; take out what is none, such as pictures in letters."
        )
    return line


def _require_length(path: Path, number: int, length: int) -> None:
    if length > _LONGEST_LINE:
        raise DataError(
            f"line {number:,} of {path} has over {_LONGEST_LINE:,} characters; a text is divided "
            "by lines, so end them: one for each sentence or paragraph."
        )
