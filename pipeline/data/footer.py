"""Read where column chunks lie, and whether pages carry checksums, from a Parquet footer.

pyarrow's accessor of column chunks ends the process on some damaged footers, and no accessor tells
whether a page has a checksum. Both stand in structures of Thrift's compact protocol, of which this
file reads as much as it needs.

Sources: thrift/doc/specs/thrift-compact-protocol.md; parquet-format 2.11, parquet.thrift.
"""

import struct
from collections.abc import Callable
from typing import Any, NamedTuple

_STOP, _TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = (
    0, 1, 2, 3, 7, 8, 9, 10, 11, 12,
)  # fmt: skip
_INTEGERS = (4, 5, 6)
_DEEPEST = 32
"""Structures inside each other; parquet.thrift needs fewer than ten."""

# Fields of parquet.thrift, by structure.
_ROW_GROUPS = 4
_COLUMNS = 1
_META_DATA = 3
_PATH, _COMPRESSED_BYTES, _DATA_AT, _DICTIONARY_AT = 3, 7, 9, 11
_PAGE_CHECKSUM = 4


class Chunk(NamedTuple):
    """Where one column's values of one row group lie in the file."""

    column: str
    """Name of the column; of a nested one, that of its outermost field."""
    start: int
    """Byte of the file at which its first page begins."""
    length: int
    """Bytes of its pages, headers included."""


def chunks_of(footer: bytes, *, file_bytes: int) -> list[list[Chunk]]:
    """Return the column chunks of each row group, in the footer's order.

    Args:
        footer: the footer alone, without its length and the magic bytes.
        file_bytes: size of the file, which no chunk may exceed.

    Raises:
        ValueError: the footer is no whole structure, or a chunk lies outside the file.
    """
    document = _read(footer)
    try:
        groups = document[_ROW_GROUPS]
        return [[_chunk(c[_META_DATA], file_bytes) for c in g[_COLUMNS]] for g in groups]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"its footer lacks what says where columns lie ({error!r})") from error


def has_checksum(start_of_chunk: bytes) -> bool:
    """Return whether the first page of a column chunk carries a checksum.

    Args:
        start_of_chunk: its first bytes: all of the page's header, and any more.

    Raises:
        ValueError: they begin with no page header.
    """
    return _PAGE_CHECKSUM in _read(start_of_chunk)


def _chunk(meta: dict[int, Any], file_bytes: int) -> Chunk:
    start = meta[_DATA_AT]
    if 0 < meta.get(_DICTIONARY_AT, 0) < start:
        start = meta[_DICTIONARY_AT]
    length = meta[_COMPRESSED_BYTES]
    if start < 0 or length < 0 or start + length > file_bytes:
        raise ValueError(f"a column chunk at {start} of {length} bytes lies outside the file")
    return Chunk(meta[_PATH][0].decode(), start, length)


def _read(content: bytes) -> dict[int, Any]:
    try:
        return _Reader(content).structure(0)
    except (IndexError, struct.error, UnicodeDecodeError) as error:
        raise ValueError("it ends within a structure") from error


class _Reader:
    """Reads values of the compact protocol one after another."""

    def __init__(self, content: bytes) -> None:
        self.content, self.at = content, 0

    def structure(self, depth: int) -> dict[int, Any]:
        """Return the fields of a structure by their number."""
        if depth > _DEEPEST:
            raise ValueError("its structures lie too deep in each other")
        fields: dict[int, Any] = {}
        number = 0
        while header := self._byte():
            step = header >> 4
            number = number + step if step else self._integer()
            fields[number] = self._value(header & 15, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:  # noqa: ANN401 - whatever stands there
        if kind in _INTEGERS:
            return self._integer()
        if kind == _BINARY:
            return self._bytes(self._varint())
        if kind in (_TRUE, _FALSE):
            return kind == _TRUE
        if kind == _STRUCT:
            return self.structure(depth + 1)
        if kind in (_LIST, _SET):
            return self._list(depth)
        if kind == _DOUBLE:
            return struct.unpack("<d", self._bytes(8))[0]
        if kind == _BYTE:
            return self._byte()
        if kind == _MAP:
            return self._map(depth)
        raise ValueError(f"it has a value of type {kind}, which the protocol does not know")

    def _list(self, depth: int) -> list[Any]:
        header = self._byte()
        count = header >> 4
        count = self._varint() if count == 15 else count
        kind = header & 15
        read = self._element(kind, depth)
        return [read() for _ in range(self._fits(count))]

    def _map(self, depth: int) -> list[tuple[Any, Any]]:
        count = self._fits(self._varint())
        kinds = self._byte() if count else 0
        key, value = self._element(kinds >> 4, depth), self._element(kinds & 15, depth)
        return [(key(), value()) for _ in range(count)]

    def _element(self, kind: int, depth: int) -> Callable[[], Any]:
        """Return what reads an element of a list, where a truth value takes a byte of its own."""
        if kind in (_TRUE, _FALSE):
            return lambda: self._byte() == _TRUE
        return lambda: self._value(kind, depth + 1)

    def _fits(self, count: int) -> int:
        """Refuse a count of elements that the rest cannot hold: each takes a byte at least."""
        if count > len(self.content) - self.at:
            raise ValueError(f"{count} elements do not fit into the rest of it")
        return count

    def _bytes(self, count: int) -> bytes:
        part = self.content[self.at : self.at + self._fits(count)]
        self.at += count
        return part

    def _byte(self) -> int:
        value = self.content[self.at]
        self.at += 1
        return value

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
            if shift > 63:
                raise ValueError("a number of it has more than 64 bits")

    def _integer(self) -> int:
        """Return a signed number, which the protocol writes in zigzag."""
        value = self._varint()
        return (value >> 1) ^ -(value & 1)
