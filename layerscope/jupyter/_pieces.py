"""The text of one token, as it stands within a text, by any tokenizer there is."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any

__all__ = ["Pieces", "decoded", "encoded", "named"]

_LOST = "\ufffd"  # stands for bytes that are no whole character
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")  # what sentencepiece writes for a byte
_BEFORE = "a"
_PRINTED = [*range(33, 127), *range(161, 173), *range(174, 256)]


def _alphabet() -> dict[str, int]:
    """Give the signs that byte-level tokenizers write bytes with: the printed ones, then others.

    Some have every byte as the character of that number.
    """
    rest = [byte for byte in range(256) if byte not in _PRINTED]
    plain = {chr(byte): byte for byte in range(256)}
    return plain | {chr(256 + at): byte for at, byte in enumerate(rest)}


_SIGNS = _alphabet()


def encoded(tokenizer: Any, said: str) -> list[int]:
    """Divide a text into tokens; what is put after it, as to end it, is left out.

    What is put before it stays: networks know texts to begin so.
    """
    whole, bare = _encode(tokenizer, said), _encode(tokenizer, said, add_special_tokens=False)
    for start in range(len(whole) - len(bare) + 1):
        if bare and whole[start : start + len(bare)] == bare:
            return whole[: start + len(bare)]
    return whole


def _encode(tokenizer: Any, said: str, **options: bool) -> list[int]:
    try:
        found = tokenizer.encode(said, **options)
    except TypeError:  # one that has no such options
        if not options:
            raise
        found = tokenizer.encode(said)
    return [int(token) for token in getattr(found, "ids", found)]


def decoded(tokenizer: Any, tokens: Sequence[int]) -> str:
    """Write tokens as text, special ones included, with every blank as it was."""
    given = list(tokens)
    for options in (
        {"skip_special_tokens": False, "clean_up_tokenization_spaces": False},
        {"skip_special_tokens": False},
    ):
        with suppress(TypeError):  # one that has no such options
            return str(tokenizer.decode(given, **options))
    return str(tokenizer.decode(given))


def named(tokenizer: Any) -> Callable[[int], str]:
    """Give what looks the name of a token up; of some tokenizers it is empty."""
    names = ("convert_ids_to_tokens", "id_to_token", "id_to_piece", "decode_single_token_bytes")
    look_up = next((found for name in names if (found := getattr(tokenizer, name, None))), None)

    def name(token: int) -> str:
        found = look_up(token) if look_up else None
        if isinstance(found, bytes):
            return found.decode("latin-1")
        return found if isinstance(found, str) else ""

    return name


class Pieces:
    """Texts of single tokens.

    A token's text is what it adds to one that stands before it, since the first of a text is
    written otherwise: sentencepiece leaves its blank out, and a part of a word keeps its sign.

    Parameters
    ----------
    read : callable
        From tokens to their text.
    name : callable
        From a token to its name in the vocabulary.
    encode : callable
        From a text to its tokens.
    """

    def __init__(
        self,
        read: Callable[[Sequence[int]], str],
        name: Callable[[int], str],
        encode: Callable[[str], Sequence[int]],
    ) -> None:
        self._read, self._name = read, name
        self._before = self._anchor(encode)
        self.piece = lru_cache(maxsize=None)(self._piece)

    def _anchor(self, encode: Callable[[str], Sequence[int]]) -> int | None:
        """Find the token of a letter, special ones around it left out."""
        with suppress(Exception):  # whatever is wrong with it, tokens can be read alone
            return next(t for t in encode(_BEFORE) if self._read([t]).strip() == _BEFORE)
        return None

    def _piece(self, token: int) -> str:
        """Write a token with the blank before it; empty where it has no text."""
        # Of a number beyond the vocabulary some raise, each something else.
        with suppress(Exception):
            text, name = self._added(token), self._name(token)
            if text and _LOST not in text:
                return text
            return _bytes(name) or text or name
        return ""

    def _added(self, token: int) -> str:
        if self._before is not None:
            alone, both = self._read([self._before]), self._read([self._before, token])
            if both.startswith(alone):
                return both[len(alone) :] or self._read([token])
        return self._read([token])


def _bytes(name: str) -> str:
    """Write the bytes of a token that is a part of a character; empty where it is no such part."""
    if _BYTE.fullmatch(name):
        return name.upper().replace("X", "x")
    found = [_SIGNS.get(sign, -1) for sign in name]
    if not found or min(found) < 0 or max(found) < 128:  # a name in plain letters is its text
        return ""
    return "".join(chr(byte) if byte < 128 else f"<0x{byte:02X}>" for byte in found)
