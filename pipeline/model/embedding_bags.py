"""Build the embedding tables of a model, unsharded, as TorchRec's collection of bags."""

from collections.abc import Iterator, Sequence

import torch
from torch import nn
from torch.nn.functional import pad
from torchrec.modules.embedding_configs import DataType, EmbeddingBagConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from iak.pipeline.model.tables import (
    TWIN,
    LocalShard,
    TableShape,
    UniformStart,
    table_name,
    torchrec_name,
)


def build_tables(
    shapes: Sequence[TableShape],
    *,
    init_scale: float,
    device: torch.device,
    seed: int = 0,
    with_twins: bool = False,
) -> EmbeddingBagCollection:
    """Build the unsharded tables in fp32. A lookup returns the SUM of each bag.

    Args:
        shapes: the tables.
        init_scale: first values are uniform on [-init_scale, init_scale).
        device: on `meta` nothing is allocated; sharding later gives each shard the values that it
            would have had here.
        seed: seed of the first values.
        with_twins: give each table with one reader a second, empty one (see TWIN).

    Raises:
        ValueError: two tables share a name, or two features do.
    """
    features = [feature for shape in shapes for feature in shape.features]
    if len(set(features)) != len(features):
        repeated = sorted({feature for feature in features if features.count(feature) > 1})
        raise ValueError(f"each feature reads one table; read by more than one: {repeated}")
    configs = [
        EmbeddingBagConfig(
            name=torchrec_name(shape.name),
            num_embeddings=shape.rows,
            embedding_dim=shape.width,
            feature_names=_readers(shape, with_twins=with_twins),
            # Not MEAN: torchrec 1.8 divides twice for tables that are not row-wise, in a plan where
            # another one is. `Recommender.embed` divides instead.
            pooling=PoolingType.SUM,
            data_type=DataType.FP32,
            init_fn=UniformStart(table=shape.name, seed=seed, scale=init_scale),
        )
        for shape in shapes
    ]
    tables = EmbeddingBagCollection(tables=configs, device=device)
    tables.register_forward_pre_hook(_at_least_one_row)
    return tables


def padded(ids: KeyedJaggedTensor, rows: int) -> KeyedJaggedTensor:
    """Return `ids` with rows of empty bags appended, up to `rows`."""
    missing = rows - ids.stride()
    if missing == 0:
        return ids
    lengths_FB = ids.lengths().reshape(len(ids.keys()), ids.stride())
    lengths_FB = pad(lengths_FB, (0, missing))
    return KeyedJaggedTensor(keys=ids.keys(), values=ids.values(), lengths=lengths_FB.flatten())


def _readers(shape: TableShape, *, with_twins: bool) -> list[str]:
    """Return the features that read a table, and the empty twin where there is only one."""
    if with_twins and len(shape.features) == 1:
        return [*shape.features, shape.features[0] + TWIN]
    return list(shape.features)


def whole_tables(tables: EmbeddingBagCollection) -> Iterator[LocalShard]:
    """Yield the tables of an unsharded collection, each as a single shard."""
    for name, bag in tables.embedding_bags.items():
        yield LocalShard(
            table=table_name(name), row_offset=0, col_offset=0, tensor_RW=bag.weight.detach()
        )


def _at_least_one_row(_: nn.Module, args: tuple[KeyedJaggedTensor]) -> tuple[KeyedJaggedTensor]:
    """Pad an empty batch to one row: torchrec 1.8 cannot look up a batch without rows.

    `Recommender.embed` drops the row again.
    """
    (ids,) = args
    return (padded(ids, max(ids.stride(), 1)),)
