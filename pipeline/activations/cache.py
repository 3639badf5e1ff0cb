"""Store activations, the frozen base's output for rows, on disk for later runs and nights.

    <folder>/<scope>/<key>.activations   safetensors: `a`, rows x inputs, and `keys`, rows x 2
    <folder>/<2 hex>/<key>.rows          digest, then Arrow IPC: identity, labels, domains, user
    <folder>/<2 hex>/<key>.standard      safetensors: mean and deviation of the inputs

With a URI, entries also lie on an object store, under the same names. An entry that this machine
lacks is downloaded, one that it makes is uploaded. Where the store does not answer, one warning
says so and the run goes on with this machine's entries.

A scope is what activations depend on besides the rows: the base, the precision of its tables, the
standardisation, the precision of what is stored. Within a scope an entry is named by the keys of
its rows' features (feature_keys.py), so that labels, files and row groups do not matter. A block of
the same rows is found by its name. Rows that are in other blocks today are found by their keys.

Nothing is overwritten or invalidated in place. A file gets its name when it is whole, and carries a
digest of all its bytes in their order. A damaged file is removed and counts as absent. A file that
this user may not read is left alone. The number of the format is in every key and every entry, so
that what another version wrote is computed again.

Shapes: n rows that are looked for, B rows of a block, A units of a row's activations.
"""

import hashlib
import json
import logging
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from iak.pipeline.data.feature_keys import FeatureKeys
from iak.pipeline.errors import Busy, PipelineError
from iak.pipeline.files import is_part, putting_file
from iak.pipeline.lock import one_writer
from iak.pipeline.storage.store import Store, open_store

FORMAT = 5
KINDS = (".activations", ".rows", ".standard")
_SPARE_BYTES = 2 * 2**30
"""Free space on the disk that the cache leaves to others."""
_PART_AGE_S = 24 * 3600
"""Age at which no process can still be writing an unfinished file."""
_DIGEST_BYTES = 16
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Usage:
    """What a run read from the cache, and wrote to it."""

    rows_read: int = 0
    """Rows whose activations were stored."""
    rows_moved: int = 0
    """Those among them that are in other blocks today than when they were computed."""
    rows_computed: int = 0
    """Rows that the base computed, because they were not stored."""
    bytes_written: int = 0
    entries_evicted: int = 0
    entries_damaged: int = 0
    stopped: str = ""
    """Why reading or writing stopped, if it did."""


class ActivationCache:
    """Entries below one folder; any number of processes read and write it at once."""

    def __init__(self, folder: Path, *, run: str = "", uri: str | None = None) -> None:
        """Use `folder`, which is created when something is written.

        Args:
            folder: folder of the cache.
            run: name of the run, the same when it is resumed. A run does not look for single rows
                in entries that it wrote itself. A resumed attempt would read rows there that the
                first attempt computed in another block, where a matrix product rounds differently.
            uri: `s3://bucket/prefix` at which other machines find the entries; None for none.
        """
        self.folder, self.run = folder, run
        self._shared = open_store(uri) if uri else None
        self.usage = Usage()
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="cache")
        self._pending: list[Future[None]] = []

    def read_into(self, scope: str, keys: FeatureKeys, a_BA: Tensor) -> bool:
        """Copy the activations of a block of rows into `a_BA`; return False where it is absent.

        Args:
            scope: key of everything that activations depend on besides the rows.
            keys: keys of the rows' features, B x 2.
            a_BA: memory for them. An entry of another type or width counts as absent.
        """
        entry = self._read(self.path_of_block(scope, keys))
        if entry is None:
            return False
        # The name is a digest of the keys; the comparison also finds a file under a wrong name.
        is_of_these_rows = np.array_equal(entry.keys, keys)
        if not is_of_these_rows or entry.a_BA.shape != a_BA.shape or entry.a_BA.dtype != a_BA.dtype:
            self._remove_damaged(self.path_of_block(scope, keys))
            return False
        a_BA.copy_(entry.a_BA)
        self.usage.rows_read += len(a_BA)
        return True

    def find_rows(
        self, scope: str, keys: FeatureKeys
    ) -> Iterator[tuple[npt.NDArray[np.int64], Tensor]]:
        """Look for single rows in all blocks of a scope, one block after another.

        Args:
            scope: key of everything that activations depend on besides the rows.
            keys: keys of the rows' features, n x 2.

        Yields:
            Indices among the n rows, and the activations of these rows. A row comes once.
        """
        wanted = _Wanted(keys)
        for path in self._blocks_of(scope):
            if not wanted.left:
                return
            self._bring(path)
            match = self._match(path, wanted)
            if match is None:
                continue
            index, rows, entry = match
            self.usage.rows_read += len(index)
            self.usage.rows_moved += len(index)
            yield index, entry.a_BA[torch.from_numpy(rows)]

    def _match(
        self, path: Path, wanted: "_Wanted"
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], "_Entry"] | None:
        """Return which wanted rows an entry has, at which of its rows; None where it has none."""
        # The keys alone are 16 bytes a row: entries without a match are not read as a whole.
        keys = self._keys_in(path)
        if keys is None or not wanted.is_any_in(keys):
            return None
        entry = self._read(path)
        if entry is None:
            return None
        # Match again by the verified keys of the entry: those above were read without a check.
        index, rows = wanted.take(entry.keys)
        return index, rows, entry

    def write(self, scope: str, keys: FeatureKeys, a_BA: Tensor, *, computed: int) -> None:
        """Store a block of rows, in the background.

        Args:
            scope: key of everything that activations depend on besides the rows.
            keys: keys of the rows' features, B x 2.
            a_BA: their activations, which must not change until `close`.
            computed: rows among them that the base computed now.
        """

        def save(path: Path) -> None:
            tensors = {"a": a_BA.contiguous(), "keys": torch.from_numpy(keys.view(np.int64))}
            _save(tensors, path, scope=scope, run=self.run)

        self.usage.rows_computed += computed
        self._later(self.path_of_block(scope, keys), save)

    def read_rows(self, key: str) -> tuple[pa.Table, Counter[str]] | None:
        """Return rows without features, and their quarantined rows by reason; None where absent."""
        path = self.path_of(key, "rows")
        self._bring(path)
        try:
            content = path.read_bytes()
        except OSError as error:
            self._note_unreadable(path, error)
            return None
        digest, body = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        if _digest(key.encode(), body) != digest:
            self._remove_damaged(path)
            return None
        table = pa.ipc.open_file(pa.py_buffer(body)).read_all()
        _touch(path)
        return table, Counter(json.loads(table.schema.metadata[b"contract"]))

    def write_rows(self, key: str, rows: pa.Table, contract: Mapping[str, int]) -> None:
        """Store rows without features, in the background.

        Args:
            key: key of everything that the rows depend on.
            rows: identity, labels, domains and user.
            contract: quarantined rows by reason, of the piece they were read from.
        """
        metadata = {"format": str(FORMAT), "contract": json.dumps(dict(contract))}
        rows = rows.replace_schema_metadata(metadata)

        def save(path: Path) -> None:
            sink = pa.BufferOutputStream()
            with pa.ipc.new_file(sink, rows.schema) as writer:
                writer.write_table(rows)
            body = sink.getvalue().to_pybytes()
            path.write_bytes(_digest(key.encode(), body) + body)

        self._later(self.path_of(key, "rows"), save)

    def read_standard(self, key: str) -> dict[str, Tensor] | None:
        """Return the standardisation stored under a key, None where there is none."""
        path = self.path_of(key, "standard")
        tensors = self._tensors(path)
        if tensors is None or tensors[1].get("key") == key:
            return tensors[0] if tensors else None
        self._remove_damaged(path)
        return None

    def write_standard(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Store a standardisation, in the background."""
        # safetensors refuses a tensor whose strides are not those of its shape.
        whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
        self._later(self.path_of(key, "standard"), lambda path: _save(whole, path, key=key))

    def flush(self) -> None:
        """Wait until all writes so far are done, and raise the error of a failed one."""
        pending, self._pending = self._pending, []
        for done in pending:
            done.result()

    def close(self) -> None:
        """Accept no more writes, wait until all are done, and raise the error of a failed one."""
        self._writer.shutdown(wait=True)
        for done in self._pending:
            done.result()

    def evict(self, budget_bytes: int) -> None:
        """Remove the least recently used entries, until the rest fits the budget.

        Unfinished files that no process can still be writing are removed as well.

        Args:
            budget_bytes: bytes that the whole folder may take.
        """
        entries = []
        for path in self._all_files():
            try:
                stat = path.stat()
            except OSError:
                continue
            if is_part(path) and time.time() - stat.st_mtime > _PART_AGE_S:
                _remove(path)
            if path.suffix in KINDS:
                entries.append((stat.st_mtime, stat.st_size, path))
        excess = sum(size for _, size, _ in entries) - budget_bytes
        for _, size, path in sorted(entries):
            if excess <= 0:
                return
            if _remove(path):
                excess -= size
                self.usage.entries_evicted += 1

    def keep_to_budget(self, budget_bytes: int) -> None:
        """Evict entries beyond the budget, unless another run does so now or this user may not."""
        try:
            with one_writer(self.folder, waits=False):
                self.evict(budget_bytes)
        except (Busy, OSError) as error:
            _log.info("the activation cache is not kept to its budget now: %s", error)

    def _all_files(self) -> Iterator[Path]:
        """Yield every file one folder down, unfinished ones as well."""
        for folder in _files_in(self.folder, suffix=""):
            yield from _files_in(folder, suffix="")

    def _later(self, path: Path, save: Callable[[Path], None]) -> None:
        self._pending.append(self._writer.submit(self._put, path, save))

    def _put(self, path: Path, save: Callable[[Path], None]) -> None:
        """Write an entry under a temporary name, then rename it.

        Where the disk is nearly full or a write fails, this run writes no more entries.
        """
        if self.usage.stopped or _is_present(path):
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(path.parent).free < _SPARE_BYTES:
                self._stop(f"less than {_SPARE_BYTES / 2**30:.0f} GiB free on the disk")
                return
            with putting_file(path, is_durable=False) as part:  # verified when it is read
                save(part)
            self.usage.bytes_written += path.stat().st_size
            self._send(path)
        except (OSError, SafetensorError) as error:
            self._stop(str(error))

    def _blocks_of(self, scope: str) -> list[Path]:
        """Return the files of a scope's blocks by name, those of other machines as well."""
        folder, suffix = self.folder / scope, ".activations"
        blocks = set(_files_in(folder, suffix=suffix))
        with self._sharing() as store:
            names = store.names(scope) if store else set()
            blocks |= {folder / name for name in names if name.endswith(suffix)}
        return sorted(blocks)

    def _bring(self, path: Path) -> None:
        """Download an entry that this machine lacks, where another one has it."""
        if self._shared is None or _is_present(path):
            return
        with self._sharing() as store, suppress(FileNotFoundError):
            if store is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                with putting_file(path, is_durable=False) as part:  # verified when it is read
                    store.download(self._key(path), part)

    def _send(self, path: Path) -> None:
        """Upload an entry that this machine made."""
        with self._sharing() as store:
            if store is not None:
                with path.open("rb") as file:
                    store.upload(self._key(path), file)

    def _key(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    @contextmanager
    def _sharing(self) -> Iterator[Store | None]:
        """Yield the store of all machines' entries; None after its first failure."""
        try:
            yield self._shared
        except PipelineError as error:
            self._shared = None
            _log.warning("the activation cache is not shared any more: %s", error)

    def _read(self, path: Path) -> "_Entry | None":
        """Return a block of rows, None where it is absent or damaged."""
        stored = self._tensors(path)
        if stored is None:
            return None
        tensors, metadata = stored
        if metadata.get("scope") != path.parent.name or tensors.keys() != {"a", "keys"}:
            self._remove_damaged(path)
            return None
        return _Entry(keys=tensors["keys"].numpy().view(np.uint64), a_BA=tensors["a"])

    def _tensors(self, path: Path) -> tuple[dict[str, Tensor], dict[str, str]] | None:
        """Return an entry's tensors and metadata, None where it is absent or damaged."""
        self._bring(path)
        try:
            with safe_open(path, framework="pt") as file:
                metadata = dict(file.metadata() or {})
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except OSError as error:
            self._note_unreadable(path, error)
            return None
        except SafetensorError:
            self._remove_damaged(path)
            return None
        if metadata.pop("digest", "") != _digest_of_entry(tensors, metadata):
            self._remove_damaged(path)
            return None
        _touch(path)
        return tensors, metadata

    def _keys_in(self, path: Path) -> FeatureKeys | None:
        """Return an entry's keys, not yet verified; None where this run must not look into it."""
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("run") == self.run and self.run:
                    return None
                keys: FeatureKeys = file.get_tensor("keys").numpy().view(np.uint64)
        except OSError as error:
            self._note_unreadable(path, error)
            return None
        except SafetensorError:
            self._remove_damaged(path)
            return None
        return keys if keys.ndim == 2 else None

    def _note_unreadable(self, path: Path, error: OSError) -> None:
        """Stop writing to the cache where an entry may not be read; ignore an absent entry."""
        # safetensors 0.8 raises FileNotFoundError for a file that may not be read as well.
        is_absence = isinstance(error, FileNotFoundError | NotADirectoryError)
        if not is_absence or _is_present(path):
            self._stop(f"{path} may not be read: {error.strerror or 'permission denied'}")

    def _remove_damaged(self, path: Path) -> None:
        """Remove and count an entry that cannot be used; ignore an absent one."""
        if _is_present(path):
            self.usage.entries_damaged += 1
            _remove(path)

    def _stop(self, why: str) -> None:
        """Write no more entries in this run, and warn once."""
        if not self.usage.stopped:
            self.usage.stopped = f"{self.folder}: {why}"
            _log.warning("the activation cache is not written any more: %s", self.usage.stopped)

    def path_of_block(self, scope: str, keys: FeatureKeys) -> Path:
        """Return the file of a block's activations, whether or not it exists."""
        return self.folder / scope / f"{_digest(keys.tobytes()).hex()}.activations"

    def path_of(self, key: str, kind: str) -> Path:
        """Return the file of an entry, whether or not it exists; `kind` is its suffix."""
        return self.folder / key[:2] / f"{key}.{kind}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """A verified block of rows."""

    keys: FeatureKeys
    a_BA: Tensor


class _Wanted:
    """Rows to look for by their keys. Rows with equal keys are returned together.

    `order` sorts the n rows by key. The rows of different key k are `order[starts[k]:starts[k+1]]`.
    """

    def __init__(self, keys: FeatureKeys) -> None:
        """Sort the keys, so that a block's keys are looked up in all of them at once."""
        self.order = np.lexsort((keys[:, 1], keys[:, 0]))
        ordered = keys[self.order]
        is_first = np.ones(len(ordered), np.bool_)
        is_first[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
        self.starts = np.append(np.flatnonzero(is_first), len(ordered))
        self.keys = ordered[is_first]
        self.is_left = np.ones(len(self.keys), np.bool_)

    @property
    def left(self) -> int:
        """Return how many different keys are not found yet."""
        return int(self.is_left.sum())

    def is_any_in(self, keys: FeatureKeys) -> bool:
        """Return whether a block has any of them."""
        return len(self._match(keys)[0]) > 0

    def take(self, keys: FeatureKeys) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return the wanted rows that a block has, and at which of its rows; then drop them.

        Args:
            keys: keys of the block's rows, B x 2.

        Returns:
            Indices among the n rows, and for each the index of its row in the block.
        """
        numbers, rows = self._match(keys)
        self.is_left[numbers] = False
        # A key stands for `counts` rows, which are a run in `order`. The indices of all runs are
        # computed at once: the start of each run, plus the position in it.
        counts = self.starts[numbers + 1] - self.starts[numbers]
        firsts = np.repeat(self.starts[numbers] - np.cumsum(counts) + counts, counts)
        return self.order[firsts + np.arange(counts.sum())], np.repeat(rows, counts)

    def _match(self, keys: FeatureKeys) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return the numbers of the wanted keys that a block has, and a row of it for each."""
        # Search by the first 64 bits, then compare all 128. Where two wanted keys share only their
        # first half (one pair in 2^64), the second is not found. The base then computes its rows
        # again. No row ever gets the activations of another one.
        number = np.searchsorted(self.keys[:, 0], keys[:, 0])
        number = np.minimum(number, len(self.keys) - 1)
        rows = np.flatnonzero((self.keys[number] == keys).all(axis=1) & self.is_left[number])
        numbers, first = np.unique(number[rows], return_index=True)
        return numbers, rows[first]


def key_of(**parts: object) -> str:
    """Return the SHA-256 of everything an entry depends on, in hexadecimal."""
    text = json.dumps({"format": FORMAT, **parts}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def digest_of(*tensors: Tensor) -> str:
    """Return the SHA-256 of the tensors' bytes, in hexadecimal."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(_bytes_of(tensor))
    return digest.hexdigest()


def _save(tensors: Mapping[str, Tensor], path: Path, **about: str) -> None:
    """Write an entry with its metadata and digest."""
    metadata = {"format": str(FORMAT), **about}
    digest = _digest_of_entry(tensors, metadata)
    save_file(dict(tensors), path, metadata={**metadata, "digest": digest})


def _digest_of_entry(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Return the digest over an entry's metadata, and its tensors' names, types, shapes, bytes."""
    parts: list[bytes | memoryview] = [json.dumps(dict(metadata), sort_keys=True).encode()]
    for name in sorted(tensors):
        tensor = tensors[name]
        parts += [f"{name} {tensor.dtype} {list(tensor.shape)}".encode(), _bytes_of(tensor)]
    return _digest(*parts).hex()


def _digest(*parts: bytes | memoryview) -> bytes:
    """Return the XXH3 digest of 128 bits: fast, and enough against damage, not against forgery."""
    digest = xxhash.xxh3_128()
    for part in parts:
        digest.update(part)
    return digest.digest()


def _bytes_of(tensor: Tensor) -> memoryview:
    return memoryview(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)


def _touch(path: Path) -> None:
    """Mark an entry as used now."""
    try:
        os.utime(path)
    except OSError:
        return


def _files_in(folder: Path, *, suffix: str) -> list[Path]:
    """Return the files of a folder by name; none where it is missing or may not be entered."""
    try:
        return sorted(path for path in folder.iterdir() if path.name.endswith(suffix))
    except OSError:
        return []


def _is_present(path: Path) -> bool:
    """Return whether a file is present; True below a folder that this user may not enter."""
    try:
        path.lstat()
    except PermissionError:
        return True
    except OSError:
        return False
    return True


def _remove(path: Path) -> bool:
    """Remove a file; False where this user may not."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return False
    return True
