"""Schedules: every row once an epoch, steps that are full and no fuller, batches by their rule."""

import math
from itertools import pairwise

import torch
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.tuning.schedule import blocks_of, by_slot, make_schedule
from tests.unit.iak.small import ALONE, stage, tuning_rows


@given(
    rows=st.integers(0, 60),
    steps=st.lists(st.integers(0, 5), min_size=1, max_size=5),
    step_rows=st.sampled_from([1, 10, 1000]),
    max_steps=st.sampled_from([2, 99]),
    seed=st.integers(0, 99),
)
def test_an_epoch_uses_each_row_of_an_active_domain_once(rows, steps, step_rows, max_steps, seed):
    data = tuning_rows(rows, len(steps), seed)
    slots_n = data.slots_nL[:, 1]
    schedule = make_schedule(
        data.identity_n, data.mask_nT, slots_n, streams_K=torch.arange(len(steps)) + seed,
        steps_K=torch.tensor(steps), max_steps=max_steps, step_rows=step_rows, worker=ALONE,
    )  # fmt: skip
    used, met = [], {k: 0 for k, count in enumerate(steps) if count}
    for step in schedule.steps():
        slot_B = torch.tensor(step.slots).repeat_interleave(step.lengths_P)
        assert torch.equal(slots_n[step.index_B], slot_B)
        assert torch.equal(step.lengths_P, step.rows_P)
        for slot, labelled_T in zip(step.slots, step.labelled_PT, strict=True):
            assert torch.equal(data.mask_nT[step.index_B[slot_B == slot]].sum(0), labelled_T)
            met[slot] += 1
        used += step.index_B.tolist()
    assert met == {k: min(steps[k], max_steps) for k in met}
    active = [n for n, slot in enumerate(slots_n.tolist()) if slot in met]
    assert sorted(used) == active if max(steps) <= max_steps else set(used) <= set(active)
    assert len(set(used)) == len(used)


@given(sizes=st.lists(st.integers(1, 200), min_size=1, max_size=20), step_rows=st.integers(1, 500))
def test_a_step_takes_no_further_domain_when_it_is_full(sizes, step_rows):
    steps_K = torch.tensor([-(-size // 50) for size in sizes])
    rows_SK = torch.zeros(int(steps_K.max()), len(sizes), dtype=torch.int64)
    for slot, size in enumerate(sizes):
        rows_SK[: steps_K[slot], slot] = torch.tensor(size) // steps_K[slot]
    blocks = blocks_of(steps_K, rows_SK, step_rows)
    assert sorted(torch.cat(blocks).tolist()) == list(range(len(sizes)))
    a_step = rows_SK.sum(0) / steps_K
    for block in blocks:
        assert steps_K[block].tolist() == sorted(steps_K[block].tolist(), reverse=True)
        assert float(a_step[block[:-1]].sum()) < step_rows
    for block, following in pairwise(blocks):
        filled, next_one = float(a_step[block].sum()), float(a_step[following[0]])
        assert filled + next_one / 2 >= step_rows


@given(rows=st.integers(0, 10**7), low=st.sampled_from([1, 8, 128]), wanted=st.integers(1, 64))
def test_a_batch_is_the_nearest_power_of_two_within_its_bounds(rows, low, wanted):
    how = stage(min_batch=low, max_batch=1024, steps_per_epoch=wanted)
    steps = int(how.steps_of(torch.tensor([rows])))
    if rows == 0:
        assert steps == 0
        return
    batch = min(max(2 ** round(math.log2(max(rows / wanted, 1))), low), 1024)
    assert steps == max(1, round(rows / batch))


@given(rows=st.integers(0, 40), slots=st.integers(1, 4))
def test_rows_by_slot_are_all_rows_that_have_one(rows, slots):
    slots_n = tuning_rows(rows, slots).slots_nL[:, 1]
    wanted_K = torch.arange(slots) != 1
    batches = list(by_slot(slots_n, wanted_K, batch_rows=7, worker=ALONE))
    joined = [n for index_B, _, _ in batches for n in index_B.tolist()]
    expected = (slots_n >= 0) & (slots_n != 1)
    assert sorted(joined) == torch.nonzero(expected).flatten().tolist()
    for index_B, present, lengths_P in batches:
        owners = torch.arange(slots)[present].repeat_interleave(lengths_P)
        assert torch.equal(slots_n[index_B], owners)
