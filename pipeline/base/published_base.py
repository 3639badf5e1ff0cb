"""The base as a folder: publish it, and open it again. Its model is built in build.py.

A pre-training run publishes the folder `base/`:

    manifest.json           schema, tables, files by SHA-256, digest, fingerprint
    encoding/               vocabularies and statistics
    dense.safetensors       trunk and towers
    tables/<table>/*.safetensors
    optimizer/              for continued training; may be removed (optimizer_state.py)
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from iak.pipeline.data import vocabulary
from iak.pipeline.data.features import Encoding
from iak.pipeline.errors import BadRequest, Corrupt
from iak.pipeline.files import not_permitted, put_file
from iak.pipeline.formats import current_document, unchanged
from iak.pipeline.fresh.base_numbers import read_base_statistics
from iak.pipeline.fresh.state import definition_of
from iak.pipeline.model.inputs import Input
from iak.pipeline.model.loss import TaskShape
from iak.pipeline.model.tables import TableShape, position_names
from iak.pipeline.sharding.rectangles import FileEntry, entries_of, listed
from iak.pipeline.storage.working_copy import read_copy
from iak.schemas.base import JsonObject, View
from iak.schemas.feature import meaning_of, table_of
from iak.schemas.job import ModelSpec
from iak.schemas.log import Catalog
from iak.schemas.manifest import (
    BASE_FORMAT,
    BaseContents,
    BaseManifest,
    TableEntry,
    fingerprint_of,
    sha256_of,
)
from iak.schemas.training import PublishedBaseResult

FOLDER = "base"
"""Folder of the base in the run folder that published it."""
MANIFEST = "manifest.json"
ENCODING = "encoding"
OPTIMIZER = "optimizer"
OF_BASE = 'fresh statistics of use = "base"'
"""What messages call the fresh statistics that a base reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedBase:
    """A published base, opened: its documents, not its weights (see `FrozenBase.load`)."""

    folder: Path
    manifest: BaseManifest
    encoding: Encoding
    catalog: Catalog
    model: ModelSpec
    """Sizes of the model; the default ones where the log's columns are the base."""
    uri: str | None = None
    """Where the base lies on an object store, of which `folder` is a local copy; None elsewhere."""

    allowed_source: str | None = None
    """SHA-256 of the source that builds its module, where a catalogue allows another one than the
    base was adopted with."""

    @property
    def cache_key(self) -> str:
        """Return a digest of what computes activations: the base, and a source that was allowed."""
        fingerprint = self.manifest.fingerprint
        if self.allowed_source is None:
            return fingerprint
        return sha256_of({"base": fingerprint, "source": self.allowed_source})

    @property
    def has_optimizer(self) -> bool:
        """Return whether the base has its optimisers' state."""
        return bool(self.manifest.optimizer) and (self.folder / OPTIMIZER).is_dir()

    @property
    def location(self) -> str:
        """Return where the base lies, for documents that other machines read."""
        return self.uri or str(self.folder.resolve())

    def bring(self) -> None:
        """Download a base on an object store to this machine, unless its copy is here and whole.

        A worker on another machine than the driver has no copy yet. Its content is verified where
        it is loaded.

        Raises:
            BadRequest: another base lies there by now, or this process keeps its copies elsewhere.
        """
        if self.uri is None or all(
            _size_of(self.folder / entry.path) == entry.bytes for entry in self.manifest.files
        ):
            return
        copy = read_copy(self.uri, below=[FOLDER])
        if self.folder not in (copy, copy / FOLDER):
            raise BadRequest(
                f"{self.uri} was opened as {self.folder}, but what lies there now has the copy "
                f"{copy}. Either the base was replaced meanwhile: start the run again. Or "
                "XDG_CACHE_HOME is another path for this process than for the one that started it: "
                "give both the same"
            )


def _size_of(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def task_shapes(
    catalog: Catalog, weights: Mapping[str, float] | None = None
) -> tuple[TaskShape, ...]:
    """Return the catalogue's tasks for the loss, in order.

    Args:
        catalog: catalogue of the log.
        weights: task -> weight of its loss, where it differs from the catalogue's.
    """
    titles = [t.title for t in catalog.tasks]
    click = next((t.title for t in catalog.tasks if t.kind == "click"), None)
    return tuple(
        TaskShape(
            name=t.title,
            kind=t.kind,
            given=titles.index(str(click)) if t.kind == "conversion" else None,
            weight=(weights or {}).get(t.title, t.weight),
            entire=t.entire_space_title or "",
        )
        for t in catalog.tasks
    )


def table_shapes(catalog: Catalog, encoding: Encoding, model: ModelSpec) -> tuple[TableShape, ...]:
    """Return every table with its rows, width and the features that read it.

    Args:
        catalog: catalogue of the log.
        encoding: encoding of the log's ids, which decides the rows of tables with a vocabulary.
        model: sizes of the base.
    """
    return shapes_with(catalog, model, encoding.table_rows(catalog))


def shapes_with(
    catalog: Catalog, model: ModelSpec, rows: Mapping[str, int]
) -> tuple[TableShape, ...]:
    """Return every table with its width and the features that read it.

    Args:
        catalog: catalogue of the log.
        model: sizes of the base.
        rows: table -> its rows.
    """
    positions = history_positions(catalog, model)
    return tuple(
        TableShape(
            name=name,
            rows=rows[name],
            width=table.width or model.width,
            features=tuple(
                reader
                for feature in catalog.keyed
                if table_of(feature) == name
                for reader in (
                    feature.name,
                    *position_names(feature.name, positions.get(feature.name, 0)),
                )
            ),
        )
        for name, table in catalog.table_specs.items()
    )


def history_positions(catalog: Catalog, model: ModelSpec) -> dict[str, int]:
    """Return how many values of each history are read one by one; empty where only means are.

    Args:
        catalog: catalogue of the log.
        model: sizes of the base.

    Raises:
        BadRequest: histories are to be read, and the catalogue has none.
    """
    if model.history == "mean":
        return {}
    if not catalog.histories:
        raise BadRequest(
            f"model.history={model.history} reads histories, and the catalogue has none. A history "
            "is a feature of kind list whose table a feature of kind categorical reads too, which "
            'is its target: give the list the table of that feature (table = "item_id"), or leave '
            "model.history out"
        )
    return {feature.name: min(feature.last, model.positions) for feature, _ in catalog.histories}


def frozen_shapes(base: PublishedBase) -> tuple[TableShape, ...]:
    """Return the tables of a published base, and the features that read them.

    Of an adopted module only its manifest knows the tables, which are not those of the catalogue.
    """
    if base.catalog.base is not None:
        return shapes_of(base.manifest.tables)
    return table_shapes(base.catalog, base.encoding, base.model)


def shapes_of(tables: Iterable[TableEntry]) -> tuple[TableShape, ...]:
    """Return the tables of a manifest as shapes."""
    return tuple(
        TableShape(name=t.name, rows=t.rows, width=t.width, features=tuple(t.features))
        for t in tables
    )


def contents(
    catalog: Catalog,
    encoding: Encoding,
    model: ModelSpec,
    files: Sequence[FileEntry],
    digest: Mapping[str, str],
) -> BaseContents:
    """Return the fields of a base's manifest that describe its files.

    Args:
        catalog: catalogue of the log that the base was trained on.
        encoding: encoding of that log's ids and numbers.
        model: sizes of the base.
        files: entries of its files.
        digest: digest of each tensor.
    """
    shapes = table_shapes(catalog, encoding, model)
    return BaseContents(
        schema_hash=vocabulary.schema_hash(catalog, encoding),
        tables=[
            TableEntry(name=s.name, rows=s.rows, width=s.width, features=list(s.declared_features))
            for s in shapes
        ],
        files=listed(files),
        digest=dict(digest),
        catalog=catalog.model_dump(mode="json"),
    )


def seal(folder: Path, unsealed: BaseManifest) -> BaseManifest:
    """Write the manifest of a base whose files are complete, with its fingerprint.

    Args:
        folder: folder of the base.
        unsealed: the manifest. Its own fingerprint is not read.
    """
    fingerprint = fingerprint_of(unsealed.model_dump(mode="json"))
    manifest = unsealed.model_copy(update={"fingerprint": fingerprint})
    put_file(folder / MANIFEST, manifest.model_dump_json(indent=1))
    return manifest


def open_base(path: Path) -> PublishedBase:
    """Open a published base; its weights are not read.

    Args:
        path: folder of the base, or of the run that published it.

    Raises:
        BadRequest: there is no published base.
        Corrupt: the manifest was changed, or is not one.
        NotPermitted: this user may not read it.
    """
    folder, data = _read_manifest(path.absolute())  # absolute: workers run in other folders
    manifest = _checked_manifest(folder, data)
    try:
        catalog = Catalog.model_validate(manifest.catalog)
        model = ModelSpec() if catalog.base else _model_of(manifest)
    except ValueError as error:  # an older version accepted what this one refuses
        raise BadRequest(
            f"{folder / MANIFEST} has a setting that this version refuses: {error}. Use the "
            "version that published the base, or publish it again"
        ) from error
    encoding = replace(
        vocabulary.load(folder / ENCODING), fresh=read_base_statistics(folder / ENCODING, catalog)
    )
    schema = vocabulary.schema_hash(catalog, encoding)
    if schema != manifest.schema_hash:
        raise Corrupt(
            f"{folder / ENCODING} does not belong to this base: schema {schema}, manifest "
            f"{manifest.schema_hash}. Publish the base again"
        )
    return PublishedBase(
        folder=folder, manifest=manifest, encoding=encoding, catalog=catalog, model=model
    )


def _read_manifest(path: Path) -> tuple[Path, bytes]:
    """Find a base at a path or in its folder `base`; return its folder and the manifest's bytes."""
    try:
        folder = next((f for f in (path, path / FOLDER) if (f / MANIFEST).is_file()), None)
        data = (folder / MANIFEST).read_bytes() if folder else b""
    except PermissionError as error:
        raise not_permitted(Path(error.filename or path), error) from error
    if folder is None:
        raise BadRequest(
            f"no published base at {path}; expected {path}/base/{MANIFEST}. "
            + (_no_better_child(path) or "Did `iak pretrain` finish there?")
        )
    return folder, data


def _checked_manifest(folder: Path, data: bytes) -> BaseManifest:
    """Parse a manifest, and compare its fingerprint with its content."""
    try:
        document = json.loads(data)
        current = current_document(
            document,
            kind="base manifest",
            current=BASE_FORMAT,
            where=folder / MANIFEST,
            remedy="Publish the base again with `iak pretrain`",
            migrations={1: unchanged},
        )
        manifest = BaseManifest.model_validate(current)
    except (ValueError, RecursionError) as error:
        raise Corrupt(f"{folder / MANIFEST} is not a base's manifest: {error}") from error
    # Of the document as it was written: a migration changes the content.
    fingerprint = fingerprint_of(document)
    if fingerprint != manifest.fingerprint:
        raise Corrupt(
            f"{folder / MANIFEST} was changed after it was written: it says fingerprint "
            f"{manifest.fingerprint}, its content has {fingerprint}. Publish the base again"
        )
    return manifest


def _model_of(manifest: BaseManifest) -> ModelSpec:
    model = manifest.settings.model
    if model is None:
        raise ValueError("spec.model is missing, which has the sizes of the model")
    return model


class _FinishedRun(View):
    result: PublishedBaseResult = PublishedBaseResult()


def _no_better_child(run_dir: Path) -> str:
    """Return why a finished run published no base, from its record; empty where it has none."""
    path = run_dir / "record.json"
    try:
        return _FinishedRun.model_validate_json(path.read_bytes()).result.not_published or ""
    except (OSError, ValueError):
        return ""


def check_same_schema(base: PublishedBase, catalog: Catalog) -> None:
    """Refuse a catalogue whose features, tasks or tables are not the base's.

    Raises:
        BadRequest: the message names what differs.
    """
    published, wanted = base.catalog, catalog
    differing: Sequence[str] = [
        *(["features"] if _meanings(published) != _meanings(wanted) else []),
        *([OF_BASE] if _statistics(published) != _statistics(wanted) else []),
        *(
            what
            for what in ("tasks", "tables")
            if getattr(published, what) != getattr(wanted, what)
        ),
        *(["base"] if _made_elsewhere(published) != _made_elsewhere(wanted) else []),
    ]
    if differing:
        raise BadRequest(
            f"the catalogue's {', '.join(differing)} differ from those of the base at "
            f"{base.folder}; use its own catalogue, or pre-train or adopt a base for this one"
        )


def _made_elsewhere(catalog: Catalog) -> JsonObject | None:
    """Return what makes a base that was made elsewhere this one; None where none is."""
    return None if catalog.base is None else catalog.base.meaning


def _meanings(catalog: Catalog) -> list[JsonObject]:
    """Return the meaning of each feature, in order. Being optional is no part of it."""
    return [meaning_of(feature) for feature in catalog.features]


def _statistics(catalog: Catalog) -> str | None:
    """Return the definition of the statistics that a base reads; None where it reads none."""
    catalog = catalog.counting("base")
    return definition_of(catalog) if catalog.fresh else None


def check_continues(base: PublishedBase, catalog: Catalog) -> None:
    """Refuse a catalogue under which an id, a number or a task would mean something else.

    Features and tables may be added, removed and reordered, and tables may have other rows or
    widths. Such differences need an allowance (`allow=`, audit.py).

    Raises:
        BadRequest: the message names what has another meaning.
    """
    published, wanted = base.catalog, catalog
    if published.base is not None:
        raise BadRequest(
            f"the base at {base.folder} was made elsewhere, so it cannot be trained further here; "
            "adopt its next version by iak adopt"
        )
    before = {feature.name: meaning_of(feature) for feature in published.features}
    wrong = [
        f"feature {feature.name} is defined otherwise; give the new one a name of its own"
        for feature in wanted.features
        if before.get(feature.name, meaning_of(feature)) != meaning_of(feature)
    ]
    tables = published.table_specs
    wrong += [
        f"table {name} has encoding {spec.encoding}, the base's has {tables[name].encoding}; give "
        "the new one a name of its own"
        for name, spec in wanted.table_specs.items()
        if name in tables and tables[name].encoding != spec.encoding
    ]
    if _statistics(published) not in (None, _statistics(wanted)):
        wrong.append(f"the {OF_BASE} differ; pre-train a new base for other statistics")
    if published.tasks != wanted.tasks:
        wrong.append("the tasks differ; pre-train a new base for other tasks")
    if wrong:
        listing = "\n".join(f"  {line}" for line in wrong)
        raise BadRequest(f"the catalogue does not continue the base at {base.folder}:\n{listing}")


def inputs(catalog: Catalog, *, width: int) -> list[Input]:
    """Return the layout of x: every feature that reads a table, then every number.

    Args:
        catalog: catalogue of the log.
        width: width of tables for which the catalogue states none.
    """
    widths = {name: table.width or width for name, table in catalog.table_specs.items()}
    return [
        *(Input(f.name, widths[table_of(f) or f.name]) for f in catalog.keyed),
        *(Input(name, 1, is_number=True) for name in catalog.number_names),
    ]


def files_of(base: PublishedBase) -> list[FileEntry]:
    """Return the entries of the base's weights."""
    return entries_of(base.manifest.files)


def optimizer_files_of(base: PublishedBase) -> list[FileEntry]:
    """Return the entries of the optimisers' state; empty where the base has none."""
    return entries_of(base.manifest.optimizer)
