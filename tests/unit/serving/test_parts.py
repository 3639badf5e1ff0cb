"""Predictions in files: each row once, the same for any workers, batches, files and attempts."""

import itertools
from datetime import date

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iak.pipeline.data.view import open_log
from iak.pipeline.errors import Corrupt
from iak.pipeline.publish.predict import PredictWork, predict
from iak.pipeline.publish.predictions import read_predictions
from iak.pipeline.serving import parts
from iak.schemas.log import SplitSpec
from iak.schemas.plan import ResolvedPlacement
from tests.builders import DAYS, REGIONS, write_file
from tests.unit.base.test_published_base import ALONE
from tests.unit.serving.shop import (
    NINGBO,
    TABLES,
    bits,
    read_all,
    score,
    score_work,
    shop_catalog,
    write_base,
    write_bundles,
    write_shop,
)
from tests.unit.workers import on_threads

PROBABILITIES = ("p.ctr", "p.cvr", "p.ctcvr")
GROUPS = st.lists(st.integers(0, 50), min_size=1, max_size=3).filter(sum)
LAYOUTS = st.lists(
    st.tuples(st.sampled_from(REGIONS), st.sampled_from(DAYS), GROUPS), min_size=1, max_size=4
)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_base(tmp_path_factory.mktemp("base") / "base")


@pytest.fixture(scope="module")
def bundles(base, tmp_path_factory):
    return write_bundles(tmp_path_factory.mktemp("bundles"), base)


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    root = tmp_path_factory.mktemp("log")
    write_shop(root)
    return root


@pytest.fixture(scope="module")
def scores(log, base, bundles, tmp_path_factory):
    folder = tmp_path_factory.mktemp("scores")
    score(ALONE, score_work(log, base, bundles, folder))
    return read_all(folder)


@given(
    layout=LAYOUTS,
    world=st.integers(1, 3),
    batch_rows=st.sampled_from([1, 7, 32, 1000]),
    part_rows=st.integers(1, 120),
)
@settings(max_examples=8)
def test_each_row_is_predicted_once_and_alike_for_any_layout_workers_and_batches(
    base, bundles, tmp_path_factory, layout, world, batch_rows, part_rows
):
    root = tmp_path_factory.mktemp("drawn")
    written = write_shop(root, layout)
    score(ALONE, score_work(root, base, bundles, root / "one", part_rows=10**6))
    work = score_work(
        root, base, bundles, root / "many", batch_rows=batch_rows, part_rows=part_rows
    )
    on_threads(lambda worker: score(worker, work), world)
    one, many = read_all(root / "one"), read_all(root / "many")
    assert many.column("id").to_pylist() == [str(i) for i in written["event_id"].to_pylist()]
    assert many.equals(one)


@pytest.mark.parametrize("kind", ["din", "deepfm and sasrec", "ple and caser"])
def test_a_base_that_reads_histories_predicts_a_row_alike_in_any_batch(log, tmp_path, kind):
    base = write_base(tmp_path / "base", kind)
    kernels = write_bundles(tmp_path / "bundles", base)
    for batch_rows in (7, 1000):
        folder = tmp_path / str(batch_rows)
        score(ALONE, score_work(log, base, kernels, folder, batch_rows=batch_rows))
    assert read_all(tmp_path / "7").equals(read_all(tmp_path / "1000"))


@pytest.mark.parametrize("batch_rows", [5, 8192])
def test_predictions_are_those_of_an_evaluation_to_the_last_bit(
    log, base, bundles, scores, tmp_path, batch_rows
):
    work = PredictWork(
        view=open_log(shop_catalog(), str(log), wanted=["test"]), truth=None, base=base,
        bundles=bundles, run_dir=tmp_path, splits=("test",), batch_rows=batch_rows, tables=TABLES,
        placement=ResolvedPlacement(),
    )  # fmt: skip
    on_threads(lambda worker: predict(work, worker=worker, report=lambda _: None), 1)
    evaluated = read_predictions(tmp_path, "test").table
    assert evaluated.column("row").equals(scores.column("row"))
    kept = scores.column("kernel").is_valid().to_numpy()
    assert 0 < kept.sum() < len(kept)
    served = evaluated.filter(kept).column("served").to_pylist()
    assert served == scores.filter(kept).column("kernel").to_pylist()
    for name, theirs in zip(PROBABILITIES, ("own.{}.ctr", "own.{}.cvr", "all.{}.cvr"), strict=True):
        column = theirs.format("iak_published")
        assert np.array_equal(bits(scores.filter(kept), name), bits(evaluated.filter(kept), column))


def test_a_domain_without_a_published_kernel_says_which_kernel_predicted_and_why(scores):
    found = {
        (row["domain"], row["kernel"], row["reason"])
        for row in scores.select(["domain", "kernel", "reason"]).to_pylist()
    }
    assert found == {
        ("region=hangzhou/scene=feed", "region=hangzhou/scene=feed", None),
        ("region=hangzhou/scene=search", "region=hangzhou", "its domain has no kernel"),
        ("region=hangzhou/scene=配送", "region=hangzhou", "its domain has no kernel"),
        ("region=ningbo/scene=search", "region=ningbo/scene=search", None),
        ("region=ningbo/scene=feed", "pooled", "the gate held its domain's kernel"),
        ("region=ningbo/scene=配送", "pooled", "its domain has no kernel"),
        (None, None, "null domain key in scene"),
    }


def test_a_row_that_breaks_the_contract_has_nulls_and_no_guess(scores):
    broken = scores.filter(scores.column("kernel").is_null())
    assert len(broken)
    for name in (*PROBABILITIES, "version"):
        assert broken.column(name).null_count == len(broken)
    assert scores.filter(scores.column("kernel").is_valid()).column("p.ctr").null_count == 0


def test_the_base_alone_predicts_every_domain(log, base, tmp_path):
    score(ALONE, score_work(log, base, None, tmp_path))
    scores = read_all(tmp_path)
    known = scores.filter(scores.column("kernel").is_valid())
    assert set(known.column("kernel").to_pylist()) == {"base"}
    assert set(known.column("version").to_pylist()) == {base.manifest.fingerprint}
    assert set(known.column("reason").to_pylist()) == {"no bundles were given"}


def test_a_log_without_labels_is_predicted_alike(log, base, bundles, scores, tmp_path):
    for path in (log / "events").rglob("*.parquet"):
        rows = pq.ParquetFile(path).read().drop_columns(["click", "order"])
        write_file(tmp_path / path.relative_to(log), rows, [90, 0, 37])
    score(ALONE, score_work(tmp_path, base, bundles, tmp_path / "scores"))
    assert read_all(tmp_path / "scores").equals(scores)


def test_only_the_rows_of_the_wanted_dates_and_values_are_predicted(
    log, base, bundles, scores, tmp_path
):
    day = date.fromisoformat(DAYS[1])
    rows = SplitSpec(dates=(day, day), where={"region": [NINGBO], "scene": ["search"]})
    work = score_work(log, base, bundles, tmp_path, rows=rows)
    assert [dict(f.partition) for f in work.view.snapshot.files] == [
        {"region": NINGBO, "dt": DAYS[1]}
    ]
    score(ALONE, work)
    some = read_all(tmp_path)
    assert set(some.column("domain").to_pylist()) == {"region=ningbo/scene=search"}
    index = pc.index_in(some.column("row"), scores.column("row").combine_chunks())
    assert some.combine_chunks().to_pylist() == scores.take(index).to_pylist()


def test_a_resumed_run_writes_the_files_that_are_missing_and_leaves_the_others(
    log, base, bundles, tmp_path
):
    whole, resumed = (score_work(log, base, bundles, tmp_path / n) for n in ("whole", "resumed"))
    score(ALONE, whole)
    score(ALONE, resumed)
    files = sorted(resumed.folder.iterdir())
    assert len(files) == len(whole.parts) > 2
    lost = files[1::2]
    for path in lost:
        path.unlink()
    kept = {path: path.stat().st_mtime_ns for path in files if path not in lost}
    on_threads(lambda worker: score(worker, resumed), 2)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    for path in files:
        assert path.read_bytes() == (whole.folder / path.name).read_bytes()


def test_a_worker_that_fails_leaves_no_file_of_the_part_it_was_at(
    log, base, bundles, tmp_path, monkeypatch
):
    work = score_work(log, base, bundles, tmp_path, batch_rows=20)
    calls = itertools.count()
    whole = parts.Scorer.score

    def failing(scorer, rows):
        if next(calls) == 9:
            raise OSError("the disk is full")
        return whole(scorer, rows)

    monkeypatch.setattr(parts.Scorer, "score", failing)
    with pytest.raises(OSError, match="the disk is full"):
        score(ALONE, work)
    assert [path.name for path in tmp_path.iterdir()] == ["part-00000.parquet"]


def test_a_file_says_what_it_holds_and_a_changed_one_is_refused(log, base, bundles, tmp_path):
    work = score_work(log, base, bundles, tmp_path)
    score(ALONE, work)
    document = parts.read_document(work.path(1))
    table = pq.read_table(work.path(1))
    assert (document.part, document.rows) == (1, len(table))
    assert sum(document.kernels.values()) == table.column("kernel").is_valid().to_numpy().sum()
    assert sum(document.reasons.values()) == table.column("reason").is_valid().to_numpy().sum()
    broken = document.reasons["null domain key in scene"]
    assert document.contract["quarantine: null domain key in scene"] == broken > 0
    metadata = pq.read_schema(work.path(1)).metadata or {}
    pq.write_table(
        table.slice(1).replace_schema_metadata(
            metadata | {parts.DOCUMENT: document.model_dump_json()}
        ),
        work.path(1),
    )
    with pytest.raises(Corrupt, match="rows, its document says"):
        parts.read_document(work.path(1))
    work.path(1).write_bytes(b"PAR1")
    with pytest.raises(Corrupt, match="is no file of predictions"):
        parts.read_document(work.path(1))
