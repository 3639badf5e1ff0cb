"""Read the footer of a Parquet file: its bytes, row groups, column chunks and checksums.

pyarrow's accessor of column chunks ends the process on some damaged footers (pyarrow 26), and no
accessor says whether a page has a checksum. Both are in structures of Thrift's compact protocol.
This module reads as much of that protocol as it needs.

Sources: thrift/doc/specs/thrift-compact-protocol.md; parquet-format 2.11, parquet.thrift.
"""

from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
import xxhash

_MAGIC = b"PAR1"
_LENGTH_BYTES = 4
"""Bytes that hold the length of a footer, before the magic word at the end of the file."""
_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 11, 12
_INTEGERS = (4, 5, 6)
_TRUTHS = (_TRUE, _FALSE)
_BYTES_OF = {_BYTE: 1, _DOUBLE: 8}
_LONG = 15
"""Stands for a list's count where the count follows as a number of its own."""
_DEEPEST = 32
"""Most structures inside each other; parquet.thrift needs fewer than ten."""

# Fields of parquet.thrift, by structure.
_ROW_GROUPS = 4
_COLUMNS = 1
_META_DATA = 3
_PATH, _COMPRESSED_BYTES, _DATA_AT, _DICTIONARY_AT = 3, 7, 9, 11
_PAGE_CHECKSUM = 4

Fields = dict[int, "Fields"]
"""Number of each wanted field of a structure -> the fields wanted of the structures in it."""
_OF_A_CHUNK: Fields = {_PATH: {}, _COMPRESSED_BYTES: {}, _DATA_AT: {}, _DICTIONARY_AT: {}}
_OF_A_FOOTER: Fields = {_ROW_GROUPS: {_COLUMNS: {_META_DATA: _OF_A_CHUNK}}}
_OF_A_PAGE: Fields = {_PAGE_CHECKSUM: {}}


def read_footer(filesystem: pa.fs.FileSystem, path: str) -> tuple[int, bytes]:
    """Return the size and footer of a file, as `footer_of` does.

    Raises:
        ValueError: the file does not end as Parquet does.
        OSError: the file cannot be read.
    """
    with filesystem.open_input_file(path) as file:
        return footer_of(file)


def footer_of(file: pa.NativeFile) -> tuple[int, bytes]:
    """Return the file's size, and its footer between magic words.

    Framed so, pyarrow reads the footer as that of a file without rows.

    Raises:
        ValueError: the file does not end as Parquet does.
    """
    size: int = file.size()
    if size < 12:
        raise ValueError(f"{size} bytes are too few for Parquet")
    tail = bytes(file.read_at(8, size - 8))
    length = int.from_bytes(tail[:4], "little")
    if tail[4:] != _MAGIC or length + 12 > size:
        raise ValueError("it does not end with a Parquet footer; was the upload cut short?")
    return size, _MAGIC + bytes(file.read_at(length, size - 8 - length)) + tail


def unframed(framed: bytes) -> bytes:
    """Return a footer without the magic words and the length that `footer_of` leaves around it."""
    return framed[len(_MAGIC) : -len(_MAGIC) - _LENGTH_BYTES]


def footer_digest(footer: bytes) -> str:
    """Return the digest by which a footer is recognised when its file is opened again."""
    return xxhash.xxh3_128(footer).hexdigest()


def group_rows_of(metadata: pq.FileMetaData) -> tuple[int, ...]:
    """Return the rows of each row group.

    Only counts are read here. On a footer with flipped bits pyarrow's accessor of column chunks
    ends the process; damage there shows when the chunks are read.

    Raises:
        ValueError: the counts contradict each other.
    """
    rows = tuple(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))
    if sum(rows) != metadata.num_rows or min(rows, default=0) < 0:
        raise ValueError(f"its row groups hold {rows} rows, its footer says {metadata.num_rows}")
    return rows


def text_columns(metadata: pq.FileMetaData) -> list[str]:
    """Return the paths of the columns that hold text, those inside lists among them."""
    leaves = (metadata.schema.column(index) for index in range(metadata.num_columns))
    return [leaf.path for leaf in leaves if leaf.logical_type.type == "STRING"]


class Chunk(NamedTuple):
    """Position in the file of one column's values of one row group."""

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
        ValueError: the footer is not a whole structure, or a chunk lies outside the file.
    """
    document = _read(footer, _OF_A_FOOTER)
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
    return _PAGE_CHECKSUM in _read(start_of_chunk, _OF_A_PAGE)


def _chunk(meta: dict[int, Any], file_bytes: int) -> Chunk:
    start = meta[_DATA_AT]
    if 0 < meta.get(_DICTIONARY_AT, 0) < start:
        start = meta[_DICTIONARY_AT]
    length = meta[_COMPRESSED_BYTES]
    if start < 0 or length < 0 or start + length > file_bytes:
        raise ValueError(f"a column chunk at {start} of {length} bytes lies outside the file")
    return Chunk(meta[_PATH][0].decode(), start, length)


def _read(content: bytes, wanted: Fields) -> dict[int, Any]:
    try:
        return _Reader(content).structure(wanted, 0)
    except (IndexError, UnicodeDecodeError) as error:
        raise ValueError("it ends within a structure") from error


class _Reader:
    """Reads wanted values of the compact protocol in order, and skips the others."""

    def __init__(self, content: bytes) -> None:
        self.content, self.at = content, 0

    def structure(self, wanted: Fields, depth: int) -> dict[int, Any]:
        """Return the wanted fields of a structure by their number."""
        _check_depth(depth)
        fields: dict[int, Any] = {}
        number = 0
        while header := self._byte():
            step = header >> 4
            number = number + step if step else self._integer()
            if number in wanted:
                fields[number] = self._value(header & 15, wanted[number], depth)
            else:
                self.at = _skip(self.content, self.at, header & 15, depth)
        return fields

    def _value(self, kind: int, wanted: Fields, depth: int) -> Any:  # noqa: ANN401 - of any type
        if kind in _INTEGERS:
            return self._integer()
        if kind == _BINARY:
            return self._bytes(self._varint())
        if kind == _STRUCT:
            return self.structure(wanted, depth + 1)
        if kind == _LIST:
            return self._list(wanted, depth)
        raise ValueError(f"a field that says where columns lie has a value of type {kind}")

    def _list(self, wanted: Fields, depth: int) -> list[Any]:
        header = self._byte()
        count, kind = header >> 4, header & 15
        count = _fits(self._varint() if count == _LONG else count, self.content, self.at)
        return [self._value(kind, wanted, depth + 1) for _ in range(count)]

    def _bytes(self, count: int) -> bytes:
        end = self.at + _fits(count, self.content, self.at)
        part, self.at = self.content[self.at : end], end
        return part

    def _byte(self) -> int:
        value = self.content[self.at]
        self.at += 1
        return value

    def _varint(self) -> int:
        value, self.at = _varint(self.content, self.at)
        return value

    def _integer(self) -> int:
        """Return a signed number, which the protocol writes in zigzag."""
        value = self._varint()
        return (value >> 1) ^ -(value & 1)


def _skip(content: bytes, at: int, kind: int, depth: int) -> int:
    """Return where the value that begins at byte `at` ends.

    A footer has about forty values of each column chunk that are not wanted. So these functions
    index the bytes directly and call each other as rarely as possible.
    """
    if kind in _INTEGERS:
        return _end_of_varint(content, at)
    if kind == _BINARY:
        length, at = _varint(content, at)
        return at + length
    if kind == _STRUCT:
        return _skip_structure(content, at, depth + 1)
    if kind in (_LIST, _SET):
        header = content[at]
        count, at = header >> 4, at + 1
        if count == _LONG:
            count, at = _varint(content, at)
        return _skip_elements(content, at, count, header & 15, depth + 1)
    if kind == _MAP:
        return _skip_map(content, at, depth + 1)
    if kind in _TRUTHS:
        return at  # the type of a field says true or false
    if kind in _BYTES_OF:
        return at + _BYTES_OF[kind]
    raise ValueError(f"it has a value of type {kind}, which the protocol does not know")


def _skip_structure(content: bytes, at: int, depth: int) -> int:
    _check_depth(depth)
    while header := content[at]:
        at += 1
        if header < 16:  # the field's number follows
            at = _end_of_varint(content, at)
        if header & 15 in _INTEGERS:
            while content[at] > 127:
                at += 1
            at += 1
        else:
            at = _skip(content, at, header & 15, depth)
    return at + 1


def _skip_elements(content: bytes, at: int, count: int, kind: int, depth: int) -> int:
    _check_depth(depth)
    if kind in _TRUTHS:
        return at + count  # an element that is true or false takes a byte
    for _ in range(_fits(count, content, at)):
        at = _skip(content, at, kind, depth)
    return at


def _skip_map(content: bytes, at: int, depth: int) -> int:
    count, at = _varint(content, at)
    if not count:
        return at
    kinds, at = content[at], at + 1
    for _ in range(_fits(count, content, at)):
        at = _skip_elements(content, at, 1, kinds >> 4, depth)
        at = _skip_elements(content, at, 1, kinds & 15, depth)
    return at


def _end_of_varint(content: bytes, at: int) -> int:
    while content[at] > 127:
        at += 1
    return at + 1


def _varint(content: bytes, at: int) -> tuple[int, int]:
    """Return an unsigned number and where it ends."""
    value = shift = 0
    while (byte := content[at]) > 127:
        value |= (byte & 127) << shift
        shift += 7
        if shift > 63:
            raise ValueError("one of its numbers has more than 64 bits")
        at += 1
    return value | byte << shift, at + 1


def _fits(count: int, content: bytes, at: int) -> int:
    """Return a count of elements that the rest of the bytes can hold.

    Raises:
        ValueError: there are fewer bytes left than elements; each takes at least one.
    """
    if count > len(content) - at:
        raise ValueError(f"{count} elements do not fit into its remaining bytes")
    return count


def _check_depth(depth: int) -> None:
    if depth > _DEEPEST:
        raise ValueError("its structures lie too deep in each other")
