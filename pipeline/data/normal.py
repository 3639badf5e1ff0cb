"""Convert the many Arrow types of a column into the few that encoding reads.

Writers store the same values in many types. After `plain`, a column of ids is integers or text
(plain or as a dictionary), a list has offsets, and a number is an integer or a float:

    string_view, binary, binary_view, fixed_size_binary     text; the bytes must be UTF-8
    uuid                                                    text, as 8-4-4-4-12
    date32, date64                                          text, YYYY-MM-DD
    list_view, large_list_view, fixed_size_list             list
    decimal of scale 0                                      int64; for wide ones, `_plain_decimal`
    any other decimal, float16                              float64; ids with a fraction stay
    ids in floats, as pandas writes those with nulls        int64; a fraction is refused
    null                                                    nulls of the expected type
    NaN in a label                                          null
    a duration as the event's time                          timestamp: the log begins with 1970
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, TypeVar, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from iak.pipeline.data import hashing
from iak.pipeline.data.written import Written

Times = TypeVar("Times", pa.Array, pa.ChunkedArray)
ColumnKind = Literal[
    "id", "whole number", "number", "label", "grade", "event", "any value", "time", "written time",
    "list of ids", "list of whole numbers", "list of numbers",
]  # fmt: skip
"""What a catalogue reads a column as."""
ID: Final = "id"
NUMBER: Final = "number"
LABEL: Final = "label"
GRADE: Final = "grade"
"""A number, also as text, that is a label from a bound on."""
EVENT: Final = "event"
"""A word, a whole number or a boolean, of which some values are a label of 1."""
ANY: Final = "any value"
"""A value of any type; only whether there is one is read."""
TIME: Final = "time"
WHOLE: Final = "whole number"
WRITTEN_TIME: Final = "written time"
"""A time that is text or digits, of which the catalogue has the format."""
LIST_OF = "list of "
NOT_WRITTEN: Mapping[str, Written] = {}
"""A log whose lists and times have Arrow types of their own."""
_DIGITS_OF_INT64 = 18
"""Decimal digits that always fit into int64."""


def plain_rows(
    rows: pa.RecordBatch,
    columns: Sequence[str],
    kinds: Mapping[str, str],
    written: Mapping[str, Written] = NOT_WRITTEN,
) -> pa.RecordBatch:
    """Return these columns of the rows in plain types; a column that is absent is null.

    Args:
        rows: rows in the file's own types.
        columns: wanted names, in the order of the result.
        kinds: column -> the kind that the catalogue expects (see `contract.expected_kinds`). A
            column without an entry is treated as a time: its values stay the same.
        written: column -> how lists or times are written in it, where they are text.

    Raises:
        ArrowInvalid: a column of text holds bytes that are not UTF-8, or is written otherwise.
    """
    plain_columns = []
    for name in columns:
        kind = kinds.get(name, TIME)
        if name in rows.schema.names:
            plain_columns.append(_plain_column(name, rows.column(name), kind, written.get(name)))
        else:
            plain_columns.append(pa.nulls(len(rows), null_type(kind)))
    return pa.RecordBatch.from_arrays(plain_columns, list(columns))


def _plain_column(name: str, values: pa.Array, kind: str, written: Written | None) -> pa.Array:
    """Return a column's values in a plain type; an error names the column."""
    try:
        return plain(written.read(values) if written else values, kind)
    except pa.ArrowInvalid as error:
        is_text = "UTF8" in str(error)
        hint = ". Text is UTF-8; write other bytes as hexadecimal text" if is_text else ""
        raise pa.ArrowInvalid(f"{name} ({values.type}): {error}{hint}") from error


def null_type(kind: str) -> pa.DataType:
    """Return the type of a column of this kind that holds nothing but nulls."""
    if kind.startswith(LIST_OF):
        return pa.list_(null_type(_item(kind)))
    return {ID: pa.string(), WHOLE: pa.int64()}.get(kind, pa.float64())


def plain_type(actual: pa.DataType, kind: str, written: Written | None = None) -> pa.DataType:
    """Return the type that `plain` gives values of a type.

    A type that it cannot change comes back as it is, and the contract then refuses it.
    """
    none = pa.nulls(0, actual)
    return plain(written.read(none) if written else none, kind).type


def plain(values: pa.Array, kind: str) -> pa.Array:
    """Return the values in a plain type; values that have one come back as they are.

    Args:
        values: values of any Arrow type.
        kind: kind of value that the catalogue expects in the column.
    """
    is_, actual = pa.types, values.type
    if is_.is_null(actual):
        return pa.nulls(len(values), null_type(kind))
    if is_.is_dictionary(actual):
        return _plain_dictionary(values, kind)
    if kind.startswith(LIST_OF):
        return _plain_list(values, _item(kind))
    if is_.is_decimal(actual):
        return _plain_decimal(values, is_id=kind in (ID, WHOLE))
    if is_.is_float16(actual):
        values = values.cast(pa.float64())
    if kind in (ID, WHOLE) and is_.is_floating(values.type):
        return _whole_floats(values)
    if kind in (ID, GRADE, EVENT):
        return _plain_text(values)
    if kind == LABEL and is_.is_floating(values.type):
        return _without_nan(values)
    if kind == TIME and is_.is_duration(actual):
        return since_1970(values)
    return values


def since_1970(durations: Times) -> Times:
    """Return durations, which count from the start of a log, as times that count from 1970."""
    return durations.cast(pa.int64()).cast(pa.timestamp(durations.type.unit))


def _item(kind: str) -> str:
    """Return the kind of a list's items: `list of ids` -> `id`."""
    return kind.removeprefix(LIST_OF).removesuffix("s")


def _plain_dictionary(values: pa.DictionaryArray, kind: str) -> pa.Array:
    words = plain(values.dictionary, kind)
    if words.type == values.type.value_type and kind != LABEL:
        return values
    if pa.types.is_string(words.type):
        return pa.DictionaryArray.from_arrays(values.indices, words)
    return words.take(values.indices)


def _plain_list(values: pa.Array, kind: str) -> pa.Array:
    is_, actual = pa.types, values.type
    if is_.is_list_view(actual) or is_.is_large_list_view(actual):
        values = _without_views(values, kind)
    elif is_.is_fixed_size_list(actual):
        values = values.cast(pa.list_(actual.value_type))
    if not (is_.is_list(values.type) or is_.is_large_list(values.type)):
        return values
    items = plain(values.values, kind)
    if items.type == values.type.value_type:
        return values
    # Offsets and nulls stay as they are; only the items are replaced.
    make = pa.large_list if is_.is_large_list(values.type) else pa.list_
    return pa.Array.from_buffers(
        make(items.type),
        len(values),
        values.buffers()[:2],
        offset=values.offset,
        children=[items],
    )


def _without_views(values: pa.Array, kind: str) -> pa.ListArray:
    """Return a list view as a list.

    pyarrow 26.0.1's own cast makes an offsets buffer that is one entry short.
    """
    valid = values.is_valid().to_numpy(zero_copy_only=False)
    sizes = np.where(valid, values.sizes.to_numpy(zero_copy_only=False), 0)
    starts = values.offsets.to_numpy(zero_copy_only=False).astype(np.int64)
    ends = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    positions = np.repeat(starts - ends[:-1], sizes) + np.arange(ends[-1])
    items = plain(values.values, kind).take(pa.array(positions))  # string views cannot be taken
    mask = None if valid.all() else pa.array(~valid)
    return pa.ListArray.from_arrays(pa.array(ends.astype(np.int32)), items, mask=mask)


def _plain_text(values: pa.Array) -> pa.Array:
    is_, actual = pa.types, values.type
    if isinstance(actual, pa.UuidType):
        return _uuid_text(values.storage)
    checks = (
        is_.is_string_view,
        is_.is_binary,
        is_.is_large_binary,
        is_.is_binary_view,
        is_.is_fixed_size_binary,
        is_.is_date,
    )
    return values.cast(pa.string()) if any(check(actual) for check in checks) else values


def _uuid_text(values: pa.FixedSizeBinaryArray) -> pa.Array:
    texts = [None if v is None else v.hex() for v in values.to_pylist()]
    cuts = ((0, 8), (8, 12), (12, 16), (16, 20), (20, 32))
    return pa.array([t and "-".join(t[a:b] for a, b in cuts) for t in texts], pa.string())


def _plain_decimal(values: pa.Array, *, is_id: bool) -> pa.Array:
    if pa.types.is_decimal32(values.type) or pa.types.is_decimal64(values.type):
        # pyarrow 26.0.1 refuses to cast a decimal32 of 5 to int64 ("out of bounds").
        values = values.cast(pa.decimal128(values.type.precision, values.type.scale))
    if values.type.scale:
        return values if is_id else values.cast(pa.float64())
    if values.type.precision <= _DIGITS_OF_INT64:
        return values.cast(pa.int64())
    return _whole_decimals(values) if is_id else values.cast(pa.float64())


def _whole_decimals(values: pa.Array) -> pa.Array:
    """Return ids as int64: a value of up to 64 bits as it is, a wider one as a hash of its digits.

    Some warehouses write every id as `NUMBER(38, 0)`, so the declared width says little about the
    values. As int64 they are equal to the same ids of other files.
    """
    width = values.type.byte_width // 8  # 64-bit words of one value, lowest first
    count = (values.offset + len(values)) * width  # the buffer may be padded
    whole = np.frombuffer(values.buffers()[1] or b"", np.uint64, count).reshape(-1, width)
    words = whole[values.offset :]
    low, high = words[:, 0], words[:, 1:]
    sign = np.where(low >> np.uint64(63), np.uint64(2**64 - 1), np.uint64(0))
    # A value fits if its higher words repeat the sign bit (int64) or are 0 (uint64).
    fits = (high == sign[:, None]).all(1) | (high == 0).all(1)
    ids = low.copy()
    if not fits.all():
        wide = words[~fits]
        folded = wide[:, 0].copy()
        for index in range(1, width):
            folded = hashing.combine(folded, wide[:, index])
        ids[~fits] = folded
    mask = values.is_null().to_numpy(zero_copy_only=False) if values.null_count else None
    return pa.array(ids.view(np.int64), mask=mask)


def _whole_floats(values: pa.Array) -> pa.Array:
    """Return ids that are stored as floats as int64; NaN is null.

    pandas turns whole numbers into floats where one of them is missing.

    Raises:
        ArrowInvalid: a value has a fraction, or is so large that floats skip whole numbers.
    """
    numbers = _without_nan(values.cast(pa.float64()))
    exact = 2.0**24 if pa.types.is_float32(values.type) else 2.0**53
    is_id = pc.and_(pc.equal(numbers, pc.floor(numbers)), pc.less(pc.abs(numbers), exact))
    if pc.all(is_id).as_py() is False:
        seen = numbers.filter(pc.invert(is_id))[0].as_py()
        raise pa.ArrowInvalid(
            f"{seen!r} is no whole number that a float holds exactly, so it is no id; write ids as "
            "int64 (pandas: Int64) or as text"
        )
    return numbers.cast(pa.int64())


def _without_nan(values: pa.Array) -> pa.Array:
    numbers = cast("npt.NDArray[np.floating[Any]]", values.to_numpy(zero_copy_only=False))
    if not np.isnan(numbers).any():
        return values
    return pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)
