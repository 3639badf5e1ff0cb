"""Ids that a log's test rows have and its training rows do not, and what init makes of them."""

import numpy as np
import pytest

from iak.pipeline.data.guess_apart import ids_apart
from iak.pipeline.data.guess_catalog import guess_catalog
from iak.pipeline.data.log_sample import read_sample
from tests.unit.data.shop import shop, write

PARTS = {"train": ("train",), "test": ("test",)}
PART = np.repeat(["train", "test"], 1_000)


def guessed(root, table):
    return guess_catalog(read_sample(str(write(root, table)), rows=10_000))


def apart(root, names=("user_id",), rows=10_000):
    return ids_apart(read_sample(str(root), rows=rows), "fold", PARTS, names)


def by_users(shared=0, **changes):
    """A log cut by users; so many of the test rows have a user of the training rows."""
    draw = np.random.default_rng(5)  # shop draws with 0
    train, test = draw.integers(0, 100, 1_000), draw.integers(100, 150, 1_000)
    test[:shared] = train[:shared]
    users = [f"u{number}" for number in (*train, *test)]
    return shop(event_time=None, **{"user_id": users, "fold": PART} | changes)


def test_a_log_cut_by_users_is_sliced_by_them_and_counts_none_of_them(tmp_path):
    guess = guessed(tmp_path, by_users())
    assert guess.user.column == guess.slice_by.column == "user_id"
    assert "user_id" in [feature.column for feature in guess.features]
    assert [fresh.spec.keys for fresh in guess.fresh if fresh.spec.kind == "counts"] == [
        ("item_id",)
    ]
    assert "pretrain_valid" in guess.splits


def test_its_base_is_validated_on_users_of_another_part(tmp_path):
    part = np.repeat(["train", "dev", "test"], [1_000, 400, 600])
    splits = guessed(tmp_path, by_users(fold=part)).splits
    assert "pretrain_valid" not in splits
    assert (splits["pretrain"].where, splits["pretrain"].slice) == ({"fold": ("train",)}, None)
    assert splits["valid"].where == {"fold": ("dev",)}


def test_a_log_whose_users_are_in_every_part_counts_them(tmp_path):
    guess = guessed(tmp_path, shop(event_time=None, fold=PART))
    assert ("user_id",) in [f.spec.keys for f in guess.fresh if f.spec.kind == "counts"]
    assert guess.slice_by is None


@pytest.mark.parametrize(("shared", "is_apart"), [(10, True), (11, False)])
def test_a_hundredth_of_the_test_rows_may_have_known_users(shared, is_apart, tmp_path):
    write(tmp_path, by_users(shared))
    assert bool(apart(tmp_path)) == is_apart


def test_an_id_that_never_repeats_tells_nothing(tmp_path):
    write(tmp_path, by_users(request_id=np.arange(2_000)))
    assert not apart(tmp_path, ("request_id",))


def test_few_rows_with_a_value_tell_nothing(tmp_path):
    few = [f"{part}-a" if row % 100 == 0 else None for row, part in enumerate(PART)]
    write(tmp_path, by_users(car=few))
    assert not apart(tmp_path, ("car",))


def test_a_small_sample_of_a_log_tells_nothing(tmp_path):
    for number in range(8):
        write(tmp_path, by_users(), name=f"part-{number}.parquet")
    assert apart(tmp_path, rows=16_000)
    assert not apart(tmp_path, rows=1_000)
