"""Tokens as text, in the words of any tokenizer that a user may hold."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layerscope.base import files, validate
from layerscope.core import networks
from layerscope.errors import DataError, OptionError
from layerscope.jupyter._pieces import Pieces, decoded, encoded, named
from layerscope.zoo.data import Tokenizer

__all__ = ["TokenReader", "find_reader", "reader_of"]

_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")


@dataclass(frozen=True)
class TokenReader:
    """Reads tokens, and divides text into them.

    Parameters
    ----------
    text : callable
        From tokens to the text that they stand for, in one line: an arrow where a line ends.
    piece : callable
        From a token to its own text, with the blank before it; empty where it has none.
    tokens : callable
        From a text to its tokens.
    """

    text: Callable[[Sequence[int]], str]
    piece: Callable[[int], str]
    tokens: Callable[[str], list[int]]


def reader_of(tokenizer: Any) -> TokenReader | None:
    """Make a reader of a tokenizer; None of None.

    Parameters
    ----------
    tokenizer : Tokenizer, path or object, optional
        One of layerscope's own, of transformers or of the package tokenizers, a folder or file of
        theirs, or anything with ``encode(text)`` and ``decode(tokens)``.

    Raises
    ------
    OptionError
        If it is none of these.
    DataError
        If there is no tokenizer at the path.
    """
    if tokenizer is None or isinstance(tokenizer, TokenReader):
        return tokenizer
    if isinstance(tokenizer, Tokenizer):
        return _own(tokenizer)
    if isinstance(tokenizer, (str, os.PathLike)):
        return reader_of(_load(Path(tokenizer)))
    if not all(callable(getattr(tokenizer, name, None)) for name in ("encode", "decode")):
        raise OptionError(
            f"tokenizer is {validate.describe(tokenizer)}; give one with encode(text) and "
            "decode(tokens), such as transformers.AutoTokenizer.from_pretrained(folder), or the "
            "folder of one."
        )
    return _foreign(tokenizer)


def find_reader(model: Any) -> TokenReader | None:
    """Find the tokenizer that lies in the folder that a network was loaded from, if any does."""
    folder = Path(str(getattr(getattr(model, "config", None), "_name_or_path", "") or "."))
    if folder == Path() or not folder.is_dir():
        return None
    # Whatever is wrong with it, numbers can be shown.
    with suppress(Exception):
        return reader_of(_load(folder))
    return None


def _load(path: Path) -> Any:
    """Read a tokenizer that lies in a file or a folder; nothing is asked of the hub."""
    if files.is_file(path) and path.suffix == ".json":
        return networks.load_model(networks.read_tokenizer(path, DataError), path, DataError)
    folder = files.is_folder(path)
    quantised = sorted(path.glob("*.gguf")) if folder else [path]
    there = folder and any(files.is_file(path / name) for name in _FILES)
    if not there and (len(quantised) != 1 or quantised[0].suffix != ".gguf"):
        raise DataError(
            f"there is no tokenizer at {path}; give a folder that holds one of "
            f"{', '.join(_FILES)}, or one such file."
        )
    where = str(path if folder else path.parent)
    return networks.load_tokenizer(networks.Place(where, gguf=None if there else quantised[0].name))


def _own(tokenizer: Tokenizer) -> TokenReader:
    def text(tokens: Sequence[int]) -> str:
        lines = tokenizer.decode(tokens)
        # Nothing follows the last end, so that there is no line for it.
        ended = "↵" if tokens and tokens[-1] == tokenizer.end else ""
        return "↵".join(lines) + ended

    def tokens(said: str) -> list[int]:
        return tokenizer.encode([said])[:-1].tolist()  # of a prompt the line goes on

    return TokenReader(text, Pieces(text, named(tokenizer), tokens).piece, tokens)


def _foreign(tokenizer: Any) -> TokenReader:
    def text(tokens: Sequence[int]) -> str:
        return _one_line(decoded(tokenizer, tokens))

    def tokens(said: str) -> list[int]:
        return encoded(tokenizer, said)

    return TokenReader(text, Pieces(text, named(tokenizer), tokens).piece, tokens)


def _one_line(text: str) -> str:
    return text.replace("\r\n", "↵").replace("\n", "↵")
