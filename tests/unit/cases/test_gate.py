"""Handed cases: what an evaluation's predictions carry of rows whose id is null."""

import tomllib
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from iak.pipeline.data import vocabulary
from iak.pipeline.data.reader import Reader
from iak.pipeline.data.view import open_log
from iak.schemas.log import Catalog
from tests.builders import rows_in_order

REPOSITORY = Path(__file__).parents[3]
CASES = REPOSITORY.parent / "shared" / "cases"


def test_nullid_keeps_a_null_id_null_and_every_other_one_as_text():
    case = CASES / "nullid"
    if not case.is_dir():
        pytest.skip(f"the handed cases are not at {CASES}")
    catalog = Catalog.model_validate(tomllib.loads((case / "shop.toml").read_text()))
    view = open_log(catalog, str(case), wanted=("test",))
    rows = Reader(
        selection=view.selections["test"],
        catalog=catalog,
        encoding=vocabulary.fit(view.raw_rows("test"), catalog),
        rank=0,
        world=1,
        with_ids=True,
    )
    ids = [word for batch in rows_in_order(rows) for word in batch.column("id").to_pylist()]
    folders = sorted(case.glob("events/region=*/dt=*"), key=lambda folder: folder.name)
    last_days = sorted({folder.name for folder in folders})[-2:]
    wanted = [
        number
        for folder in folders
        if folder.name in last_days
        for file in folder.glob("*.parquet")
        for number in pq.ParquetFile(file).read(["event_id"]).column(0).to_pylist()
    ]
    assert Counter(ids) == Counter(None if n is None else str(n) for n in wanted)
    assert ids.count(None) > 100
