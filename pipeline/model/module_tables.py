"""Find the embedding tables of a torch module, and have other code look their rows up.

A table is an `nn.Embedding` or an `nn.EmbeddingBag`. TorchRec's `EmbeddingCollection` and
`EmbeddingBagCollection` have one of them for each of their tables, and call it (TorchRec 1.8).
Only this layer is replaced, by one that is called in the same way. So the module's own forward
stays as it is. The new layer asks for one row for each id, and torch's own function pools them. The
result is that of the module's own layer bit for bit, whichever worker has the rows.

Shapes: I ids, W columns of a table.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NoReturn, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding_bag

from iak.pipeline.errors import BadRequest

Table: TypeAlias = nn.Embedding | nn.EmbeddingBag
LookUp: TypeAlias = Callable[[str, Tensor], Tensor]
"""Returns the rows of ids, `rows_IW` in fp32, from a table's name and `ids_I`."""

_READS = 8
"""Reads after which a row is short enough: a rounding can leave it too long for one more."""
_FOLDER = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")


class WeightRead(Exception):
    """A module read the weight of a table other than by a lookup."""

    def __init__(self, table: str) -> None:
        """Name the table."""
        super().__init__(f"the weight of {table} lies in shards")
        self.table = table


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundTables:
    """The tables of a module."""

    tables: dict[str, Table]
    """Name of the layer -> the layer, of each table that can be sharded."""
    whole: dict[str, str]
    """Name of the layer -> why it stays whole on every worker."""


class LookedUp(nn.Module):
    """A layer without a weight, with the settings of the one that it replaces."""

    num_embeddings: int
    embedding_dim: int

    def __init__(self, name: str, table: Table, look_up: LookUp) -> None:
        """Take the settings of a table.

        Args:
            name: name of the table.
            table: the layer that is replaced; its weight is not kept.
            look_up: returns the rows of ids of a table.
        """
        super().__init__()
        self.name, self._look_up = name, look_up
        for setting in table.__constants__:  # num_embeddings, embedding_dim, ... as code reads them
            setattr(self, setting, getattr(table, setting))

    @property
    def weight(self) -> NoReturn:
        """Refuse to return a weight, which no worker has whole."""
        raise WeightRead(self.name)


class LookedUpEmbedding(LookedUp):
    """Take the place of an `nn.Embedding`."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the row of each id."""
        rows_IW = self._look_up(self.name, input.reshape(-1))
        return rows_IW.view(*input.shape, rows_IW.shape[1])


class LookedUpBags(LookedUp):
    """Take the place of an `nn.EmbeddingBag`."""

    mode: str
    include_last_offset: bool

    def forward(
        self,
        input: Tensor,
        offsets: Tensor | None = None,
        per_sample_weights: Tensor | None = None,
    ) -> Tensor:
        """Return the sum, mean or maximum of the rows of each bag."""
        rows_IW = self._look_up(self.name, input.reshape(-1))
        index = torch.arange(input.numel(), dtype=input.dtype, device=input.device)
        return embedding_bag(
            index.view(input.shape),
            rows_IW,
            offsets,
            mode=self.mode,
            per_sample_weights=per_sample_weights,
            include_last_offset=self.include_last_offset,
        )


def find_tables(module: nn.Module) -> FoundTables:
    """Return the tables of a module, and why some cannot be sharded.

    Args:
        module: its attribute `tables`, where that is a tuple, names the layers that are tables.
            Other layers then are weights like all others.

    Raises:
        BadRequest: it names a layer that is no table.
    """
    layers = {
        name: layer
        for name, layer in module.named_modules(remove_duplicate=False)
        if isinstance(layer, nn.Embedding | nn.EmbeddingBag)
    }
    named = getattr(module, "tables", None)
    if isinstance(named, tuple):  # a module of others may have something else of this name
        if unknown := [name for name in named if name not in layers]:
            raise BadRequest(
                f"tables of the module names {unknown}, which are no nn.Embedding or "
                f"nn.EmbeddingBag of it; these are {list(layers)}"
            )
        layers = {name: layers[name] for name in named}
    names = Counter(_storage(t) for t in module.state_dict(keep_vars=True).values())
    reasons = {
        name: _reason(name, layer, is_shared=names[_storage(layer.weight)] > 1)
        for name, layer in layers.items()
    }
    return FoundTables(
        tables={name: layer for name, layer in layers.items() if not reasons[name]},
        whole={name: reason for name, reason in reasons.items() if reason},
    )


def replace_tables(module: nn.Module, names: Iterable[str], look_up: LookUp) -> None:
    """Replace tables of a module by layers that look rows up elsewhere.

    Args:
        module: the module, which is changed.
        names: names of the layers.
        look_up: returns the rows of ids of a table.
    """
    for name in names:
        table = module.get_submodule(name)
        kind = LookedUpBags if isinstance(table, nn.EmbeddingBag) else LookedUpEmbedding
        module.set_submodule(name, kind(name, table, look_up))  # type: ignore[arg-type]


@torch.no_grad()
def settle_norms(module: nn.Module) -> None:
    """Shorten rows to their layers' `max_norm` now, so that no lookup changes a weight later.

    With `max_norm`, torch shortens a row in the weight itself when it is read, also in evaluation
    mode (torch 2.13). A frozen weight must not change, and other workers read other rows.

    Args:
        module: its rows are those that its lookups would leave, and its layers shorten none.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Embedding | nn.EmbeddingBag) and layer.max_norm is not None:
            every = torch.arange(len(layer.weight), device=layer.weight.device)
            for _ in range(_READS):
                before = layer.weight.clone()
                torch.embedding_renorm_(layer.weight, every, layer.max_norm, layer.norm_type)
                if torch.equal(before, layer.weight):
                    break
            layer.max_norm = None


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _reason(name: str, table: Table, *, is_shared: bool) -> str:
    """Return why a table cannot be looked up elsewhere; empty where it can."""
    weight = table.weight
    if type(table) not in (nn.Embedding, nn.EmbeddingBag) or "forward" in vars(table):
        return f"{type(table).__name__} may compute something else than torch's own layer"
    if table._forward_hooks or table._forward_pre_hooks:
        return "hooks are registered on it"
    if isinstance(table, nn.EmbeddingBag) and table.padding_idx is not None:
        return "its padding_idx leaves ids out of their bags"
    if weight.dtype != torch.float32:
        return f"its rows are {weight.dtype}, and tables are published from torch.float32"
    if is_shared:
        return "another name of the module has the same weight"
    if not _FOLDER.fullmatch(name):
        return "its name cannot be that of a folder"
    return "" if weight.numel() else "it has no rows"
