"""What a footer says is read without pyarrow's accessors, and bytes that say nothing are refused.

That chunks lie where pyarrow says they do is tested in test_content.py.
"""

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from iak.pipeline.data import footer

STOP = b"\x00"
STRUCT, BINARY, LIST, SET, MAP, DOUBLE, BYTE, TRUE, I64 = 12, 8, 9, 10, 11, 7, 3, 1, 6


def parquet_bytes(table: pa.Table, **settings) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **settings)
    return sink.getvalue()


@pytest.fixture(scope="module")
def stored() -> bytes:
    words = pa.array([["a"], ["b", "c"], []], pa.list_(pa.string()))
    table = pa.table({"n": [1, 2, 3], "word": ["x", "y", "z"], "words": words})
    return parquet_bytes(table, row_group_size=2)


def framed(content: bytes) -> bytes:
    return footer.footer_of(pa.BufferReader(content))[1]


def test_a_framed_footer_is_a_file_that_pyarrow_reads(stored):
    size, content = footer.footer_of(pa.BufferReader(stored))
    assert size == len(stored)
    metadata = pq.read_metadata(pa.BufferReader(content))
    assert metadata.equals(pq.read_metadata(pa.BufferReader(stored)))
    length = int.from_bytes(stored[-8:-4], "little")
    assert footer.unframed(content) == stored[-8 - length : -8]


def test_a_footer_is_read_from_a_file_system_by_its_path(stored, tmp_path):
    path = tmp_path / "a.parquet"
    path.write_bytes(stored)
    assert footer.read_footer(pa.fs.LocalFileSystem(), str(path)) == (len(stored), framed(stored))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PAR1", "4 bytes are too few"),
        (b"PAR1" + b"\0" * 8 + b"NOPE", "does not end with a Parquet footer"),
        (b"PAR1" + (5).to_bytes(4, "little") + b"PAR1", "does not end with a Parquet footer"),
    ],
    ids=["too short", "another magic word", "a footer longer than the file"],
)
def test_a_file_that_does_not_end_as_parquet_is_refused(content, message):
    with pytest.raises(ValueError, match=message):
        footer.footer_of(pa.BufferReader(content))


def test_the_digest_depends_on_every_byte(stored):
    content = framed(stored)
    changed = content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]
    assert footer.footer_digest(content) == footer.footer_digest(bytes(content))
    assert footer.footer_digest(content) != footer.footer_digest(changed)


def test_rows_are_counted_by_row_group(stored):
    assert footer.group_rows_of(pq.read_metadata(pa.BufferReader(stored))) == (2, 1)


def test_text_columns_are_named_by_their_paths_inside_lists_too(stored):
    metadata = pq.read_metadata(pa.BufferReader(stored))
    assert footer.text_columns(metadata) == ["word", "words.list.element"]


def field(number_step: int, kind: int, value: bytes) -> bytes:
    """A field whose number is `number_step` above the last one's."""
    return bytes([number_step << 4 | kind]) + value


def varint(value: int) -> bytes:
    parts = []
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def zigzag(value: int) -> bytes:
    return varint(value << 1 if value >= 0 else (-value << 1) - 1)


def binary(data: bytes) -> bytes:
    return varint(len(data)) + data


def chunk(name: bytes, *, length: int, data_at: int, dictionary_at: int | None = None) -> bytes:
    """ColumnChunk with its ColumnMetaData: fields 3, 7, 9 and, where there is one, 11."""
    path = field(3, LIST, bytes([1 << 4 | BINARY]) + binary(name))
    meta = path + field(4, I64, zigzag(length)) + field(2, I64, zigzag(data_at))
    if dictionary_at is not None:
        meta += field(2, I64, zigzag(dictionary_at))
    return field(3, STRUCT, meta + STOP) + STOP


def document(*chunks: bytes, before: bytes = b"", step: int = 4) -> bytes:
    """FileMetaData with one row group; `before` are fields below number 4."""
    columns = field(1, LIST, bytes([len(chunks) << 4 | STRUCT]) + b"".join(chunks))
    groups = field(step, LIST, bytes([1 << 4 | STRUCT]) + columns + STOP)
    return before + groups + STOP


def test_a_chunk_begins_at_its_dictionary_where_that_comes_first():
    footers = document(
        chunk(b"a", length=10, data_at=30),
        chunk(b"b", length=10, data_at=30, dictionary_at=4),
        chunk(b"c", length=10, data_at=30, dictionary_at=60),
        chunk(b"d", length=10, data_at=30, dictionary_at=0),
    )
    ((*chunks,),) = footer.chunks_of(footers, file_bytes=100)
    assert [(c.column, c.start) for c in chunks] == [("a", 30), ("b", 4), ("c", 30), ("d", 30)]
    assert {c.length for c in chunks} == {10}


@pytest.mark.parametrize(
    "unwanted",
    [
        field(1, I64, zigzag(-(2**62))),
        field(1, BINARY, binary(b"text")),
        field(1, DOUBLE, b"\0" * 8),
        field(1, BYTE, b"\xff"),
        field(1, TRUE, b""),
        field(1, STRUCT, field(1, TRUE, b"") + field(2, BINARY, binary(b"x")) + STOP),
        field(1, LIST, bytes([3 << 4 | BINARY]) + binary(b"a") + binary(b"") + binary(b"bc")),
        field(1, SET, bytes([15 << 4 | TRUE]) + varint(20) + b"\1" * 20),
        field(1, MAP, varint(0)),
        field(1, MAP, varint(2) + bytes([BINARY << 4 | I64]) + (binary(b"k") + zigzag(300)) * 2),
        b"\x06" + zigzag(1) + zigzag(7),
    ],
    ids=["i64", "binary", "double", "byte", "true", "struct", "list", "long set", "empty map",
         "map", "long field number"],
)  # fmt: skip
def test_a_value_of_any_type_before_what_is_wanted_is_skipped_whole(unwanted):
    content = document(chunk(b"a", length=1, data_at=2), before=unwanted, step=3)
    assert footer.chunks_of(content, file_bytes=9) == [[footer.Chunk("a", 2, 1)]]


@pytest.mark.parametrize(("length", "data_at"), [(8, 3), (-1, 3), (1, -1)])
def test_a_chunk_outside_the_file_is_refused(length, data_at):
    with pytest.raises(ValueError, match="lies outside the file"):
        footer.chunks_of(document(chunk(b"a", length=length, data_at=data_at)), file_bytes=10)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (STOP, "lacks what says where columns lie"),
        (field(4, BINARY, binary(b"x")) + STOP, "lacks what says where columns lie"),
        (field(4, DOUBLE, b"\0" * 8) + STOP, "has a value of type 7"),
        (field(1, 14, b"") + STOP, "which the protocol does not know"),
        (field(4, LIST, bytes([15 << 4 | STRUCT]) + varint(2**40)), "do not fit into"),
        (field(4, I64, b"\xff" * 11), "more than 64 bits"),
        (field(1, STRUCT, b"") * 40, "too deep"),
        (field(1, LIST, bytes([1 << 4 | LIST])) + bytes([1 << 4 | LIST]) * 40, "too deep"),
        (field(4, I64, b"\x80"), "ends within a structure"),
        (b"", "ends within a structure"),
    ],
    ids=["empty", "another type", "a type that says nothing", "an unknown type", "a huge count",
         "a long number", "deep structures", "deep lists", "cut number", "no byte"],
)  # fmt: skip
def test_bytes_that_are_no_footer_are_refused_with_what_is_wrong(content, message):
    with pytest.raises(ValueError, match=message):
        footer.chunks_of(content, file_bytes=100)


def test_a_page_has_a_checksum_where_its_header_has_the_field():
    without = field(1, I64, zigzag(0)) + field(1, I64, zigzag(5)) + field(1, I64, zigzag(5))
    assert not footer.has_checksum(without + STOP)
    assert footer.has_checksum(without + field(1, I64, zigzag(-7)) + STOP + b"and more bytes")
