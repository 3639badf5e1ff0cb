"""Values of histories as tables are asked for them, and what every reader has in common."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from iak.pipeline.data.batch import FULL_ROWS
from iak.pipeline.model.batch_invariant import batch_invariant
from iak.pipeline.model.histories.caser import Convolutions
from iak.pipeline.model.histories.din import TargetAttention
from iak.pipeline.model.histories.histories import Histories, History, HistoryShape, has_value
from iak.pipeline.model.histories.sasrec import SelfAttention

K, L = 5, 6
READERS = {
    "din": lambda: TargetAttention(width=K, hidden=4),
    "sasrec": lambda: with_positions(SelfAttention(width=K, positions=L, blocks=2)),
    "caser": lambda: Convolutions(
        width=K, positions=L, heights=[1, 3, 8], filters=4, vertical_filters=2
    ),
}
lengths = st.lists(st.integers(0, L), min_size=1, max_size=5)


def with_positions(reader):
    """The same reader, its positions no longer zero."""
    torch.nn.init.normal_(reader.position_LK)
    return reader


def built(kind, seed=0):
    torch.manual_seed(seed)
    return READERS[kind]()


def histories(lengths, positions=L, seed=0):
    """Rows of these many values, the same ones for any number of positions."""
    draw = torch.Generator().manual_seed(seed)
    values_BLK = torch.randn(len(lengths), L, K, generator=draw)
    target_BK = torch.randn(len(lengths), K, generator=draw)
    is_value_BL = has_value(torch.tensor(lengths), L)
    values_BLK = values_BLK * is_value_BL[:, :, None]
    return History(values_BLK[:, -positions:], is_value_BL[:, -positions:], target_BK)


def rows_of(history, chosen):
    return History(*(part[chosen] for part in history))


def two_histories():
    return Histories(
        [
            HistoryShape(feature="seen", target="item", positions=2, width=1),
            HistoryShape(feature="bought", target="item", positions=3, width=1),
        ],
        [TargetAttention(width=1, hidden=1), TargetAttention(width=1, hidden=1)],
    )


IDS = KeyedJaggedTensor(
    keys=["item", "seen", "bought"],
    values=torch.tensor([7, 8, 1, 2, 3, 4, 5]),
    lengths=torch.tensor([1, 1, 3, 0, 1, 1], dtype=torch.int32),
)


def bags(ids, key):
    return [bag.tolist() for bag in ids[key].to_dense()]


def test_each_position_is_a_bag_and_the_newest_value_has_the_last():
    asked = two_histories().with_positions(IDS)
    assert {key: bags(asked, key) for key in asked.keys()} == {  # noqa: SIM118 - it is no dict
        "item": [[7], [8]],
        "seen": [[1, 2, 3], []],
        "bought": [[4], [5]],
        "seen~0": [[2], []],
        "seen~1": [[3], []],
        "bought~0": [[], []],
        "bought~1": [[], []],
        "bought~2": [[4], [5]],
    }


def test_what_tables_answer_becomes_histories_and_padding_is_told_from_zeros():
    both, asked = two_histories(), two_histories().with_positions(IDS)
    # One row more than was asked for, as sharded tables answer.
    sums = {
        key: torch.tensor([*([float(sum(bag))] for bag in bags(asked, key)), [9.0]])
        for key in asked.keys()  # noqa: SIM118 - it is no dict
    }
    seen, bought = both.looked_up(sums, IDS, {"item": torch.tensor([[0.5], [0.25]])})
    assert seen.values_BLK.squeeze(2).tolist() == [[2, 3], [0, 0]]
    assert seen.is_value_BL.tolist() == [[True, True], [False, False]]
    assert bought.values_BLK.squeeze(2).tolist() == [[0, 0, 4], [0, 0, 5]]
    assert bought.is_value_BL.tolist() == [[False, False, True]] * 2
    assert bought.target_BK.tolist() == [[0.5], [0.25]]
    assert both([seen, bought]).shape == (2, both.units) == (2, 2)


@pytest.mark.parametrize("kind", READERS)
def test_every_parameter_learns(kind):
    reader = built(kind)
    reader(histories([L, 3, 1] * 20)).square().sum().backward()
    stuck = [n for n, p in reader.named_parameters() if p.grad is None or not p.grad.any()]
    assert stuck == []


@pytest.mark.parametrize("kind", READERS)
@given(lengths, st.integers(0, 99))
def test_padding_changes_nothing(kind, lengths, seed):
    reader, longest = built(kind, seed).eval(), max(1, *lengths, 0)
    padded = reader(histories(lengths, seed=seed))
    torch.testing.assert_close(reader(histories(lengths, positions=longest, seed=seed)), padded)


@pytest.mark.parametrize("kind", READERS)
@given(lengths, st.integers(0, 99))
def test_a_row_depends_on_no_other_row(kind, lengths, seed):
    reader, history = built(kind, seed).eval(), histories(lengths, seed=seed)
    whole = reader(history)
    for row in range(len(lengths)):
        torch.testing.assert_close(reader(rows_of(history, [row])), whole[[row]])
    assert reader(rows_of(history, [])).shape == (0, reader.units)


@pytest.mark.parametrize("kind", READERS)
@given(st.lists(st.integers(0, 3 * FULL_ROWS - 1), min_size=FULL_ROWS, max_size=FULL_ROWS))
def test_a_row_rounds_the_same_among_any_rows(kind, chosen):
    reader = built(kind).eval()
    history = histories([row % (L + 1) for row in range(3 * FULL_ROWS)])
    with torch.no_grad(), batch_invariant():
        assert torch.equal(reader(rows_of(history, chosen)), reader(history)[chosen])


@pytest.mark.parametrize("kind", READERS)
def test_it_computes_while_training_what_it_computes_afterwards(kind):
    reader, history = built(kind).eval(), histories(range(L + 1))
    with torch.no_grad(), batch_invariant():
        afterwards = reader(history)
    torch.testing.assert_close(reader(history), afterwards)


@pytest.mark.parametrize("kind", READERS)
def test_an_empty_history_is_zeros_and_moves_nothing(kind):
    reader = built(kind)
    values_BLK, is_value_BL, target_BK = histories([0, 0])
    values_BLK.requires_grad_()
    s_BS = reader(History(values_BLK, is_value_BL, target_BK))
    assert torch.equal(s_BS, torch.zeros(2, reader.units))
    s_BS.sum().backward()
    assert not values_BLK.grad.any()
    assert not any(p.grad.any() for p in reader.parameters() if p.grad is not None)
