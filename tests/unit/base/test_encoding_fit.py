"""That workers fit the encoding of a log's files as one process does, to the last bit."""

from functools import partial

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from iak.pipeline.base import encoding_fit
from iak.pipeline.base.encoding_fit import EncodingWork, fit_on_worker, whole_groups
from iak.pipeline.data import moments, vocabulary
from iak.pipeline.data.labels import LabelCounts
from iak.pipeline.data.view import open_log
from iak.pipeline.process import Worker
from tests.builders import small_catalog, write_log
from tests.unit.workers import CPU, on_threads

LAYOUT = [
    ("ningbo", "2026-01-01", [11, 30, 2]),
    ("ningbo", "2026-01-02", [25]),
    ("hangzhou", "2026-01-01", [7, 7, 7]),
]
CATALOG = small_catalog(splits={"pretrain": {"slice": [0.0, 0.8]}})


@pytest.fixture(scope="module")
def view(tmp_path_factory):
    root = tmp_path_factory.mktemp("log")
    write_log(root / CATALOG.log.path, LAYOUT)
    return open_log(CATALOG, str(root), wanted=["pretrain"])


def fitted(view, folder, world):
    work = EncodingWork(view=view, before=None, grown=(), folder=folder)
    if world == 1:
        return [fit_on_worker(Worker(rank=0, world=1, device=CPU), work, lambda _: None)]
    return on_threads(partial(fit_on_worker, work=work, report=lambda _: None), world)


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("sample", [4, 1000])
@pytest.mark.parametrize("world", [2, 3, 9])
def test_workers_write_the_files_that_one_process_writes(
    view, tmp_path, monkeypatch, sample, world
):
    monkeypatch.setattr(moments, "QUANTILE_SAMPLE", sample)
    (alone,) = fitted(view, tmp_path / "alone", 1)
    together = fitted(view, tmp_path / "together", world)
    assert bytes_of(tmp_path / "together") == bytes_of(tmp_path / "alone")
    assert together == [alone] * world


def test_what_is_fitted_is_what_one_pass_over_the_rows_learns(view, tmp_path):
    (counted,) = fitted(view, tmp_path / "here", 1)
    vocabulary.save(vocabulary.fit(view.raw_rows("pretrain"), CATALOG), tmp_path / "pass")
    assert bytes_of(tmp_path / "here") == bytes_of(tmp_path / "pass")
    labels = LabelCounts(CATALOG)
    labels.update(counted.labels)
    assert 0 < sum(labels.known.values()) <= len(CATALOG.tasks) * view.selections["pretrain"].rows


def test_numbers_with_gaps_are_read_again_for_their_sample_alone(view, tmp_path, monkeypatch):
    monkeypatch.setattr(moments, "QUANTILE_SAMPLE", 4)
    read = []
    columns_of = encoding_fit.parquet.selected_columns

    def watched(selection, file, group, columns, catalog):
        read.append((file, group, columns))
        return columns_of(selection, file, group, columns, catalog)

    monkeypatch.setattr(encoding_fit.parquet, "selected_columns", watched)
    fitted(view, tmp_path / "alone", 1)
    assert not read, "one worker knows all positions"
    fitted(view, tmp_path / "together", 2)
    groups = view.selections["pretrain"].groups
    assert sorted((file, group) for file, group, _ in read) == [g[:2] for g in groups]
    assert {column for _, _, columns in read for column in columns} <= {"age", "price"}


@given(world=st.integers(1, 12))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_each_row_group_is_counted_whole_by_one_worker_in_the_order_of_the_log(view, world):
    selection = view.selections["pretrain"]
    shares = [whole_groups(selection, rank=rank, world=world) for rank in range(world)]
    flat = [(p.file, p.group, p.rows) for _, pieces in shares for p in pieces]
    assert flat == list(selection.groups)
    rows = [sum(piece.rows for piece in pieces) for _, pieces in shares]
    assert [first for first, _ in shares] == np.cumsum([0, *rows[:-1]]).tolist()
