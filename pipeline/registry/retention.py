"""Remove the stored bundles that no pointer and no rollback needs (`gc`)."""

from collections.abc import Collection
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from iak.pipeline.errors import Corrupt
from iak.pipeline.lock import one_writer
from iak.pipeline.registry.commits import Draft, append, earlier_pointers, read_head
from iak.pipeline.registry.stored_bundles import (
    remove_stored,
    remove_unfinished,
    stored_bytes,
    stored_digests,
)
from iak.schemas.registry import Commit


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """The bundles that gc removed, or would remove."""

    removed: tuple[str, ...]
    """Digests of the bundles."""
    bytes: int
    """Bytes of their files."""
    kept: int
    """Bundles that stay."""
    unfinished: int
    """Leftovers of writers that died."""


def remove_unneeded(root: Path, *, keep: int, dry_run: bool) -> Removal:
    """Remove stored bundles that are neither pointed at nor needed by a rollback.

    A commit names the bundles before their bytes are removed, so that the history stays whole. The
    next gc finishes one that was killed.

    Args:
        root: folder of the registry.
        keep: earlier pointers of each alias and domain whose bundles stay.
        dry_run: return what would be removed, and change nothing.

    Raises:
        BadRequest: there is no registry.
        Corrupt: a document of the history is damaged; nothing is removed.
    """
    read_head(root)  # refuses a folder that is not a registry before a lock is put there
    with one_writer(root, waits=True):
        head = read_head(root)
        needed = needed_bundles(root, head, keep=keep)
        stored = stored_digests(root)
        removed = sorted(stored - needed)
        size = sum(_bytes_of(root, digest) for digest in removed)
        unfinished = 0
        if not dry_run:
            unfinished = remove_unfinished(root)
            _remove(root, head, removed)
    return Removal(
        removed=tuple(removed), bytes=size, kept=len(stored & needed), unfinished=unfinished
    )


def needed_bundles(root: Path, head: Commit | None, *, keep: int) -> set[str]:
    """Return the digests of the bundles that pointers mean, and those of `keep` rollbacks."""
    needed: set[str] = set()
    for alias, pointers in head.pointers.items() if head else ():
        for folder, pointer in pointers.items():
            earlier = islice(earlier_pointers(root, alias, folder, pointer), keep)
            needed |= {pointer.bundle, *(one.bundle for one in earlier)}
    return needed


def _remove(root: Path, head: Commit | None, digests: Collection[str]) -> None:
    """Write the removal into the history, then remove the bundles."""
    if not digests:
        return
    pointers = (
        {alias: dict(by_folder) for alias, by_folder in head.pointers.items()} if head else {}
    )
    append(root, head, Draft(action="gc", pointers=pointers, removed=sorted(digests)))
    for digest in digests:
        remove_stored(root, digest)


def _bytes_of(root: Path, digest: str) -> int:
    """Return a bundle's bytes; 0 where its entry cannot be read."""
    try:
        return stored_bytes(root, digest)
    except Corrupt:
        return 0
