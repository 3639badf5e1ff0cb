"""A base small enough to check by hand, and batches for it."""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from iak.pipeline.model.embedding_bags import build_tables
from iak.pipeline.model.heads import Heads
from iak.pipeline.model.histories.caser import Convolutions
from iak.pipeline.model.histories.din import TargetAttention
from iak.pipeline.model.histories.histories import Histories, HistoryShape
from iak.pipeline.model.histories.sasrec import SelfAttention
from iak.pipeline.model.loss import TaskShape
from iak.pipeline.model.recommender import Recommender
from iak.pipeline.model.tables import TableShape, position_names
from iak.pipeline.model.trunks.dcnv2_mmoe import DcnMmoe

SHAPES = (
    TableShape(name="user", rows=101, width=8, features=("user", "friends")),
    TableShape(name="hour", rows=7, width=8, features=("hour",)),
    TableShape(name="shop", rows=50, width=16, features=("shop",)),
)
FEATURES = ("hour", "user", "shop", "friends")
ROWS = {"user": 101, "hour": 7, "shop": 50, "friends": 101}
TASKS = (
    TaskShape(name="click", kind="click"),
    TaskShape(name="buy", kind="conversion", given=0, weight=2.0),
    TaskShape(name="like", kind="binary"),
)
NUMERIC = 3
POSITIONS = 2
READERS = {
    "din": lambda shape: TargetAttention(width=shape.width, hidden=4),
    "sasrec": lambda shape: SelfAttention(width=shape.width, positions=POSITIONS, blocks=2),
    "caser": lambda shape: Convolutions(
        width=shape.width, positions=POSITIONS, heights=[1, 3], filters=4, vertical_filters=2
    ),
}
"""A reader of each kind for a small history."""


class Rows(NamedTuple):
    """A batch of this small log."""

    ids: KeyedJaggedTensor
    numeric_BN: Tensor
    labels_BT: Tensor
    mask_BT: Tensor


def small_model(device: str = "cpu", seed: int = 0) -> Recommender:
    tables = build_tables(SHAPES, init_scale=0.3, device=torch.device(device), seed=seed)
    torch.manual_seed(seed)  # after the tables, whose making draws on a CPU but not on meta
    trunk = DcnMmoe(
        width=40 + NUMERIC, cross_layers=2, mlp=[16], experts=3, expert_width=8, tasks=3
    )
    return Recommender(
        tables=tables,
        features=FEATURES,
        num_numeric=NUMERIC,
        trunk=trunk,
        heads=Heads(tasks=3, width=8, hidden=5),
    )


def history_model(kind: str, device: str = "cpu") -> Recommender:
    """The same base, which also reads the last two friends beside the user."""
    of_user, *others = SHAPES
    friends = ("friends", *position_names("friends", POSITIONS))
    shapes = (replace(of_user, features=("user", *friends)), *others)
    tables = build_tables(shapes, init_scale=0.3, device=torch.device(device))
    torch.manual_seed(0)
    shape = HistoryShape(feature="friends", target="user", positions=POSITIONS, width=8)
    histories = Histories([shape], [READERS[kind](shape)])
    trunk = DcnMmoe(
        width=40 + NUMERIC + histories.units, cross_layers=1, experts=3, expert_width=8, tasks=3
    )
    return Recommender(
        tables=tables,
        features=FEATURES,
        num_numeric=NUMERIC,
        trunk=trunk,
        heads=Heads(tasks=3, width=8, hidden=5),
        histories=histories,
    )


def small_batch(rows: int, seed: int, first: int = 0, last: int | None = None) -> Rows:
    """Rows [first, last) of a batch of `rows`: bags of 0 to 3 ids, some labels missing."""
    last = rows if last is None else last
    draw = torch.Generator().manual_seed(seed)
    values, lengths = [], []
    for feature_rows in ROWS.values():
        lengths_B = torch.randint(0, 4, (rows,), generator=draw)
        ids = torch.randint(0, feature_rows, (int(lengths_B.sum()),), generator=draw)
        ends = [0, *lengths_B.cumsum(0).tolist()]
        values.append(ids[ends[first] : ends[last]])
        lengths.append(lengths_B[first:last])
    kjt = KeyedJaggedTensor(
        keys=list(ROWS), values=torch.cat(values), lengths=torch.cat(lengths).int()
    )
    numeric_BN = torch.randn(rows, NUMERIC, generator=draw)[first:last]
    labels_BT = (torch.rand(rows, len(TASKS), generator=draw) < 0.3).float()[first:last]
    mask_BT = (torch.rand(rows, len(TASKS), generator=draw) < 0.8)[first:last]
    return Rows(kjt, numeric_BN, labels_BT, mask_BT)
