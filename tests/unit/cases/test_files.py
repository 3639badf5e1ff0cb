"""Handed logs whose files, folders or table format were read wrongly, and the right answer."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from iak.pipeline.data import logs, parquet, partitions
from iak.pipeline.data.breaches import SchemaProblem, named
from iak.pipeline.data.check import Report, check_log
from iak.pipeline.data.file_problems import file_problems
from iak.pipeline.data.logs import take_snapshot
from iak.pipeline.data.pieces import pieces_of
from iak.pipeline.data.reader import Reader
from iak.pipeline.data.view import LogView, open_log
from iak.pipeline.data.vocabulary import fit
from iak.pipeline.errors import BadLog
from iak.pipeline.runs.load import load_catalog
from iak.schemas.log import Catalog
from iak.schemas.log_snapshot import TableVersion
from tests.builders import EVERYTHING, rows_in_order

REPOSITORY = Path(__file__).parents[3]
CASES = REPOSITORY.parent / "shared" / "cases"


def catalog_of(case: str) -> Catalog:
    if not (CASES / case).is_dir():
        pytest.skip(f"the handed log {case} is not below {CASES}")
    return load_catalog(CASES / case / "shop.toml")


def opened(case: str) -> LogView:
    catalog = catalog_of(case)
    return open_log(catalog, str(CASES / case), wanted=list(catalog.splits))


def checked(case: str) -> Report:
    return check_log(catalog_of(case), str(CASES / case), sample_rows=100_000)


def events_read(view: LogView) -> Counter[object]:
    """Every event of the log as jobs read it, with how often."""
    selection = parquet.select(view.snapshot, EVERYTHING, view.catalog)
    counts: Counter[object] = Counter()
    for piece in pieces_of(selection, rank=0, world=1):
        raw = parquet.read_piece(selection, piece, view.catalog)
        counts.update(raw.rows.column("event_id").to_pylist())
    return counts


@pytest.mark.parametrize(
    ("case", "rows", "files"),
    [
        ("delta", 12_000, 30),
        ("delta_compacted", 2_000, 50),
        ("delta_colmap", 2_000, 20),
        ("noext", 12_000, 30),
        ("noext_all", 12_000, 30),
        ("iceberg_special", 2_000, 50),
        ("iceberg_null", 2_000, 20),
    ],
)
def test_every_event_is_read_once(case, rows, files):
    view = opened(case)
    assert (len(view.snapshot.files), view.snapshot.unreadable) == (files, ())
    counts = events_read(view)
    assert len(counts) == counts.total() == rows
    assert all(selection.rows for selection in view.selections.values())


@pytest.mark.parametrize(
    ("case", "version"), [("delta", 1), ("delta_compacted", 4), ("delta_colmap", 0)]
)
def test_the_version_of_a_delta_table_stands_in_the_record(case, version):
    table = logs.describe(opened(case).snapshot).table
    assert table == TableVersion(
        format="delta", version=version, metadata=f"_delta_log/{version:020}.json"
    )


def test_an_older_version_can_be_pinned():
    """`delta` was overwritten once with the same events, `delta_compacted` appended to in steps."""
    catalog = catalog_of("delta_compacted")
    rows = [
        take_snapshot(
            str(CASES / "delta_compacted" / "events"),
            partition_keys=catalog.log.partition_keys,
            version=version,
        ).rows
        for version in range(5)
    ]
    assert rows == sorted(rows)
    assert rows[-1] == rows[-2] == 2_000
    assert rows[0] < 2_000


def test_delta_merge_reads_the_files_that_have_the_column_and_counts_the_others():
    catalog = catalog_of("delta_merge")
    root = CASES / "delta_merge"
    view = open_log(catalog, str(root), wanted=["tune", "test"])
    assert (view.snapshot.rows, file_problems(view.snapshot)) == (1_000, ())
    snapshot = take_snapshot(
        str(root / "events"),
        partition_keys=catalog.log.partition_keys,
        schema_problem=lambda s: (
            None
            if "price" in s.names
            else SchemaProblem("missing columns: price", missing=("price",))
        ),
    )
    (problem,) = file_problems(snapshot)
    assert problem.message == "25 of 50 files lack price (1,000 rows)"
    with pytest.raises(BadLog, match="price") as refused:
        open_log(catalog, str(root), wanted=["pretrain"])
    assert "25 of 25 files lack price (1,000 rows)" in str(refused.value)
    results = [f for f in checked("delta_merge").findings if "price" in f.what]
    assert results
    assert all(f.level == "quarantine" for f in results)


def test_delta_merge_has_all_its_rows_for_a_catalogue_without_the_column():
    catalog = catalog_of("delta_merge")
    features = tuple(f for f in catalog.features if f.name != "price")
    catalog = catalog.model_copy(update={"features": features})
    view = open_log(catalog, str(CASES / "delta_merge"), wanted=list(catalog.splits))
    assert view.snapshot.rows == len(events_read(view)) == 2_000


def test_delta_colmap_is_read_by_names_with_values():
    view = opened("delta_colmap")
    selection = view.selections["pretrain"]
    (piece, *_) = pieces_of(selection, rank=0, world=1)
    rows = parquet.read_piece(selection, piece, view.catalog).rows
    for column in ("event_id", "user_id", "item_id", "price", "label_click"):
        assert rows.column(column).null_count == 0
    assert set(rows.column("region").to_pylist()) <= {"north", "south"}
    encoding = fit(view.raw_rows("pretrain"), view.catalog)
    worker = Reader(selection=selection, catalog=view.catalog, encoding=encoding, rank=0, world=1)
    assert sum(len(part) for part in rows_in_order(worker)) == selection.rows


def test_paimon_pk_is_refused_by_name_with_what_to_do(tmp_path):
    catalog = catalog_of("paimon_pk")
    with pytest.raises(BadLog, match=r"is a Paimon table.*plain Parquet copy"):
        open_log(catalog, str(CASES / "paimon_pk"), wanted=["pretrain"])
    # the data folders alone, without the metadata beside them
    for folder in (CASES / "paimon_pk" / "events").glob("region=*"):
        (tmp_path / folder.name).symlink_to(folder)
    with pytest.raises(BadLog, match=r"Paimon table.* with the columns _VALUE_KIND"):
        take_snapshot(str(tmp_path), partition_keys=catalog.log.partition_keys)


def test_iceberg_special_has_five_regions_of_the_files_own_names():
    view = opened("iceberg_special")
    selection = parquet.select(view.snapshot, EVERYTHING, view.catalog)
    regions: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for piece in pieces_of(selection, rank=0, world=1):
        raw = parquet.read_piece(selection, piece, view.catalog)
        regions.update(raw.rows.column("region").to_pylist())
        counts.update(named(raw.counts))
    assert regions == {"a b": 400, "a+b": 400, "a/b": 400, "a=b": 400, "ä": 400}
    assert counts == {"warn: value inside the file differs from the folder's in region": 400}
    results = [f for f in checked("iceberg_special").findings if "differs" in f.what]
    assert [(f.count, f.column) for f in results] == [(400, "region")]


@pytest.mark.parametrize("region", ["a b", "a+b", "ä"])
def test_iceberg_special_is_cut_by_the_files_own_names(region):
    catalog = catalog_of("iceberg_special")
    tune = catalog.splits["tune"].model_copy(update={"where": {"region": (region,)}})
    catalog = catalog.model_copy(update={"splits": {"tune": tune}})
    view = open_log(catalog, str(CASES / "iceberg_special"), wanted=["tune"])
    selection = view.selections["tune"]
    values = {
        value
        for piece in pieces_of(selection, rank=0, world=1)
        for value in parquet.read_piece(selection, piece, catalog).rows.column("region").to_pylist()
    }
    assert values == {region}


def test_iceberg_null_is_null_and_no_domain():
    report = checked("iceberg_null")
    results = [f for f in report.findings if "null domain key in region" in f.what]
    assert [(f.level, f.count) for f in results] == [("quarantine", 1_000)]
    assert not [f for f in report.findings if "domain null" in f.what or "differs" in f.what]


def test_noext_and_noext_all_are_the_base_log():
    """The same bytes as in base, so the same rows in the same order of folders."""
    fingerprints = {}
    for case in ("base", "noext", "noext_all"):
        view = opened(case)
        assert view.snapshot.ignored == ()
        fingerprints[case] = sorted(f.group_rows for f in view.snapshot.files)
        assert view.selections["test"].rows == 2_400
    assert fingerprints["base"] == fingerprints["noext"] == fingerprints["noext_all"]


def test_tspart_has_partition_values_of_days_at_midnight():
    catalog = catalog_of("tspart")
    snapshot = take_snapshot(
        str(CASES / "tspart" / "events"), partition_keys=catalog.log.partition_keys
    )
    days = {dict(f.partition)["dt"] for f in snapshot.files}
    assert days == {f"2026-10-{day:02} 00:00:00" for day in np.arange(1, 11)}
    assert partitions.value_of("2026-10-01 00%3A00%3A00") in days
