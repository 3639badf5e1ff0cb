"""Ids go out, rows come back: the answer is the whole table's, wherever its rows lie."""

from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from iak.pipeline.sharding import exchange as exchange_module
from iak.pipeline.sharding.exchange import LocalRows, Question, exchange, offsets_of, refuse
from iak.pipeline.sharding.quantised import Lookup, to_bytes
from iak.pipeline.sharding.row_format import PRECISIONS
from tests.unit.workers import CPU, on_threads, outcomes

ROWS, WIDTH = 11, 8


@dataclass(frozen=True)
class Table:
    """A table whose rows lie on several workers, each at some row of that worker's rows."""

    whole_RN: Tensor
    lookup: Lookup
    owners_R: Tensor
    rows_R: Tensor

    def local_rows(self, rank: int) -> LocalRows:
        mine_R = torch.nonzero(self.owners_R == rank).flatten()
        bytes_RN = torch.empty(len(mine_R), self.whole_RN.shape[1], dtype=torch.uint8)
        bytes_RN[self.rows_R[mine_R]] = self.whole_RN[mine_R]
        partial = Lookup("fp32", self.lookup.width, CPU)
        return LocalRows(bytes_RN=bytes_RN, lookup=self.lookup, partial=partial)

    def sums(self, bags) -> Tensor:
        """The sums of bags, looked up in the whole table."""
        ids_I, offsets_O = flat(bags)
        return self.lookup(self.whole_RN, ids_I, offsets_O)

    def question(self, rank: int, bags, *, is_summed: bool) -> Question:
        ids_I, offsets_O = flat(bags)
        return Question(
            local=self.local_rows(rank), is_summed=is_summed, owners_I=self.owners_R[ids_I],
            rows_I=self.rows_R[ids_I], offsets_O=offsets_O,
        )  # fmt: skip


def flat(bags):
    ids = torch.tensor([i for bag in bags for i in bag], dtype=torch.int64)
    return ids, offsets_of(torch.tensor([len(bag) for bag in bags], dtype=torch.int64))


def table_of(owners, *, precision="fp32", seed=0, whole_numbers=False) -> Table:
    """Its rows on these workers, each with its own, in a drawn order."""
    draw = torch.Generator().manual_seed(seed)
    weight_RW = torch.randn(len(owners), WIDTH, generator=draw)
    if whole_numbers:  # whose sums are exact, in whatever order they are added up
        weight_RW = (8 * weight_RW).round()
    owners_R, rows_R = torch.tensor(owners), torch.zeros(len(owners), dtype=torch.int64)
    for rank in set(owners):
        (mine_R,) = torch.nonzero(owners_R == rank, as_tuple=True)
        rows_R[mine_R] = torch.randperm(len(mine_R), generator=draw)
    bytes_RN = to_bytes(weight_RW, precision, table="t", first_row=0)
    return Table(bytes_RN, Lookup(precision, WIDTH, CPU), owners_R, rows_R)


def exchanged(world, *asked):
    """What each worker gets; a question is a table, by rank its bags, and `is_summed`."""
    return on_threads(
        lambda w: exchange(
            [t.question(w.rank, bags[w.rank], is_summed=s) for t, bags, s in asked], w
        ),
        world,
    )


BAGS = st.lists(st.lists(st.integers(0, ROWS - 1), max_size=4), max_size=4)


@st.composite
def worlds(draw):
    """A world, the workers on which a table's rows lie, and what each worker asks."""
    world = draw(st.integers(1, 4))
    owners = draw(st.lists(st.integers(0, world - 1), min_size=ROWS, max_size=ROWS))
    return world, owners, draw(st.lists(BAGS, min_size=world, max_size=world))


@pytest.mark.parametrize("precision", PRECISIONS)
@settings(max_examples=25)
@given(drawn=worlds())
def test_rows_that_travel_as_stored_are_the_whole_tables_bit_for_bit(precision, drawn):
    world, owners, bags = drawn
    table = table_of(owners, precision=precision)
    for (found,), mine in zip(exchanged(world, (table, bags, False)), bags, strict=True):
        assert torch.equal(found, table.sums(mine))


@settings(max_examples=40)
@given(drawn=worlds())
def test_bags_that_owners_sum_are_the_whole_tables_sums(drawn):
    world, owners, bags = drawn
    table = table_of(owners, whole_numbers=True)
    for (found,), mine in zip(exchanged(world, (table, bags, True)), bags, strict=True):
        assert torch.equal(found, table.sums(mine))


@settings(max_examples=25)
@given(drawn=worlds(), other=st.data())
def test_several_questions_in_one_call_are_answered_as_if_each_were_asked_alone(drawn, other):
    world, owners, bags = drawn
    second = other.draw(st.lists(BAGS, min_size=world, max_size=world))
    asked = [
        (table_of(owners, whole_numbers=True), bags, True),
        (table_of(owners[::-1], precision="int8", seed=1), second, False),
        (table_of(owners, seed=2, precision="fp16"), bags, False),
    ]
    together = exchanged(world, *asked)
    for number, question in enumerate(asked):
        alone = exchanged(world, question)
        assert all(
            torch.equal(all_[number], one) for all_, (one,) in zip(together, alone, strict=True)
        )


@pytest.mark.parametrize(("is_summed", "rows"), [(True, 2), (False, 6)])
def test_of_a_bag_that_owners_sum_each_owner_sends_one_row(is_summed, rows):
    """Six ids of one bag, three on either worker."""
    table = table_of([0, 1] * 3, whole_numbers=True)
    travelled = []

    def counting(lookup):
        def look_up(bytes_RN, ids_I, offsets_O):
            travelled.append(len(bytes_RN))
            return lookup(bytes_RN, ids_I, offsets_O)

        look_up.width = lookup.width
        return look_up

    def ask(worker):
        bags = [list(range(6))] if worker.rank == 0 else []
        question = table.question(worker.rank, bags, is_summed=is_summed)
        if worker.rank == 0:  # the one that adds up the answers
            name = "partial" if is_summed else "lookup"
            setattr(question.local, name, counting(getattr(question.local, name)))
        exchange([question], worker)

    on_threads(ask, 2)
    assert travelled == [rows]


@given(world=st.integers(2, 4), broken=st.data())
def test_a_worker_that_cannot_ask_stops_every_other_one_by_its_name(world, broken):
    rank = broken.draw(st.integers(0, world - 1))
    table = table_of([0] * ROWS)

    def ask(worker):
        if worker.rank == rank:
            return refuse(1, worker)
        return exchange([table.question(worker.rank, [[1]], is_summed=False)], worker)

    told = outcomes(ask, world)
    assert told.pop(rank) is None
    assert [(type(error), str(error)) for error in told] == [
        (ValueError, f"worker {rank} cannot take part in the lookup; see its own error")
    ] * (world - 1)


@given(lengths=st.lists(st.integers(0, 9), max_size=9))
def test_offsets_are_where_each_bag_begins_and_the_last_one_ends(lengths):
    offsets = offsets_of(torch.tensor(lengths, dtype=torch.int32))
    assert offsets.tolist() == [sum(lengths[:bag]) for bag in range(len(lengths) + 1)]
    assert offsets.dtype == torch.int64


@settings(max_examples=10)
@given(drawn=worlds(), is_summed=st.booleans())
def test_short_row_numbers_stay_short_and_give_the_same_sums(drawn, is_summed):
    """Row numbers are most of what is sent: int32 halves it, also beside the lengths of bags."""
    world, owners, bags = drawn
    table = table_of(owners, whole_numbers=True)
    sent = []

    def ask(worker):
        question = table.question(worker.rank, bags[worker.rank], is_summed=is_summed)
        short = replace(question, rows_I=question.rows_I.int())
        (sums,) = exchange([short], worker)
        return sums

    def recording(message, *sizes):
        sent.append(message.dtype)
        return all_to_all(message, *sizes)

    all_to_all = vars(exchange_module)["_all_to_all"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exchange_module, "_all_to_all", recording)
        sums = on_threads(ask, world)
    assert all(torch.equal(s, table.sums(mine)) for s, mine in zip(sums, bags, strict=True))
    assert set(sent) == {torch.int32, torch.uint8}, "requests, then answers"
