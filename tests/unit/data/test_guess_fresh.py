"""What init proposes to count: items, users, and items that histories hold."""

import numpy as np
import pyarrow as pa
import pytest

from iak.pipeline.data.guess_catalog import guess_catalog
from iak.pipeline.data.guess_features import guess_features
from iak.pipeline.data.guess_fresh import guess_fresh
from iak.pipeline.data.log_sample import read_sample
from iak.schemas.fresh import CoOccurrenceSpec
from tests.unit.data.shop import shop, write


def proposed(root, **changes):
    guess = guess_catalog(read_sample(str(write(root, shop(**changes))), rows=10_000))
    return {
        s.spec.pair if isinstance(s.spec, CoOccurrenceSpec) else s.spec.keys: s.spec
        for s in guess.fresh
    }


def test_items_users_and_histories_of_items_are_counted(tmp_path):
    assert list(proposed(tmp_path)) == [("item_id",), ("user_id",), ("item_id", "history")]


def test_a_history_of_other_ids_is_no_pair(tmp_path):
    histories = [np.arange(8) + 90_000 for _ in range(2_000)]
    assert list(proposed(tmp_path, history=histories)) == [("item_id",), ("user_id",)]


def test_an_item_is_known_by_its_history_whatever_its_name(tmp_path):
    odd = shop().column("item_id")
    assert ("zz", "history") in proposed(tmp_path, item_id=None, zz=odd)


@pytest.mark.parametrize("name", ["adgroup_id", "RecipeId", "listing"])
def test_an_item_is_known_by_its_name_without_a_history(name, tmp_path):
    items = shop().column("item_id")
    assert (name,) in proposed(tmp_path, item_id=None, history=None, **{name: items})


def test_a_log_without_users_and_items_counts_nothing(tmp_path):
    assert not proposed(tmp_path, item_id=None, user_id=None, history=None)


def test_an_item_is_not_counted_by_domains_of_few_users(tmp_path):
    people = np.random.default_rng(1).integers(0, 150, 2_000)
    # A domain that nearly names a user gives the label of a sampled negative away.
    few = proposed(tmp_path / "few", user_id=people, scene=[f"s{p % 40}" for p in people])
    many = proposed(tmp_path / "many", user_id=people)
    assert not few["item_id",].cross_domain
    assert many["item_id",].cross_domain
    assert not many["user_id",].cross_domain


def test_without_users_an_item_is_counted_by_domain():
    rows = shop()
    features, _ = guess_features(rows, skipped={"user_id", "label_click"}, uneven={})
    item, _ = guess_fresh(rows, features, user=None, domain_keys=("scene",))
    assert (item.spec.keys, item.spec.cross_domain) == (("item_id",), True)


def test_an_optional_column_is_not_counted(tmp_path):
    write(tmp_path, shop(500).drop_columns(["item_id"]), name="part-1.parquet")
    assert all("item_id" not in keys for keys in proposed(tmp_path))


def test_few_values_are_no_items(tmp_path):
    kinds = pa.array(np.arange(2_000) % 7)
    assert ("ad_kind",) not in proposed(tmp_path, ad_kind=kinds)
