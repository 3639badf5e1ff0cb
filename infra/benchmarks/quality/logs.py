"""Separate a log's test rows from the rows that methods may read, in two folders.

The catalogue's splits decide which row belongs where. Every split becomes a folder:

    window/events/part=pretrain, pretrain_valid, tune, valid, gate
    test/events/part=test
    truth/SPLIT.parquet       of a planted log: its true probabilities, in the order of the rows
    again/NUMBER/test, truth  the same of the planted log's last days, drawn again

A method gets a `Window`. Its folder holds no test row, and its catalogue has no split of that name.
Rows keep the time of their event where the log has one. Only `Window.dated` reads it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from iak.pipeline.data import parquet
from iak.pipeline.data.pieces import pieces_of
from iak.pipeline.data.view import LogView, open_log
from iak.pipeline.errors import BadLog, BadRequest
from iak.pipeline.files import put_file, putting_file, putting_folder
from iak.pipeline.planted.files import generate, repeat_last_days
from iak.pipeline.planted.population import build_knobs
from iak.pipeline.runs.load import load_catalog
from iak.schemas.domain import Domain
from iak.schemas.fresh import CountsSpec
from iak.schemas.log import Catalog, LogSpec, SplitName, SplitSpec
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
PLANTED, LARGE_TEST = "planted", "planted_large_test"
_DAYS_AGAIN = 2
"""Last days of the planted log, which its catalogue's test has."""
_DESCRIBED = "separated_with_times.json"
_TIMES: Mapping[str, Mapping[str, str]] = {
    "movielens": {"event_time": "event_time", "event_time_unit": "ms"}
}
"""Times of events that shipped catalogues do not name, since they split by user."""
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
    times: Mapping[str, str]
    """Settings of the log that name the time of an event; empty where rows have none."""

    def dated(self) -> "Window":
        """Return the same rows with their days, so that statistics count earlier days alone."""
        return replace(self, catalog=_with_times(self.catalog, self.times))

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

    name: str
    """Name of the log with its test; several tests may share a window."""
    window: Window
    tests: tuple[Window, ...]
    """The test rows, in folders of a size that memory can hold. Only the judge reads them, after a
    method is fitted."""
    fingerprint: str
    """SHA-256 of the log's files and of its catalogue."""
    test_fingerprint: str
    """The same with what else decides the test rows."""
    rows: dict[str, int]
    """Rows of each split."""
    is_dated: bool
    """Whether every test row is later than every other row."""

    @property
    def test(self) -> Window:
        """Return the first folder of test rows: all of them, but where the test is a large one."""
        return self.tests[0]

    @property
    def has_times(self) -> bool:
        """Return whether rows have the time of their event."""
        return bool(self.window.times)

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


def catalog_of(name: str) -> Catalog:
    """Return the shipped catalogue of a log of the benchmark."""
    return load_catalog(Path(PLANTED if name == LARGE_TEST else name))


def open_separated(name: str, spec: SeparatedLogsSpec) -> SeparatedLog:
    """Return a log whose test rows lie in a folder of their own; write both folders once.

    Args:
        name: name of a shipped catalogue, or `planted_large_test`.
        spec: folders, and the settings of the planted log.

    Raises:
        BadLog: two splits share a row.
    """
    catalog = catalog_of(name)
    if name == LARGE_TEST:
        return _with_large_test(open_separated(PLANTED, spec), catalog, spec)
    data_root = str(_planted(spec) if name == PLANTED else _public(spec, name))
    wanted = [split for split in (*FITTED, TEST) if split in catalog.splits]
    view = open_log(catalog, data_root, wanted=wanted)
    fingerprint = fingerprint_of(catalog, view.snapshot.fingerprint)
    root = spec.cache / name / fingerprint[:12]
    times = _times_of(name, catalog)
    rows = _separate(view, times, root, wanted)
    if catalog.log.truth is not None:
        _keep_truth(Path(data_root), catalog.log, root, [w for w in wanted if w in _TOLD])
    window = Window(
        name=name,
        root=root / "window",
        catalog=catalog_of_parts(catalog, wanted[:-1]),
        times=times,
    )
    return SeparatedLog(
        name=name,
        window=window,
        tests=(_test_of(window, catalog, root),),
        fingerprint=fingerprint,
        test_fingerprint=fingerprint,
        rows=rows,
        is_dated=_is_dated(view),
    )


def _test_of(window: Window, catalog: Catalog, root: Path) -> Window:
    """Return the test rows below a folder, of the log of a window."""
    return replace(window, root=root / TEST, catalog=catalog_of_parts(catalog, [TEST]))


def _with_large_test(log: SeparatedLog, catalog: Catalog, spec: SeparatedLogsSpec) -> SeparatedLog:
    """Return the planted log with more test rows: its test days, and the same drawn again.

    The window is the same, so that whatever was chosen on it stays valid.
    """
    times, knobs = spec.planted_repeats, build_knobs(_planted_spec(spec))
    drawn = _planted(spec).with_suffix(f".again-{times}")
    if not drawn.is_dir():
        repeat_last_days(knobs, drawn, lambda _rows: None, days=_DAYS_AGAIN, times=times)
    tests, count = [*log.tests], log.rows[TEST]
    for number in range(1, times + 1):
        root = log.window.root.parent / "again" / str(number)
        view = open_log(catalog, str(drawn / str(number)), wanted=[TEST])
        count += _separate(view, log.window.times, root, [TEST])[TEST]
        _keep_truth(drawn / str(number), catalog.log, root, [TEST])
        tests.append(_test_of(log.window, catalog, root))
    again = {"window": log.fingerprint, "days_again": _DAYS_AGAIN, "times": times}
    return replace(
        log,
        name=LARGE_TEST,
        tests=tuple(tests),
        test_fingerprint=sha256_of(again),
        rows={**log.rows, TEST: count},
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
    knobs = _planted_spec(spec)
    root = spec.cache / f"planted-log-{sha256_of(knobs.model_dump(mode='json'))[:12]}"
    generate(build_knobs(knobs), root, lambda _rows: None)
    return root


def _planted_spec(spec: SeparatedLogsSpec) -> SynthSpec:
    return SynthSpec(
        rows=spec.planted_rows,
        days=spec.planted_days,
        users=spec.planted_users,
        regions=spec.planted_regions,
        base_share=(spec.planted_days - 8) / spec.planted_days,
    )


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


def _times_of(name: str, catalog: Catalog) -> Mapping[str, str]:
    """Return the settings of a log that name the time of an event; none where it has no times."""
    log = catalog.log
    if log.event_time is None:
        return _TIMES.get(name, {})
    return {"event_time": log.event_time, "event_time_unit": log.event_time_unit}


def _with_times(catalog: Catalog, times: Mapping[str, str]) -> Catalog:
    """Return a catalogue whose days are those of the events."""
    log = catalog.log.model_copy(update={"date_key": None, **times})
    return catalog.model_copy(update={"log": log})


def _separate(
    view: LogView, times: Mapping[str, str], root: Path, wanted: Sequence[SplitName]
) -> dict[str, int]:
    """Write every split's rows into its folder, and return the rows of each."""
    described = root / _DESCRIBED
    if described.is_file():
        rows: dict[str, int] = json.loads(described.read_text())
        return rows
    keys: dict[str, np.ndarray] = {}
    reading = view.catalog
    if times:
        # A catalogue reads the time of its rows only where something is counted by day.
        counted = (CountsSpec(keys=reading.domain.keys),)
        reading = _with_times(reading, times).model_copy(update={"fresh": counted})
    for split in wanted:
        selection = view.selections[split]
        pieces = pieces_of(selection, rank=0, world=1)
        raw = [*parquet.read_ahead(selection, pieces, reading)]
        below = root / (TEST if split == TEST else "window")
        _write([part.rows for part in raw], _events_file(below, split))
        keys[split] = np.concatenate([part.identity for part in raw])
    refuse_shared(keys)
    rows = {split: len(identity) for split, identity in keys.items()}
    put_file(described, json.dumps(rows))
    return rows


def _events_file(root: Path, part: SplitName) -> Path:
    """Return the file of a part's rows below the root of its window."""
    return root / "events" / f"{PART}={part}" / "part-00000.parquet"


def _keep_truth(data_root: Path, log: LogSpec, root: Path, parts: Sequence[SplitName]) -> None:
    """Write the true probabilities of a planted log's judged rows, once.

    Args:
        data_root: folder of the log, with a file of probabilities for each file of rows.
        log: names of the folders.
        root: folder of the separated log.
        parts: splits whose probabilities are kept.
    """
    if (root / TRUTH).is_dir():
        return
    events, truth = data_root / log.path, data_root / str(log.truth)
    files = sorted(path.relative_to(events) for path in events.rglob("*.parquet"))
    ids = pa.concat_tables(
        [pq.read_table(events / f, columns=["event_id"], partitioning=None) for f in files]
    ).column("event_id")
    order = np.argsort(ids.to_numpy())
    sorted_ids = ids.to_numpy()[order]
    known = pa.concat_tables([pq.read_table(truth / f, partitioning=None) for f in files])
    with putting_folder(root / TRUTH) as folder:
        for split in parts:
            below = root / (TEST if split == TEST else "window")
            rows = pq.read_table(_events_file(below, split), columns=["event_id"])
            at = np.searchsorted(sorted_ids, rows.column("event_id").to_numpy())
            pq.write_table(known.take(pa.array(order[at])), folder / f"{split}.parquet")


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
