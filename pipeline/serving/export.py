"""Write a base and its kernels as a folder that `runtime.py` predicts from.

    export.json  encoding.safetensors  dense.safetensors  tables/NAME.safetensors
    fresh/statistics-0.safetensors        counts that the base reads, where it reads any
    bank/bank.json  bank/bank.safetensors  bank/statistics-N.safetensors
    iak_runtime.py                        a copy of runtime.py

A kernel's weights are inputs of the runtime. So a night's bank is written alone, and the base is
exported once.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from iak.pipeline.base.given_towers import open_given
from iak.pipeline.base.precision import precisions_of
from iak.pipeline.base.published_base import PublishedBase, files_of, history_positions, task_shapes
from iak.pipeline.errors import BadRequest
from iak.pipeline.files import put_file
from iak.pipeline.fresh.base_numbers import BaseStatistics
from iak.pipeline.iak.folded import fold
from iak.pipeline.model.given import GivenModel
from iak.pipeline.model.heads import Heads, Tail
from iak.pipeline.publish.bundle_set import BundleSet
from iak.pipeline.publish.encoder_inputs import EncoderInputs
from iak.pipeline.serving import runtime
from iak.pipeline.serving.export_statistics import write_base_statistics, write_statistics
from iak.pipeline.sharding.base_weights import DENSE_PATH
from iak.pipeline.sharding.quantised import to_bytes
from iak.pipeline.sharding.rectangles import Source, opened, save_tensors, verify_file
from iak.schemas.export import (
    BankDocument,
    ExportDocument,
    ExportedBaseStatistics,
    ExportedGiven,
    ExportedHistory,
    ExportedKernel,
    ExportedProbability,
    ExportedTable,
    ExportedTask,
)
from iak.schemas.feature import FIRST_ROW
from iak.schemas.given_base import GivenBaseSpec
from iak.schemas.job import FrozenTablesSpec, Precision
from iak.schemas.log import Catalog
from iak.schemas.predictions import metric_tasks

DOCUMENT, BANK, FRESH = "export.json", "bank", "fresh"
BANK_DOCUMENT, BANK_WEIGHTS = "bank.json", "bank.safetensors"
RUNTIME = "iak_runtime.py"
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
"""Types of entries that the runtime reads."""


def check_exportable(base: PublishedBase, tables: FrozenTablesSpec) -> None:
    """Refuse a base that the runtime cannot compute.

    Raises:
        BadRequest: it is a module of others, has a precision that the runtime does not know, or its
            products are not in fp32.
    """
    if base.catalog.base is not None and base.catalog.columns_base is None:
        raise BadRequest(
            f"the base at {base.location} is an adopted torch module, and an export holds no code "
            "of others. Export it with its own tools, or predict with `iak serve`"
        )
    if tables.products != "fp32":
        raise BadRequest(f"tables.products={tables.products}; an export computes in fp32 alone")
    for name, precision in precisions_of(base.manifest, tables).items():
        if precision not in PRECISIONS:
            raise BadRequest(
                f"table {name} would be exported as {precision}; the runtime reads "
                f"{', '.join(PRECISIONS)}. Set tables.precisions.{name}=int8"
            )


def write_base(
    folder: Path, base: PublishedBase, catalog: Catalog, tables: FrozenTablesSpec
) -> None:
    """Write a base, its catalogue and the runtime; one table at a time is in memory.

    Args:
        folder: an empty folder.
        base: a base that `check_exportable` passed.
        catalog: catalogue of the rows that will be predicted.
        tables: precision of the tables.

    Raises:
        BadRequest: a table cannot be stored in its precision.
        Corrupt: a file is not what was published.
    """
    precisions = precisions_of(base.manifest, tables)
    written = [_write(folder, "encoding.safetensors", _encoding(base))]
    written.append(_write(folder, "dense.safetensors", _dense(base)))
    written += _write_tables(folder, base, precisions)
    fresh = None
    if isinstance(base.encoding.fresh, BaseStatistics):
        (folder / FRESH).mkdir()
        fresh = write_base_statistics(folder / FRESH, base.encoding.fresh)
        (state,) = fresh.statistics.states
        written.append((f"{FRESH}/statistics-0.safetensors", state.sha256))
    document = _document(base, catalog, precisions, dict(written), fresh)
    put_file(folder / DOCUMENT, document.model_dump_json(indent=1))
    put_file(folder / RUNTIME, Path(runtime.__file__).read_bytes())


def _write_tables(
    folder: Path, base: PublishedBase, precisions: Mapping[str, Precision]
) -> Iterator[tuple[str, str]]:
    """Write the tables, one after the other; yield each file's name and SHA-256."""
    source = Source(base.folder, files_of(base)) if base.manifest.tables else None
    for table in base.manifest.tables:
        assert source is not None, "a base with tables has their files"
        rows_RW = torch.empty(table.rows, table.width)
        source.read(rows_RW, table=table.name, row=0, col=0)
        weight = _stored(rows_RW, precisions[table.name], table.name)
        yield _write(folder, f"tables/{table.name}.safetensors", {"weight": weight})


def write_bank(folder: Path, bundles: BundleSet, base: PublishedBase, catalog: Catalog) -> None:
    """Write kernels as one file and its document, and the fresh statistics that they read.

    Args:
        folder: an empty folder.
        bundles: the kernels. Held ones are written too: they decide the reason of their rows.
        base: the base that they were tuned on.
        catalog: catalogue of the rows that will be predicted.
    """
    _, digest = _write(folder, BANK_WEIGHTS, _bank_weights(bundles, _heads(base)))
    slots = zip(bundles.names, bundles.versions, bundles.verdicts, strict=True)
    document = BankDocument(
        base_fingerprint=base.manifest.fingerprint,
        kernels=tuple(
            ExportedKernel(domain=name, version=version, published=verdict.publish)
            for name, version, verdict in slots
        ),
        reads_x=bundles.reads_x,
        sha256=digest,
        statistics=write_statistics(
            folder, bundles, catalog.model_copy(update={"tasks": base.catalog.tasks})
        ),
    )
    put_file(folder / BANK_DOCUMENT, document.model_dump_json(indent=1))


def _bank_weights(bundles: BundleSet, heads: Heads | Tail) -> dict[str, Tensor]:
    """Return what the runtime reads of kernels, by name: their layers, and how x is narrowed."""
    inputs = EncoderInputs(bundles)
    weights: dict[str, Tensor] = {}
    for number, layer in enumerate(fold(bundles.weights, heads, inputs.mean_KA, inputs.scale_KA)):
        weights |= {f"layers.{number}.w": layer.w_KIO, f"layers.{number}.b": layer.b_KO}
    if inputs.components_NX is not None:
        weights["x.components"] = inputs.components_NX
    if inputs.narrow_KXN is not None:
        of_x = slice(-inputs.narrow_KXN.shape[1], None)
        weights |= {"x.mean": bundles.mean_KA[:, of_x], "x.scale": bundles.scale_KA[:, of_x]}
        weights["x.narrow"] = inputs.narrow_KXN
    return weights


def _heads(base: PublishedBase) -> Heads | Tail:
    """Return the towers of a base, or its tail; neither trunk nor tables are opened."""
    if base.catalog.columns_base is not None:
        return open_given(base.folder, base.manifest, base.catalog).heads
    prefix = "heads."
    weights = {n.removeprefix(prefix): w for n, w in _dense(base).items() if n.startswith(prefix)}
    tasks, width, hidden = weights["w1_TWD"].shape
    heads = Heads(tasks=tasks, width=width, hidden=hidden)
    heads.load_state_dict(weights)
    return heads


def _document(
    base: PublishedBase,
    catalog: Catalog,
    precisions: Mapping[str, Precision],
    files: Mapping[str, str],
    fresh: ExportedBaseStatistics | None,
) -> ExportDocument:
    """Return everything that the runtime needs beside the weights."""
    shapes = task_shapes(base.catalog)
    titles = [shape.name for shape in shapes]
    metrics = metric_tasks(base.catalog.tasks, negatives_kept=base.catalog.log.negatives_kept)
    tables = base.catalog.table_specs
    return ExportDocument(
        base_fingerprint=base.manifest.fingerprint,
        features=catalog.features,
        tables={
            name: ExportedTable(
                encoding=spec.encoding,
                ids=(spec.rows or 0) - FIRST_ROW if spec.encoding != "vocabulary" else None,
                precision=precisions[name],
            )
            for name, spec in tables.items()
        },
        statistics=dict(base.encoding.statistics),
        partition_keys=catalog.log.partition_keys,
        user=catalog.log.user,
        domain_keys=catalog.domain.keys,
        parent_keys=catalog.domain.parent,
        domains=catalog.domain.values,
        tasks=tuple(ExportedTask(name=s.name, given=s.given) for s in shapes),
        probabilities=tuple(
            ExportedProbability(name=m.name, task=titles.index(m.task), space=m.space)
            for m in metrics
        ),
        model=base.model,
        histories=_histories(base),
        given=_given(base.catalog.columns_base, titles),
        fresh=fresh,
        files=dict(files),
    )


def _histories(base: PublishedBase) -> tuple[ExportedHistory, ...]:
    """Return the histories that a base reads value by value."""
    positions = history_positions(base.catalog, base.model)
    return tuple(
        ExportedHistory(feature=f.name, target=target.name, positions=positions[f.name])
        for f, target in base.catalog.histories
        if positions
    )


def _given(base: GivenBaseSpec | None, titles: Sequence[str]) -> ExportedGiven | None:
    """Return the columns that a base is known by; None where it has a trunk."""
    if base is None:
        return None
    return ExportedGiven(
        logits=tuple(base.logits[title] for title in titles),
        h=base.h,
        units=base.units,
        tower_layers=None if base.towers is None else len(base.towers) + 1,
    )


def _encoding(base: PublishedBase) -> dict[str, Tensor]:
    """Return vocabularies and boundaries; safetensors of NumPy 2 has no unsigned 64-bit tensor."""
    keys = {f"vocabulary.{n}": k.view(np.int64) for n, k in base.encoding.vocabularies.items()}
    cuts = {f"boundaries.{n}": c for n, c in base.encoding.boundaries.items()}
    return {name: torch.tensor(array) for name, array in (keys | cuts).items()}


def _dense(base: PublishedBase) -> dict[str, Tensor]:
    """Return trunk and towers, after a check of their file."""
    if base.catalog.columns_base is not None:
        return _given_weights(open_given(base.folder, base.manifest, base.catalog))
    (entry,) = (entry for entry in files_of(base) if entry.path == DENSE_PATH)
    verify_file(base.folder, entry)
    with opened(base.folder / DENSE_PATH) as file:
        # Copies: safetensors refuses to write views of one file's pages.
        return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118


def _given_weights(model: GivenModel) -> dict[str, Tensor]:
    """Return the part from h to the logits: identity towers, or those that were adopted."""
    if model.towers is None:
        weights = model.heads.state_dict()
        return {f"heads.{name}": tensor.clone() for name, tensor in weights.items()}
    named = model.towers.named_tensors([str(task) for task in range(model.tasks)])
    return {f"towers.{name}": tensor.clone() for name, tensor in named.items()}


def _stored(rows_RW: Tensor, precision: Precision, table: str) -> Tensor:
    """Return a table's rows as the runtime reads them: numbers, or the bytes of int8."""
    bytes_RN = to_bytes(rows_RW, precision, table=table, first_row=0)
    if precision == "int8":
        return bytes_RN
    return bytes_RN.view(torch.float32 if precision == "fp32" else torch.float16)


def _write(folder: Path, name: str, tensors: Mapping[str, Tensor]) -> tuple[str, str]:
    """Write a file of tensors; return its name and its SHA-256."""
    whole = {tensor_name: tensor.contiguous() for tensor_name, tensor in tensors.items()}
    return name, save_tensors(whole, folder, name).sha256
