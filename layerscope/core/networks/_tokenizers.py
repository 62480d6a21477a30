"""Tokenizers of strangers: JSON that the package tokenizers, written in Rust, makes a program of.

What is promised: a file is read up to a limit; what is known to make a short text long, or to take
for ever, is refused before the package sees it; where it panics, the error is ours. What is not:
where Rust finds no memory it ends the process, and nobody can catch that.
"""

from __future__ import annotations

import base64
import binascii
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from layerscope.base import files
from layerscope.base.extras import extra
from layerscope.errors import LayerscopeError

__all__ = ["TOKENIZER", "is_panic", "load_model", "read_tokenizer", "require_tame"]

TOKENIZER = "tokenizer.json"
"""By custom the name of a tokenizer's file."""

_WHAT = "a tokenizer"
_LARGEST = 64 * 2**20  # bytes; those of the largest vocabularies have half of it
_VALUES = 3_000_000  # those of the largest vocabularies have two thirds of it
_GROWTH = 64  # times that a text may become longer
_STEPS = 64  # parts of a sequence
_LONG = 256  # characters that one step puts in, and tokens that stand around a text
_ADDED = 500_000  # characters of all added tokens: each takes the package a kilobyte
_BRANCHES = 1_600_000  # of a vocabulary that is kept as a tree: each takes 270 bytes

Error = type[LayerscopeError]


class _Parts(files.Schema, kw_only=True):
    """A tokenizer's parts, each as it stands in the file."""

    model: msgspec.Raw
    added_tokens: msgspec.Raw = msgspec.Raw(b"[]")
    normalizer: msgspec.Raw = msgspec.Raw(b"null")
    pre_tokenizer: msgspec.Raw = msgspec.Raw(b"null")
    post_processor: msgspec.Raw = msgspec.Raw(b"null")
    decoder: msgspec.Raw = msgspec.Raw(b"null")


def read_tokenizer(path: Path, error: Error) -> str:
    """Read a tokenizer's JSON, which is refused where `require_tame` refuses it."""
    found = files.read_text(path, error=error, what=_WHAT, most=_LARGEST)
    require_tame(found.encode("utf-8"), path, error)
    return found


def require_tame(content: bytes, where: object, error: Error) -> None:
    """Refuse a tokenizer that would turn a short text into a long one, or take for ever.

    Parameters
    ----------
    content : bytes
        JSON, as the package tokenizers writes it.
    where : path or str
        Names it in messages.
    error : type
        Class of what is raised.

    Raises
    ------
    LayerscopeError
        Of the class `error`: it is no such JSON, or too long, or nested too deep; a step makes a
        text more than 64 times as long, or has a pattern whose time doubles with each letter.
    """
    files.require_json_limits(content, where=where, error=error, what=_WHAT, values=_VALUES)
    try:
        parts = msgspec.json.decode(content, type=_Parts)
        shape = msgspec.json.decode(parts.model, type=_Model)
    except (msgspec.MsgspecError, RecursionError) as why:
        raise error(f"{where} is no tokenizer: {why}.") from None
    told = {
        name: files.parse_json(bytes(getattr(parts, name)), where=where, error=error, what=_WHAT)
        for name in ("added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder")
    }
    vocabulary: Any = None
    if shape.type == "Unigram":
        vocabulary = files.parse_json(bytes(shape.vocab), where=where, error=error, what=_WHAT)
    wrong = _find_wild(told) or _find_large(told["added_tokens"], vocabulary)
    if shape.dropout:
        wrong = (
            f"it leaves out merges at random (dropout {shape.dropout}), so that no two evaluations "
            "would see the same tokens. Put null in the place of its dropout"
        )
    if wrong:
        raise error(
            f"{where} is a tokenizer that is not used: {wrong}. Where you trust it, load it "
            "yourself and give the tokenizer."
        )


def is_panic(error: BaseException) -> bool:
    """Recognise what the package raises where Rust panics: it is no `Exception`."""
    return type(error).__name__ == "PanicException"


class _Model(files.Schema, kw_only=True):
    """A tokenizer's model, as far as it is looked at."""

    type: str | None = None
    dropout: float | None = None
    vocab: msgspec.Raw = msgspec.Raw(b"[]")


def _find_wild(told: dict[str, Any]) -> str | None:
    """Name a step that makes texts too long, or takes too long; None where there is none."""
    for name in ("normalizer", "pre_tokenizer", "decoder"):
        steps = list(_steps(told[name]))
        if len(steps) > _STEPS:
            return f"its {name} has {len(steps):,} steps"
        growth = math.prod(map(_growth, steps))
        if growth > _GROWTH:
            return f"its {name} may make a text {growth:,} times as long"
        for step in steps:
            pattern = step.get("pattern")
            regex = pattern.get("Regex") if isinstance(pattern, dict) else None
            if isinstance(regex, str) and files.is_endless(regex):
                return f"the pattern {regex[:60]!r} of its {name} may take for ever"
    return _find_around(told["post_processor"])


def _steps(step: Any) -> Iterator[dict[str, Any]]:
    """Yield the steps of a part, also of sequences in sequences."""
    if isinstance(step, list):
        for each in step:
            yield from _steps(each)
    elif isinstance(step, dict):
        yield step
        for name in ("normalizers", "pretokenizers", "processors", "decoders"):
            yield from _steps(step.get(name))


def _growth(step: dict[str, Any]) -> int:
    """How many times as long a step may make a text, but for the forms of Unicode."""
    longest = max(
        (len(v) for k, v in step.items() if k in _TEXTS and isinstance(v, str)), default=0
    )
    if longest > _LONG:
        return longest
    if step.get("type") == "Precompiled":
        return _charsmap_growth(step.get("precompiled_charsmap"))
    if step.get("type") != "Replace":
        return 1
    pattern = step.get("pattern")
    found = pattern.get("String") if isinstance(pattern, dict) else None
    if isinstance(found, str) and found:
        return max(1, math.ceil(longest / len(found)))
    return longest + 1  # also between letters, where a pattern may find nothing


_TEXTS = ("content", "prepend", "replacement", "prefix", "suffix", "pad_token", "cls", "sep")


def _charsmap_growth(said: Any) -> int:
    """Length of what the longest replacement of sentencepiece's table puts for a letter."""
    try:
        table = base64.b64decode(said or "", validate=True)
        start = 4 + struct.unpack_from("<L", table)[0] if table else 0
    except (binascii.Error, struct.error, TypeError, ValueError):
        return 1  # the package refuses it
    longest = max(map(len, table[start:].split(b"\0")), default=0)
    return 1 if longest <= _LONG else longest


def _find_around(processor: Any) -> str | None:
    """Name a template that puts more around a text than a few tokens."""
    for step in _steps(processor):
        tokens = step.get("special_tokens")
        tokens = tokens.values() if isinstance(tokens, dict) else ()
        ids = [each["ids"] for each in tokens if isinstance(each, dict) and "ids" in each]
        longest = max((len(each) for each in ids if isinstance(each, list)), default=0)
        pieces = [step.get(name) for name in ("single", "pair")]
        count = max((len(each) for each in pieces if isinstance(each, list)), default=0)
        if longest * count > _LONG:
            return f"it puts up to {longest * count:,} tokens around a text"
    return None


def _find_large(added: Any, vocabulary: Any) -> str | None:
    """Name a vocabulary for which the package takes much more memory than the file is long."""
    rows = added if isinstance(added, list) else []
    texts = [each.get("content") for each in rows if isinstance(each, dict)]
    length = sum(len(text) for text in texts if isinstance(text, str))
    if length > _ADDED:
        return f"its added tokens have {length:,} characters, expected at most {_ADDED:,}"
    branches = _count_branches(vocabulary)
    if branches > _BRANCHES:
        return f"its vocabulary has {branches:,} branches, expected at most {_BRANCHES:,}"
    return None


def _count_branches(vocabulary: Any) -> int:
    """Count the nodes of a tree that holds each word byte by byte."""
    rows = vocabulary if isinstance(vocabulary, list) else []
    words = [str(each[0]).encode("utf-8") for each in rows if isinstance(each, list) and each]
    count, before = 0, b""
    for word in sorted(words):
        shared = min(len(before), len(word))
        pairs = enumerate(zip(before, word, strict=False))
        count += len(word) - next((at for at, (one, two) in pairs if one != two), shared)
        before = word
    return count


def load_model(json: str, where: object, error: Error) -> Any:
    """Make the package's tokenizer of JSON that is tame, without padding and without cutting.

    Raises
    ------
    LayerscopeError
        Of the class `error`: it is no tokenizer.
    """
    with extra("zoo", "dividing text into tokens"):
        from tokenizers import Tokenizer as Model

    try:
        model = Model.from_str(json)
        # Lengths that a file asks for; nobody here does.
        model.no_padding()
        model.no_truncation()
    # The package raises bare exceptions, and others where Rust panics.
    except BaseException as why:
        if not isinstance(why, Exception) and not is_panic(why):
            raise
        raise error(f"{where} is no tokenizer: {why}.".lstrip()) from None
    return model
