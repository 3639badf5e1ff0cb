"""Find what a request to delete users' data touches: files, bundles, bases and caches.

Only caches are deleted here, and only on request. Files of the log and bases belong to others, and
a bundle that serves has to be replaced first.
"""

import shutil
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from iak.pipeline.activations.cache import KINDS
from iak.pipeline.data.stores import below, open_uri
from iak.pipeline.errors import PipelineError
from iak.pipeline.registry.bases import open_base
from iak.pipeline.registry.commits import domain_name, read_head
from iak.pipeline.registry.stored_bundles import read_entry, stored_bundles
from iak.pipeline.runs.record import RECORD, read_record
from iak.pipeline.runs.stored_run import ACTIVATIONS
from iak.pipeline.storage.store import Store, map_concurrently, open_store
from iak.pipeline.storage.working_copy import local_folder, readable_folder
from iak.schemas.forget import (
    ForgetReport,
    State,
    TouchedBase,
    TouchedBundle,
    TouchedCache,
    TouchedFile,
)
from iak.schemas.log_snapshot import LogSnapshot, ReadFile
from iak.schemas.paths import bucket_uri, reference_text
from iak.schemas.record import user_column
from iak.schemas.registry import ALIASES, Alias, Commit, Entry

_WORST_FIRST: tuple[State, ...] = ("touched", "unknown")


@dataclass(frozen=True, slots=True)
class _Matches:
    """Rows of the users among the files of one snapshot."""

    rows: int | None
    """None where it is unknown."""
    reason: str = ""
    """Why it is unknown."""
    cache: Path | None = None
    """Cache of activations that the run filled; None where it is not known."""

    @property
    def state(self) -> State:
        """Return whether files with these rows were read."""
        return "unknown" if self.rows is None else "touched" if self.rows else "untouched"


def find_touched(store: Store, users: Collection[str], *, remove_caches: bool) -> ForgetReport:
    """Return what a deletion request touches.

    Args:
        store: store of the registry.
        users: values of the log's user column, as text.
        remove_caches: remove the entries of caches that are touched. A later run computes them
            again, from the rows that the log still has.

    Raises:
        BadRequest: there is no registry.
        Corrupt: a document of the registry is damaged.
    """
    head = read_head(store)
    entries = list(
        map_concurrently(store, lambda name: read_entry(store, name), stored_bundles(store))
    )
    search = _Search(frozenset(users))
    runs = {e.lineage.run: search.in_run(e.lineage.run, e.lineage.base) for e in entries}
    bases = _bases(entries, search)
    caches: dict[Path, list[State]] = {}
    for matches in runs.values():
        if matches.cache is not None and (bucket_uri(matches.cache) or matches.cache.is_dir()):
            caches.setdefault(matches.cache, []).append(matches.state)
    return ForgetReport(
        registry=store.uri,
        users=len(search.users),
        files=sorted(search.files.values(), key=lambda file: file.path),
        bundles=sorted(
            (_bundle(entry, runs[entry.lineage.run], head) for entry in entries),
            key=lambda bundle: (bundle.domain, bundle.stored),
        ),
        bases=bases,
        caches=[_cache(f, states, remove=remove_caches) for f, states in sorted(caches.items())],
    )


@dataclass(slots=True)
class _Search:
    """Reads the user column of files, each file once."""

    users: frozenset[str]
    files: dict[str, TouchedFile] = field(default_factory=dict)
    _rows: dict[str, int | str] = field(default_factory=dict)
    """URI of a file -> rows of the users, or why they are unknown."""

    def in_run(self, run: str, base: str | None) -> _Matches:
        """Return the rows of the users that a run read on a base, and its cache."""
        try:
            record = read_record(readable_folder(Path(run), below=[RECORD]))
        except (PipelineError, OSError) as error:
            return _Matches(None, str(error))
        if record is None:
            return _Matches(None, f"the run folder {run} is gone")
        named = record.settings.cache.folder
        matches = self.in_snapshot(user_column(record.catalog), record.snapshot)
        return replace(matches, cache=Path(named) if named else _cache_beside(base))

    def in_snapshot(self, user: str | None, snapshot: LogSnapshot) -> _Matches:
        """Return the rows of the users in the files that a snapshot names.

        Args:
            user: the column that names the user; None where the catalogue names none.
            snapshot: the files.
        """
        if user is None:
            return _Matches(None, "the catalogue names no user column (log.user)")
        if not snapshot.files:
            return _Matches(None, "no record says which files were read")
        rows = 0
        # Fresh statistics count rows of further files, and every bundle of the run has them.
        for file in snapshot.all_files():
            matches = self._in_file(below(snapshot.uri, file.path), user, file)
            if isinstance(matches, str):
                return _Matches(None, matches)
            rows += matches
        return _Matches(rows)

    def _in_file(self, uri: str, user: str, file: ReadFile) -> int | str:
        """Return the users' rows of a file, or why they are unknown. Each file is read once."""
        if uri not in self._rows:
            self._rows[uri] = self._count(uri, user, file)
            if isinstance(matches := self._rows[uri], int) and matches:
                self.files[uri] = TouchedFile(path=uri, rows=matches)
        return self._rows[uri]

    def _count(self, uri: str, user: str, file: ReadFile) -> int | str:
        """Read a file's user column; return the users' rows, or why they are unknown."""
        filesystem, path = open_uri(uri)
        try:
            with filesystem.open_input_file(path) as source:
                parquet = pq.ParquetFile(source)
                stored = file.rows + file.deleted_rows
                if parquet.metadata.num_rows != stored:
                    return f"{uri} was rewritten since"
                if user not in parquet.schema_arrow.names:
                    return f"{uri} has no column {user}"
                batches = parquet.iter_batches(columns=[user])
                return sum(_rows_of(batch.column(0), self.users) for batch in batches)
        except FileNotFoundError:
            return f"{uri} is gone"
        except (OSError, pa.ArrowException) as error:
            return f"{uri} cannot be read: {error}"


def _rows_of(column: pa.Array, users: Collection[str]) -> int:
    """Return how many values of a column, as text, are among the users."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    text = pc.cast(column, pa.string())
    return int(pc.sum(pc.is_in(text, value_set=pa.array(sorted(users), pa.string()))).as_py() or 0)


def _bundle(entry: Entry, matches: _Matches, head: Commit | None) -> TouchedBundle:
    pointers = head.pointers if head else {}
    aliases: list[Alias] = [
        alias
        for alias in ALIASES
        if any(pointer.stored == entry.stored for pointer in pointers.get(alias, {}).values())
    ]
    return TouchedBundle(
        stored=entry.stored,
        domain=domain_name(entry.domain),
        aliases=aliases,
        run=entry.lineage.run,
        state=matches.state,
        rows=matches.rows,
        reason=matches.reason,
    )


def _bases(entries: Collection[Entry], search: _Search) -> list[TouchedBase]:
    """Return each base that a stored bundle runs on, with the users' rows that it learned from."""
    bases = {(e.lineage.base_fingerprint, e.lineage.base) for e in entries}
    judged = []
    for fingerprint, path in sorted(bases, key=str):
        matches = _in_base(path, fingerprint, search)
        judged.append(
            TouchedBase(
                path=path or "unknown",
                fingerprint=fingerprint,
                state=matches.state,
                rows=matches.rows,
                reason=matches.reason,
            )
        )
    return judged


def _cache_beside(base: str | None) -> Path | None:
    """Return the cache beside a base: beside this machine's copy of one on an object store."""
    if base is None:
        return None
    if bucket_uri(base) is None:
        return Path(base).parent / ACTIVATIONS
    try:
        return open_base(Path(base)).folder.parent / ACTIVATIONS
    except (PipelineError, OSError):  # it is gone, and so is what was beside it
        return None


def _in_base(path: str | None, fingerprint: str, search: _Search) -> _Matches:
    if path is None:
        return _Matches(None, "the registry does not know where it lies")
    try:
        opened = open_base(Path(path))
    except (PipelineError, OSError) as error:
        return _Matches(None, str(error))
    if opened.manifest.fingerprint != fingerprint:
        return _Matches(None, f"{path} is another base now")
    return search.in_snapshot(opened.catalog.log.user, opened.manifest.snapshot)


def _cache(folder: Path, states: Collection[State], *, remove: bool) -> TouchedCache:
    """Measure a cache that some runs filled, and remove its entries where that is asked for."""
    store = open_store(reference_text(folder))
    entries = {key: size for key, size in store.sizes().items() if key.endswith(KINDS)}
    state = next((s for s in _WORST_FIRST if s in states), "untouched")
    is_removed = remove and state == "touched"
    if is_removed:
        store.remove_files(entries.keys())
    if is_removed and (uri := bucket_uri(folder)):
        shutil.rmtree(local_folder(uri, "caches"), ignore_errors=True)
    return TouchedCache(
        path=store.uri, state=state, bytes=sum(entries.values()), is_removed=is_removed
    )
