"""Encode the columns of a base that is never run here: logits, and the activations h.

An encoded batch has, beside the features:

    g.logit.<task>   float32         the logit that was served; 0 where it cannot be used
    g.h              list<float32>   the logged activations, `units` of them in each row

A row without a usable logit or h keeps its position. The contract takes its labels away, so that
nothing is learned from it and no metric ranks it.

Shapes: n rows, U units of h, T tasks.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from iak.pipeline.data.breaches import Breach, Kind
from iak.schemas.given_base import GivenBaseSpec
from iak.schemas.log import Catalog

H = "g.h"
LOGIT = "g.logit."
Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
_BF16_NAN = 0x7FC0


def encoded_columns(rows: pa.RecordBatch, catalog: Catalog) -> dict[str, pa.Array]:
    """Return the encoded columns of a given base; none where the catalogue has no such base.

    Args:
        rows: raw columns in plain types (normal.py).
        catalog: the log's catalogue.
    """
    base = catalog.columns_base
    if base is None:
        return {}
    columns: dict[str, pa.Array] = {}
    # The catalogue of a log that is predicted has no tasks, and so no labels (Catalog.to_score).
    for task, column in base.logits.items():
        logit_n = logits(rows, column)
        columns[LOGIT + task] = pa.array(np.where(np.isfinite(logit_n), logit_n, 0))
    if base.h is not None and base.units is not None:
        h_nU, is_usable_n = activations(rows.column(base.h), base.units)
        h_nU[~is_usable_n] = 0
        ends = np.arange(len(rows) + 1, dtype=np.int32) * base.units
        columns[H] = pa.ListArray.from_arrays(pa.array(ends), pa.array(h_nU.reshape(-1)))
    return columns


def encoded_types(catalog: Catalog) -> dict[str, pa.DataType]:
    """Return the types of the encoded columns of a given base."""
    if catalog.columns_base is None:
        return {}
    types: dict[str, pa.DataType] = {
        LOGIT + task: pa.float32() for task in catalog.columns_base.logits
    }
    return types | ({H: pa.list_(pa.float32())} if catalog.columns_base.h else {})


def logits(rows: pa.RecordBatch, column: str) -> Floats:
    """Return a column of logits in fp32; NaN where it is null, infinite beyond fp32's range."""
    values = rows.column(column)
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    return _numbers(values)


def activations(column: pa.Array, units: int) -> tuple[Floats, Mask]:
    """Return logged activations in fp32, and which rows have U finite ones.

    Args:
        column: lists of numbers. Lists of uint16 have the bits of bfloat16.
        units: U.

    Returns:
        h_nU, whose other rows have any values, and a mask of the rows that can be used.
    """
    lengths = pc.fill_null(pc.list_value_length(column), -1).to_numpy(zero_copy_only=False)
    is_usable_n = lengths == units
    # `filter` drops the values of rows that are null or of another length; `flatten` alone
    # keeps those of null rows where a writer left any.
    h_mU = _floats(column.filter(pa.array(is_usable_n)).flatten()).reshape(-1, units)
    h_nU = np.zeros((len(column), units), np.float32)
    h_nU[is_usable_n] = h_mU
    is_usable_n[is_usable_n] = np.isfinite(h_mU).all(axis=1)
    return h_nU, is_usable_n


def _floats(values: pa.Array) -> Floats:
    """Return numbers as fp32; a null is NaN."""
    if pa.types.is_uint16(values.type):
        bits = pc.fill_null(values, pa.scalar(_BF16_NAN, pa.uint16())).to_numpy()
        words: npt.NDArray[np.uint32] = bits.astype(np.uint32) << np.uint32(16)
        return words.view(np.float32)
    return _numbers(values)


def _numbers(values: pa.Array) -> Floats:
    """Return numbers of any type as fp32."""
    with np.errstate(over="ignore"):  # beyond fp32: infinite, and so not usable
        numbers = values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        floats: Floats = numbers.astype(np.float32)
    return floats


def unusable_rows(rows: pa.RecordBatch, catalog: Catalog) -> Iterator[tuple[Mask, Breach]]:
    """Yield, for each column of a given base, the rows that it cannot be used in, and the breach.

    Args:
        rows: raw columns in plain types.
        catalog: the log's catalogue.
    """
    base = catalog.columns_base
    if base is None:
        return
    for column in base.logits.values():
        yield ~np.isfinite(logits(rows, column)), Breach.of(Kind.NO_LOGIT, column)
    if base.h is not None and base.units is not None:
        _, is_usable_n = activations(rows.column(base.h), base.units)
        what = f"no list of {base.units} finite numbers in {base.h}"
        yield ~is_usable_n, Breach(Kind.NO_ACTIVATIONS, what, base.h)


def length_problem(schema: pa.Schema, base: GivenBaseSpec) -> str | None:
    """Return why a file's lists of fixed length cannot be the base's; None where they can."""
    if base.h is None or schema.names.count(base.h) != 1:
        return None
    actual = schema.field(base.h).type
    if pa.types.is_fixed_size_list(actual) and actual.list_size != base.units:
        return (
            f"{base.h}: lists of {actual.list_size} numbers, base.units says {base.units}; "
            "correct base.units, or adopt a base of its own for this model"
        )
    return None
