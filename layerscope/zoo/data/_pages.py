"""Pages of a Parquet file, looked at before pyarrow makes room for what they say that they hold.

A page says how long it is once it is unpacked, and pyarrow believes it: a file of 790 bytes takes
gigabytes. Headers are Thrift's compact protocol; their fields stand in parquet.thrift.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import IO, Any, NamedTuple

__all__ = ["FREE", "SWELL", "check", "footer_length"]

FREE = 2**26
"""Bytes to which anything may unfold, however short it is."""

SWELL = 4
"""And how many times its own length beyond: encoded images can hardly be packed."""

_ROWS = 1_000_000
"""Rows that a file may have however short it is; each takes a byte beyond."""

_GROUPS = 100_000
_BATCH = 1024
_HEADER = 2**16
"""Bytes of a page's header."""

_DATA, _DICTIONARY, _DATA_2 = 0, 2, 3


class _Page(NamedTuple):
    unpacked: int
    kind: int
    values: int


def footer_length(file: IO[bytes], held: int) -> int:
    """Read how long a file says that the description at its end is.

    Raises
    ------
    ValueError
        If it is no Parquet file, or that can't be.
    """
    if held < 12:
        raise ValueError("it is too short")
    file.seek(held - 8)
    length, mark = struct.unpack("<I4s", file.read(8))
    if mark != b"PAR1" or length > held - 12:
        raise ValueError("its end is missing or damaged")
    return int(length)


def check(file: IO[bytes], about: Any, columns: Sequence[str], held: int) -> tuple[int, int]:
    """Check the pages of columns against the length of their file.

    Parameters
    ----------
    file : binary file
    about : pyarrow.parquet.FileMetaData
    columns : sequence of str
        As paths in the schema.
    held : int
        Bytes of the file.

    Returns
    -------
    rows : int
    step : int
        Rows that can be read at once, although each may be the longest that a dictionary holds.

    Raises
    ------
    ValueError
        If pages lie outside of the file, unfold to far more than it holds, or don't add up.
    """
    rows, longest = int(about.num_rows), 1
    if not 0 <= rows <= max(_ROWS, held) or about.num_row_groups > _GROUPS:
        raise ValueError(
            f"it has {held:,} bytes and says that it has {rows:,} rows in "
            f"{about.num_row_groups:,} groups"
        )
    for number in range(about.num_row_groups):
        group = about.row_group(number)
        each = [group.column(at) for at in range(group.num_columns)]
        for column in (one for one in each if one.path_in_schema in columns):
            if column.num_values != group.num_rows or group.num_rows > rows:
                raise ValueError(f"{column.path_in_schema} has other values than rows")
            longest = max(longest, _check_column(file, column, held))
    file.seek(0)
    return rows, max(1, min(_BATCH, FREE // longest))


def _check_column(file: IO[bytes], column: Any, held: int) -> int:
    """Check the pages of one column; return the length of its longest dictionary."""
    starts = [column.data_page_offset, column.dictionary_page_offset]
    start = min(at for at in starts if at)
    end = start + column.total_compressed_size
    if not 4 <= start <= end <= held:
        raise ValueError(f"{column.path_in_schema} lies outside of the file")
    longest = values = 0
    for page in _pages(file, start, end):
        values += page.values if page.kind in (_DATA, _DATA_2) else 0
        longest = max(longest, page.unpacked if page.kind == _DICTIONARY else 0)
        if values > column.num_values:
            raise ValueError(f"{column.path_in_schema} has more values than rows")
    return longest


def _pages(file: IO[bytes], start: int, end: int) -> Iterator[_Page]:
    while start < end:
        file.seek(start)
        content = file.read(min(_HEADER, end - start))
        try:
            fields, length = _read_struct(content, 0, 0)
        except (IndexError, struct.error):
            raise ValueError(f"the header of a page at {start:,} is damaged") from None
        kind, unpacked, packed = (fields.get(number) for number in (1, 2, 3))
        numbers = [each for each in (kind, unpacked, packed) if isinstance(each, int)]
        if len(numbers) < 3 or min(numbers) < 0 or start + length + numbers[2] > end:
            raise ValueError(f"the header of a page at {start:,} is damaged")
        kind, unpacked, packed = numbers
        if unpacked > FREE + SWELL * packed:
            raise ValueError(
                f"a page of {packed:,} bytes says that it unfolds to {unpacked:,}, which images "
                "do not"
            )
        inner = fields.get({_DATA: 5, _DICTIONARY: 7, _DATA_2: 8}.get(kind, 0), {})
        values = inner.get(1, 0) if isinstance(inner, dict) else 0
        if not isinstance(values, int) or values < 0:
            raise ValueError(f"the header of a page at {start:,} is damaged")
        yield _Page(unpacked, kind, values)
        start += length + packed


def _read_struct(content: bytes, at: int, depth: int) -> tuple[dict[int, Any], int]:
    """Read a struct of Thrift's compact protocol; return its fields by number, and its end."""
    found: dict[int, Any] = {}
    number = 0
    while (head := content[at]) != 0:
        at += 1
        if head >> 4:
            number += head >> 4
        else:
            number, at = _read_integer(content, at)
        found[number], at = _read_value(content, at, head & 15, depth)
    return found, at + 1


def _read_value(content: bytes, at: int, kind: int, depth: int) -> tuple[Any, int]:
    if kind in (1, 2):  # true, false
        return kind == 1, at
    if kind in (4, 5, 6):
        return _read_integer(content, at)
    if kind == 8:  # bytes, such as the least value of a page
        length, at = _read_varint(content, at)
        return None, at + length
    if kind == 12 and depth < 4:
        return _read_struct(content, at, depth + 1)
    fixed = {3: 1, 7: 8}.get(kind)
    if fixed is None:  # lists and maps stand in no header
        raise IndexError(kind)
    return None, at + fixed


def _read_integer(content: bytes, at: int) -> tuple[int, int]:
    value, at = _read_varint(content, at)
    return (value >> 1) ^ -(value & 1), at


def _read_varint(content: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 64:
        part = content[at]
        value |= (part & 127) << shift
        at, shift = at + 1, shift + 7
        if part < 128:
            return value, at
    raise IndexError(at)
