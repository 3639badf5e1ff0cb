"""Read and write the history of a registry: numbered commits, each with all pointers.

    registry.json               here is a registry
    commits/0000000012.json     all pointers after promotion, rollback or gc number 12
    bundles/DIGEST-MARK/        stored bundles (stored_bundles.py)

The newest commit counts. A commit is written as one file under a name that nothing has yet:

- a reader sees all of a promotion of many domains, or nothing of it;
- a writer that was slow finds its number taken, and can overwrite no newer pointer on any store. It
  reads the newest commit and decides again, unless a pointer that it was to move has moved.

This module does not import torch, because a rollback has to be quick.
"""

import getpass
import re
import secrets
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal, TypeVar

from pydantic import BaseModel, ValidationError

from iak.pipeline.errors import BadRequest, Corrupt, OtherFormat, Overtaken
from iak.pipeline.first_few import first_few
from iak.pipeline.formats import Migration, current_document, unchanged
from iak.pipeline.sealed import check_seal, parsed, seal, spelled
from iak.pipeline.storage.store import Store
from iak.schemas.base import JsonObject
from iak.schemas.chain import ChainState
from iak.schemas.domain import Domain
from iak.schemas.registry import (
    COMMIT_FORMAT,
    MARKER_FORMAT,
    Alias,
    Commit,
    Entry,
    Move,
    Pointer,
    RegistryMarker,
)

MARKER, COMMITS = "registry.json", "commits"
_NAME = re.compile(r"^(\d{10})\.json$")
_ZEROS = "0" * 64
_MAX_ATTEMPTS = 20
"""Times that a commit is tried, each after another writer's commit came first."""


def _with_stored(commit: JsonObject) -> JsonObject:
    """Migrate a commit of format 2: a bundle was stored under its digest alone."""
    pointers = {
        alias: {folder: {**p, "stored": p["bundle"]} for folder, p in by_folder.items()}
        for alias, by_folder in commit["pointers"].items()
    }
    return {**commit, "pointers": pointers, "token": "0" * 16}


_COMMIT_STEPS: Mapping[int, Migration] = {1: unchanged, 2: _with_stored}
"""Format 1 had no chains; all else is the same."""
M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A move of one pointer, not yet made."""

    alias: Alias
    folder: str
    entry: Entry | None
    """The bundle to point at; None removes the pointer."""
    before: int | None
    """Generation that a rollback returns to; None: the domain had no pointer."""
    reason: str
    reach: int | None
    """Oldest generation that rollbacks may return to; None: the first."""


class NumberTaken(Overtaken):
    """Another writer's commit came first, so that the present one has to be decided again."""


# ---------------------------------------------------------------- reading


def is_registry(store: Store) -> bool:
    """Return whether there is a registry, sound or not."""
    try:
        store.read(MARKER)
    except FileNotFoundError:
        return False
    return True


def check_registry(store: Store) -> None:
    """Refuse a store without a registry of this format.

    Raises:
        BadRequest: there is no registry.
        Corrupt, OtherFormat, NotPermitted: see `read_sealed`.
    """
    if not is_registry(store):
        raise BadRequest(
            f"{store.uri} is not a registry: it has no {MARKER}. Name the folder or URI of one; "
            "the first `iak registry promote run=RUN registry=PLACE` makes it"
        )
    read_sealed(store, MARKER, RegistryMarker, kind="registry", current=MARKER_FORMAT)


def make_registry(store: Store) -> None:
    """Make an empty store a registry, unless it is one already.

    Raises:
        BadRequest: the store has other content.
    """
    if not is_registry(store):
        check_empty(store)
        document = RegistryMarker(sha256=_ZEROS).model_dump(mode="json")
        with suppress(FileExistsError):  # another writer made it meanwhile
            store.create(MARKER, spelled(seal(document)))
    check_registry(store)


def check_empty(store: Store) -> None:
    """Refuse to make a registry in a store that has other content.

    Raises:
        BadRequest: the message names some of it.
    """
    if others := sorted(store.names() - {MARKER}):
        raise BadRequest(
            f"{store.uri} is not a registry and has other content: {first_few(others)}. Give "
            "an empty or new folder"
        )


def read_head(store: Store) -> Commit | None:
    """Return the newest commit; None in a registry that has none yet.

    Raises:
        BadRequest: there is no registry.
        Corrupt: it is not what was written, or an earlier commit is missing.
    """
    generation = newest_generation(store)
    return read_commit(store, generation) if generation else None


def newest_generation(store: Store) -> int:
    """Return the number of the newest commit, which is not read; 0 in a registry without any.

    Raises:
        BadRequest: there is no registry.
        Corrupt: an earlier commit is missing.
    """
    check_registry(store)
    # The store is listed before a commit is read: a number that is missing was removed by hand.
    numbers = {int(match[1]) for name in store.names(COMMITS) if (match := _NAME.match(name))}
    if not numbers:
        return 0
    if missing := sorted(set(range(1, max(numbers) + 1)) - numbers):
        raise Corrupt(
            f"{store.where(COMMITS)} lacks commit {missing[0]}, but has commit {max(numbers)}. "
            f"Restore {_key(missing[0])} from a copy"
        )
    return max(numbers)


def read_commit(store: Store, generation: int) -> Commit:
    """Return one commit of the history.

    Raises:
        BadRequest: there is no commit of this number.
        Corrupt: it is not what was written.
    """
    key = _key(generation)
    try:
        commit = read_sealed(
            store,
            key,
            Commit,
            kind="registry commit",
            current=COMMIT_FORMAT,
            migrations=_COMMIT_STEPS,
        )
    except FileNotFoundError as error:
        raise BadRequest(
            f"{store.uri} has no commit {generation}. `iak registry show registry={store.uri}` "
            "lists them"
        ) from error
    if commit.generation != generation:
        raise Corrupt(
            f"{store.where(key)} is commit {commit.generation} under another name. Restore it from "
            "a copy"
        )
    return commit


def read_history(store: Store) -> Iterator[Commit]:
    """Yield every commit, oldest first, each compared with the one before it.

    Raises:
        Corrupt: a commit is missing, changed, or follows another one than it names.
    """
    head = read_head(store)
    before: Commit | None = None
    for generation in range(1, head.generation + 1 if head else 1):
        commit = read_commit(store, generation)
        if commit.parent_sha256 != (before.sha256 if before else None):
            raise Corrupt(
                f"{store.where(_key(generation))} does not follow the commit before it: it names "
                f"{commit.parent_sha256}, commit {generation - 1} has "
                f"{before.sha256 if before else None}. Restore both from a copy"
            )
        yield commit
        before = commit


def read_sealed(
    store: Store,
    key: str,
    model: type[M],
    *,
    kind: str,
    current: int,
    migrations: Mapping[int, Migration] | None = None,
) -> M:
    """Return a sealed document, after a check that its bytes were not changed.

    Args:
        store: store of the registry.
        key: key of the document.
        model: class that the document is validated as.
        kind: kind of document, for messages.
        current: format that this version writes.
        migrations: a format -> the step from it to the next one.

    Raises:
        FileNotFoundError: there is none.
        Corrupt: it cannot be read, or a byte of it differs.
        OtherFormat: another version wrote it.
        NotPermitted: this user may not read it.
    """
    where = store.where(key)
    try:
        data = store.read(key)
        document = parsed(data)
        remedy = "Read it with the version that wrote it"
        fields = current_document(
            document, kind=kind, current=current, where=where, remedy=remedy, migrations=migrations
        )
        check_seal(document, data)
        return model.model_validate(fields)
    except FileNotFoundError:
        raise
    except OtherFormat as error:
        # A damaged byte may be in the format's number itself, so the digest decides first.
        _check_seal_alone(where, data, error)
        raise
    except (OSError, ValueError, ValidationError) as error:
        raise Corrupt(
            f"{where} is not what was written: {error}. Restore it from a copy of the registry"
        ) from error


def _check_seal_alone(where: str, data: bytes, error: Exception) -> None:
    """Refuse a document whose digest does not match, without reading its format.

    Raises:
        Corrupt: it does not match.
    """
    try:
        check_seal(parsed(data), data)
    except ValueError as damage:
        raise Corrupt(
            f"{where} is not what was written: {damage}. Restore it from a copy of the registry"
        ) from error


def pointer_of(commit: Commit | None, alias: Alias, folder: str) -> Pointer | None:
    """Return a domain's pointer after a commit; None where it has none."""
    return commit.pointers.get(alias, {}).get(folder) if commit else None


def earlier_pointers(
    store: Store, alias: Alias, folder: str, pointer: Pointer
) -> Iterator[Pointer]:
    """Yield the pointers that rollbacks of a domain return to, the latest first."""
    earlier: Pointer | None = pointer
    while earlier is not None and earlier.before is not None:
        if pointer.reach is not None and earlier.before < pointer.reach:
            return
        earlier = pointer_of(read_commit(store, earlier.before), alias, folder)
        if earlier is not None:
            yield earlier


def removed_since(store: Store, before: Commit | None, head: Commit | None) -> Iterator[str]:
    """Yield the stored bundles that gc removed after one commit, up to another.

    Args:
        store: store of the registry.
        before: the commit that was read earlier; None where there was none.
        head: the newest one.
    """
    first = before.generation + 1 if before else 1
    for generation in range(first, head.generation + 1 if head else 1):
        yield from read_commit(store, generation).removed


def folder_of(store: Store, head: Commit | None, alias: Alias, domain: str) -> str:
    """Return the folder name of a domain that has a pointer.

    Args:
        store: store of the registry, for messages.
        head: the newest commit.
        alias: alias whose pointers are read.
        domain: the domain's name as tables show it, or its folder name.

    Raises:
        BadRequest: the domain has no pointer; the message lists some that have one.
    """
    pointers = head.pointers.get(alias, {}) if head else {}
    for folder, pointer in pointers.items():
        if domain in (folder, pointer.name):
            return folder
    known = first_few(sorted(pointer.name for pointer in pointers.values())) or "none"
    raise BadRequest(
        f"domain={domain} has no {alias} in {store.uri}. Domains that have one: {known}"
    )


# ---------------------------------------------------------------- writing


def move_pointers(
    store: Store,
    action: Literal["promote", "rollback"],
    decide: Callable[[Commit | None], Sequence[Change]],
    *,
    expected: Commit | None,
    chains: Mapping[str, ChainState] | None = None,
) -> Commit | None:
    """Move pointers in one commit, if none of them moved since they were read.

    Pointers and chains of other domains may have moved in the meantime, and stay as they are now.
    Where another writer's commit comes first, `decide` is called again with that commit.

    Args:
        store: store of the registry.
        action: name of the action in the history.
        decide: returns at most one change for each alias and domain, given the newest commit.
        expected: the newest commit when the caller decided what to move; None: there was none.
        chains: folder name of a domain -> what its chain is to be from now on.

    Returns:
        The commit; None where nothing had to change.

    Raises:
        Overtaken: one of the pointers or chains moved since; nothing changed.
        BadRequest: bundles that cannot serve together would be pointed at, or the store cannot
            keep two writers apart; nothing changed.
    """
    chains = chains or {}
    for _ in range(_MAX_ATTEMPTS):
        head = read_head(store)
        changes = decide(head)
        stored = head.chains if head else {}
        if not changes and all(stored.get(folder) == c for folder, c in chains.items()):
            return None
        _check_same_chains(store, head, expected, chains)
        try:
            return append(store, head, _draft(store, action, changes, head, expected, chains))
        except NumberTaken as error:
            lost = error
    raise lost


def _draft(
    store: Store,
    action: Literal["promote", "rollback"],
    changes: Sequence[Change],
    head: Commit | None,
    expected: Commit | None,
    chains: Mapping[str, ChainState],
) -> "Draft":
    """Return the commit that makes some changes after `head`."""
    generation = head.generation + 1 if head else 1
    pointers = pointers_of(head)
    moves = []
    for change in changes:
        check_not_moved(store, head, expected, alias=change.alias, folder=change.folder)
        by_folder = pointers.setdefault(change.alias, {})
        old = by_folder.pop(change.folder, None)
        if change.entry is not None:
            by_folder[change.folder] = _pointer(change, change.entry, generation)
        moves.append(
            Move(
                alias=change.alias,
                folder=change.folder,
                before=old.bundle if old else None,
                after=change.entry.digest if change.entry else None,
                reason=change.reason,
            )
        )
    _check_forms(store, changes, pointers)
    return Draft(action=action, pointers=pointers, moves=moves, chains=chains)


def pointers_of(head: Commit | None) -> dict[Alias, dict[str, Pointer]]:
    """Return a copy of all pointers after a commit, to change."""
    return {alias: dict(by_folder) for alias, by_folder in head.pointers.items()} if head else {}


def _pointer(change: Change, entry: Entry, generation: int) -> Pointer:
    return Pointer(
        domain=entry.domain,
        bundle=entry.digest,
        stored=entry.stored,
        base_fingerprint=entry.lineage.base_fingerprint,
        form=entry.form,
        generation=generation,
        before=change.before,
        reach=change.reach,
    )


def check_not_moved(
    store: Store, head: Commit | None, expected: Commit | None, *, alias: Alias, folder: str
) -> None:
    """Refuse to go on from a pointer that moved since the caller read it.

    Args:
        store: store of the registry, for messages.
        head: the newest commit now.
        expected: the newest commit when the caller decided.
        alias: alias whose pointer is read.
        folder: folder name of the domain.

    Raises:
        Overtaken: the pointer moved between the two commits; the message says who moved it.
    """
    now, then = (pointer_of(commit, alias, folder) for commit in (head, expected))
    # gc rewrites `reach` of a pointer without a move, so the commits that set them are compared.
    if (now and now.generation) == (then and then.generation):
        return
    here, there = (f"at generation {p.generation}" if p else "absent" for p in (now, then))
    pointer = now or then
    domain = pointer.name if pointer else folder
    winner = read_commit(store, now.generation) if now else head
    who = f" ({winner.by}, {winner.at:%Y-%m-%d %H:%M:%S} UTC)" if winner else ""
    raise Overtaken(
        f"{store.uri}: another writer{who} moved the {alias} of {domain}: it was {there} when this "
        f"command read it and is {here} now (commit {head.generation if head else 0}). Nothing was "
        "changed. Look at it with `iak registry show`, then run the command again"
    )


def _check_same_chains(
    store: Store, head: Commit | None, expected: Commit | None, chains: Mapping[str, ChainState]
) -> None:
    """Refuse to write a chain over one that another writer has taken further.

    Raises:
        Overtaken: a chain moved since it was read, or has counted the night or a later one.
    """
    for folder, chain in chains.items():
        now, then = (commit.chains.get(folder) if commit else None for commit in (head, expected))
        if now != then or _is_ahead(now, chain):
            raise Overtaken(
                f"{store.uri}: another writer counted the nights of {chain.name} up to "
                f"{now.last_night if now else None}; this command has them up to "
                f"{chain.last_night}. Nothing was changed. Run the night again"
            )


def _is_ahead(now: ChainState | None, chain: ChainState) -> bool:
    """Return whether the registry has a night, or other evidence, that a chain lacks."""
    if now is None or now.base_fingerprint != chain.base_fingerprint:
        return False
    if now.last_night == chain.last_night:
        return now.log_wealth != chain.log_wealth
    return now.last_night > chain.last_night


def _check_forms(
    store: Store, changes: Sequence[Change], pointers: Mapping[Alias, Mapping[str, Pointer]]
) -> None:
    """Refuse pointers to bundles of one base that differ in form, since one bank serves them all.

    Bundles of another base may differ: a reader takes only those of its own base.
    """
    for change in changes:
        moved = pointers[change.alias].get(change.folder)
        for other in pointers[change.alias].values() if moved else ():
            assert moved is not None
            if other.base_fingerprint == moved.base_fingerprint and other.form != moved.form:
                raise BadRequest(
                    f"the {change.alias} of {moved.name} would be a bundle of other kernel.* "
                    f"settings than that of {other.name}, and bundles of one base serve together. "
                    f"Move all such domains of {store.uri} in one command (promote without "
                    "domains=, or rollback domain=[...] with all of them)"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """Content of a commit that is not yet written."""

    action: Literal["promote", "rollback", "gc"]
    pointers: dict[Alias, dict[str, Pointer]]
    moves: Sequence[Move] = ()
    removed: Sequence[str] = ()
    chains: Mapping[str, ChainState] = field(default_factory=dict)
    """Of the domains whose chain changes; the others stay as they are."""


def append(store: Store, head: Commit | None, draft: Draft) -> Commit:
    """Write the commit that follows `head`.

    Raises:
        NumberTaken: another writer's commit followed it first; nothing changed.
        BadRequest: the store cannot write a file under a name that must be free.
    """
    unsealed = Commit(
        generation=head.generation + 1 if head else 1,
        parent_sha256=head.sha256 if head else None,
        action=draft.action,
        at=datetime.now(UTC).replace(microsecond=0),
        by=f"{_user()}@{socket.gethostname()}",
        token=secrets.token_hex(8),
        moves=list(draft.moves),
        removed=list(draft.removed),
        pointers=draft.pointers,
        chains={**(head.chains if head else {}), **draft.chains},
        sha256=_ZEROS,
    )
    document = seal(unsealed.model_dump(mode="json"))
    try:
        store.create(_key(unsealed.generation), spelled(document))
    except FileExistsError as error:
        raise NumberTaken(
            f"{store.uri}: another writer wrote commit {unsealed.generation} first. Nothing was "
            "changed. Look at it with `iak registry show`, then run the command again"
        ) from error
    return Commit.model_validate(document)


def domain_name(domain: Sequence[tuple[str, str]]) -> str:
    """Return the name of a domain for tables and messages."""
    return Domain(tuple(domain)).name


def _key(generation: int) -> str:
    return f"{COMMITS}/{generation:010d}.json"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as containers have
        return "unknown"
