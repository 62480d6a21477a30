"""Ways to spoil a file, whatever is in it, and JSON by what is in it."""

from __future__ import annotations

import json
import os
import random
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from malformed._case import Case

__all__ = ["DEEP", "damage", "flipped", "overwritten", "replaced", "spoil_json", "wild_json"]

DEEP = 100_000


def replaced(name: str, content: bytes) -> Callable[[Path], None]:
    """Make what puts a file in the place of one, or beside it."""

    def spoil(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        # Sound inputs are linked, not copied.
        path.unlink(missing_ok=True)
        path.write_bytes(content)

    return spoil


def damage(folder: Path, name: str, chance: random.Random, each: int) -> Iterator[Case]:
    """Damage a file as disks, networks and strangers do: cut, flipped, emptied, no file at all."""
    whole = (folder / name).read_bytes()
    size = len(whole)

    def changed(how: str, content: bytes) -> Case:
        return Case(f"{name}: {how}", replaced(name, content))

    yield changed("empty", b"")
    for at in sorted({1, 8, size // 4, size // 2, size * 9 // 10, size - 1} - {0, size}):
        yield changed(f"cut to {at} of {size} bytes", whole[:at])
    ends = [range(min(size, 512)), range(max(0, size - 512), size), range(size)]
    for turn in range(3 * each):
        yield flipped(name, chance.choice(ends[turn % 3]), chance.randrange(8))
    for turn in range(max(1, each // 2)):
        at = chance.randrange(size)
        for what in ("00", "ff"):
            yield overwritten(name, at, what, turn)
    yield changed("zeros", bytes(size))
    yield changed("random", chance.randbytes(size))
    yield changed("random bytes after it", whole + chance.randbytes(1000))
    yield changed("twice", whole * 2)
    yield changed("an HTML page", b"<!doctype html><html><script>alert(1)</script></html>")
    yield changed("a pointer of git-lfs", b"version https://git-lfs.github.com/spec/v1\noid x\n")
    for how, make in _NO_FILES.items():
        yield Case(f"{name}: {how}", partial(_instead, name, make))
    yield Case(f"{name}: 30 GB, all but the start a hole", partial(_grow, name, whole))
    yield Case(f"{name}: gone", lambda copy: (copy / name).unlink())


def flipped(name: str, at: int, bit: int) -> Case:
    """Flip one bit of a file."""

    def spoil(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[at] ^= 1 << bit
        replaced(name, bytes(content))(folder)

    return Case(f"{name}: bit {bit} of byte {at} flipped", spoil)


def overwritten(name: str, at: int, what: str, turn: int = 0) -> Case:
    """Write one byte, as two digits, 64 times over what a file holds."""

    def spoil(folder: Path) -> None:
        whole = (folder / name).read_bytes()
        piece = (bytes.fromhex(what) * 64)[: len(whole) - at]
        replaced(name, whole[:at] + piece + whole[at + 64 :])(folder)

    return Case(f"{name}: 64 bytes of {what} at {at}, {turn}", spoil)


def _instead(name: str, make: Callable[[Path], object], folder: Path) -> None:
    path = folder / name
    path.unlink(missing_ok=True)
    make(path)


def _socket(path: Path) -> None:
    place = os.getcwd()  # noqa: PTH109 - the names of sockets are short
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as made, suppress(OSError):
            made.bind(path.name)
    finally:
        os.chdir(place)


_NO_FILES: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "a folder": Path.mkdir,
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to nothing": lambda path: path.symlink_to("nowhere"),
    "a link to /dev/zero": lambda path: path.symlink_to("/dev/zero"),
    "a link to /dev/tty": lambda path: path.symlink_to("/dev/tty"),
    "a socket": _socket,
}


def _grow(name: str, whole: bytes, folder: Path) -> None:
    path = folder / name
    path.unlink()
    path.write_bytes(whole)
    os.truncate(path, 30 * 10**9)


def wild_json(name: str, around: Callable[[bytes], bytes] = bytes) -> Iterator[Case]:
    """Texts in the place of JSON; `around` makes a file of one."""
    deep = b"[" * DEEP
    wild = {
        "a list nested without end": deep,
        "a list nested deeply": deep + b"]" * DEEP,
        "an object nested deeply": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
        "empty": b"",
        "null": b"null",
        "a number": b"1",
        "a text": b'"text"',
        "a list": b"[]",
        "an empty object": b"{}",
        "a list of objects": b"[{}]",
        "cut": b'{"format": "layer',
        "two": b"{}{}",
        "not UTF-8": b'{"a": "\xff\xfe"}',
        "UTF-16": '{"a": 1}'.encode("utf-16"),
        "half a surrogate": b'{"a": "\\ud800"}',
        "NUL": b'{"a\\u0000b": "\\u0000"}',
        "a number of 5,000 digits": b'{"a": ' + b"9" * 5000 + b"}",
        "no number": b'{"a": NaN, "b": -Infinity, "c": 1e999}',
    }
    for how, text in wild.items():
        yield Case(f"{name}: {how}", replaced(name, around(text)))
    for how, make in _LARGE.items():
        yield Case(f"{name}: {how}", partial(_replace_by, name, around, make))


_LARGE: dict[str, Callable[[], bytes]] = {
    "a text of 100 MB": lambda: b'{"a": "' + b"x" * 100_000_000 + b'"}',
    "a million keys": lambda: b'{"a":0' + b"".join(b',"%d":1' % n for n in range(10**6)) + b"}",
    "ten million lists": lambda: b"[" + b"[]," * 10_000_000 + b"[]]",
}


def _replace_by(
    name: str, around: Callable[[bytes], bytes], make: Callable[[], bytes], folder: Path
) -> None:
    replaced(name, around(make()))(folder)


_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 10**30, 1.5, float("nan"), float("inf"), "", "text", "../../../etc/passwd",
    "/etc/passwd", "a\0b", "x" * 300, "é\u2028\ud800", [], [1], {}, {"a": {}}, [[[[]]]],
    "<script>alert(1)</script>",
)  # fmt: skip
"""What may stand in the place of any value."""


def spoil_json(
    folder: Path, name: str, chance: random.Random, most: int,
    around: Callable[[bytes], bytes] = bytes, text: str | None = None,
) -> Iterator[Case]:  # fmt: skip
    """Put values of other types in the places of those of a JSON, and leave keys out."""
    content = (folder / name).read_text("utf-8") if text is None else text
    sound = json.loads(content)
    places = list(_places(sound))
    made = [(place, value) for place in places for value in (*_VALUES, _GONE, _DEEP)]
    for place, value in chance.sample(made, min(most, len(made))):
        yield Case(
            f"{name}: {'.'.join(map(str, place))} {_told(value)}",
            partial(_put, name, content, place, value, around),
        )


_GONE, _DEEP, _MARK = object(), object(), "here-it-is-deep"


def _places(value: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where there is a value in nested JSON; of long lists the first."""
    held: list[tuple[Any, Any]] = list(value.items())[:40] if isinstance(value, dict) else []
    for key, each in list(enumerate(value))[:2] if isinstance(value, list) else held:
        yield (*before, key)
        yield from _places(each, (*before, key))


def _told(value: Any) -> str:
    if value is _GONE:
        return "is left out"
    return "is nested deeply" if value is _DEEP else f"is {ascii(value)[:40]}"


def _put(
    name: str, content: str, place: tuple[Any, ...], value: Any,
    around: Callable[[bytes], bytes], folder: Path,
) -> None:  # fmt: skip
    changed = inside = json.loads(content)
    *way, last = place
    for step in way:
        inside = inside[step]
    if value is _GONE:
        del inside[last]
    else:
        inside[last] = _MARK if value is _DEEP else value
    deep = b"[" * DEEP + b"]" * DEEP
    encoded = json.dumps(changed).encode().replace(json.dumps(_MARK).encode(), deep)
    replaced(name, around(encoded))(folder)
