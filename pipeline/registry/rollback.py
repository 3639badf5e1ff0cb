"""Roll back: return domains to the bundles they had before. Nothing else moves."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from iak.pipeline.errors import BadRequest
from iak.pipeline.lock import one_writer
from iak.pipeline.registry.commits import (
    Change,
    folder_of,
    move_pointers,
    pointer_of,
    read_commit,
    read_head,
)
from iak.pipeline.registry.stored_bundles import stored_folder, verify_stored
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


def roll_back(root: Path, alias: Alias, domains: Sequence[str]) -> Rollback:
    """Return pointers to where they were before the last promotion of each, in one step.

    Promotions are undone one by one: a second rollback goes one further back. Before its first
    promotion a domain had no pointer, and falls back to its parent.

    Args:
        root: folder of the registry.
        alias: alias whose pointers move.
        domains: names of domains, or their folder names; at least one, each once.

    Raises:
        BadRequest: a domain has no pointer, gc removed the bundle it had before, or bundles that
            cannot serve together would be pointed at.
        Corrupt: a bundle to return to, or a document of the registry, is damaged.
        Overtaken: another writer moved one of the pointers in the meantime.
    """
    expected = read_head(root)
    folders = dict.fromkeys(folder_of(root, expected, alias, domain) for domain in domains)
    with one_writer(root, waits=True):
        returns, changes = [], []
        for folder in folders:
            pointer = pointer_of(expected, alias, folder)
            assert pointer is not None, "folder_of refuses a domain without a pointer"
            earlier = _pointer_before(root, alias, folder, pointer)
            entry = _verified(root, pointer.name, earlier.bundle) if earlier else None
            returns.append(Return(domain=pointer.name, left=pointer.bundle, entry=entry))
            changes.append(
                Change(
                    alias=alias,
                    folder=folder,
                    entry=entry,
                    before=earlier.before if earlier else None,
                    reason=f"rolled back from the bundle of commit {pointer.generation}",
                )
            )
        commit = move_pointers(root, "rollback", changes, expected=expected)
    return Rollback(commit=commit, domains=tuple(returns))


def _pointer_before(root: Path, alias: Alias, folder: str, pointer: Pointer) -> Pointer | None:
    """Return the pointer that a rollback returns to."""
    if pointer.before is None:
        return None
    return pointer_of(read_commit(root, pointer.before), alias, folder)


def _verified(root: Path, domain: str, digest: str) -> Entry:
    """Return the entry of a bundle that will serve again, after every byte was verified."""
    if not stored_folder(root, digest).exists():
        raise BadRequest(
            f"the bundle that {domain} had before, {digest[:12]}, is no longer in {root}: gc "
            "removed it. Promote a run that holds it, or one that the gate publishes"
        )
    return verify_stored(root, digest)
