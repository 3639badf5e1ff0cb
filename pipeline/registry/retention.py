"""Remove the stored bundles that no pointer and no rollback needs (`iak registry gc`)."""

from collections.abc import Collection
from dataclasses import dataclass
from itertools import islice

from iak.pipeline.errors import Corrupt
from iak.pipeline.registry.commits import (
    Draft,
    NumberTaken,
    append,
    earlier_pointers,
    pointers_of,
    read_head,
)
from iak.pipeline.registry.stored_bundles import remove_stored, stored_bundles, stored_bytes
from iak.pipeline.storage.store import Store
from iak.schemas.registry import Alias, Commit, Pointer

_MAX_ATTEMPTS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """The bundles that gc removed, or would remove."""

    removed: tuple[str, ...]
    """Names of the stored bundles."""
    bytes: int
    """Bytes of their files."""
    kept: int
    """Number of bundles that stay."""
    unfinished: int
    """Number of removed files that killed writers had not finished."""


def remove_unneeded(store: Store, *, keep: int, dry_run: bool) -> Removal:
    """Remove stored bundles that are neither pointed at nor needed by a rollback.

    A commit names the bundles before their files are removed, and no later commit points at them.
    So the history stays readable, and the next gc finishes one that was killed. A promotion that
    runs at the same time reads that commit, and stores its bundles again.

    Args:
        store: store of the registry.
        keep: earlier pointers of each alias and domain whose bundles stay.
        dry_run: return what would be removed, and change nothing.

    Raises:
        BadRequest: there is no registry.
        Corrupt: a document of the history is damaged; nothing is removed.
        Overtaken: another writer's commit came first each time; nothing was removed.
    """
    read_head(store)  # refuses a folder that is no registry, before a lock file is made in it
    with store.one_writer():
        for _ in range(_MAX_ATTEMPTS):
            head = read_head(store)
            kept = _Kept.of(store, head, keep=keep)
            stored = stored_bundles(store)
            removed = sorted(stored - kept.names)
            size = sum(_bytes_of(store, name) for name in removed)
            try:
                unfinished = 0 if dry_run else _remove(store, head, kept, removed)
            except NumberTaken as error:
                lost = error
                continue
            return Removal(
                removed=tuple(removed),
                bytes=size,
                kept=len(stored & kept.names),
                unfinished=unfinished,
            )
    raise lost


@dataclass(frozen=True, slots=True)
class _Kept:
    """The bundles that stay, and the pointers with the oldest commit they can return to."""

    names: frozenset[str]
    pointers: dict[Alias, dict[str, Pointer]]

    @classmethod
    def of(cls, store: Store, head: Commit | None, *, keep: int) -> "_Kept":
        """Return the pointers with their new reach, and the bundles of `keep` rollbacks of each."""
        names, pointers = set(), pointers_of(head)
        for alias, by_folder in pointers.items():
            for folder, pointer in by_folder.items():
                chain = [pointer, *islice(earlier_pointers(store, alias, folder, pointer), keep)]
                names |= {one.stored for one in chain}
                by_folder[folder] = pointer.model_copy(update={"reach": chain[-1].generation})
        return cls(frozenset(names), pointers)


def _remove(store: Store, head: Commit | None, kept: _Kept, removed: Collection[str]) -> int:
    """Commit the removal, then remove the files; return how many unfinished files went too."""
    if removed:
        append(store, head, Draft(action="gc", pointers=kept.pointers, removed=sorted(removed)))
    for name in removed:
        remove_stored(store, name)
    return store.remove_unfinished()


def _bytes_of(store: Store, name: str) -> int:
    """Return a bundle's bytes; 0 where its entry cannot be read."""
    try:
        return stored_bytes(store, name)
    except Corrupt:
        return 0
