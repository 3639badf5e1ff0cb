"""Separate a log's test rows from the rows that methods may read, in two folders.

The catalogue's splits decide which row belongs where. Every split becomes a folder:

    window/events/part=pretrain, pretrain_valid, tune, valid, gate
    test/events/part=test
    truth/SPLIT.parquet       of a planted log: its true probabilities, in the order of the rows

A method gets a `Window`. Its folder holds no test row, and its catalogue has no split of that name.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from iak.pipeline.data.view import LogView, open_log
from iak.pipeline.errors import BadLog, BadRequest
from iak.pipeline.files import put_file, putting_file, putting_folder
from iak.pipeline.planted.files import generate
from iak.pipeline.planted.population import build_knobs
from iak.pipeline.runs.load import load_catalog
from iak.schemas.domain import Domain
from iak.schemas.log import Catalog, SplitName, SplitSpec
from iak.schemas.manifest import sha256_of
from iak.schemas.synth import SynthSpec
from infra.benchmarks.specs import SeparatedLogsSpec

PART = "part"
TEST: SplitName = "test"
FITTED: tuple[SplitName, ...] = ("pretrain", "pretrain_valid", "tune", "valid", "gate")
"""Splits that methods may read, in the order in which they are used."""
TRUTH = "truth"
"""Folder of a planted log's true probabilities, beside those of the rows."""
_TOLD: tuple[SplitName, ...] = ("valid", TEST)
"""Splits whose truth is kept: methods learn from the others, and none may learn from the truth."""
_DESCRIBED = "separated.json"
_GROUP_ROWS = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """The rows of a log that methods may read: all but the test rows."""

    name: str
    """The log's."""
    root: Path
    """Folder below which its rows lie."""
    catalog: Catalog
    """Catalogue of these rows, without the split `test`."""

    def learning(self, *parts: SplitName, where: Mapping[str, str] | None = None) -> Catalog:
        """Return the catalogue of a training on some parts, validated on `valid`.

        Args:
            parts: parts that the training learns from.
            where: column -> the value that rows must have; all rows when absent.
        """
        only = {column: (value,) for column, value in (where or {}).items()}
        splits: dict[SplitName, SplitSpec] = {
            "pretrain": SplitSpec(where={PART: parts, **only}),
            "pretrain_valid": SplitSpec(where={PART: ("valid",), **only}),
        }
        return self.catalog.model_copy(update={"splits": splits})

    def domains(self, part: SplitName) -> dict[str, Domain]:
        """Return the domains of a part's rows by their names, in the order of their names."""
        keys = list(self.catalog.domain.keys)
        rows = ds.dataset(self.root / "events" / f"{PART}={part}").to_table(columns=keys)
        found = (Domain.of(values) for values in rows.group_by(keys).aggregate([]).to_pylist())
        named = {domain.name: domain for domain in found if all(v for _, v in domain.pairs)}
        return dict(sorted(named.items()))


@dataclass(frozen=True, slots=True, kw_only=True)
class SeparatedLog:
    """A log whose test rows lie apart."""

    window: Window
    test: Window
    """The test rows. Only the judge reads them, after a method is fitted."""
    fingerprint: str
    """SHA-256 of the log's files and of its catalogue."""
    rows: dict[str, int]
    """Rows of each split."""
    is_dated: bool
    """Whether every test row is later than every other row."""

    @property
    def has_truth(self) -> bool:
        """Return whether the log is planted, so that the probabilities of its labels are known."""
        return (self.test.root.parent / TRUTH).is_dir()


def events_of(window: Window, part: SplitName, columns: Sequence[str]) -> pa.Table:
    """Return some columns of a part's rows, in their order."""
    return pq.read_table(_events_file(window.root, part), columns=[*columns])


def truth_of(window: Window, part: SplitName) -> pa.Table:
    """Return the true probabilities of a part of a planted log, in the order of its rows."""
    return pq.read_table(window.root.parent / TRUTH / f"{part}.parquet")


def open_separated(name: str, spec: SeparatedLogsSpec) -> SeparatedLog:
    """Return a log whose test rows lie in a folder of their own; write both folders once.

    Args:
        name: name of a shipped catalogue.
        spec: folders, and the settings of the planted log.

    Raises:
        BadLog: two splits share a row.
    """
    catalog = load_catalog(Path(name))
    data_root = str(_planted(spec) if name == "planted" else _public(spec, name))
    wanted = [split for split in (*FITTED, TEST) if split in catalog.splits]
    view = open_log(catalog, data_root, wanted=wanted)
    fingerprint = fingerprint_of(catalog, view.snapshot.fingerprint)
    root = spec.cache / name / fingerprint[:12]
    rows = _separate(view, root, wanted)
    if catalog.log.truth is not None:
        _keep_truth(Path(data_root) / catalog.log.truth, Path(data_root) / catalog.log.path, root)
    return SeparatedLog(
        window=Window(
            name=name, root=root / "window", catalog=catalog_of_parts(catalog, wanted[:-1])
        ),
        test=Window(name=name, root=root / TEST, catalog=catalog_of_parts(catalog, [TEST])),
        fingerprint=fingerprint,
        rows=rows,
        is_dated=_is_dated(view),
    )


def fingerprint_of(catalog: Catalog, files: str) -> str:
    """Return SHA-256 of a log's content and of everything that its catalogue sets.

    Settings at their defaults are left out, so that a new one in a later version of the catalogue's
    schema leaves the fingerprint as it is. So are fresh statistics: a method brings its own.

    Args:
        catalog: of the log.
        files: fingerprint of its files.
    """
    document = catalog.model_dump(mode="json", exclude_defaults=True, exclude={"fresh"})
    return sha256_of({"catalog": document, "files": files})


def _public(spec: SeparatedLogsSpec, name: str) -> Path:
    """Return the folder of the public logs.

    Raises:
        BadRequest: the settings name none.
    """
    if spec.data_root is None:
        raise BadRequest(f"logs: {name} is a public log; name the folder that has it by data_root=")
    return spec.data_root


def _planted(spec: SeparatedLogsSpec) -> Path:
    """Write the planted log, where it is not there yet, and return its folder."""
    knobs = SynthSpec(
        rows=spec.planted_rows,
        days=spec.planted_days,
        users=spec.planted_users,
        regions=spec.planted_regions,
        base_share=(spec.planted_days - 8) / spec.planted_days,
    )
    root = spec.cache / f"planted-log-{sha256_of(knobs.model_dump(mode='json'))[:12]}"
    generate(build_knobs(knobs), root, lambda _rows: None)
    return root


def catalog_of_parts(catalog: Catalog, parts: Sequence[SplitName]) -> Catalog:
    """Return the catalogue of separated rows: a folder for each split, no dates, no statistics."""
    log = catalog.log.model_copy(
        update={
            "path": "events",
            "truth": None,
            "partition_keys": (PART,),
            "date_key": None,
            "event_time": None,
            "leak_columns": (),  # they are left out of the rows
        }
    )
    splits = {part: SplitSpec(where={PART: (part,)}) for part in parts}
    return catalog.model_copy(update={"log": log, "splits": splits, "fresh": ()})


def _separate(view: LogView, root: Path, wanted: Sequence[SplitName]) -> dict[str, int]:
    """Write every split's rows into its folder, and return the rows of each."""
    described = root / _DESCRIBED
    if described.is_file():
        rows: dict[str, int] = json.loads(described.read_text())
        return rows
    keys: dict[str, np.ndarray] = {}
    for split in wanted:
        batches, identities = zip(*view.raw_rows(split), strict=True)
        below = root / (TEST if split == TEST else "window")
        _write(batches, _events_file(below, split))
        keys[split] = np.concatenate(identities)
    refuse_shared(keys)
    rows = {split: len(identity) for split, identity in keys.items()}
    put_file(described, json.dumps(rows))
    return rows


def _events_file(root: Path, part: SplitName) -> Path:
    """Return the file of a part's rows below the root of its window."""
    return root / "events" / f"{PART}={part}" / "part-00000.parquet"


def _keep_truth(truth: Path, events: Path, root: Path) -> None:
    """Write the true probabilities of a planted log's judged rows, once.

    Args:
        truth: folder of the probabilities, with a file for each file of rows, row by row.
        events: folder of these rows.
        root: folder of the separated log.
    """
    if (root / TRUTH).is_dir():
        return
    files = sorted(path.relative_to(events) for path in events.rglob("*.parquet"))
    ids = pa.concat_tables(
        [pq.read_table(events / f, columns=["event_id"], partitioning=None) for f in files]
    ).column("event_id")
    # `event_id` counts all rows of a planted log from 0.
    order = np.argsort(ids.to_numpy())
    known = pa.concat_tables([pq.read_table(truth / f, partitioning=None) for f in files])
    with putting_folder(root / TRUTH) as folder:
        for split in _TOLD:
            below = root / (TEST if split == TEST else "window")
            rows = pq.read_table(_events_file(below, split), columns=["event_id"])
            own = known.take(pa.array(order[rows.column("event_id").to_numpy()]))
            pq.write_table(own, folder / f"{split}.parquet")


def refuse_shared(keys: Mapping[str, np.ndarray]) -> None:
    """Refuse splits that share rows.

    Args:
        keys: split -> key of each of its rows.

    Raises:
        BadLog: two splits share a key.
    """
    names = list(keys)
    for index, first in enumerate(names):
        for second in names[index + 1 :]:
            if shared := np.intersect1d(keys[first], keys[second]).size:
                raise BadLog(
                    f"splits '{first}' and '{second}' share {shared:,} rows; cut them apart in the "
                    "catalogue's [splits]"
                )


def _write(batches: Sequence[pa.RecordBatch], path: Path) -> None:
    tables = [pa.Table.from_batches([batch]) for batch in batches]
    # A column may be a dictionary in one file and text in the next: promoted to the same type.
    table = pa.concat_tables(tables, promote_options="permissive").unify_dictionaries()
    path.parent.mkdir(parents=True, exist_ok=True)
    with putting_file(path) as part:
        pq.write_table(table, part, row_group_size=_GROUP_ROWS, compression="zstd")


def _is_dated(view: LogView) -> bool:
    """Return whether the test's first day is later than every other split's last day."""
    splits = {name: selection.split for name, selection in view.selections.items()}
    first = splits[TEST].first
    others = [split.last for name, split in splits.items() if name != TEST]
    return first is not None and all(last is not None and last < first for last in others)
