"""A stream is predicted as files are, whatever batches it comes in."""

import io

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iak.pipeline.base.frozen_base import FrozenBase
from iak.pipeline.errors import BadRequest
from iak.pipeline.serving.scorer import Scorer
from iak.pipeline.serving.stream import score_stream
from iak.schemas.log import SplitSpec
from iak.schemas.plan import ResolvedPlacement
from tests.unit.base.test_published_base import ALONE
from tests.unit.serving.shop import (
    TABLES,
    read_all,
    score,
    score_work,
    shop_catalog,
    write_base,
    write_bundles,
    write_shop,
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The rows of a log, their predictions from files, and a scorer."""
    root = tmp_path_factory.mktemp("place")
    rows = write_shop(root)
    base = write_base(root / "base")
    bundles = write_bundles(root / "bundles", base)
    score(ALONE, score_work(root, base, bundles, root / "scores"))
    scorer = Scorer.of(
        FrozenBase.load(base, TABLES, ResolvedPlacement(), ALONE),
        shop_catalog().to_score(SplitSpec()), bundles=bundles, tables=TABLES,
    )  # fmt: skip
    return rows, read_all(root / "scores"), scorer


def stream_of(batches, schema):
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return sink.getvalue()


def answer(scorer, content, batch_rows=64):
    sink = io.BytesIO()
    rows = score_stream(scorer, io.BytesIO(content), sink, batch_rows=batch_rows)
    table = pa.ipc.open_stream(sink.getvalue()).read_all()
    assert rows == len(table)
    return table


@given(cut=st.integers(1, 600), batch_rows=st.integers(1, 600))
@settings(max_examples=6)
def test_a_stream_is_answered_as_its_rows_in_files_are(place, cut, batch_rows):
    rows, scores, scorer = place
    content = stream_of(rows.to_batches(max_chunksize=cut), rows.schema)
    assert answer(scorer, content, batch_rows).combine_chunks().to_pylist() == scores.to_pylist()


def test_labels_and_unknown_columns_are_not_needed_and_do_not_matter(place):
    rows, scores, scorer = place
    other = rows.drop_columns(["click", "order"]).append_column("note", rows["scene"])
    content = stream_of(other.to_batches(), other.schema)
    assert answer(scorer, content).to_pylist() == scores.to_pylist()


def test_a_stream_without_rows_is_answered_without_rows(place):
    rows, scores, scorer = place
    table = answer(scorer, stream_of([], rows.schema))
    assert (len(table), table.schema.names) == (0, scores.schema.names)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda rows: rows.drop_columns(["region"]), "missing columns: region"),
        (lambda rows: rows.drop_columns(["price"]), "missing columns: price"),
        (
            lambda rows: rows.set_column(0, "event_id", pa.array([0.5] * len(rows))),
            r"event_id \(double\): 0\.5 is no whole number",
        ),
    ],
)
def test_columns_that_cannot_be_read_are_named(place, change, says):
    rows, _, scorer = place
    changed = change(rows)
    with pytest.raises(BadRequest, match=says):
        answer(scorer, stream_of(changed.to_batches(), changed.schema))


@pytest.mark.parametrize("length", [0, 11, -40])
def test_a_stream_that_is_none_or_breaks_off_is_refused(place, length):
    rows, _, scorer = place
    content = stream_of(rows.to_batches(), rows.schema)[:length]
    with pytest.raises(BadRequest, match="no whole Arrow IPC stream"):
        answer(scorer, content)
