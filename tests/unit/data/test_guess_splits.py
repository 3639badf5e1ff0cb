"""How the splits of a log are cut: by days, by a column of parts, or by hashes."""

import numpy as np
import pytest

from iak.pipeline.data.guess_labels import Guess
from iak.pipeline.data.guess_splits import cut_splits, days_of, split_columns
from iak.pipeline.data.log_sample import read_sample
from tests.unit.data.shop import shop, write

DT = Guess(column="dt", why="")


def sampled(root):
    return read_sample(str(root), rows=10_000)


def by_day(root, days=10):
    for day in range(1, days + 1):
        write(root, shop(100, day), folder=f"dt=2026-10-{day:02d}")
    return sampled(root)


def test_the_last_tenth_of_the_days_is_tested_on_and_a_fifth_before_it_tunes(tmp_path):
    cuts, why = cut_splits(by_day(tmp_path), DT, None, {}, None)
    assert {name: cut.days for name, cut in cuts.items()} == {
        "pretrain": (0, -4), "pretrain_valid": (0, -4), "tune": (-3, -2), "valid": (-3, -2),
        "gate": (-3, -2), "test": (-1, -1),
    }  # fmt: skip
    assert sum(cut.share for cut in cuts.values()) == pytest.approx(1)
    assert why == "10 days from 2026-10-01 to 2026-10-10"


def test_the_first_and_the_last_day_are_those_that_splits_are_cut_by(tmp_path):
    assert [str(day) for day in days_of(by_day(tmp_path / "a"), DT, None, None)] == [
        "2026-10-01", "2026-10-10",
    ]  # fmt: skip
    assert days_of(sampled(write(tmp_path / "b", shop(event_time=None))), None, None, None) == ()


def test_a_column_that_says_train_and_test_is_found_and_cut_by(tmp_path):
    fold = np.repeat(["train", "dev", "test"], [1_000, 400, 600])
    sample = sampled(write(tmp_path, shop(event_time=None, fold=fold)))
    columns = split_columns(sample)
    assert columns == {"fold": {"train": ("train",), "valid": ("dev",), "test": ("test",)}}
    cuts, _ = cut_splits(sample, None, None, columns, None)
    assert cuts["test"].where == {"fold": ("test",)}
    assert cuts["gate"].where == {"fold": ("dev",)}


def test_hashes_cut_a_log_that_nothing_else_parts(tmp_path):
    sample = sampled(write(tmp_path, shop(event_time=None)))
    cuts, why = cut_splits(sample, None, None, split_columns(sample), None)
    assert [cut.slice[0] for cut in cuts.values()] == [0.0, 0.6, 0.65, 0.8, 0.85, 0.9]
    assert why.endswith("slices of the rows' hash")
