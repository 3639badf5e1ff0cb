"""Freeze parameters, and prove afterwards that nothing changed.

The proof is a 64-bit digest that does not depend on how a table is cut over workers. It is a sum,
modulo 2^64, of every element's bits, mixed and weighted by an odd number of its row and an odd
number of its column. Mixing maps different elements of up to 4 bytes to different numbers, and odd
numbers have inverses modulo 2^64. So a change of one such element always changes the sum. (Among
elements of 8 bytes, each has one other with the same mixed value.) Two changes cancel with a chance
near 2^-64. The digest guards against accidents. Against malice there is the files' sha256.

Shapes: R rows, W columns of a part of a tensor.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch import distributed as dist

from iak.pipeline.model.tables import CHUNK_ELEMENTS, LocalShard, mix64
from iak.pipeline.process import Worker

_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_SPREAD = -3335678366873096957  # 0xD1B54A32D192ED03: odd, from Steele & Vigna's multiplier tables
_COLUMN_SALT = 1 << 62


@dataclass(frozen=True, kw_only=True, slots=True)
class Digest:
    """Hex digests of tensors."""

    by_name: Mapping[str, str]
    """One per tensor."""
    combined: str
    """SHA-256 over all names and their digests."""


def freeze(module: nn.Module) -> None:
    """Stop autograd at every parameter of `module`, and switch it to evaluation mode.

    This does not freeze tables that are sharded already: they are slices of fbgemm's memory, not
    leaves. `iak.pipeline.sharding.shard` without a tables' optimiser freezes those.
    """
    for parameter in module.parameters():
        if parameter.is_leaf:
            parameter.requires_grad = False
    module.eval()


def digest(
    shards: Iterable[LocalShard] = (),
    replicas: Mapping[str, Tensor] | None = None,
    *,
    worker: Worker | None = None,
) -> Digest:
    """Digest tables that are cut over workers, and tensors that every worker has whole.

    Args:
        shards: this worker's parts of tables. Over all workers they cover each table once.
        replicas: tensors that are the same on every worker. Each worker digests its own copy.
        worker: this process. With a world above one this is a collective call.

    Returns:
        The same digests on every worker, whatever the sharding.
    """
    parts: dict[str, tuple[int, str, int, int]] = {}
    for shard in shards:
        parts[shard.table] = _join(parts.get(shard.table), _part(shard))
    parts = _gathered(parts, worker)
    for name, tensor in (replicas or {}).items():
        flat_RW = tensor.detach().reshape(tensor.shape[0] if tensor.ndim > 1 else 1, -1)
        parts[name] = _part(LocalShard(table=name, row_offset=0, col_offset=0, tensor_RW=flat_RW))
    by_name = {name: _hex(name, *parts[name]) for name in sorted(parts)}
    listing = "\n".join(f"{name} {value}" for name, value in by_name.items())
    return Digest(by_name=by_name, combined=hashlib.sha256(listing.encode()).hexdigest())


def weighted_sum(tensor_RW: Tensor, *, row_offset: int = 0, col_offset: int = 0) -> int:
    """Return the digest's sum over one part of a tensor, in [0, 2^64).

    Sums of disjoint parts add up to the sum of the whole, modulo 2^64.

    Args:
        tensor_RW: the part; its bits are read as integers of the same size.
        row_offset: row of the whole tensor at which the part begins.
        col_offset: column of the whole tensor at which the part begins.
    """
    rows, width = tensor_RW.shape
    device = tensor_RW.device
    words_RW = tensor_RW.detach().view(_WORDS[tensor_RW.element_size()])
    # `| 1` makes the weight odd, and so invertible. The salt keeps columns apart from rows.
    column_W = mix64(torch.arange(col_offset, col_offset + width, device=device) + _COLUMN_SALT) | 1
    step = max(1, CHUNK_ELEMENTS // max(1, width))
    total = torch.zeros((), dtype=torch.int64, device=device)
    for first in range(0, rows, step):
        # int64 wraps around in torch, which is the arithmetic modulo 2^64 that the digest wants.
        chunk_RW = words_RW[first : first + step].to(torch.int64) * _SPREAD
        chunk_RW.bitwise_xor_(chunk_RW >> 32).mul_(column_W)
        start = row_offset + first
        row_R = mix64(torch.arange(start, start + chunk_RW.shape[0], device=device)) | 1
        total += (chunk_RW.sum(dim=1) * row_R).sum()
    return int(total.item()) % 2**64


def _part(shard: LocalShard) -> tuple[int, str, int, int]:
    """Return (sum, dtype, rows so far, columns so far) of one part."""
    rows, width = shard.tensor_RW.shape
    value = weighted_sum(shard.tensor_RW, row_offset=shard.row_offset, col_offset=shard.col_offset)
    dtype = str(shard.tensor_RW.dtype)
    return value, dtype, shard.row_offset + rows, shard.col_offset + width


def _join(
    one: tuple[int, str, int, int] | None, other: tuple[int, str, int, int]
) -> tuple[int, str, int, int]:
    """Join two disjoint parts of a table."""
    if one is None:
        return other
    total = (one[0] + other[0]) % 2**64
    return total, other[1], max(one[2], other[2]), max(one[3], other[3])


def _gathered(
    parts: Mapping[str, tuple[int, str, int, int]], worker: Worker | None
) -> dict[str, tuple[int, str, int, int]]:
    """Join every table's parts over workers."""
    if worker is None or worker.world == 1:
        return dict(parts)
    by_rank: list[dict[str, tuple[int, str, int, int]]] = [{} for _ in range(worker.world)]
    dist.all_gather_object(by_rank, dict(parts))
    joined: dict[str, tuple[int, str, int, int]] = {}
    for parts in by_rank:
        for name, part in parts.items():
            joined[name] = _join(joined.get(name), part)
    return joined


def _hex(name: str, total: int, dtype: str, rows: int, width: int) -> str:
    """Return a tensor's digest: its sum, bound to its name, type and shape."""
    return hashlib.sha256(f"{name} {dtype} {rows}x{width} {total:016x}".encode()).hexdigest()[:32]
