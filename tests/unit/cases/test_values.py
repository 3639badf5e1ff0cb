"""The handed cases about ids, labels, values and types: what check says, and what a job reads."""

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest

from iak.pipeline.data import contract, kinds, unseen, vocabulary
from iak.pipeline.data.check import Report, check_log
from iak.pipeline.data.contract import Finding
from iak.pipeline.data.features import Encoding
from iak.pipeline.data.labels import LabelCounts
from iak.pipeline.data.reader import Reader
from iak.pipeline.data.view import LogView, open_log
from iak.pipeline.errors import BadLog, WrongBase
from iak.schemas.feature import UNSEEN_ROW
from iak.schemas.log import Catalog

REPOSITORY = Path(__file__).parents[3]
CASES = REPOSITORY.parent / "shared" / "cases"
TRAINING = ("pretrain", "pretrain_valid")
Change = Callable[[dict[str, Any]], Any]


def catalog_of(case: str, change: Change = lambda _: None) -> Catalog:
    """The case's catalogue, after a change of its document."""
    if not (CASES / case).is_dir():
        pytest.skip(f"the case {case} is not at {CASES}")
    document = tomllib.loads((CASES / case / "shop.toml").read_text())
    change(document)
    return Catalog.model_validate(document)


def check(case: str, change: Change = lambda _: None) -> Report:
    return check_log(catalog_of(case, change), str(CASES / case), sample_rows=100_000)


def opened(case: str, *wanted: str, change: Change = lambda _: None) -> LogView:
    return open_log(catalog_of(case, change), str(CASES / case), wanted=wanted or TRAINING)


def encoding_of(view: LogView) -> Encoding:
    return vocabulary.fit(view.raw_rows("pretrain"), view.catalog)


def read(view: LogView, split: str, encoding: Encoding) -> Any:
    """All encoded rows of a split as one table."""
    worker = Reader(
        selection=view.selections[split],
        catalog=view.catalog,
        encoding=encoding,
        rank=0,
        world=1,
        as_of=view.as_of,
    )
    return next(iter(worker.in_step(100_000)))


def only(report: Report, what: str) -> Finding:
    results = [f for f in report.findings if what in f.what]
    assert len(results) == 1, report.findings
    return results[0]


def feature(document: dict[str, Any], name: str) -> dict[str, Any]:
    return next(f for f in document["features"] if f["name"] == name)


def test_base_has_no_findings_and_no_unseen_ids():
    report = check("base")
    assert report.findings == ()
    assert (report.rows, report.sampled_rows) == (12_000, 12_000)
    assert set(report.unseen) == {"pretrain_valid", "tune", "valid", "gate", "test"}
    assert all(share < 0.02 for shares in report.unseen.values() for share in shares.values())


@pytest.mark.parametrize("column", ["user_id", "item_id"])
def test_idturn_names_the_column_both_kinds_and_how_many_files_have_which(column):
    result = only(check("idturn"), f"ids of {column} are")
    assert result.level == "refuse"
    assert "whole numbers in 18 files" in result.what
    assert "text in 12 files" in result.what
    assert result.count == 12


def test_idturn_shows_the_unseen_share_of_each_table_and_split():
    report = check("idturn")
    assert report.unseen["pretrain_valid"]["user_id"] < 0.02
    assert report.unseen["test"]["user_id"] == 1.0
    jump = only(report, "unseen ids jump in table user_id")
    assert any("tune" in example for example in jump.examples)
    assert jump.remedy.endswith(
        'take user_id out of the keys of [[fresh]], and give slice_by = "user_id"'
    )


def test_idturn_is_refused_where_a_job_would_read_both_kinds():
    with pytest.raises(BadLog, match=r"(?s)user_id are whole numbers in 3 files.*text in 6 files"):
        opened("idturn", "tune", "valid", "gate")


def test_idturn_is_refused_by_a_base_that_learned_the_other_kind():
    encoding = encoding_of(opened("idturn"))
    assert encoding.kinds["user_id"] == kinds.WHOLE
    test = opened("idturn", "test", change=lambda d: d["features"].pop(4))  # the history stays int
    with pytest.raises(WrongBase, match="user_id: the log has text, the base learned whole"):
        kinds.refuse_other_kinds(test.snapshot, test.catalog, encoding.kinds)


def test_idturn_is_refused_where_a_table_is_read_by_numbers_and_by_text():
    with pytest.raises(BadLog, match=r"table item_id are text in item_id .*whole numbers in hist"):
        opened("idturn", "test")


def test_nanlabel_keeps_every_click_and_reads_a_missing_order_as_null():
    view = opened("nanlabel", *TRAINING, "tune", "valid", "gate", "test")
    encoding = encoding_of(view)
    clicks = orders = 0
    for split in view.selections:
        rows = read(view, split, encoding)
        clicks += len(rows) - rows.column("y.ctr").null_count
        orders += len(rows) - rows.column("y.cvr").null_count
        assert not np.isnan(rows.column("y.cvr").drop_null().to_numpy()).any()
        clicked = rows.column("y.ctr").filter(rows.column("y.cvr").is_valid())
        assert set(clicked.to_pylist()) == {1.0}
    assert clicks == 12_000
    assert 0 < orders < 6_000
    assert check("nanlabel").findings == ()


def test_nanlabel_counts_labelled_rows_by_task():
    view, counts = opened("nanlabel"), LabelCounts(catalog_of("nanlabel"))
    for rows, _ in view.raw_rows("pretrain"):
        result = contract.inspect(rows, view.catalog)
        assert result.quarantined is None
        counts.add(rows, None, result.masked)
    assert counts.known["ctr"] == view.selections["pretrain"].rows
    assert counts.known["cvr"] == counts.positive["ctr"]
    counts.refuse_untrainable("pretrain")


def price_of(case: str) -> tuple[float, float]:
    return encoding_of(opened(case)).statistics["price"]


@pytest.mark.parametrize("has_log", [True, False])
def test_maxval_leaves_the_feature_as_it_is_without_that_value(has_log):
    def change(document: dict[str, Any]) -> None:
        feature(document, "price")["log"] = has_log

    odd, sound = (encoding_of(opened(c, change=change)).statistics for c in ("maxval", "base"))
    assert odd["price"] == pytest.approx(sound["price"], rel=0.02)
    result = only(check("maxval", change), "beyond float32 in price")
    assert (result.level, result.column, result.count) == ("warn", "price", 1)


def test_mess_does_not_flatten_its_number_and_counts_what_it_does_not_use():
    report = check("mess")
    assert only(report, "beyond float32 in price").count == 60
    assert only(report, "NaN or infinite in price").count == 90
    assert price_of("mess") == pytest.approx(price_of("base"), rel=0.05)
    view = opened("mess")
    rows = read(view, "pretrain_valid", encoding_of(view))
    prices = rows.column("n.price").to_numpy()
    assert np.abs(prices).max() < 10
    assert 0.8 < prices.std() < 1.2


def test_mess_keeps_labels_and_lists_as_they_are_declared():
    view = opened("mess")
    rows = read(view, "pretrain", encoding_of(view))
    assert set(rows.column("y.ctr").drop_null().to_pylist()) == {0.0, 1.0}
    lengths = pc.list_value_length(rows.column("f.history"))
    assert pc.max(lengths).as_py() == 20
    assert pc.min(lengths).as_py() == 0


def test_newcol2_is_one_line_with_files_rows_and_the_setting_that_mends_it():
    result = only(check("newcol2"), "device")
    assert (result.level, result.count, result.share) == ("quarantine", 9, 0.3)
    assert "3,600" in result.what
    assert "optional = true" in result.remedy


def test_newcol2_is_null_before_the_column_where_the_catalogue_allows_it():
    def allow(document: dict[str, Any]) -> None:
        feature(document, "device")["optional"] = True

    assert check("newcol2", allow).findings == ()
    view = opened("newcol2", change=allow)
    assert view.selections["pretrain"].rows == opened("base").selections["pretrain"].rows
    encoding = encoding_of(view)
    assert encoding.kinds["device"] == kinds.TEXT
    devices = read(view, "pretrain", encoding).column("f.device").to_numpy()
    assert 0.5 < (devices == 0).mean() < 0.7  # three of its five days
    assert (devices != UNSEEN_ROW).all()


def test_strview_reads_as_the_clean_log_does():
    views = [opened(case) for case in ("strview", "base")]
    tables = [read(view, "pretrain", encoding_of(view)) for view in views]
    assert tables[0].column("row").equals(tables[1].column("row"))
    for name in ("f.category", "f.history", "n.price", "y.ctr", "l.0"):
        assert tables[0].column(name).to_pylist() == tables[1].column(name).to_pylist()
    assert check("strview").findings == ()


def test_padded_lists_keep_their_last_real_items_where_the_padding_is_declared():
    def declare(document: dict[str, Any]) -> None:
        feature(document, "history")["padding"] = 0

    padded, sound = opened("padded", change=declare), opened("base")
    lists = [
        read(view, "pretrain", encoding_of(sound)).column("f.history") for view in (padded, sound)
    ]
    assert lists[0].to_pylist() == lists[1].to_pylist()
    assert check("padded", declare).findings == ()


def test_padded_lists_are_warned_of_where_no_padding_is_declared():
    result = only(check("padded"), "all lists of hist are 50 long")
    assert "padding = 0" in result.remedy


def test_a_clean_log_shows_no_jump_of_unseen_ids():
    view = opened("base", *TRAINING, "test")
    encoding = encoding_of(view)
    shares = [
        unseen.count_unseen(view.selections[split], view.catalog, encoding).shares()
        for split in ("test", "pretrain_valid")
    ]
    assert unseen.jumps(*shares) == {}
