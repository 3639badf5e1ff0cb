"""Which level starts from what, how many domains are tuned, and what a resumed run does over."""

import dataclasses
import threading
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from iak.pipeline.errors import BadLog, BadRequest, Diverged
from iak.pipeline.iak.bank import stack
from iak.pipeline.iak.kernel import PROBE, fresh
from iak.pipeline.tuning import levels
from iak.pipeline.tuning.levels import (
    Names,
    TuningPlan,
    begun_in_order,
    find_domains,
    rivals_of,
    tune_levels,
)
from iak.pipeline.tuning.tune import CohortTuner
from iak.pipeline.tuning.validation import valid_losses
from iak.schemas.domain import POOLED, Domain
from iak.schemas.task import DomainSpec
from tests.unit.iak.small import SHAPE, context, moved_kernel, only, stage, tuning_rows
from tests.unit.workers import on_threads

CITIES = ("city=p", "city=q")
SHOPS = ("city=p/shop=1", "city=p/shop=2", "city=q/shop=1", "city=thin/shop=1")
CITY_OF_SHOP = torch.tensor([0, 0, 1, -1])
"""The last shop's city has too few rows for a kernel of its own."""
NAMES = Names(
    tuned=((POOLED,), CITIES, SHOPS),
    rows=(Counter(), Counter(), Counter()),
    ancestors={
        POOLED: (),
        **dict.fromkeys(CITIES, (POOLED,)),
        **{shop: (POOLED, shop.partition("/")[0]) for shop in SHOPS},
    },
    below_floor={},
    domains={},
)


def three_levels(count, seed):
    """Rows of four shops, of their cities and of the pooled kernel."""
    rows = tuning_rows(count, len(SHOPS), seed)
    pooled_n, shop_n = rows.slots_nL.unbind(1)
    city_n = torch.where(shop_n < 0, -1, CITY_OF_SHOP[shop_n])
    return dataclasses.replace(rows, slots_nL=torch.stack([pooled_n, city_n, shop_n], dim=1))


TRAIN, VALID = three_levels(240, 1), three_levels(160, 2)
AROUND = context(TRAIN, VALID)
UNTUNED = context(only(TRAIN, torch.zeros(len(TRAIN), dtype=torch.bool)), VALID)
"""Without a training row no kernel moves: the levels end as they start."""


def plan(folder, *, live=None, every_s=1e9, deadline=None, origins=None, **changes):
    return TuningPlan(
        shape=SHAPE, pooled=stage(**changes), domain=stage(**changes), live=live or {},
        run_dir=folder, snapshot="rows", checkpoint_every_s=every_s, deadline=deadline,
        origins=origins or {},
    )  # fmt: skip


def tune(folder, report=lambda _: None, around=AROUND, **how):
    return tune_levels(plan(folder, **how), NAMES, around, report)


def same(kernel, other):
    return all(torch.equal(weight, other[name]) for name, weight in kernel.items())


def without_probe(kernel):
    """The probe serves nobody, so a kernel that goes on begins with a new one."""
    return {name: weight for name, weight in kernel.items() if name not in PROBE}


def test_a_first_night_starts_from_a_kernel_that_changes_nothing(tmp_path):
    for level in tune(tmp_path, around=UNTUNED):
        for slot in range(len(level.bank.names)):
            assert same(level.bank.slot(slot), fresh(SHAPE, seed=stage().seed))


def test_a_domain_starts_from_its_nearest_tuned_ancestor(tmp_path):
    """A bad pooled kernel and a better one of a city serve; the other city and shops are new."""
    live = {POOLED: moved_kernel(0, size=3.0), "city=p": fresh(SHAPE, seed=3)}
    pooled, cities, shops = tune(tmp_path, live=live, around=UNTUNED)
    assert not same(cities.bank.slot(0), cities.bank.slot(1))
    assert same(cities.bank.slot(1), pooled.bank.slot(0))
    parents = [cities.bank.slot(0), cities.bank.slot(0), cities.bank.slot(1), pooled.bank.slot(0)]
    for slot, parent in enumerate(parents):
        assert same(shops.bank.slot(slot), parent), SHOPS[slot]


@settings(max_examples=5)
@given(seeds=st.tuples(*[st.integers(0, 99)] * 4), serving=st.sets(st.sampled_from(SHOPS)))
def test_a_serving_kernel_is_left_for_its_ancestor_s_where_that_validates_better(
    tmp_path_factory, seeds, serving
):
    live = {POOLED: moved_kernel(seeds[0])}
    live |= {name: moved_kernel(seed) for name, seed in zip(sorted(serving), seeds, strict=False)}
    pooled, cities, shops = tune(tmp_path_factory.mktemp("run"), live=live, around=UNTUNED)
    assert same(without_probe(pooled.bank.slot(0)), without_probe(live[POOLED]))
    assert all(same(cities.bank.slot(slot), pooled.bank.slot(0)) for slot in range(2))
    parent = pooled.bank.slot(0)
    served = {name: live.get(name, parent) for name in SHOPS}
    everyone = torch.ones(len(SHOPS), dtype=torch.bool)
    by_serving, by_parent = (
        valid_losses(stack(SHAPE, kernels), 2, AROUND, everyone).loss_K.tolist()
        for kernels in (served, dict.fromkeys(SHOPS, parent))
    )
    for slot, name in enumerate(SHOPS):
        is_parent_better = by_parent[slot] < by_serving[slot]
        expected = parent if is_parent_better else served[name]
        assert same(without_probe(shops.bank.slot(slot)), without_probe(expected)), name
        assert shops.start_loss[slot] == min(by_serving[slot], by_parent[slot])


def phases(events, level):
    """How many epochs of each phase a level took, by what was reported."""
    return Counter(e["phase"] for e in events if e["event"] == f"level {level}" and "phase" in e)


def test_what_serves_already_is_not_compressed_again_and_takes_fewer_epochs(tmp_path):
    events = []
    how = {"compression_epochs": 2, "max_epochs": 4, "live_epochs": 1, "patience": 9}
    tune(tmp_path, events.append, live={POOLED: moved_kernel(0)}, step_rows=10**6, **how)
    assert phases(events, 0) == {"matching": 1}
    for level in (1, 2):
        assert phases(events, level) == {"compression": 2, "matching": 4}


def test_a_live_kernel_of_another_shape_is_refused_by_its_domain_and_weights(tmp_path):
    kernel = moved_kernel(0) | {"decode_w": torch.zeros(1, 1)}
    del kernel["skip_b"]
    with pytest.raises(BadRequest, match=r"of city=q differs in \['decode_w', 'skip_b'\]"):
        tune(tmp_path, live={"city=q": kernel}, around=UNTUNED)


SHORT = {"max_epochs": 2, "compression_epochs": 1, "patience": 9, "step_rows": 10**6}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """A run to its end: what was tuned, and what was reported."""
    events = []
    return tune(tmp_path_factory.mktemp("whole"), events.append, **SHORT), events


class Killed(Exception):
    """In the place of a signal."""


def tune_until(folder, event):
    """A run that ends at its event of this number, whose checkpoints are written at once."""
    left = iter(range(event))

    def report(_):
        if next(left, None) is None:
            raise Killed

    with pytest.raises(Killed):
        tune(folder, report, every_s=0, **SHORT)


@pytest.mark.parametrize("event", [1, 2, 3, 4, 6, 11])
def test_a_run_killed_at_any_event_and_resumed_is_uninterrupted(tmp_path, uninterrupted, event):
    expected, whole = uninterrupted
    assert len(whole) == 12
    tune_until(tmp_path, event)
    events = []
    found = tune(tmp_path, events.append, **SHORT)
    for level, other in zip(found, expected, strict=True):
        assert level.numbers() == other.numbers()
        assert torch.equal(level.bank.flat_KN, other.bank.flat_KN)
    again = [e for e in events if e["event"] != "resumed"]
    assert again == whole[event:], "what was done is not done over"


def test_a_run_that_was_at_its_end_tunes_nothing(tmp_path, uninterrupted):
    expected, _ = uninterrupted
    tune(tmp_path, **SHORT)
    events = []
    found = tune(tmp_path, events.append, **SHORT)
    assert events == []
    assert [level.numbers() for level in found] == [level.numbers() for level in expected]


DOMAIN = DomainSpec(keys=("city", "shop"), parent=("city",), min_rows=3)
DRAWN = st.lists(
    st.tuples(st.sampled_from("pqr"), st.sampled_from(["1", "2", None]), st.integers(0, 2)),
    max_size=40,
)


def log_rows(drawn):
    """Rows with their domain at each level, None where a key is missing; as tuning reads them."""
    return pa.table(
        {
            "l.0": pa.array([POOLED] * len(drawn), pa.string()),
            "l.1": pa.array([f"city={c}" for c, _ in drawn], pa.string()),
            "l.2": pa.array([s and f"city={c}/shop={s}" for c, s in drawn], pa.string()),
            "k.city": pa.array([c for c, _ in drawn], pa.string()),
            "k.shop": pa.array([s for _, s in drawn], pa.string()),
        }
    )


def found_by(*parts, domain=DOMAIN):
    return on_threads(lambda w: find_domains(parts[w.rank], domain, w), len(parts))


@settings(max_examples=25)
@given(drawn=DRAWN)
def test_domains_are_counted_over_all_workers_and_tuned_from_their_floor_on(drawn):
    """Each row is on the worker of its last number; a row that lacks a key is nobody's."""
    parts = [log_rows([row[:2] for row in drawn if row[2] == rank]) for rank in range(3)]
    found, *others = found_by(*parts)
    assert all(other == found for other in others), "one order, on every worker"
    known = [(c, s) for c, s, _ in drawn if s is not None]
    counts = (
        Counter([POOLED] * len(known)),
        Counter(f"city={c}" for c, _ in known),
        Counter(f"city={c}/shop={s}" for c, s in known),
    )
    assert found.rows == counts
    for level, (names, floor) in enumerate(zip(found.tuned, (1, 3, 3), strict=True)):
        assert set(names) == {n for n, count in counts[level].items() if count >= floor}
        for one, other in pairwise(names):
            assert (-counts[level][one], one) < (-counts[level][other], other)
    assert found.below_floor == {n: c for n, c in counts[2].items() if c < 3}
    for c, s in known:
        shop = f"city={c}/shop={s}"
        assert found.ancestors[shop] == (POOLED, f"city={c}")
        assert found.domains[shop] == Domain((("city", c), ("shop", s)))


def test_a_domain_with_two_parents_is_refused_wherever_its_rows_are():
    domain = DomainSpec(keys=("shop",), parent=("city",))
    parts = [log_rows([(c, "1")]) for c in "pq"]
    parts = [part.set_column(2, "l.2", pa.array(["shop=1"])) for part in parts]
    told = "domain shop=1 has two parents, city=p and city=q"
    with pytest.raises(BadLog, match=told):
        found_by(*parts, domain=domain)


def one_shop(rows):
    """The same rows where one shop alone is tuned: others have no slot below the pooled level."""
    slots_nL = rows.slots_nL.clone()
    slots_nL[:, 1] = -1
    slots_nL[slots_nL[:, 2] != 0, 2] = -1
    return dataclasses.replace(rows, slots_nL=slots_nL)


def test_a_run_may_tune_some_domains_alone_and_the_pooled_kernel_with_them():
    names = NAMES.only([SHOPS[0]])
    assert names.tuned == ((POOLED,), (), (SHOPS[0],))
    assert names.untouched == {*CITIES, *SHOPS[1:]}
    assert NAMES.only([]) == NAMES


def test_what_is_left_as_it_is_serves_as_the_start_of_what_is_below(tmp_path):
    live = {POOLED: moved_kernel(0), "city=p": moved_kernel(3)}
    around = context(
        only(one_shop(TRAIN), torch.zeros(len(TRAIN), dtype=torch.bool)), one_shop(VALID)
    )
    some = NAMES.only([SHOPS[0]])
    thin = dataclasses.replace(NAMES, tuned=some.tuned)
    for names, parent in ((some, "city=p"), (thin, POOLED)):
        folder = tmp_path / parent
        folder.mkdir()
        _, cities, shops = tune_levels(plan(folder, live=live), names, around, lambda _: None)
        assert not cities.bank.names
        assert same(without_probe(shops.bank.slot(0)), without_probe(live[parent]))


def test_after_the_deadline_no_kernel_begins_but_the_pooled_one(tmp_path):
    past = datetime(2026, 1, 1, tzinfo=UTC)
    pooled, cities, shops = tune(tmp_path, deadline=past)
    assert pooled.bank.names == (POOLED,)
    assert (cities.bank.names, shops.bank.names) == ((), ())
    assert len(cities.bank.flat_KN) == 0


def wild_rates(monkeypatch, *names):
    """Let the kernels of these domains move by a rate that no setting allows."""
    optimizer = CohortTuner.new_optimizer

    def wild(tuner):
        adam = optimizer(tuner)
        adam.lr_K[[name in names for name in tuner.bank.names]] = 1e30
        return adam

    monkeypatch.setattr(CohortTuner, "new_optimizer", wild)


def test_below_a_kernel_that_diverged_others_start_as_it_did(tmp_path, monkeypatch):
    wild_rates(monkeypatch, POOLED, CITIES[0])
    live = {POOLED: moved_kernel(4), CITIES[0]: moved_kernel(5)}
    pooled, cities, shops = tune(tmp_path, live=live, live_epochs=1)
    assert (set(pooled.failed), set(cities.failed), shops.failed) == ({POOLED}, {CITIES[0]}, {})
    assert pooled.failed[POOLED].endswith(" under pooled.lr=0.01")
    assert same(without_probe(pooled.bank.slot(0)), without_probe(live[POOLED]))
    start = stack(SHAPE, dict.fromkeys(SHOPS, live[CITIES[0]]))
    everywhere_K = torch.ones(len(SHOPS), dtype=torch.bool)
    of_city, _ = valid_losses(start, 2, AROUND, everywhere_K)
    rival = stack(SHAPE, dict.fromkeys(SHOPS, live[POOLED]))
    of_pooled, _ = valid_losses(rival, 2, AROUND, everywhere_K)
    assert shops.start_loss[3] == pytest.approx(float(of_pooled[3]))
    taken = min(float(of_city[0]), float(of_pooled[0]))
    assert shops.start_loss[0] == pytest.approx(taken)


def test_where_every_kernel_diverges_the_run_ends_with_the_first_ones_words(tmp_path, monkeypatch):
    wild_rates(monkeypatch, POOLED, *CITIES, *SHOPS)
    with pytest.raises(Diverged) as told:
        tune(tmp_path)
    words = str(told.value)
    assert words.startswith("all 7 kernels diverged, and nothing is published. First the kernel of")
    assert "Lower pooled.lr and domain.lr by a factor of ten" in words


def test_a_deadline_that_has_not_come_changes_nothing(tmp_path):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    due = datetime.now(UTC) + timedelta(days=1)
    with_it, without = tune(tmp_path / "one", deadline=due), tune(tmp_path / "other")
    for one, other in zip(with_it, without, strict=True):
        assert torch.equal(one.bank.flat_KN, other.bank.flat_KN)


SMALL_STEPS = {"max_epochs": 2, "compression_epochs": 1, "patience": 9, "step_rows": 20}
"""Steps that a few kernels fill, so that a level has several cohorts."""
COUNTED = dataclasses.replace(
    NAMES,
    rows=tuple(
        Counter(level[slot] for slot in TRAIN.slots_nL[:, depth].tolist() if slot >= 0)
        for depth, level in enumerate(NAMES.tuned)
    ),
)


def in_slots(rows, names):
    """The same rows where the slots of each level are those of `names`."""
    columns = []
    for depth, (before, after) in enumerate(zip(NAMES.tuned, names.tuned, strict=True)):
        slots = torch.tensor([*(after.index(name) for name in before), -1])
        columns.append(slots[rows.slots_nL[:, depth]])
    return dataclasses.replace(rows, slots_nL=torch.stack(columns, dim=1))


def tune_in_order(folder, order, **how):
    """Tune the levels with cohorts that begin in this order; return names and levels."""
    asked = plan(folder, **{**SMALL_STEPS, **how})
    names = begun_in_order(COUNTED, order, [asked.pooled, asked.domain, asked.domain])
    around = context(in_slots(TRAIN, names), in_slots(VALID, names))
    return names, tune_levels(asked, names, around, lambda _: None)


@pytest.fixture(scope="module")
def by_rows(tmp_path_factory):
    """Every kernel by name, with its numbers, where no order is asked for."""
    asked = plan(tmp_path_factory.mktemp("by_rows"), **SMALL_STEPS)
    return by_name(tune_levels(asked, COUNTED, AROUND, lambda _: None))


def by_name(tuned):
    return {
        name: (level.bank.flat_KN[slot], level.best_loss[slot], level.best_epoch[slot])
        for level in tuned
        for slot, name in enumerate(level.bank.names)
    }


@settings(max_examples=5)
@given(order=st.permutations([*CITIES, *SHOPS]), named=st.integers(0, 6))
def test_a_kernel_does_not_depend_on_the_order_in_which_cohorts_begin(
    tmp_path_factory, by_rows, order, named
):
    """Law: bit for bit, whatever is named and in whatever order."""
    names, tuned = tune_in_order(tmp_path_factory.mktemp("ordered"), order[:named])
    assert any(len(parts) > 1 for parts in names.cohorts)
    found = by_name(tuned)
    assert found.keys() == by_rows.keys()
    for name, (weights, loss, epoch) in found.items():
        assert torch.equal(weights, by_rows[name][0]), name
        assert (loss, epoch) == by_rows[name][1:], name


@pytest.mark.parametrize("first", SHOPS)
def test_where_the_time_is_up_the_domains_that_are_named_first_are_tuned(
    tmp_path, monkeypatch, by_rows, first
):
    begun = []

    def may_begin(_plan, depth, _worker):
        begun.append(depth)
        return begun.count(2) <= 1  # one cohort of the lowest level

    monkeypatch.setattr(levels, "_may_begin", may_begin)
    names, tuned = tune_in_order(tmp_path, [first])
    shops = tuned[2]
    assert first in shops.bank.names
    assert 0 < shops.kernels < len(SHOPS)
    assert shops.bank.names == names.tuned[2][: shops.kernels]
    assert torch.equal(by_name(tuned)[first][0], by_rows[first][0])


def test_a_checkpoint_of_another_order_gives_no_kernel_to_another_domain(tmp_path, by_rows):
    """Four shops, of which two cohorts change places between a killed run and its next attempt."""
    for order in ([*SHOPS], [*reversed(SHOPS)]):
        _, tuned = tune_in_order(tmp_path, order, every_s=0)
        for name, (weights, *_) in by_name(tuned).items():
            assert torch.equal(weights, by_rows[name][0]), name


def test_rivals_are_what_was_tuned_above_and_what_serves_without_the_domain(tmp_path):
    live = {
        name: without_probe(moved_kernel(seed)) for seed, name in enumerate((POOLED, *SHOPS[:2]))
    }
    how = plan(tmp_path, live=live)
    levels = tune_levels(how, NAMES, UNTUNED, lambda _: None)
    rivals = rivals_of(how, 2, NAMES, levels)
    above = [levels[1].bank.slot(CITIES.index(city)) for city in ("city=p", "city=p", "city=q")]
    for slot, kernel in enumerate([*above, levels[0].bank.slot(0)]):
        assert same(rivals.tuned_above.slot(slot), kernel)
        # No city serves, so the pooled kernel does.
        assert same(live[POOLED], rivals.serving_above.slot(slot))
    assert rivals.live_names == set(SHOPS[:2])
    assert all(same(live[name], rivals.live.slot(slot)) for slot, name in enumerate(SHOPS[:2]))


SPLIT = dict.fromkeys(SHOPS[:3], "city=p/shop=old")
"""Three shops were one before."""


@settings(max_examples=5)
@given(seed=st.integers(0, 99))
def test_parts_of_a_split_domain_start_from_its_kernel_or_a_better_parent(tmp_path_factory, seed):
    """The second shop has a kernel of its own already, which comes before what it inherits."""
    old, own = moved_kernel(seed), moved_kernel(seed + 100)
    live = {POOLED: moved_kernel(seed + 200), SPLIT[SHOPS[0]]: old, SHOPS[1]: own}
    folder = tmp_path_factory.mktemp("run")
    pooled, _, shops = tune(folder, live=live, origins=SPLIT, around=UNTUNED)
    parent = pooled.bank.slot(0)
    first = dict(zip(SHOPS, (old, own, old, parent), strict=True))
    everyone = torch.ones(len(SHOPS), dtype=torch.bool)
    by_first, by_parent = (
        valid_losses(stack(SHAPE, kernels), 2, AROUND, everyone).loss_K.tolist()
        for kernels in (first, dict.fromkeys(SHOPS, parent))
    )
    for slot, name in enumerate(SHOPS):
        expected = parent if by_parent[slot] < by_first[slot] else first[name]
        assert same(without_probe(shops.bank.slot(slot)), without_probe(expected)), name


def test_an_inherited_kernel_is_no_rival_and_borrows_nothing(tmp_path):
    """Nobody serves a new domain by the kernel that it inherits, so no gain is measured to it."""
    live = {POOLED: moved_kernel(0), SPLIT[SHOPS[0]]: moved_kernel(1)}
    how = plan(tmp_path, live=live, origins=SPLIT)
    how = dataclasses.replace(how, domain=dataclasses.replace(how.domain, borrows=True))
    levels = tune_levels(how, NAMES, AROUND, lambda _: None)
    rivals = rivals_of(how, 2, NAMES, levels)
    assert (rivals.live, rivals.live_names) == (None, frozenset())
    assert set(levels[2].own_share) <= {SHOPS[3]}


def test_what_serves_no_more_is_inherited_by_nobody(tmp_path):
    found = tune(tmp_path, origins=SPLIT, around=UNTUNED)
    assert all(same(found[2].bank.slot(s), fresh(SHAPE, seed=stage().seed)) for s in range(4))


def test_where_nothing_serves_the_base_is_the_only_rival_besides_tonights(tmp_path):
    how = plan(tmp_path)
    levels = tune_levels(how, NAMES, UNTUNED, lambda _: None)
    pooled, city = (rivals_of(how, depth, NAMES, levels[: depth + 1]) for depth in (0, 1))
    assert (pooled.tuned_above, pooled.serving_above, pooled.live) == (None, None, None)
    assert city.tuned_above is not None
    assert (city.serving_above, city.live, city.live_names) == (None, None, frozenset())


def test_a_fresh_kernel_stands_for_the_base_where_some_have_no_ancestor_that_serves(tmp_path):
    live = {"city=p": without_probe(moved_kernel(3))}
    how = plan(tmp_path, live=live)
    levels = tune_levels(how, NAMES, UNTUNED, lambda _: None)
    serving = rivals_of(how, 2, NAMES, levels).serving_above
    assert same(live["city=p"], serving.slot(0))
    assert same(fresh(SHAPE, seed=stage().seed), serving.slot(2))


class ClockOf:
    """A clock for each worker, by a thread's own moment."""

    def __init__(self):
        self.own = threading.local()

    def now(self, _zone):
        return self.own.moment


def test_workers_whose_clocks_differ_begin_the_same_cohorts(tmp_path, monkeypatch):
    """Else one would begin a step, and wait for the others for ever."""
    deadline, clock = datetime(2026, 1, 1, tzinfo=UTC), ClockOf()
    monkeypatch.setattr(levels, "datetime", clock)

    def tune_on(worker):
        clock.own.moment = deadline + timedelta(seconds=worker.rank - 1)
        return tune(tmp_path, deadline=deadline, around=context(TRAIN, VALID, worker))

    for pooled, cities, shops in on_threads(tune_on, 2):
        assert pooled.bank.names == (POOLED,)
        assert (cities.bank.names, shops.bank.names) == ((), ())


@pytest.mark.parametrize("interrupted_after", [1, 2])
def test_a_resumed_run_borrows_once_and_as_an_uninterrupted_one(tmp_path, interrupted_after):
    """The checkpoint of a finished level has the weights and the shares after borrowing."""

    def borrowing(folder):
        folder.mkdir(exist_ok=True)
        how = plan(folder, every_s=0)
        return dataclasses.replace(how, domain=dataclasses.replace(how.domain, borrows=True))

    whole = tune_levels(borrowing(tmp_path / "whole"), NAMES, AROUND, lambda _: None)
    assert whole[0].own_share == {}
    assert all(level.own_share for level in whole[1:])
    tune_levels(
        borrowing(tmp_path / "part"),
        dataclasses.replace(NAMES, tuned=NAMES.tuned[:interrupted_after]),
        AROUND, lambda _: None,
    )  # fmt: skip
    resumed = tune_levels(borrowing(tmp_path / "part"), NAMES, AROUND, lambda _: None)
    for level, expected in zip(resumed, whole, strict=True):
        assert level.own_share == expected.own_share
        assert torch.equal(level.bank.flat_KN, expected.bank.flat_KN)
