"""Roll back: return domains to the bundles they had before. Nothing else moves."""

from collections.abc import Sequence
from dataclasses import dataclass

from iak.pipeline.errors import BadRequest
from iak.pipeline.registry.commits import (
    Change,
    check_not_moved,
    earlier_pointers,
    folder_of,
    move_pointers,
    pointer_of,
    read_head,
)
from iak.pipeline.registry.stored_bundles import verify_stored
from iak.pipeline.storage.store import Store
from iak.schemas.registry import Alias, Commit, Entry, Pointer


@dataclass(frozen=True, slots=True, kw_only=True)
class Return:
    """One domain of a rollback."""

    domain: str
    left: str
    """Digest of the bundle that no longer serves."""
    entry: Entry | None
    """The bundle that serves again; None: the domain has no pointer any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollback:
    """Result of a rollback."""

    commit: Commit
    domains: tuple[Return, ...]


def roll_back(store: Store, alias: Alias, domains: Sequence[str]) -> Rollback:
    """Undo the last promotion of each domain, all in one commit.

    A second rollback undoes the promotion before that. A domain whose first promotion is undone has
    no pointer any more, and its parent's kernel serves it.

    Args:
        store: store of the registry.
        alias: alias whose pointers move.
        domains: names of domains, or their folder names; at least one, each once.

    Raises:
        BadRequest: a domain has no pointer, gc removed the bundle it had before, or bundles that
            cannot serve together would be pointed at.
        Corrupt: a bundle to return to, or a document of the registry, is damaged.
        Overtaken: another writer moved one of the pointers in the meantime.
    """
    expected = read_head(store)
    folders = dict.fromkeys(folder_of(store, expected, alias, domain) for domain in domains)
    returns: dict[str, Return] = {}

    def decide(head: Commit | None) -> list[Change]:
        changes = []
        for folder in folders:
            check_not_moved(store, head, expected, alias=alias, folder=folder)
            pointer = pointer_of(head, alias, folder)
            assert pointer is not None, "folder_of refuses a domain without a pointer"
            earlier = _pointer_before(store, alias, folder, pointer)
            entry = verify_stored(store, earlier.stored) if earlier else None
            returns[folder] = Return(domain=pointer.name, left=pointer.bundle, entry=entry)
            changes.append(
                Change(
                    alias=alias,
                    folder=folder,
                    entry=entry,
                    before=earlier.before if earlier else None,
                    reach=pointer.reach,
                    reason=f"rolled back from the bundle of commit {pointer.generation}",
                )
            )
        return changes

    store.check_creates_once()
    with store.one_writer():
        commit = move_pointers(store, "rollback", decide, expected=expected)
    assert commit is not None, "every domain moves"
    return Rollback(commit=commit, domains=tuple(returns.values()))


def _pointer_before(store: Store, alias: Alias, folder: str, pointer: Pointer) -> Pointer | None:
    """Return the pointer that a rollback returns to.

    Raises:
        BadRequest: gc removed its bundle.
    """
    earlier = next(earlier_pointers(store, alias, folder, pointer), None)
    if earlier is None and pointer.before is not None:
        raise BadRequest(
            f"the bundle that {pointer.name} had before is no longer in {store.uri}: gc removed "
            "it. Promote a run that holds it, or one that the gate publishes"
        )
    return earlier
