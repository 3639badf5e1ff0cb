"""Encode rows that are to be predicted, and name the rows that break the log's contract.

Rows come from the files of a log, or as record batches that have every column inside.
"""

from collections import Counter
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from iak.pipeline.data import contract, features, hashing, partitions
from iak.pipeline.data.breaches import named
from iak.pipeline.data.features import Encoding
from iak.pipeline.data.reader import as_text
from iak.pipeline.errors import BadLog, BadRequest
from iak.schemas.log import Catalog

ID, BREACH = "id", "breach"
"""Columns of encoded rows: the declared id as text, and the breach of the contract, else null."""


def encode_to_score(
    rows: pa.RecordBatch,
    identity: hashing.Keys,
    *,
    catalog: Catalog,
    encoding: Encoding,
    counts: Counter[str],
) -> pa.RecordBatch:
    """Return the encoded rows, with their ids and breaches of the contract beside them.

    Args:
        rows: raw rows with all columns of the catalogue.
        identity: key of each row.
        catalog: the log's catalogue without labels, from `Catalog.to_score`.
        encoding: encoding that the base was trained with.
        counts: counter to which the contract's findings are added.
    """
    inspection = contract.inspect(rows, catalog)
    counts.update(named(inspection.counts))
    encoded = features.encode(
        rows, identity=identity, catalog=catalog, encoding=encoding, is_scored=True
    )
    if catalog.log.row_id:
        encoded = encoded.append_column(ID, as_text(rows.column(catalog.log.row_id)))
    return encoded.append_column(BREACH, _breach_of_rows(inspection.breaches, len(rows)))


def check_columns(schema: pa.Schema, catalog: Catalog) -> None:
    """Refuse rows that lack a column of the catalogue, or have one of another kind.

    Args:
        schema: schema of the rows. Partition keys are columns of it too.
        catalog: the log's catalogue without labels.

    Raises:
        BadRequest: the message names each column, its type and what was expected.
    """
    keys = catalog.log.partition_keys
    # Rows without folders have their partition keys as columns, so all columns are checked alike.
    without_folders = {"partition_keys": (), "date_key": None, "date_unit": None}
    log = catalog.log.model_copy(update=without_folders)
    if problem := contract.schema_problem(schema, catalog.model_copy(update={"log": log})):
        advice = contract.type_advice(problem.expected)
        beside = f" The partition keys {', '.join(keys)} are columns here." if keys else ""
        raise BadRequest(f"the rows cannot be read: {problem.what}. {advice}{beside}".rstrip())


def raw_batch(batch: pa.RecordBatch, catalog: Catalog) -> pa.RecordBatch:
    """Return a batch's columns in the types that encoding reads, as files of the log give them.

    Args:
        batch: rows whose columns `check_columns` has passed.
        catalog: the log's catalogue without labels.

    Raises:
        BadRequest: a value cannot be read, such as bytes that are not UTF-8.
    """
    keys = catalog.log.partition_keys
    # A key that no feature reads may be the day, which fresh statistics need.
    wanted = (*catalog.columns, *(k for k in keys if k not in catalog.columns))
    named = {name: batch.column(name) for name in wanted if name in batch.schema.names}
    for key in keys:
        if key in named:  # as the value in a folder's name, which is text
            named[key] = partitions.resolve(named[key], None)
    try:
        rows = pa.RecordBatch.from_arrays(list(named.values()), list(named))
        return contract.rows_as_declared(rows, wanted, catalog)
    except (pa.ArrowException, BadLog) as error:
        raise BadRequest(f"the rows cannot be read: {error}") from error


def identity_of(rows: pa.RecordBatch, catalog: Catalog, *, first: int) -> hashing.Keys:
    """Return the key of each row: of its `row_id`, else of its number among all rows.

    Args:
        rows: rows from `raw_batch`.
        catalog: the log's catalogue.
        first: number of the first row.
    """
    numbers = hashing.keys_of_positions(hashing.key_of_text("rows"), first, len(rows))
    if not catalog.log.row_id:
        return numbers
    ids = rows.column(catalog.log.row_id)
    is_null = ids.is_null().to_numpy(zero_copy_only=False)
    return np.where(is_null, numbers, hashing.keys_of(ids))


def _breach_of_rows(breaches: Mapping[str, npt.NDArray[np.bool_]], rows: int) -> pa.DictionaryArray:
    """Return the first breach of each row, null where there is none."""
    indices = np.full(rows, -1, np.int32)
    for number, mask in enumerate(breaches.values()):
        # An earlier breach of the row stays.
        indices[mask & (indices < 0)] = number
    codes = pa.array(indices, mask=indices < 0)
    return pa.DictionaryArray.from_arrays(codes, pa.array(list(breaches), pa.string()))
