"""Define the base as a module: tables, trunk, heads.

    tables -> means of bags, and numbers -> x ┐
           -> values of histories -> readers -> s ┴ trunk -> h -> heads -> logits

Without `model.history` there is no s, and the trunk reads x alone.

Shapes: B rows, N numeric features, E columns of an embedding, X units of x, S units of s, H units
of the representation, T tasks.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from iak.pipeline.model.batch_invariant import batch_invariant
from iak.pipeline.model.heads import Heads
from iak.pipeline.model.histories.histories import Histories, History
from iak.pipeline.model.inputs import AlongX
from iak.pipeline.model.representation import Representation
from iak.pipeline.model.tables import TWIN, is_declared, table_name


class Embedded(NamedTuple):
    """What the tables answer for some rows."""

    means: list[Tensor]
    """Mean embedding of each feature (B, width), in declared order."""
    histories: list[History]
    """Histories whose values are read one by one; none where only means are read."""


class ReadsX(Protocol):
    """A trunk that knows which of its parameters run along x."""

    def along_x(self) -> dict[str, AlongX]:
        """Return these parameters, by name in the trunk."""


class Recommender(nn.Module):
    """The multi-task base: ids and numbers in, one logit per task out."""

    def __init__(
        self,
        *,
        tables: EmbeddingBagCollection,
        features: Sequence[str],
        num_numeric: int,
        trunk: nn.Module,
        heads: Heads,
        embedding_dropout: float = 0.0,
        histories: Histories | None = None,
        lists: Collection[str] | None = None,
    ) -> None:
        """Join the parts.

        Args:
            tables: the embedding tables. Sharding or freezing replaces them later.
            features: names in the order in which their embeddings stand in x; numbers follow them.
            num_numeric: N, numbers of a row.
            trunk: x_BX -> h_BH; with `histories`, [x ; s] -> h_BH.
            heads: h_BH -> logits_BT.
            embedding_dropout: probability that a unit of the trunk's input is dropped while
                training.
            histories: reads values of histories; None where their means are enough.
            lists: features with any number of ids in a row; the others have exactly one. None where
                that is not known.

        Raises:
            ValueError: `features` and the features that the tables embed are different sets.
        """
        super().__init__()
        self.tables, self.trunk, self.heads = tables, trunk, heads
        self.histories = histories
        self.dropout = nn.Dropout(embedding_dropout)
        self.features = tuple(features)
        self.lists = frozenset(self.features if lists is None else lists)
        self.twins = tuple(f for f in embedded_features(tables) if f.endswith(TWIN))
        self.num_numeric = num_numeric
        self.tables_frozen = False
        self.tables_l2 = 0.0
        self.table_sizes: Mapping[str, tuple[int, int]] = {
            table_name(config.name): (config.num_embeddings, config.embedding_dim)
            for config in tables.embedding_bag_configs()
        }
        # Units at each point of the base that a kernel can read.
        self.attach_points: Mapping[str, int] = {
            "h": heads.tasks * heads.width,
            "x": embedded_width(tables, self.features) + num_numeric,
        }

    def forward(self, ids: KeyedJaggedTensor, numeric_BN: Tensor) -> Tensor:
        """Return one logit per task, `logits_BT`; a collective call where tables are sharded."""
        logits_BT: Tensor = self.heads(self.represent(ids, numeric_BN).h_BH)
        return logits_BT

    def along_x(self) -> dict[str, AlongX]:
        """Return the dense parameters that run along x, by name in this model."""
        trunk = cast("ReadsX", self.trunk)
        return {f"trunk.{name}": along for name, along in trunk.along_x().items()}

    def represent(self, ids: KeyedJaggedTensor, numeric_BN: Tensor) -> Representation:
        """Return the trunk's input and output; a collective call where tables are sharded.

        Args:
            ids: bags of this worker's rows, by feature.
            numeric_BN: numbers of these rows.
        """
        embedded = self.embed(ids, rows=numeric_BN.shape[0])
        x_BX = torch.cat([*embedded.means, numeric_BN], dim=1)
        with batch_invariant():
            read = x_BX
            if self.histories is not None:
                read = torch.cat([x_BX, self.histories(embedded.histories)], dim=1)
            h_BH = self.trunk(self.dropout(read))
        return Representation(h_BH=h_BH, x_BX=x_BX)

    def embed(self, ids: KeyedJaggedTensor, *, rows: int) -> Embedded:
        """Return each feature's mean embedding, and the values of histories.

        Args:
            ids: bags of this worker's rows, by feature.
            rows: B. Sharded tables may answer with rows of padding after these.
        """
        if self.tables_frozen:
            # no_grad covers the wait for other ranks too: awaiting a lookup of torchrec under
            # autograd would record a backward pass and its all-to-all.
            with torch.no_grad():
                return self._look_up(ids, rows)
        return self._look_up(ids, rows)

    def _look_up(self, ids: KeyedJaggedTensor, rows: int) -> Embedded:
        asked = self.histories.with_positions(ids) if self.histories is not None else ids
        sums = self.tables(with_twins(asked, self.twins) if self.twins else asked)
        # By name: sharded tables change the order of keys.
        # The mean of one id is its embedding: a division by one would read and write x once more.
        means = [
            sums[feature][:rows] / ids[feature].lengths()[:rows, None].clamp(min=1)
            if feature in self.lists
            else sums[feature][:rows]
            for feature in self.features
        ]
        if self.tables_l2:
            means = [decayed(mean_BE, self.tables_l2) for mean_BE in means]
        if self.histories is None:
            return Embedded(means=means, histories=[])
        by_name = dict(zip(self.features, means, strict=True))
        return Embedded(means=means, histories=self.histories.looked_up(sums, ids, by_name))


def decayed(embedding_BE: Tensor, l2: float) -> Tensor:
    """Return the same embedding, with a gradient that includes weight decay.

    The gradient is that of the loss plus l2 / 2 times the mean square length of the rows. The
    reported loss does not include this term.
    """
    if not embedding_BE.requires_grad:
        return embedding_BE
    pull_BE = embedding_BE.detach() * (l2 / max(1, len(embedding_BE)))
    decaying_BE = embedding_BE.view_as(embedding_BE)  # a hook on a view of its own, not the input's
    decaying_BE.register_hook(lambda grad_BE: grad_BE + pull_BE)
    return decaying_BE


def embedded_features(tables: EmbeddingBagCollection) -> list[str]:
    """Return every reader of a table, also twins and positions of histories."""
    return [f for config in tables.embedding_bag_configs() for f in config.feature_names]


def with_twins(ids: KeyedJaggedTensor, twins: Sequence[str]) -> KeyedJaggedTensor:
    """Return the same ids, plus twins whose bags are all empty (see tables.TWIN)."""
    lengths = ids.lengths()
    empty = lengths.new_zeros(len(twins) * ids.stride())
    return KeyedJaggedTensor(
        keys=[*ids.keys(), *twins], values=ids.values(), lengths=torch.cat([lengths, empty])
    )


def embedded_width(tables: EmbeddingBagCollection, features: Sequence[str]) -> int:
    """Return the units that the embeddings of `features` take in x.

    Raises:
        ValueError: `features` and the features that the tables embed are different sets.
    """
    widths = {
        feature: config.embedding_dim
        for config in tables.embedding_bag_configs()
        for feature in config.feature_names
        if is_declared(feature)
    }
    if sorted(features) != sorted(widths):
        unknown, unread = sorted(set(features) - set(widths)), sorted(set(widths) - set(features))
        raise ValueError(
            f"features and tables differ; no table embeds {unknown}, nothing reads {unread}"
        )
    return sum(widths[feature] for feature in features)
