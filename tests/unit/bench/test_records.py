"""The record of a benchmark is read in today's format, or refused by name."""

import json
from pathlib import Path

import pytest

from iak.pipeline.bench.records import benchmark_record_of
from iak.pipeline.errors import OtherFormat

RECORDS = sorted(Path(__file__).parents[3].glob("infra/benchmarks/*/*.json"))


def some_record():
    """The first committed record of a benchmark."""
    documents = (json.loads(path.read_text()) for path in RECORDS)
    return next(document for document in documents if "bench" in document)


def test_a_committed_record_is_read():
    record = benchmark_record_of(some_record(), Path("bench.json"))
    assert record.bench == some_record()["bench"]


def test_a_record_of_a_later_version_is_refused():
    with pytest.raises(OtherFormat, match=r"bench\.json"):
        benchmark_record_of(some_record() | {"format": 99}, Path("bench.json"))


def test_what_is_no_record_is_refused():
    with pytest.raises(ValueError, match="validation error"):
        benchmark_record_of({"bench": "data"}, Path("bench.json"))
