"""Read the rows of a request from JSON or Arrow; what cannot be read is named by row and field."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from iak.pipeline.data.contract import expected_kinds
from iak.pipeline.data.normal import WRITTEN_TIME
from iak.pipeline.data.structs import with_field_columns
from iak.pipeline.data.written import WrittenList, WrittenNumber, written_columns
from iak.schemas.log import Catalog

JSON, ARROW = "application/json", "application/vnd.apache.arrow.stream"
SEPARATED = "separated ids"
"""Kind of a field whose ids the log writes in one text."""
IN_TEXT = "number in text"
"""Kind of a field whose numbers the log writes as text."""
_LARGEST = 2**63
_EXACT = 2.0**53
"""Size from which on floats skip whole numbers."""


class BadRows(ValueError):
    """Rows that cannot be read; the message names the row and the field."""


def rows_of_arrow(body: bytes) -> pa.RecordBatch:
    """Return the rows of an Arrow IPC stream as one batch.

    Raises:
        BadRows: it is no whole stream.
    """
    try:
        table = pa.ipc.open_stream(body).read_all()
        table.validate(full=True)
    except (pa.ArrowException, OSError) as error:
        raise BadRows(f"the body is no whole Arrow IPC stream: {error}") from error
    return with_field_columns(_one_batch(table.unify_dictionaries().combine_chunks()))


def _one_batch(table: pa.Table) -> pa.RecordBatch:
    batches = table.to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)


def rows_of_json(body: bytes, catalog: Catalog) -> pa.RecordBatch:
    """Return the rows of `{"rows": [{"column": value, ...}, ...]}`.

    Args:
        body: the document. A field that is no column of the catalogue is not read.
        catalog: the log's catalogue without labels.

    Raises:
        BadRows: it is no such document, or a row lacks a field or has one of another kind.
    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadRows(f"the body is no JSON: {error}") from error
    rows = document.get("rows") if isinstance(document, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise BadRows('expected {"rows": [{"column": value, ...}, ...]}')
    rows = [_with_fields(row) for row in rows]
    kinds: dict[str, str] = {**expected_kinds(catalog)}
    # A list or a number may come as the log writes it, in text.
    in_text = {WrittenList: SEPARATED, WrittenNumber: IN_TEXT}
    kinds |= {
        name: in_text[type(written)]
        for name, written in written_columns(catalog).items()
        if type(written) in in_text
    }
    columns = (*catalog.columns, *(k for k in catalog.log.partition_keys if k in _fields(rows)))
    names = dict.fromkeys(columns)
    arrays = [_column(rows, name, kinds.get(name, "id"), catalog) for name in names]
    return pa.RecordBatch.from_arrays(arrays, list(names))


def _with_fields(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row with the fields of its objects as fields of its own, named as columns are."""
    for name in [name for name, value in row.items() if isinstance(value, dict)]:
        inner = _with_fields({f"{name}.{field}": value for field, value in row[name].items()})
        row = inner | row
    return row


def _fields(rows: Sequence[Mapping[str, Any]]) -> set[str]:
    return set().union(*rows) if rows else set()


def _column(rows: Sequence[Mapping[str, Any]], name: str, kind: str, catalog: Catalog) -> pa.Array:
    """Return one field of all rows."""
    is_expected, words = _KINDS[kind]
    for number, row in enumerate(rows):
        if name not in row and name not in catalog.optional_columns:
            raise BadRows(f"row {number} lacks the field '{name}'; write null where it is unknown")
        value = row.get(name)
        if value is not None and not is_expected(value):
            raise BadRows(f"row {number}, field '{name}': expected {words}, seen {value!r:.60}")
    values = [row.get(name) for row in rows]
    if kind in _OF_IDS:
        values = [_as_ids(value) for value in values]
    try:
        return pa.array(values, _EMPTY[kind] if all(v is None for v in values) else None)
    except pa.ArrowException as error:  # numbers beside text
        raise BadRows(
            f"field '{name}': whole numbers in some rows and text in others ({error}); write all "
            "as in the log"
        ) from error


def _as_ids(value: object) -> object:
    """Return ids as the log's readers have them: 3.0 is 3, and true is 1."""
    if isinstance(value, list):
        return [_as_ids(item) for item in value]
    return int(value) if isinstance(value, bool | float) else value


def _is_whole(value: object) -> bool:
    """Return whether a value is a whole number, also as a float, as Parquet may have it."""
    if isinstance(value, float):
        return value.is_integer() and abs(value) < _EXACT
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < _LARGEST


def _is_number(value: object) -> bool:
    return isinstance(value, bool | float) or _is_whole(value)


def _is_number_or_text(value: object) -> bool:
    return isinstance(value, str) or _is_number(value)


def _is_id(value: object) -> bool:
    """Return whether a value is an id; the ids of a column of truths are 0 and 1."""
    return isinstance(value, str | bool) or _is_whole(value)


def _is_separated(value: object) -> bool:
    return isinstance(value, str) or _list_of(_is_id)(value)


def _list_of(is_item: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, list) and all(v is None or is_item(v) for v in value)


_KINDS: Mapping[str, tuple[Callable[[object], bool], str]] = {
    "id": (_is_id, "a whole number or text"),
    "whole number": (_is_whole, "a whole number"),
    "number": (_is_number, "a number"),
    "time": (_is_number, "Unix time as a number"),
    WRITTEN_TIME: (_is_id, "a time as the log writes it, in text or digits"),
    IN_TEXT: (_is_number_or_text, "a number, or its text as the log writes it"),
    SEPARATED: (_is_separated, "ids in one text as the log writes them, or a list of them"),
    "list of ids": (_list_of(_is_id), "a list of whole numbers or texts"),
    "list of whole numbers": (_list_of(_is_whole), "a list of whole numbers"),
    "list of numbers": (_list_of(_is_number), "a list of numbers"),
}
_OF_IDS = (
    "id", "whole number", "list of ids", "list of whole numbers", SEPARATED, WRITTEN_TIME
)  # fmt: skip
"""Kinds whose whole numbers may come as floats or booleans."""
_EMPTY: Mapping[str, pa.DataType] = {
    "id": pa.string(),
    "whole number": pa.int64(),
    "number": pa.float64(),
    "time": pa.float64(),
    WRITTEN_TIME: pa.string(),
    IN_TEXT: pa.float64(),
    SEPARATED: pa.string(),
    "list of ids": pa.list_(pa.int64()),
    "list of whole numbers": pa.list_(pa.int64()),
    "list of numbers": pa.list_(pa.float64()),
}
"""Type of a column without any value."""
