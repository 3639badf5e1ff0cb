"""Look up the features of a model's groups, as TorchEasyRec's `EmbeddingGroup` does with FG_NONE.

A feature's vectors are pooled in one bag of each row. A null has an empty bag, which is a vector of
zeros, or the bag of its `fg_encoded_default_value`. Names of weights are those of TorchEasyRec.

Shapes: B rows, N numbers, D width of a group.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from iak.pipeline.easyrec.config import Config
from iak.pipeline.easyrec.messages import Feature, Group
from iak.schemas.feature import FIRST_ROW

_TABLES = "emb_impls.__BASE__.ebc.embedding_bags"


class EmbeddingGroup(nn.Module):
    """The tables of a model, and the vectors of each group of features."""

    def __init__(self, config: Config, *, wide_width: int = 4) -> None:
        """Build the tables.

        Args:
            config: the model's features and groups.
            wide_width: width of the tables that wide groups read.

        Raises:
            ValueError: features that share a table want different ones.
        """
        super().__init__()
        self.groups = config.model.feature_groups
        self.features = config.features
        self.places = {name: place for place, name in enumerate(config.numbers)}
        self.wide_width = wide_width
        self._refuse_other_suffixes()
        tables: dict[str, tuple[int, int, str]] = {}
        for group, feature in self._lookups():
            name = _table(group, feature)
            shape = (feature.rows, self._width(group, feature), feature.mode)
            if tables.setdefault(name, shape) != shape:
                raise ValueError(
                    f"features that share the table {name} want {tables[name]} and {shape} of it "
                    "(rows, width, pooling)"
                )
        bags = {
            # As TorchRec's EmbeddingBagCollection has them, so that names and sums are the same.
            name: nn.EmbeddingBag(rows, width, mode=mode, include_last_offset=True)
            for name, (rows, width, mode) in tables.items()
        }
        collection = nn.ModuleDict({"embedding_bags": nn.ModuleDict(bags)})
        self.emb_impls = nn.ModuleDict({"__BASE__": nn.ModuleDict({"ebc": collection})})

    def widths(self, group_name: str) -> list[int]:
        """Return the width of each feature of a group; a number's is 1."""
        group = self.group(group_name)
        return [self._width(group, self.features[name]) for name in group.feature_names]

    def has(self, group_name: str) -> bool:
        """Return whether there is a group of this name."""
        return any(group.group_name == group_name for group in self.groups)

    def group(self, group_name: str) -> Group:
        """Return the group of a name.

        Raises:
            ValueError: there is none.
        """
        for group in self.groups:
            if group.group_name == group_name:
                return group
        names = [group.group_name for group in self.groups]
        raise ValueError(f"the model reads group {group_name!r}, and the groups are {names}")

    def forward(self, ids: KeyedJaggedTensor, numbers_BN: Tensor) -> dict[str, Tensor]:
        """Return the vectors of each group, `x_BD`, by its name."""
        # A set of pairs, in an order that every worker has.
        pairs = dict.fromkeys((_table(group, f), f.feature_name) for group, f in self._lookups())
        looked_up = {
            (table, name): self._pooled(table, self.features[name], ids) for table, name in pairs
        }
        return {
            group.group_name: torch.cat(
                [
                    looked_up[_table(group, feature), feature.feature_name]
                    if feature.rows
                    else numbers_BN[:, self.places[feature.feature_name], None]
                    for feature in map(self.features.__getitem__, group.feature_names)
                ],
                dim=1,
            )
            for group in self.groups
        }

    def _lookups(self) -> Iterator[tuple[Group, Feature]]:
        """Yield each group with each of its features that reads a table, in order."""
        for group in self.groups:
            for name in group.feature_names:
                if self.features[name].rows:
                    yield group, self.features[name]

    def _width(self, group: Group, feature: Feature) -> int:
        if not feature.rows:
            return 1
        return self.wide_width if group.group_type == "WIDE" else feature.embedding_dim

    def _pooled(self, table: str, feature: Feature, ids: KeyedJaggedTensor) -> Tensor:
        """Return one vector for each row. Nulls and ids outside the table are in no bag."""
        rows = ids[feature.feature_name]
        row_numbers = rows.values() - FIRST_ROW
        is_known = row_numbers >= 0
        counted = torch.cat([is_known.new_zeros(1, dtype=torch.int64), is_known.cumsum(0)])
        offsets = counted[rows.offsets().long()]
        # By its name at each use: a layer that looks rows up elsewhere may have taken its place.
        bag = self.get_submodule(f"{_TABLES}.{table}")
        pooled_BD: Tensor = bag(row_numbers[is_known], offsets)
        if feature.default is None:
            return pooled_BD
        default_1D = bag(offsets.new_tensor([int(feature.default)]), offsets.new_tensor([0, 1]))
        is_empty_B1 = (offsets.diff() == 0)[:, None]
        return torch.where(is_empty_B1, default_1D, pooled_BD)

    def _refuse_other_suffixes(self) -> None:
        """Refuse groups with different suffixes that read one table, as TorchEasyRec does."""
        suffixes: dict[str, set[str]] = {}
        for group, feature in self._lookups():
            suffixes.setdefault(_table(group, feature), set()).add(group.embedding_name_suffix)
        if shared := sorted(table for table, found in suffixes.items() if len(found) > 1):
            raise ValueError(f"groups of different embedding_name_suffix share the tables {shared}")


def _table(group: Group, feature: Feature) -> str:
    """Return the name of the table that a feature reads in a group."""
    wide = "_wide" if group.group_type == "WIDE" else ""
    suffix = f"_{group.embedding_name_suffix}" if group.embedding_name_suffix else ""
    return f"{feature.table}{wide}{suffix}"
