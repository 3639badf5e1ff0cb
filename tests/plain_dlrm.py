"""A DLRM in plain torch, trained by a loop of twenty lines, with nothing of `iak` in it.

Source of the model: Naumov et al. 2019, "Deep Learning Recommendation Model for Personalization and
Recommendation Systems" (arXiv 1906.00091): a bottom MLP on numbers, embeddings, the dot products of
all pairs, and a top MLP.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

USERS, ITEMS, WIDTH, HIDDEN = 60, 40, 8, 16


class Dlrm(nn.Module):
    """Ids of a user and an item and one number in, one logit out."""

    def __init__(self):
        super().__init__()
        self.users = nn.Embedding(USERS, WIDTH)
        self.items = nn.Embedding(ITEMS, WIDTH)
        self.bottom = nn.Sequential(nn.Linear(1, WIDTH), nn.ReLU())
        self.top = nn.Sequential(nn.Linear(WIDTH + 3, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))

    def interact(self, user: Tensor, item: Tensor, number: Tensor) -> Tensor:
        """What the top MLP reads."""
        dense = self.bottom(number)
        parts = torch.stack([dense, self.users(user), self.items(item)], dim=1)
        products = parts @ parts.transpose(1, 2)
        pairs = [products[:, 0, 1], products[:, 0, 2], products[:, 1, 2]]
        return torch.cat([dense, torch.stack(pairs, dim=1)], dim=1)

    def forward(self, user: Tensor, item: Tensor, number: Tensor) -> Tensor:
        """The logit of a click."""
        return self.top(self.interact(user, item, number))


def train(user: np.ndarray, item: np.ndarray, number: np.ndarray, click: np.ndarray) -> Dlrm:
    """The twenty lines."""
    torch.manual_seed(0)
    model = Dlrm()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    rows = [torch.from_numpy(column) for column in (user, item, number[:, None], click[:, None])]
    for _ in range(8):
        for index in torch.randperm(len(click)).split(128):
            *inputs, label = (column[index] for column in rows)
            loss = functional.binary_cross_entropy_with_logits(model(*inputs), label)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


class Adopted(Dlrm):
    """The same model with an attach point: the top MLP's hidden layer."""

    units = HIDDEN

    def represent(self, ids, numbers: Tensor) -> Tensor:
        """h: the hidden layer before its ReLU. A row number of a table is its id + 2."""
        user, item = (ids[name].values() - 2 for name in ("user", "item"))
        return self.top[0](self.interact(user.clamp(min=0), item.clamp(min=0), numbers))

    def tail(self, h: Tensor) -> Tensor:
        """The logit from h."""
        return self.top[2](self.top[1](h))


def build() -> Adopted:
    """factory = "tests.plain_dlrm:build"."""
    return Adopted()


def build_without_tail() -> Dlrm:
    """A module that is no base."""
    return Dlrm()


def build_another() -> nn.Module:
    """A module whose weights have other names."""
    other = Adopted()
    other.extra = nn.Linear(1, 1)
    return other
