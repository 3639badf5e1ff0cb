"""Write and read a base's weights: safetensors files for any number of workers.

    dense.safetensors                       everything but tables, by name
    tables/<table>/r<row>-c<col>.safetensors  a rectangle of a table, from (row, col), as `weight`

Any plan can read what another plan wrote, since a reader takes from each file the rectangle that it
needs. Every file is compared with its sha256 before a byte of it is used. Base and model are
compared entry by entry before a value changes (audit.py).

Shapes: R rows, W columns of a shard.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torchrec.distributed.types import ShardingPlan

from iak.pipeline.data.growth import RowOrigin
from iak.pipeline.model.digest import freeze
from iak.pipeline.model.inputs import carry_over
from iak.pipeline.model.recommender import Recommender
from iak.pipeline.model.tables import LocalShard
from iak.pipeline.process import Worker
from iak.pipeline.sharding import audit
from iak.pipeline.sharding.audit import FRESH, Entry, Finding, Kind
from iak.pipeline.sharding.frozen_tables import FrozenTables
from iak.pipeline.sharding.growth import NO_GROWTH, Growth, read_grown
from iak.pipeline.sharding.mapped import MapFolder
from iak.pipeline.sharding.rectangles import (
    MAX_FILE_BYTES,
    FileEntry,
    Source,
    cover_problems,
    dtype_of,
    matrix_of,
    opened,
    save_tensors,
    together,
    type_named,
    verify_file,
    write_rectangles,
)
from iak.pipeline.sharding.shard import dense_state, freeze_tables, local_shards, unwrap
from iak.schemas.job import Precision

DENSE_PATH = "dense.safetensors"


def write_base_weights(
    model: nn.Module, directory: Path, worker: Worker, *, max_file_bytes: int = MAX_FILE_BYTES
) -> list[FileEntry]:
    """Write the model's weights under `directory`; a collective call where it is sharded.

    Args:
        model: sharded, or a plain `Recommender` in a world of one.
        directory: folder, the same for every worker. Files of the same name are overwritten.
        worker: this process. Every rank writes its own shards, rank 0 the dense part too.
        max_file_bytes: bytes of weights in one table file, at most.

    Returns:
        On rank 0 an entry per file, in order of path; elsewhere nothing.

    Raises:
        BadRequest: a table's name cannot be a path, or the disk refuses a write; on every rank
            alike.
    """

    def write() -> list[FileEntry]:
        entries = write_rectangles(local_shards(model), directory, max_file_bytes=max_file_bytes)
        if worker.rank == 0:
            entries.append(save_tensors(dense_state(model), directory, DENSE_PATH))
        return entries

    by_rank = together(write, worker)
    entries = sorted((entry for part in by_rank for entry in part), key=lambda entry: entry.path)
    return [] if worker.rank else entries


def read_base_weights(
    model: nn.Module,
    directory: Path,
    entries: Sequence[FileEntry],
    worker: Worker,
    *,
    allow: Collection[str] = (),
    growth: Growth = NO_GROWTH,
) -> list[str]:
    """Fill `model` from published files, whatever plan wrote them; collective where sharded.

    Every difference between the base and the model is refused before a value changes, unless an
    allowance names it. Entries that start fresh keep their present values.

    Args:
        model: sharded in any way, its tables frozen or not, or a plain `Recommender`. Its values
            are overwritten in place.
        directory: folder of the files.
        entries: entries that `write_base_weights` returned, the same on every rank.
        worker: this process. It reads the dense part, and the files that overlap its shards.
        allow: allowed differences, in the words of audit.py. Frozen tables allow none.
        growth: the origins of grown tables and of moved inputs.

    Returns:
        A line for each accepted difference, the same on every rank.

    Raises:
        BadRequest: the base and the model differ in a way that no allowance names, the files do
            not make up whole tables, or a value is outside the range of a frozen table's precision.
        Corrupt: a file is missing or not what its entry says. All reach every rank.
    """

    def read() -> list[str]:
        tables, source = unwrap(model).tables, Source(directory, entries)
        is_frozen = isinstance(tables, FrozenTables)
        findings, lines = _audited(model, directory, entries, () if is_frozen else allow, growth)
        # Reversed, so that the first of two differences of an entry stays: that of its shape.
        kinds = {(finding.part, finding.name): finding.kind for finding in reversed(findings)}
        if isinstance(tables, FrozenTables):
            tables.fill(source.read)
        else:
            for shard in local_shards(model):
                _fill_shard(shard, source, kinds.get(("table", shard.table)), growth)
        _fill_dense(model, directory / DENSE_PATH, kinds, growth)
        return lines

    return together(read, worker)[0]


def audit_base(
    model: nn.Module,
    directory: Path,
    entries: Sequence[FileEntry],
    *,
    allow: Collection[str] = (),
    growth: Growth = NO_GROWTH,
) -> list[str]:
    """Return the lines that `read_base_weights` would return, without reading any table.

    The model's tables may be on the meta device.

    Raises:
        BadRequest: see `read_base_weights`.
        Corrupt: the dense part is missing or not what its entry says.
    """
    return _audited(model, directory, entries, allow, growth)[1]


def read_frozen_base(
    model: Recommender,
    plan: ShardingPlan,
    *,
    precisions: Mapping[str, Precision],
    directory: Path,
    entries: Sequence[FileEntry],
    worker: Worker,
    mapped_at: MapFolder | None = None,
) -> Recommender:
    """Freeze a model and fill it from a base's files; a collective call.

    Args:
        model: model of the base's shape, its tables on the meta device. It is changed and returned.
        plan: the ranks of each table.
        precisions: the type of each table's entries.
        directory: folder of the base's files.
        entries: entries of these files.
        worker: this process.
        mapped_at: folder from which tables are mapped whole, instead of the plan; None to follow
            the plan.

    Raises:
        BadRequest: see `read_base_weights`; or a table cannot be stored in its precision.
        Corrupt: see `read_base_weights`.
    """
    freeze(model)
    freeze_tables(model, plan, worker=worker, precisions=precisions, mapped_at=mapped_at)
    model.to(worker.device)
    read_base_weights(model, directory, entries, worker)
    return model


def _audited(
    model: nn.Module,
    directory: Path,
    files: Sequence[FileEntry],
    allow: Collection[str],
    growth: Growth,
) -> tuple[list[Finding], list[str]]:
    """Compare files and model; return all differences, and a line for each.

    Raises:
        BadRequest: a difference is not allowed, or files do not make up whole tables.
        Corrupt: the dense part is not what its entry says.
    """
    by_table: dict[str | None, list[FileEntry]] = {}
    for entry in files:
        by_table.setdefault(entry.table, []).append(entry)
    dense = by_table.pop(None, [])
    is_whole = [entry.path for entry in dense] == [DENSE_PATH]
    broken = [] if is_whole else [f"{len(dense)} dense parts; expected 1, {DENSE_PATH}"]
    published = {str(name): matrix_of(entries) for name, entries in by_table.items()}
    for name, entries in by_table.items():
        broken += cover_problems(str(name), published[str(name)], entries)
    wanted = {
        name: Entry(shape=size, dtype="float32") for name, size in unwrap(model).table_sizes.items()
    }
    findings = list(audit.tables(published, wanted, origins=growth.rows))
    names: dict[audit.Part, set[str]] = {"table": published.keys() | wanted.keys(), "dense": set()}
    if is_whole:  # else there is nothing to compare, and `broken` refuses the files
        tensors = _dense_entries(directory, dense[0])
        own = {n: Entry(shape=tuple(t.shape), dtype=dtype_of(t)) for n, t in _state(model)}
        moved = _moved(model, tensors, own, growth)
        findings += audit.dense(tensors, own, relaid=moved)
        names["dense"] = tensors.keys() | own.keys()
    lines = audit.refuse_unnamed(findings, allow, broken=broken, names=names, where=str(directory))
    return findings, lines


def _dense_entries(directory: Path, entry: FileEntry) -> dict[str, Entry]:
    """Return shape and type of the dense part's tensors, from the file's header."""
    verify_file(directory, entry)
    with opened(directory / entry.path) as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        return {
            name: Entry(shape=tuple(part.get_shape()), dtype=type_named(part.get_dtype()))
            for name, part in slices.items()
        }


def _moved(
    model: nn.Module, published: Mapping[str, Entry], own: Mapping[str, Entry], growth: Growth
) -> dict[str, Kind]:
    """Return the dense tensors that can move to the model's layout of x: `grown` or `relaid`.

    There are none where x is laid out as in the base.
    """
    origin = growth.inputs
    if origin is None or origin.is_same:
        return {}
    is_longer = len(origin.unit_before) > origin.units_before
    kind: Kind = "grown" if origin.keeps_all and is_longer else "relaid"
    return {
        name: kind
        for name, along in unwrap(model).along_x().items()
        if name in published
        and name in own
        and origin.fits(along, own[name].shape, published[name].shape)
    }


def _fill_shard(shard: LocalShard, source: Source, kind: Kind | None, growth: Growth) -> None:
    """Fill this worker's part of a table, unless it starts fresh."""
    table, row, col = shard.table, shard.row_offset, shard.col_offset
    if kind == "grown":
        origin = growth.rows[table]
        assert isinstance(origin, RowOrigin), f"{table} grew without a rule"
        read_grown(shard.tensor_RW, source.read, origin, table=table, row=row, col=col)
    elif kind not in FRESH:
        source.read(shard.tensor_RW, table=table, row=row, col=col)


def _fill_dense(
    model: nn.Module, path: Path, kinds: Mapping[tuple[audit.Part, str], Kind], growth: Growth
) -> None:
    """Copy the dense part into the model, tensor by tensor, except what starts fresh."""
    along = unwrap(model).along_x() if growth.inputs else {}
    with opened(path) as file, torch.no_grad():
        for name, tensor in _state(model):
            kind = kinds.get(("dense", name))
            if kind in {"grown", "relaid"} and growth.inputs:
                carry_over(tensor, file.get_tensor(name), along[name], growth.inputs)
            elif kind not in FRESH:
                tensor.copy_(file.get_tensor(name))


def _state(model: nn.Module) -> Iterable[tuple[str, Tensor]]:
    """Return the model's dense tensors with their names."""
    return dense_state(model).items()
