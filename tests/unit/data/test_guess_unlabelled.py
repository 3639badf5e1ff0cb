"""Logs whose test part has no labels, as competitions ship them."""

from datetime import date

import numpy as np
import pyarrow as pa
import pytest

from iak.pipeline.data.guess_catalog import guess_catalog
from iak.pipeline.data.guess_labels import guess_labels
from iak.pipeline.data.guess_unlabelled import has_no_label, without_part
from iak.pipeline.data.log_sample import read_sample
from tests.unit.data.shop import DAY, START, shop, write

LABELS = {"label_click": None, "label_order": None}
NULLS = dict.fromkeys(LABELS, pa.nulls(2_000, pa.int8()))
TYPELESS = dict.fromkeys(LABELS, pa.nulls(2_000))
NOT_YET = dict.fromkeys(LABELS, np.full(2_000, -1))


def guessed(root):
    return guess_catalog(read_sample(str(root), rows=20_000))


def written(root, test, *, event_time=None, **parts):
    for seed, part in enumerate(["train", *parts]):
        write(root, shop(seed=seed, event_time=event_time), name=f"{part}.parquet")
    return write(root, shop(seed=9, event_time=event_time, **test), name="test.parquet")


@pytest.mark.parametrize("test", [LABELS, NULLS, TYPELESS, NOT_YET])
def test_splits_are_cut_from_the_labelled_rows(test, tmp_path):
    guess = guessed(written(tmp_path, test))
    assert [task.column for task in guess.tasks] == ["label_click", "label_order"]
    assert all(cut.where == {"split": ("train",)} for cut in guess.splits.values())
    assert guess.splits["test"].slice == (0.9, 1.0)
    assert guess.splits_why.endswith("; rows with split = test have no label")
    assert guess.notes[0].startswith("no row with split = test has a label")
    assert "where=split=test predicts those" in guess.notes[0]
    assert not [feature for feature in guess.features if feature.is_optional]


def test_a_labelled_part_for_validation_is_tested_on(tmp_path):
    splits = guessed(written(tmp_path, LABELS, valid=True)).splits
    assert splits["test"].where == {"split": ("valid",)}
    assert {cut.where["split"] for name, cut in splits.items() if name != "test"} == {("train",)}


def test_days_of_the_labelled_rows_are_named_by_their_dates(tmp_path):
    days = np.arange(2_000) // 200
    write(tmp_path, shop(event_time=START + days * DAY), name="train.parquet")
    later = START + (10 + days) * DAY
    write(tmp_path, shop(event_time=later, **LABELS), name="test.parquet")
    guess = guessed(tmp_path)
    assert guess.splits["test"].dates == (date(2026, 10, 10), date(2026, 10, 10))
    assert guess.splits["pretrain"].dates[0] == date(2026, 10, 1)
    assert not [name for name, cut in guess.splits.items() if cut.days]
    assert guess.splits["pretrain"].where == {"split": ("train",)}


def test_rows_of_a_column_without_labels_are_left_out(tmp_path):
    fold = np.repeat(["train", "test"], 1_000)
    known = shop(event_time=None)
    answers = {n: pa.array(known[n].to_numpy(), mask=fold == "test") for n in LABELS}
    guess = guessed(write(tmp_path, shop(event_time=None, fold=fold, **answers)))
    assert all(cut.where == {"fold": ("train",)} for cut in guess.splits.values())
    assert sum(cut.share for cut in guess.splits.values()) == pytest.approx(0.5)


def test_columns_that_the_test_rows_alone_have_are_no_features(tmp_path):
    guess = guessed(written(tmp_path, LABELS | {"submission": np.arange(2_000)}))
    assert "submission" not in {feature.column for feature in guess.features}


def test_a_test_part_with_labels_is_tested_on(tmp_path):
    guess = guessed(written(tmp_path, {}))
    assert guess.splits["test"].where == {"split": ("test",)}
    assert not [note for note in guess.notes if "has a label" in note]


@pytest.mark.parametrize(("test", "has_none"), [(LABELS, True), (NULLS, True), ({}, False)])
def test_a_part_has_no_label_where_each_label_of_the_others_is_missing(test, has_none, tmp_path):
    sample = read_sample(str(written(tmp_path, test)), rows=20_000)
    part = without_part(sample, "split", {"train": ("train",), "test": ("test",)})
    assert has_no_label(sample, part, guess_labels(part.others.rows)) == has_none
    assert (len(part.others.rows), part.others.snapshot.rows) == (2_000, 2_000)
    assert (part.others.uneven, part.share) == ({}, 1.0)
    assert not has_no_label(sample, part, ()), "without labels nothing can be said"
