"""A module with a table of each kind, as somebody may write it who does not know of `iak`.

It reads a user, an item and a history of items of any length.
"""

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig, EmbeddingConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

USERS, ITEMS, WIDTH, UNITS = 53, 31, 8, 6
POOLED = "pooled.embedding_bags.t_history"
SEQUENCES = "sequences.embeddings.t_sequence"
SHARDED = ("users", "largest", POOLED, "pooled.embedding_bags.t_item", SEQUENCES, "renormed")
"""The tables that workers can share."""


class Mixed(nn.Module):
    """Tables of torch and of TorchRec, some of which no other code can look up."""

    units = UNITS

    def __init__(self):
        super().__init__()
        pooled = [
            EmbeddingBagConfig(
                name="t_history", embedding_dim=WIDTH, num_embeddings=ITEMS,
                feature_names=["history"], pooling=PoolingType.MEAN,
            ),
            EmbeddingBagConfig(
                name="t_item", embedding_dim=WIDTH, num_embeddings=ITEMS,
                feature_names=["item", "history"],
            ),
        ]  # fmt: skip
        sequence = EmbeddingConfig(
            name="t_sequence", embedding_dim=WIDTH, num_embeddings=ITEMS, feature_names=["history"]
        )
        self.users = nn.Embedding(USERS, WIDTH)
        self.largest = nn.EmbeddingBag(ITEMS, WIDTH, mode="max", include_last_offset=True)
        self.pooled = EmbeddingBagCollection(tables=pooled)
        self.sequences = EmbeddingCollection(tables=[sequence])
        self.renormed = nn.Embedding(USERS, WIDTH, max_norm=0.5)
        self.tied, self.out = nn.Embedding(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH, bias=False)
        self.out.weight = self.tied.weight
        self.read, self.late = nn.Embedding(ITEMS, WIDTH), nn.Embedding(ITEMS, WIDTH)
        self.idle, self.some = nn.Embedding(ITEMS, WIDTH), nn.Embedding(ITEMS, WIDTH)
        self.top = nn.Linear(8 * WIDTH, UNITS)
        self.last = nn.Linear(UNITS, 2)

    def represent(self, ids: KeyedJaggedTensor, numbers: Tensor) -> Tensor:
        """h: what the last layer reads."""
        ids = KeyedJaggedTensor(
            keys=ids.keys(), values=(ids.values() - 2).clamp(min=0), lengths=ids.lengths()
        )
        user, item, history = ids["user"].values(), ids["item"].values(), ids["history"]
        sums = torch.zeros(len(user), WIDTH).index_add(
            0,
            torch.arange(len(user)).repeat_interleave(history.lengths()),
            self.sequences(ids)["history"].values(),
        )
        parts = [
            self.users(user) + self.renormed(user),
            self.largest(history.values(), history.offsets()),
            self.pooled(ids).values(),
            sums,
            self.out(self.tied(item % WIDTH)),
            self.users(user) @ self.read.weight.T[:, :WIDTH] + numbers,
        ]
        if len(user) > 1:
            parts[0] = parts[0] + self.some(item)
        return self.top(torch.cat(parts, dim=1))

    def tail(self, h: Tensor) -> Tensor:
        """The logits from h."""
        return self.last(h) + self.late(torch.zeros(len(h), dtype=torch.int64))[:, :2]


def build() -> Mixed:
    """factory = "tests.mixed_tables:build"."""
    return Mixed()


def trained(seed: int = 3) -> Mixed:
    """The module with weights."""
    torch.manual_seed(seed)
    return Mixed().eval()


def rows_of(users: list[int], histories: list[list[int]]) -> tuple[KeyedJaggedTensor, Tensor]:
    """Ids and numbers as the base gives them: row numbers are ids + 2."""
    values = [*users, *(user % ITEMS for user in users), *(i for part in histories for i in part)]
    lengths = [*[1] * (2 * len(users)), *(len(part) for part in histories)]
    ids = KeyedJaggedTensor(
        keys=["user", "item", "history"],
        values=torch.tensor(values, dtype=torch.int64) + 2,
        lengths=torch.tensor(lengths, dtype=torch.int32),
    )
    return ids, torch.arange(float(len(users)))[:, None]
