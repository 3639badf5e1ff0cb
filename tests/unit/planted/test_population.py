"""Users, shops and items of the planted world: who lives where, and who appears late."""

from datetime import date

import numpy as np

from iak.pipeline.planted.world import build_world
from tests.unit.planted.planted_log import column


def test_fresh_ids_appear_only_after_the_bases_window(log):
    late = column(log.events, "dt") >= str(date(2026, 10, 1 + log.knobs.base_days))
    population = build_world(log.knobs).population
    for name, fresh in (("user", population.user_is_fresh), ("item", population.item_is_fresh)):
        is_fresh = fresh[column(log.events, f"{name}_id") - 1]
        assert is_fresh[late].any()
        assert not is_fresh[~late].any()


def test_users_live_in_one_region_and_chains_in_several(log):
    region = column(log.events, "region")

    def homes(name: str) -> list[int]:
        ids = column(log.events, name)
        return [len(set(region[ids == i])) for i in np.unique(ids)]

    assert max(homes("user_id")) == 1
    assert min(homes("shop_id")) == 1
    assert max(homes("shop_id")) == 3
