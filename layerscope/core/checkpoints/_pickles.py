"""Pickles in ``.pt`` files, followed without making what they would make.

PyTorch's own reader runs no code of a file's, and asks not how much a file makes it do: a few bytes
may ask for gigabytes, or for the hash of tuples within tuples, which takes for ever. Here a file is
followed first with inert objects, in the instructions that PyTorch's reader has, and counted.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import IO, Any

__all__ = ["MAGIC", "PickleReader", "TooMuchError"]

MAGIC = 0x1950A86A20F9469CFC6C
"""What the first pickle holds in a file of PyTorch's old form."""

_BYTES = 32 * 2**20  # of pickles, which hold names and numbers, not weights
_READS = 3_000_000  # somewhat less than two for each instruction, and 65 for each tensor
_WEIGHT = 100_000  # elements of a tuple, and of those in it
_LARGEST = 64 * 2**20  # a number from which on nothing is made of as many parts

# Bytes of one element; a file with other kinds is not mapped.
_SIZES = {
    "UntypedStorage": 1,
    "BoolStorage": 1,
    "ByteStorage": 1,
    "CharStorage": 1,
    "ShortStorage": 2,
    "HalfStorage": 2,
    "BFloat16Storage": 2,
    "IntStorage": 4,
    "FloatStorage": 4,
    "LongStorage": 8,
    "DoubleStorage": 8,
    "ComplexFloatStorage": 8,
    "ComplexDoubleStorage": 16,
}

# Those of PyTorch's reader, in its own words.
_INSTRUCTIONS = (
    *("APPEND", "APPENDS", "BINFLOAT", "BINGET", "BININT", "BININT1", "BININT2", "BINPERSID"),
    *("BINPUT", "BINUNICODE", "BUILD", "EMPTY_DICT", "EMPTY_LIST", "EMPTY_SET", "EMPTY_TUPLE"),
    *("GLOBAL", "LONG1", "LONG_BINGET", "LONG_BINPUT", "MARK", "NEWFALSE", "NEWOBJ", "NEWTRUE"),
    *("NONE", "PROTO", "REDUCE", "SETITEM", "SETITEMS", "SHORT_BINSTRING", "STOP"),
)


class TooMuchError(Exception):
    """A pickle asks for more than weights ever do."""


class _Limited:
    """A file that may be read so often and so far."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._left, self._reads = file, _BYTES, _READS

    def read(self, count: int) -> bytes:
        found = self._file.read(min(count, self._left + 1))
        return self._counted(found)

    def readline(self) -> bytes:
        return self._counted(self._file.readline(self._left + 1))

    def _counted(self, found: bytes) -> bytes:
        self._left -= len(found)
        self._reads -= 1
        if self._left < 0 or self._reads < 0:
            raise TooMuchError("its description of the weights is too long")
        return found


class _Tuple:
    """Elements, and how long it takes to hash them."""

    __slots__ = ("items", "weight")

    def __init__(self, items: list[Any]) -> None:
        self.items = items
        inside: list[int] = [each.weight for each in items if type(each) is _Tuple]
        self.weight: int = 1 + len(items) + sum(inside)
        if self.weight > _WEIGHT:
            raise TooMuchError(f"it holds tuples in each other, of more than {_WEIGHT:,} elements")


class _Inert:
    """Stands for whatever a pickle makes, and does nothing."""

    def __init__(self, name: str = "", size: int | None = None) -> None:
        self.name, self.size = name, size

    def __call__(self, *args: Any) -> _Inert:
        # Only these are made of as many parts as a number says.
        counts = [each for each in args if type(each) is int]
        if self.name.endswith(("bytearray", "Tensor")) and max(counts, default=0) > _LARGEST:
            raise TooMuchError(f"it asks for a {self.name} of {max(counts):,} elements")
        return _Inert()

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    append = extend = __setstate__


class PickleReader(pickle._Unpickler):
    """Follows a pickle without importing or calling what it names.

    Attributes
    ----------
    storages : dict
        Bytes that tensors need of each record by its key; None for types of unknown size.
    """

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(_Limited(file), encoding="utf-8")
        self.storages: dict[str, int | None] = {}

    def find_class(self, _module: str, name: str) -> Any:
        """Stand in for a class or function."""
        return _Inert(name, _SIZES.get(name))

    def persistent_load(self, pid: Any) -> _Inert:
        """Note down what memory a tensor needs."""
        kind, storage, key, location, count = pid.items[:5]
        plain = kind == "storage" and all(type(text) is str for text in (key, location))
        if not plain or type(count) is not int or count < 0 or type(storage) is not _Inert:
            raise pickle.UnpicklingError("a storage that is none")
        need = None if storage.size is None else count * storage.size
        known = self.storages.get(key, 0)
        self.storages[key] = None if need is None or known is None else max(need, known)
        return _Inert()


def _make_tuple(count: int | None) -> Callable[[Any], None]:
    """Return the instruction that makes a tuple of the last elements; of all since a mark."""

    def load(reader: Any) -> None:
        items = reader.pop_mark() if count is None else reader.stack[-count:]
        if count is not None:
            del reader.stack[-count:]
        reader.append(_Tuple(items))

    return load


def _reduce(reader: Any) -> None:
    args = reader.stack.pop()
    reader.stack[-1] = reader.stack[-1](*args.items)


def _build(reader: Any) -> None:
    reader.stack.pop()


def _empty_tuple(reader: Any) -> None:
    reader.append(_Tuple([]))


class _Instructions(dict[int, Callable[[Any], None]]):
    """Instructions by their byte."""

    def __missing__(self, key: int) -> Callable[[Any], None]:
        raise pickle.UnpicklingError(f"the instruction {key}, which PyTorch does not follow")


_known: Any = pickle._Unpickler.dispatch
_codes: list[int] = [getattr(pickle, name)[0] for name in _INSTRUCTIONS]
PickleReader.dispatch = _Instructions({code: _known[code] for code in _codes})
PickleReader.dispatch |= {
    pickle.TUPLE[0]: _make_tuple(None),
    pickle.TUPLE1[0]: _make_tuple(1),
    pickle.TUPLE2[0]: _make_tuple(2),
    pickle.TUPLE3[0]: _make_tuple(3),
    pickle.EMPTY_TUPLE[0]: _empty_tuple,
    pickle.REDUCE[0]: _reduce,
    pickle.NEWOBJ[0]: _reduce,
    pickle.BUILD[0]: _build,
}
