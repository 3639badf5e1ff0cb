"""Footers tell which files can be read; a damaged file is named and the others are read."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iak.pipeline.data import parquet
from iak.pipeline.data.file_classifier import OUTSIDE, FileClassifier, classify_all
from iak.pipeline.data.reader import Reader
from iak.pipeline.data.snapshot import Ignored, LogFile, Unreadable
from iak.pipeline.errors import BadLog, PipelineError
from tests.builders import (
    DAYS,
    EVERYTHING,
    batch_of,
    draw_rows,
    encoding_of,
    rows_in_order,
    small_catalog,
    snapshot_of,
    write_file,
    write_log,
)

CATALOG = small_catalog()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    log = tmp_path / "events"
    write_log(
        log, [("ningbo", DAYS[0], [4, 3]), ("ningbo", DAYS[1], [5]), ("hangzhou", DAYS[0], [6])]
    )
    return log


def test_each_listed_file_is_read_unreadable_or_ignored(root):
    classifier = FileClassifier(uri=str(root), keys=("region", "dt"), schema_problem=lambda _: None)
    (root / "notes.txt").write_text("notes")
    write_file(root / "stray.parquet", draw_rows(2))
    where = (("region", "ningbo"), ("dt", DAYS[1]))
    whole = root / "region=ningbo" / f"dt={DAYS[1]}" / "part-00001.parquet"
    results = classify_all(
        classifier.classify_listed,
        [(str(root / "stray.parquet"), ()), (str(root / "notes.txt"), ()), (str(whole), where)],
    )
    assert [type(result) for result in results] == [Ignored, LogFile, Unreadable]
    assert [result.path for result in results] == sorted(result.path for result in results)
    ignored, file, stray = results
    assert ignored.reason == "no Parquet: it begins with b'note', not PAR1"
    assert (file.partition, file.group_rows, file.rows) == (where, (5,), 5)
    assert stray.reason == f"{OUTSIDE} region=.../dt=..."


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda b: b[: len(b) // 2], id="cut in the middle"),
        pytest.param(lambda b: b[:-3], id="cut in the footer"),
        pytest.param(lambda _: b"", id="zero bytes"),
        pytest.param(lambda _: b"PAR1PAR1", id="magic alone"),
        pytest.param(
            lambda b: b[:-8] + (2**31 - 1).to_bytes(4, "little") + b"PAR1", id="huge footer"
        ),
        pytest.param(lambda b: b[:-200] + b"\0" * 150 + b[-50:], id="holes in the footer"),
    ],
)
def test_a_damaged_file_is_quarantined_by_name_while_others_are_read(root, damage):
    path = root / "region=ningbo/dt=2026-10-01/part-00000.parquet"
    path.write_bytes(damage(path.read_bytes()))
    snapshot = snapshot_of(root, CATALOG)
    assert [u.path for u in snapshot.unreadable] == [
        "region=ningbo/dt=2026-10-01/part-00000.parquet"
    ]
    assert snapshot.unreadable[0].reason.startswith("no whole Parquet file: ")
    assert snapshot.rows == 11


def read_everything(root: Path) -> int:
    selection = parquet.select(snapshot_of(root, CATALOG), EVERYTHING, CATALOG)
    rows = batch_of(draw_rows(9).append_column("region", pa.array(["a"] * 9)))
    worker = Reader(
        selection=selection, catalog=CATALOG, encoding=encoding_of(rows, CATALOG), rank=0, world=1
    )
    return sum(len(part) for part in rows_in_order(worker))


def test_chunks_beyond_the_end_of_the_file_are_a_named_error(root):
    path = root / "region=ningbo/dt=2026-10-01/part-00000.parquet"
    stored = path.read_bytes()
    footer = 8 + int.from_bytes(stored[-8:-4], "little")
    path.write_bytes(b"PAR1" + stored[-footer:])
    with pytest.raises(BadLog, match=r"part-00000\.parquet, row group 0 cannot be decoded"):
        read_everything(root)


@given(st.data())
@settings(max_examples=100)
def test_no_damage_whatever_ends_in_an_unnamed_error(tmp_path_factory, data):
    root = tmp_path_factory.mktemp("log")
    path = write_file(root / "region=a/dt=2026-10-01/a.parquet", draw_rows(30), [20, 10])
    stored = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        stored[data.draw(st.integers(0, len(stored) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(stored)
    try:
        with np.errstate(all="ignore"):
            read_everything(root)
    except PipelineError as error:
        assert "a.parquet" in str(error)  # noqa: PT017 - most damages raise nothing


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param(lambda t: t.drop_columns(["price"]), "missing columns: price", id="missing"),
        pytest.param(
            lambda t: t.set_column(2, "user_id", pa.array([5] * len(t), pa.duration("s"))),
            "user_id: duration[s], expected id",
            id="retyped id",
        ),
        pytest.param(
            lambda t: t.set_column(4, "hist", t.column("item_id")),
            "hist: int64, expected list of ids",
            id="list turned scalar",
        ),
        pytest.param(
            lambda t: t.set_column(5, "slot", pa.array(["x"] * len(t))),
            "slot: string, expected whole number",
            id="text in an identity table",
        ),
        pytest.param(
            lambda t: t.set_column(9, "click", pa.array(["yes"] * len(t))),
            "click: string, expected label",
            id="text label",
        ),
    ],
)
def test_a_file_that_breaks_the_schema_is_quarantined_by_name_while_others_are_read(
    root, change, reason
):
    write_file(root / "region=ningbo/dt=2026-10-03/bad.parquet", change(draw_rows(5)))
    snapshot = snapshot_of(root, CATALOG)
    assert [(u.path, u.reason) for u in snapshot.unreadable] == [
        ("region=ningbo/dt=2026-10-03/bad.parquet", reason)
    ]
    assert snapshot.rows == 18
