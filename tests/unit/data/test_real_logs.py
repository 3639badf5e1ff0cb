"""The seven public logs, where they lie beside the repository: every split read to its last row."""

import json
from collections.abc import Mapping
from functools import reduce
from operator import and_
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.dataset as ds
import pytest

from iak.jobs._spec import load_catalog
from iak.pipeline.data import vocabulary
from iak.pipeline.data.batch import to_batch
from iak.pipeline.data.features import Encoding
from iak.pipeline.data.reader import Reader
from iak.pipeline.data.view import LogView, open_log
from iak.schemas.log import Catalog

HIVE = ds.partitioning(flavor="hive")
REPOSITORY = Path(__file__).parents[3]
DATA = REPOSITORY.parent / "shared" / "data"
SHIPPED = REPOSITORY / "schemas" / "catalog"
LOGS = {
    "frappe": {"keys": ["country_domain"], "ids": ["user_id", "item_id"], "split": "split"},
    "ipinyou_2997_sample": {
        "keys": ["daypart"],
        "ids": ["ad_exchange", "slot_id"],
        "split": "split",
    },
    "movielens_100k": {
        "keys": ["region"],
        "ids": ["user_id", "item_id"],
        "split": "split_global_time",
        "lists": ["genres", "hist_item_ids"],
        "numbers": ["age", "release_year"],
    },
    "open_bandit_zozotown": {
        "keys": ["campaign"],
        "partitions": ["campaign", "dt"],
        "ids": ["item_id", "position"],
        "split": "split",
        "numbers": ["item_feature_0"],
    },
    "retailrocket_funnel": {
        "keys": ["user_segment"],
        "ids": ["user_id"],
        "split": "split",
        "lists": ["hist_item_ids"],
    },
    "uci_local_coupons": {
        "keys": ["coupon_scene"],
        "ids": ["item_id", "weather"],
        "split": "split",
        "numbers": ["temperature"],
    },
    "xmrec_markets": {
        "keys": ["market"],
        "ids": ["user_id"],
        "split": "split",
        "lists": ["hist_item_ids"],
    },
}


def events(name: str) -> Path:
    folder = DATA / name / "events"
    if not folder.is_dir():
        pytest.skip(f"the public log {name} is not at {folder}")
    return folder


def whole(name: str, columns: list[str]) -> Any:
    return ds.dataset(events(name), partitioning=HIVE).to_table(columns)


def small_catalogue(name: str, values: list[str]) -> Catalog:
    """A catalogue with a few features, and the log's own split values as pretrain and test."""
    facts: Mapping[str, Any] = LOGS[name]
    features = [{"kind": "categorical", "name": c} for c in facts["ids"]]
    features += [{"kind": "list", "name": c, "last": 10} for c in facts.get("lists", [])]
    features += [{"kind": "numeric", "name": c} for c in facts.get("numbers", [])]
    return Catalog.model_validate(
        {
            "log": {
                "name": name,
                "path": "events",
                "partition_keys": facts.get("partitions", facts["keys"]),
                "row_id": "event_id",
            },
            "domain": {"keys": facts["keys"]},
            "features": features,
            "tasks": [{"label": "label_click", "kind": "click"}],
            "splits": {
                "pretrain": {"where": {facts["split"]: [values[0]]}},
                "test": {"where": {facts["split"]: values[1:]}},
            },
        }
    )


def read_epoch(view: LogView, split: str, encoding: Encoding) -> int:
    """Rows of the split as two workers read them in one epoch."""
    rows, ids = 0, set()
    for rank in range(2):
        worker = Reader(
            selection=view.selections[split],
            catalog=view.catalog,
            encoding=encoding,
            rank=rank,
            world=2,
            as_of=view.as_of,
        )
        for table in worker.in_step(32_768):
            rows += to_batch(table, view.catalog).rows
            ids |= set(table.column("row").to_pylist())
    assert len(ids) == rows
    return rows


@pytest.mark.parametrize("name", LOGS)
def test_every_row_of_every_split_of_a_public_log_is_read_once(name):
    column = whole(name, [LOGS[name]["split"]]).column(0)
    counts = {v["values"]: v["counts"] for v in pc.value_counts(column).to_pylist()}
    manifest = json.loads((DATA / name / "manifest.json").read_text())
    assert sum(counts.values()) == manifest["rows"]
    values = sorted(counts, key=counts.__getitem__)
    view = open_log(small_catalogue(name, values), str(DATA / name), wanted=["pretrain", "test"])
    assert not view.snapshot.unreadable
    assert view.snapshot.rows == manifest["rows"]
    assert view.selections["pretrain"].rows == counts[values[0]]
    assert view.selections["test"].rows == manifest["rows"] - counts[values[0]]
    encoding = vocabulary.fit(view.raw_rows("pretrain"), view.catalog)
    assert read_epoch(view, "pretrain", encoding) == counts[values[0]]


PUBLIC = sorted(p for p in SHIPPED.glob("*.toml") if p.stem != "planted")


@pytest.mark.parametrize("path", PUBLIC, ids=lambda p: p.stem)
def test_a_shipped_catalogue_reads_every_row_of_its_splits_once(path):
    catalog = load_catalog(path)
    root = DATA if (DATA / catalog.log.path).is_dir() else DATA / catalog.log.name
    if not (root / catalog.log.path).is_dir():
        pytest.skip(f"the public log of {path.name} is not below {DATA}")
    view = open_log(catalog, str(root), wanted=list(catalog.splits))
    assert not view.snapshot.unreadable
    encoding = vocabulary.fit(view.raw_rows("pretrain"), catalog)
    for split in catalog.splits:
        assert read_epoch(view, split, encoding) == view.selections[split].rows > 0
    unsliced = {n: s for n, s in catalog.splits.items() if s.where and s.slice == (0, 1)}
    for split, spec in unsliced.items():
        if not (spec.days or spec.dates):
            assert view.selections[split].rows == count_where(root / catalog.log.path, spec.where)


def count_where(folder: Path, where: Mapping[str, tuple[str, ...]]) -> int:
    """Rows with these values, as pyarrow.dataset finds them."""
    text = {c: ds.field(c).cast("string").isin(list(values)) for c, values in where.items()}
    condition = reduce(and_, text.values())
    return int(ds.dataset(folder, partitioning=HIVE).count_rows(filter=condition))
