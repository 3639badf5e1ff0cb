"""What footers and folder names of a log show before a row is read."""

import pytest

from iak.pipeline.data.file_findings import (
    file_findings,
    folder_findings,
    kind_findings,
    name_findings,
    partition_findings,
)
from iak.schemas.log import SplitSpec
from tests.builders import DAYS, draw_rows, small_catalog, snapshot_of, write_file, write_log

CATALOG = small_catalog()


@pytest.fixture
def root(tmp_path):
    write_log(tmp_path, [("ningbo", DAYS[0], [4, 3]), ("hangzhou", DAYS[1], [6])])
    return tmp_path


def test_a_whole_log_has_no_finding(root):
    snapshot = snapshot_of(root, CATALOG)
    for find in (file_findings, folder_findings, kind_findings, name_findings, partition_findings):
        findings = list(find(snapshot) if find is folder_findings else find(snapshot, CATALOG))
        assert findings == []


def test_lost_files_are_quarantined_with_their_share_of_the_rows(root):
    path = root / "region=ningbo" / f"dt={DAYS[0]}" / "late.parquet"
    write_file(path, draw_rows(7).drop_columns(["price"]))
    (finding,) = file_findings(snapshot_of(root, CATALOG), CATALOG)
    assert (finding.level, finding.unit, finding.count) == ("quarantine", "files", 1)
    assert finding.what == "missing columns: price (1 of 3 files; 7 rows lost)"
    assert finding.share == pytest.approx(7 / 20)
    assert finding.remedy.startswith("Write the files again")


def test_files_without_labels_that_no_split_reads_are_to_be_predicted(root):
    labels = sorted({task.label for task in CATALOG.tasks})
    path = root / "region=ningbo" / f"dt={DAYS[0]}" / "late.parquet"
    write_file(path, draw_rows(7).drop_columns(labels))
    (finding,) = file_findings(snapshot_of(root, CATALOG), CATALOG)
    assert finding.level == "quarantine"
    elsewhere = {"tune": SplitSpec(where={"region": ("hangzhou",)})}
    catalog = CATALOG.model_copy(update={"splits": elsewhere})
    (finding,) = file_findings(snapshot_of(root, catalog), catalog)
    assert (finding.level, finding.remedy) == ("warn", "iak predict can predict them")
    assert finding.what == f"7 rows have no column {', '.join(labels)}, and no split has them"


def test_a_folder_that_is_no_date_is_quarantined(root):
    write_file(root / "region=ningbo" / "dt=someday" / "a.parquet", draw_rows(2))
    (finding,) = file_findings(snapshot_of(root, CATALOG), CATALOG)
    assert (finding.level, finding.column, finding.count) == ("quarantine", "dt", 2)
    assert finding.what == "partition dt=someday is not a date"


def test_an_unknown_column_is_refused_with_the_nearest_one(root):
    catalog = small_catalog(log__user="user_ids")
    findings = list(name_findings(snapshot_of(root, CATALOG), catalog))
    (finding,) = [f for f in findings if f.level == "refuse"]
    assert finding.what == "log.user names the column 'user_ids', which no file has"
    assert "Did you mean 'user_id'?" in finding.remedy
