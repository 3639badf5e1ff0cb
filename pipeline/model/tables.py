"""Embedding tables: their shapes, their first values, and the parts of them a process holds.

Every first value is a function of (seed, table, row, column) alone, so that a table starts the
same however it is cut over workers.

Shapes: R rows of a part, W columns of a part.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torchrec.modules.embedding_configs import DataType, EmbeddingBagConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

CHUNK_ELEMENTS = 1 << 16
"""Elements handled at once when a table is walked: int64 scratch of half a MiB stays in cache."""

TWIN = "~twin"
"""Suffix of a feature whose bags are all empty. fbgemm's CPU kernel drops the weight decay of a
table that one feature alone reads (1.8.0: its fast path passes 0); a second, empty reader takes
the table off that path."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TableShape:
    """One table: `rows` x `width` in fp32, read by `features` (each its own bag)."""

    name: str
    rows: int
    width: int
    features: tuple[str, ...]

    @property
    def num_bytes(self) -> int:
        """Bytes of the weights."""
        return self.rows * self.width * 4


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalShard:
    """The part of a table this process holds; `tensor_RW` is the live weight, not a copy."""

    table: str
    row_offset: int
    col_offset: int
    tensor_RW: Tensor


@dataclass(frozen=True, slots=True)
class UniformStart:
    """First values of one table: uniform on [-scale, scale), a pure function of (row, column)."""

    table: str
    seed: int
    scale: float

    def __call__(self, weight_RW: Tensor, row_offset: int = 0, col_offset: int = 0) -> Tensor:
        """Fill `weight_RW`, the part of the table that starts at (row_offset, col_offset)."""
        rows, width = weight_RW.shape
        salt = int.from_bytes(hashlib.sha256(f"{self.seed}/{self.table}".encode()).digest()[:7])
        cols_W = torch.arange(col_offset, col_offset + width, device=weight_RW.device)
        step = max(1, CHUNK_ELEMENTS // max(1, width))
        with torch.no_grad():
            for first in range(0, rows, step):
                last = min(first + step, rows)
                rows_R = torch.arange(
                    row_offset + first, row_offset + last, device=weight_RW.device
                )
                row_key_R = mix64(rows_R + salt)
                bits_RW = mix64(row_key_R[:, None] ^ (cols_W * _GOLDEN)) >> 40 & 0xFFFFFF
                weight_RW[first:last] = (bits_RW * 2.0**-23 - 1.0) * self.scale
        return weight_RW


def build_tables(
    shapes: Sequence[TableShape],
    *,
    init_scale: float,
    device: torch.device,
    seed: int = 0,
    with_twins: bool = False,
) -> EmbeddingBagCollection:
    """The unsharded tables, fp32, uniform on [-init_scale, init_scale).

    They answer with the SUM of a bag; `Recommender.embed` makes it a mean. Asked for means,
    torchrec 1.8 divides twice whatever is not row-wise in a plan where anything is.

    On the `meta` device nothing is allocated: what sharding wants, which then gives every shard
    the values it would have had here.

    Raises:
        ValueError: two tables share a name, or two features do.
    """
    features = [feature for shape in shapes for feature in shape.features]
    if len(set(features)) != len(features):
        repeated = sorted({feature for feature in features if features.count(feature) > 1})
        raise ValueError(f"each feature reads one table; read by more than one: {repeated}")
    configs = [
        EmbeddingBagConfig(
            name=shape.name,
            num_embeddings=shape.rows,
            embedding_dim=shape.width,
            feature_names=_readers(shape, with_twins=with_twins),
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
    """`ids` with rows of empty bags added, up to `rows`."""
    missing = rows - ids.stride()
    if missing == 0:
        return ids
    lengths_FB = ids.lengths().reshape(len(ids.keys()), ids.stride())
    lengths_FB = pad(lengths_FB, (0, missing))
    return KeyedJaggedTensor(keys=ids.keys(), values=ids.values(), lengths=lengths_FB.flatten())


def _readers(shape: TableShape, *, with_twins: bool) -> list[str]:
    """The features that read a table, and the empty twin of a lone one."""
    if with_twins and len(shape.features) == 1:
        return [*shape.features, shape.features[0] + TWIN]
    return list(shape.features)


def whole_tables(tables: EmbeddingBagCollection) -> Iterator[LocalShard]:
    """The tables of an unsharded collection, each as the one shard it is."""
    for name, bag in tables.embedding_bags.items():
        yield LocalShard(table=name, row_offset=0, col_offset=0, tensor_RW=bag.weight.detach())


def _at_least_one_row(_: nn.Module, args: tuple[KeyedJaggedTensor]) -> tuple[KeyedJaggedTensor]:
    """Torchrec 1.8 cannot look up a batch without rows; `Recommender.embed` cuts this one back."""
    (ids,) = args
    return (padded(ids, max(ids.stride(), 1)),)


_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15, the golden ratio's 64 bits, as int64


def mix64(x: Tensor) -> Tensor:
    """The splitmix64 finaliser on int64: a bijection whose every output bit hangs on every input.

    Source: Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators".
    """
    x = (x ^ (x >> 30 & 0x3FFFFFFFF)) * -4658895280553007687
    x = (x ^ (x >> 27 & 0x1FFFFFFFFF)) * -7723592293110705685
    return x ^ (x >> 31 & 0x1FFFFFFFF)
