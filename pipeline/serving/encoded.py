"""Encode rows that are to be predicted, and name the rows that break the log's contract."""

from collections import Counter
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from iak.pipeline.data import contract, features, hashing
from iak.pipeline.data.features import Encoding
from iak.pipeline.data.reader import as_text
from iak.schemas.log import Catalog

ID, BREACH = "id", "breach"
"""Columns of encoded rows: the declared id as text, and what breaks the contract or null."""


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
    counts.update(inspection.counts)
    encoded = features.encode(rows, identity=identity, catalog=catalog, encoding=encoding)
    if catalog.log.row_id:
        encoded = encoded.append_column(ID, as_text(rows.column(catalog.log.row_id)))
    return encoded.append_column(BREACH, _breach_of_rows(inspection.breaches, len(rows)))


def _breach_of_rows(breaches: Mapping[str, npt.NDArray[np.bool_]], rows: int) -> pa.DictionaryArray:
    """Return the first breach of each row, null where there is none."""
    indices = np.full(rows, -1, np.int32)
    for number, mask in enumerate(breaches.values()):
        indices[mask & (indices < 0)] = number
    codes = pa.array(indices, mask=indices < 0)
    return pa.DictionaryArray.from_arrays(codes, pa.array(list(breaches), pa.string()))
