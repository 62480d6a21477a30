"""Texts by name: where they lie, and how they are divided."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from layerscope.base import files, memory
from layerscope.errors import DataError
from layerscope.zoo.data._arrow import INDEX, SavedTexts
from layerscope.zoo.data._text import TextData, from_lines, read_lines
from layerscope.zoo.data._tokens import Tokenizer

__all__ = [
    "OPTIONS",
    "PARTS",
    "find_lm1b",
    "find_text",
    "read_lm1b",
    "read_python_docs",
    "read_text",
]

PARTS = ("train", "valid", "test")
OPTIONS = ("vocab", "length", "lines", "encoding", "tokenizer")

_LM1B = "1-billion-word-language-modeling-benchmark-r13output"


def read_python_docs(root: Path, *, vocab: int = 2048, length: int = 64, **others: Any) -> TextData:
    """The English help texts inside Python's standard library, divided by paragraph."""
    del root  # the text comes with Python
    from pydoc_data.topics import topics

    parts: dict[str, list[str]] = {"train": [], "valid": [], "test": []}
    for paragraph in (p for topic in sorted(topics) for p in topics[topic].split("\n\n")):
        # By what it says: what stands in several topics is all in one part, and a paragraph more
        # or less moves none of the others.
        place = hashlib.sha256(paragraph.encode()).digest()[0] % 10
        part = {0: "valid", 1: "test"}.get(place, "train")
        parts[part] += [line.strip() for line in paragraph.split("\n") if line.strip()]
    version = ".".join(map(str, sys.version_info[:2]))
    origin = f"help texts (pydoc_data.topics) of Python {version}; each version has its own"
    return _build("python-docs", parts, origin, vocab, length, **others)


def find_text(folder: Path) -> dict[str, tuple[Path, ...]]:
    """Files of each part: ``train.txt``, ``valid.txt`` and ``test.txt``.

    Raises
    ------
    DataError
        If one is missing; every missing one is named.
    """
    found = {part: folder / f"{part}.txt" for part in PARTS}
    missing = [str(path) for path in found.values() if not os.path.lexists(path)]
    if missing:
        raise DataError(
            f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing; a text needs "
            "train.txt, valid.txt and test.txt in one folder."
        )
    for path in found.values():  # a link to nothing, a pipe, another folder
        files.open_file(path, error=DataError, what="a text file").close()
    return {part: (path,) for part, path in found.items()}


def read_text(path: Path, *, vocab: int = 8192, length: int = 64, **others: Any) -> TextData:
    """Plain text: a folder with three files, or one file that is divided 90:5:5 by lines."""
    if not files.is_file(path):
        return _from_files(path.name, find_text(path), vocab, length, **others)
    if others.get("lines") is None:
        _require_memory(str(path), path.stat().st_size)
    lines = read_lines(path, others.pop("encoding", "utf-8"))
    limit = others.pop("lines", None)
    cuts = len(lines) * 90 // 100, len(lines) * 95 // 100
    train = lines[: cuts[0]][:limit]
    parts = {"train": train, "valid": lines[cuts[0] : cuts[1]], "test": lines[cuts[1] :]}
    origin = f"{path}, divided 90:5:5 by lines"
    return _build(path.stem, parts, origin, vocab, length, **others)


def find_lm1b(root: Path) -> dict[str, tuple[Path, ...]] | Path:
    """The official files of each part, or the folder of a saved data set.

    Raises
    ------
    DataError
        If neither is there.
    """
    if files.is_file(root / "lm1b" / INDEX):
        return root / "lm1b"
    folder = root / _LM1B
    train = tuple(sorted((folder / "training-monolingual.tokenized.shuffled").glob("news.en-*")))
    held_out = folder / "heldout-monolingual.tokenized.shuffled"
    # The first held-out file is what the literature tests on (Jozefowicz et al. 2016).
    valid, test = (held_out / f"news.en.heldout-0000{n}-of-00050" for n in (1, 0))
    missing = [str(path) for path in (valid, test) if not files.is_file(path)]
    if not train or missing:
        raise DataError(
            f"LM1B is not in {root}: there is no {', '.join(missing) or 'training file'}, and no "
            f"{root / 'lm1b' / INDEX}."
        )
    return {"train": train, "valid": (valid,), "test": (test,)}


def read_lm1b(root: Path, *, vocab: int = 32_768, length: int = 128, **others: Any) -> TextData:
    """The One Billion Word Benchmark, from its official files or a saved data set."""
    found = find_lm1b(root)
    if not isinstance(found, Path):
        return _from_files("lm1b", found, vocab, length, **others)
    limit = others.pop("lines", None)
    others.pop("encoding", None)  # Arrow files are always UTF-8
    whole, held_out = SavedTexts(found, "train"), SavedTexts(found, "test")
    # Published without a part to choose by: the end of the training part serves.
    end = max(len(whole) - len(held_out), 0)
    _require_memory(str(found), whole.bytes + held_out.bytes if limit is None else 0)
    train = whole.lines(0, min(end, limit or end))
    valid, test = whole.lines(end), held_out.lines()
    origin = f"LM1B as saved by the package datasets in {found}"
    parts = {"train": train, "valid": valid, "test": test}
    return _build("lm1b", parts, origin, vocab, length, **others)


def _from_files(
    name: str,
    places: dict[str, tuple[Path, ...]],
    vocab: int,
    length: int,
    *,
    lines: int | None = None,
    encoding: str = "utf-8",
    **others: Any,
) -> TextData:
    where = places["train"][0].parent
    if lines is None:
        size = sum(path.stat().st_size for paths in places.values() for path in paths)
        _require_memory(str(where), size)
    parts: dict[str, list[str]] = {}
    for part, paths in places.items():
        limit = lines if part == "train" else None
        parts[part] = []
        for path in paths:
            if limit is None or len(parts[part]) < limit:
                parts[part] += read_lines(path, encoding)
        parts[part] = parts[part][:limit]
    origin = f"plain text in {where}"
    return _build(name, parts, origin, vocab, length, **others)


def _build(
    name: str,
    parts: dict[str, list[str]],
    origin: str,
    vocab: int,
    length: int,
    *,
    tokenizer: Tokenizer | str | os.PathLike[str] | None = None,
    lines: int | None = None,
    encoding: str = "utf-8",
) -> TextData:
    del encoding  # what comes here is decoded
    cut: dict[str, Sequence[str]] = {**parts, "train": parts["train"][:lines]}
    known = tokenizer
    if known is not None and not isinstance(known, Tokenizer):
        path = isinstance(known, (str, os.PathLike))
        known = Tokenizer.load(known) if path else Tokenizer.of(known)
    return from_lines(name, cut, origin, vocab=vocab, length=length, tokenizer=known)


def _require_memory(name: str, size: int) -> None:
    # Text in memory, then two numbers of eight bytes for each of about size/4 tokens.
    memory.require(
        6 * size,
        f"{name}: {size / 2**30:.1f} GiB of text, and its tokens,",
        "Give lines=, to read only the first so many lines of the training part.",
    )
