"""What the frozen base made of rows, on disk, for later epochs, runs and nights.

    <folder>/<2 hex>/<key>.activations   safetensors: `a`, rows x inputs, memory-mappable
    <folder>/<2 hex>/<key>.rows          SHA-256, then Arrow IPC: identity, labels, domains, user
    <folder>/<2 hex>/<key>.standard      safetensors: mean and deviation of the inputs

A key is the SHA-256 of all that the bytes depend on: the base and how its tables are held, the
file and row group they come from, the identities of the rows, the standardisation. A base, file or
row that changes has other keys; nothing is ever overwritten or invalidated in place. A file gets
its name when it is whole; one that is damaged is removed and counts as absent. The format's number
is in every key, so that what another version wrote is computed anew, and in every entry.
"""

import hashlib
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pipeline.files import is_part, putting_file

FORMAT = 2
_SPARE_BYTES = 2 * 2**30
"""Disk that is left to others."""
_PART_AGE_S = 24 * 3600
"""Age at which an unfinished file belongs to nobody any more."""


@dataclass(slots=True)
class Usage:
    """What a run got from the cache, and gave to it."""

    rows_read: int = 0
    """Rows whose activations were there."""
    rows_computed: int = 0
    bytes_written: int = 0
    entries_evicted: int = 0
    entries_damaged: int = 0
    stopped: str = ""
    """Why writing stopped, if it did."""


class Store:
    """Entries below one folder; any number of processes read and write it at once."""

    def __init__(self, folder: Path) -> None:
        """Use `folder`; it is made when something is written."""
        self.folder = folder
        self.usage = Usage()
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="cache")
        self._pending: list[Future[None]] = []

    def has(self, key: str, kind: str = "activations") -> bool:
        """Whether an entry is there."""
        return self._path(key, kind).is_file()

    def read_into(self, key: str, a_BA: Tensor) -> bool:
        """Copy an entry's activations into `a_BA`; False where it is absent, other or damaged."""
        path = self._path(key, "activations")
        try:
            with safe_open(path, framework="pt") as file:
                told = file.metadata() or {}
                kept, wanted = file.get_tensor("a"), told.get("sum")
        except (OSError, SafetensorError):
            return self._is_damaged(path)
        is_ours = told.get("format") == str(FORMAT) and str(_sum(kept)) == wanted
        if not is_ours or kept.shape != a_BA.shape or kept.dtype != a_BA.dtype:
            return self._is_damaged(path)
        a_BA.copy_(kept)
        _touch(path)
        self.usage.rows_read += len(a_BA)
        return True

    def write(self, key: str, a_BA: Tensor) -> None:
        """Keep activations, in the background; `a_BA` must not change until `close`."""

        def save(path: Path) -> None:
            save_file({"a": a_BA.contiguous()}, path, metadata=_told(sum=_sum(a_BA)))

        self.usage.rows_computed += len(a_BA)
        self._later(key, "activations", save)

    def read_rows(self, key: str) -> tuple[pa.Table, Counter[str]] | None:
        """Rows without features, and what the contract found in them; None where absent."""
        path = self._path(key, "rows")
        try:
            content = path.read_bytes()
        except OSError:
            return None
        digest, body = content[:32], content[32:]
        if hashlib.sha256(body).digest() != digest:
            self._is_damaged(path)
            return None
        table = pa.ipc.open_file(pa.py_buffer(body)).read_all()
        told = table.schema.metadata or {}
        if told.get(b"format") != str(FORMAT).encode():
            self._is_damaged(path)
            return None
        _touch(path)
        return table, Counter(json.loads(told[b"contract"]))

    def write_rows(self, key: str, rows: pa.Table, contract: Mapping[str, int]) -> None:
        """Keep rows without features, in the background."""
        rows = rows.replace_schema_metadata(_told(contract=json.dumps(dict(contract))))

        def save(path: Path) -> None:
            sink = pa.BufferOutputStream()
            with pa.ipc.new_file(sink, rows.schema) as writer:
                writer.write_table(rows)
            body = sink.getvalue()
            path.write_bytes(hashlib.sha256(body).digest() + body.to_pybytes())

        self._later(key, "rows", save)

    def read_standard(self, key: str) -> dict[str, Tensor] | None:
        """The standardisation kept under a key, None where there is none."""
        path = self._path(key, "standard")
        try:
            with safe_open(path, framework="pt") as file:
                if (file.metadata() or {}).get("format") != str(FORMAT):
                    return None
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError):
            return None

    def write_standard(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep a standardisation, whatever the strides of its tensors."""
        whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
        self._later(key, "standard", lambda path: save_file(whole, path, metadata=_told()))

    def close(self) -> None:
        """Wait until everything is written."""
        self._writer.shutdown(wait=True)
        for done in self._pending:
            done.result()

    def evict(self, budget_bytes: int) -> None:
        """Remove what was not used for longest, until the rest fits the budget."""
        held = []
        for path in self.folder.glob("??/*"):
            try:
                stat = path.stat()
            except FileNotFoundError:
                continue
            if is_part(path):
                if time.time() - stat.st_mtime > _PART_AGE_S:
                    path.unlink(missing_ok=True)
                continue
            held.append((stat.st_mtime, stat.st_size, path))
        excess = sum(size for _, size, _ in held) - budget_bytes
        for _, size, path in sorted(held):
            if excess <= 0:
                return
            path.unlink(missing_ok=True)
            excess -= size
            self.usage.entries_evicted += 1

    def _later(self, key: str, kind: str, save: Callable[[Path], None]) -> None:
        self._pending.append(self._writer.submit(self._save, key, kind, save))

    def _save(self, key: str, kind: str, save: Callable[[Path], None]) -> None:
        """Write an entry under another name, then give it its own; a full disk ends the writing."""
        path = self._path(key, kind)
        if self.usage.stopped or path.is_file():
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(path.parent).free < _SPARE_BYTES:
                self.usage.stopped = f"less than {_SPARE_BYTES / 2**30:.0f} GiB free on the disk"
                return
            with putting_file(path, is_durable=False) as part:  # verified when it is read
                save(part)
            self.usage.bytes_written += path.stat().st_size
        except (OSError, SafetensorError) as error:
            self.usage.stopped = f"{self.folder}: {error}"

    def _is_damaged(self, path: Path) -> bool:
        """Remove an entry that is there but cannot be used; always False."""
        if path.exists():
            self.usage.entries_damaged += 1
            path.unlink(missing_ok=True)
        return False

    def _path(self, key: str, kind: str) -> Path:
        return self.folder / key[:2] / f"{key}.{kind}"


def key_of(**parts: object) -> str:
    """SHA-256 of everything an entry depends on."""
    text = json.dumps({"format": FORMAT, **parts}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _told(**parts: object) -> dict[str, str]:
    """The metadata of an entry: its format, and what else is said of it."""
    return {"format": str(FORMAT), **{name: str(part) for name, part in parts.items()}}


def digest_of(*tensors: Tensor) -> str:
    """SHA-256 of the tensors' bytes."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _sum(a_BA: Tensor) -> int:
    """The sum of the bytes' 64-bit words: one flipped bit anywhere changes it."""
    flat = a_BA.contiguous().view(torch.uint8).numpy().reshape(-1)
    whole = len(flat) - len(flat) % 8
    return int(flat[:whole].view(np.int64).sum()) + int(flat[whole:].sum(dtype=np.int64))


def _touch(path: Path) -> None:
    """Mark an entry as used now."""
    try:
        os.utime(path)
    except OSError:
        return
