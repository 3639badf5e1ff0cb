"""The log and the base of a benchmark: what names them, and which rows a night sees."""

from datetime import timedelta
from pathlib import Path

import pytest

from iak.pipeline.bench.setup import (
    BenchSetup,
    base_folder,
    no_encoding,
    pretrain_work,
    renamed,
)
from iak.pipeline.bench.wide_log import WideKnobs, ensure_wide_log
from iak.schemas.bench import BenchSetupSpec
from iak.schemas.job import BaseOptimSpec, ModelSpec

KNOBS = WideKnobs(rows=6_000, days=12, table_rows=5_000, domains=(1, 5, 50))
SPEC = BenchSetupSpec(rows=6_000, days=12, table_rows=5_000, domains=(1, 5, 50), batch_rows=64)


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    root = ensure_wide_log(KNOBS, folder)
    return BenchSetup(
        spec=SPEC, knobs=KNOBS, data_root=str(root), base=folder / "base", progress=folder / "p"
    )


def changed(**changes):
    return SPEC.model_copy(update=changes)


@pytest.mark.parametrize(
    "other",
    [
        changed(model=ModelSpec(width=8)),
        changed(optim=BaseOptimSpec(dense_lr=1e-4)),
        changed(workers=3),
        changed(batch_rows=128),
    ],
    ids=["model", "optimiser", "workers", "batch"],
)
def test_another_base_has_another_folder(other):
    assert base_folder(other, KNOBS) != base_folder(SPEC, KNOBS)


def test_a_base_of_another_log_has_another_folder():
    other = WideKnobs(rows=6_000, days=12, table_rows=5_000, domains=(1, 5, 50), seed=1)
    assert base_folder(SPEC, other) != base_folder(SPEC, KNOBS)


def test_what_does_not_change_its_weights_finds_the_same_base():
    same = changed(repeats=9, slice_steps=3, continued_epochs=7, out=Path("elsewhere"))
    assert base_folder(same, KNOBS) == base_folder(SPEC, KNOBS)


def test_a_night_earlier_tunes_on_a_day_earlier(setup):
    tonight, before = (setup.view("tune", nights_ago=ago).selections["tune"] for ago in (0, 1))
    day = timedelta(days=1)
    assert (before.split.first, before.split.last) == (
        tonight.split.first - day,
        tonight.split.last - day,
    )


def test_rows_are_the_same_however_many_domains_they_are_cut_into(setup):
    few, many = (setup.view("tune", domains=count) for count in (1, 50))
    assert few.selections["tune"].rows == many.selections["tune"].rows
    assert few.catalog.domain.keys != many.catalog.domain.keys


def test_identity_tables_need_no_rows_to_be_encoded(setup):
    view = setup.view("tune")
    assert no_encoding(view) == no_encoding(setup.view("pretrain"))


def test_a_continued_base_takes_its_rates_from_its_parent(setup, tmp_path):
    view = setup.view("pretrain", "pretrain_valid")
    new = pretrain_work(setup, view, tmp_path, from_base=None)
    clicks, orders = new.rates
    assert 0 < clicks < 1
    assert 0 < orders < 1
    assert pretrain_work(setup, view, tmp_path, from_base=tmp_path).rates is None
    assert new.shuffle_rows == 4 * SPEC.batch_rows


def test_a_renamed_split_keeps_its_rows(setup):
    view = setup.view("tune", "valid")
    swapped = renamed(view, pretrain="tune", pretrain_valid="valid")
    assert set(swapped.selections) == {"pretrain", "pretrain_valid"}
    assert swapped.selections["pretrain"] is view.selections["tune"]
    with pytest.raises(KeyError):
        renamed(view, pretrain="test")
