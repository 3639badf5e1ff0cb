"""Remove run folders of old nights, and mapped tables of bases that nobody uses.

The record and page of a night stay, and so do the records of its runs, which say which files each
bundle was tuned on. A refreshed base stays, because later nights and bundles may run on it.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from iak.pipeline.base.frozen_base import MAPPED
from iak.pipeline.errors import Busy
from iak.pipeline.lock import LOCK, OWNER, one_writer
from iak.pipeline.registry.bases import open_base
from iak.pipeline.runs.nightly_records import SCRATCH, TUNE, night_folder, read_nights
from iak.pipeline.runs.record import RECORD
from iak.pipeline.sharding import mapped
from iak.pipeline.storage.store import open_store
from iak.pipeline.storage.stored_folder import StoredFolder
from iak.pipeline.storage.working_copy import remove_stored
from iak.schemas.paths import bucket_uri

_STAYS = (RECORD, LOCK, OWNER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stale:
    """A folder that was emptied or removed; in a dry run one that would be."""

    path: Path
    bytes: int


def remove_stale_runs(nights: Path, *, keep: int, dry_run: bool) -> list[Stale]:
    """Empty the run folders of nights that ended, but for the newest ones.

    Args:
        nights: folder of the nights.
        keep: newest nights whose run folders stay as they are.
        dry_run: return what would be removed, and change nothing.

    Returns:
        The run folders, without those in which a run works now.
    """
    records = read_nights(nights).records
    stale = []
    for record in records[: max(0, len(records) - keep)]:
        if record.status not in ("finished", "failed"):
            continue  # it may be resumed
        for run_dir in (night_folder(nights, record) / name for name in (TUNE, SCRATCH)):
            if uri := bucket_uri(run_dir):
                stale += _empty_stored(uri, dry_run=dry_run)
                continue
            content = list(_content(run_dir))
            if not content:
                continue
            size = sum(_bytes_of(path) for path in content)
            try:
                if not dry_run:
                    with one_writer(run_dir, waits=False):
                        _remove(content)
            except Busy:  # a run works in it now
                continue
            stale.append(Stale(path=run_dir, bytes=size))
    return stale


def remove_unused_tables(base: Path, *, days: float, dry_run: bool) -> list[Stale]:
    """Remove tables beside a base that no process of this machine has mapped for some days.

    Args:
        base: a run or folder of a published base, or `registry:PLACE@ALIAS`.
        days: days since a process mapped them last.
        dry_run: return what would be removed, and change nothing.
    """
    root = open_base(base).folder.parent / MAPPED
    unused = mapped.remove_unused(root, days=days, dry_run=True)
    sizes = {path: _bytes_of(path) for path in unused}
    if not dry_run:
        unused = mapped.remove_unused(root, days=days)
    return [Stale(path=path, bytes=sizes.get(path, 0)) for path in unused]


def _empty_stored(uri: str, *, dry_run: bool) -> list[Stale]:
    """Empty a run folder on an object store but for its record, unless a run works in it now."""
    head = StoredFolder(open_store(uri)).head()
    size = sum(file.bytes for path, file in head.files.items() if path != RECORD) if head else 0
    if not size:
        return []
    try:
        if not dry_run:
            remove_stored(uri, is_kept=lambda path: path == RECORD)
    except Busy:
        return []
    return [Stale(path=Path(uri), bytes=size)]


def _content(run_dir: Path) -> Iterator[Path]:
    """Yield all of a run folder but its record and its lock."""
    if run_dir.is_dir():
        yield from (path for path in run_dir.iterdir() if path.name not in _STAYS)


def _bytes_of(path: Path) -> int:
    if not path.is_dir():
        return path.lstat().st_size
    return sum(file.lstat().st_size for file in path.rglob("*") if not file.is_dir())


def _remove(content: list[Path]) -> None:
    for path in content:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
