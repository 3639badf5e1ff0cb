"""Predict an Arrow stream: record batches in, predictions out, in the same order."""

from collections import Counter
from collections.abc import Iterator
from typing import BinaryIO

import pyarrow as pa

from iak.pipeline.data.reader import rebatch
from iak.pipeline.errors import BadRequest
from iak.pipeline.serving.encode import check_columns, encode_to_score, identity_of, raw_batch
from iak.pipeline.serving.scorer import Scorer


def score_stream(scorer: Scorer, source: BinaryIO, sink: BinaryIO, *, batch_rows: int) -> int:
    """Predict all rows of a stream; names of kernels and reasons are plain text in the answer.

    Args:
        scorer: base and kernels.
        source: an Arrow IPC stream.
        sink: gets an Arrow IPC stream. Where an error ends it early, it lacks its end mark.
        batch_rows: most rows of a batch.

    Returns:
        The number of rows.

    Raises:
        BadRequest: the source is no Arrow stream, or its columns cannot be read.
    """
    batches = _batches(source)
    schema = plain_schema(scorer.schema)
    rows = 0
    with pa.ipc.new_stream(sink, schema) as writer:
        for encoded in rebatch(_encoded(scorer, batches), batch_rows):
            writer.write_table(scorer.score(encoded).cast(schema))
            rows += len(encoded)
    return rows


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """Return a schema whose dictionaries are plain values."""
    return pa.schema(
        [
            field.with_type(field.type.value_type) if pa.types.is_dictionary(field.type) else field
            for field in schema
        ]
    )


def _batches(source: BinaryIO) -> Iterator[pa.RecordBatch]:
    try:
        yield from pa.ipc.open_stream(source)
    except (pa.ArrowException, OSError) as error:
        raise BadRequest(
            f"the input is no whole Arrow IPC stream: {error}. Write it with "
            "pyarrow.ipc.new_stream, and close the writer"
        ) from error


def _encoded(scorer: Scorer, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield encoded batches; the first one's schema is checked."""
    first = 0
    for batch in batches:
        if first == 0:
            check_columns(batch.schema, scorer.catalog)
        rows = raw_batch(batch, scorer.catalog)
        yield encode_to_score(
            rows,
            identity_of(rows, scorer.catalog, first=first),
            catalog=scorer.catalog,
            encoding=scorer.base.published.encoding,
            counts=Counter(),
        )
        first += len(batch)
