"""Read the record of any benchmark, without what a benchmark needs to run."""

from pathlib import Path

from iak.pipeline.formats import first_format
from iak.schemas.base import JsonObject
from iak.schemas.record import BenchmarkRecord


def benchmark_record_of(document: JsonObject, where: Path) -> BenchmarkRecord:
    """Return a benchmark record in the current format.

    Args:
        document: the record as JSON values.
        where: the file it was read from, for messages.

    Raises:
        OtherFormat: another version wrote it.
        ValueError: it is not a benchmark record.
    """
    return first_format(
        BenchmarkRecord,
        document,
        kind="benchmark record",
        where=where,
        remedy="Run the benchmark again",
    )
