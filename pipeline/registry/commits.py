"""Read and write the history of a registry: numbered commits, each with all pointers.

    DIR/
        registry.json               this folder is a registry
        commits/0000000012.json     all pointers after promotion, rollback or gc number 12
        bundles/DIGEST/             stored bundles (stored_bundles.py)
        .lock                       lock of the one writer (lock.py)

The newest commit counts. A commit is written whole under a name that must be free. So a reader sees
all of a promotion of many domains or nothing. And a writer that stalls and wakes up finds its
number taken: it cannot overwrite a newer pointer, even on a file system whose locks do not work.
This module does not import torch, because a rollback has to be quick.
"""

import errno
import getpass
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ValidationError

from iak.pipeline.errors import BadRequest, Corrupt, OtherFormat, Overtaken
from iak.pipeline.files import not_permitted, put_new_file
from iak.pipeline.formats import Migration, current_document, unchanged
from iak.pipeline.sealed import check_seal, parsed, seal, spelled
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
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)
"""Errors of a file system without hard links: vfat, some of FUSE."""
_COMMIT_STEPS: Mapping[int, Migration] = {1: unchanged}
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


# ---------------------------------------------------------------- reading


def check_registry(root: Path) -> None:
    """Refuse a folder that is not a registry of this format.

    Raises:
        BadRequest: there is no registry.
        Corrupt, OtherFormat, NotPermitted: see `read_sealed`.
    """
    if not (root / MARKER).is_file():
        raise BadRequest(
            f"{root} is not a registry: it has no {MARKER}. Give the folder of one; the first "
            "`iak registry promote run=RUN registry=DIR` makes it"
        )
    read_sealed(root / MARKER, RegistryMarker, kind="registry", current=MARKER_FORMAT)


def make_registry(root: Path) -> None:
    """Make a folder a registry, unless it is one. The caller has its lock.

    Raises:
        BadRequest: the folder has other content.
    """
    if not (root / MARKER).exists():
        others = sorted(path.name for path in root.iterdir() if not path.name.startswith("."))
        if others:
            raise BadRequest(
                f"{root} is not a registry and holds other things: {', '.join(others[:5])}. Give "
                "an empty or new folder"
            )
        document = RegistryMarker(sha256=_ZEROS).model_dump(mode="json")
        _put_new(root, root / MARKER, spelled(seal(document)))
    check_registry(root)
    (root / COMMITS).mkdir(exist_ok=True)


def read_head(root: Path) -> Commit | None:
    """Return the newest commit; None in a registry that has none yet.

    Raises:
        BadRequest: there is no registry.
        Corrupt: it is not what was written, or an earlier commit is missing.
    """
    check_registry(root)
    numbers = _numbers(root)
    if not numbers:
        return None
    if missing := sorted(set(range(1, max(numbers) + 1)) - numbers):
        raise Corrupt(
            f"{root / COMMITS} lacks commit {missing[0]}, but has commit {max(numbers)}. Restore "
            f"{_file_name(missing[0])} from a copy"
        )
    return read_commit(root, max(numbers))


def read_commit(root: Path, generation: int) -> Commit:
    """Return one commit of the history.

    Raises:
        BadRequest: there is no commit of this number.
        Corrupt: it is not what was written.
    """
    path = root / COMMITS / _file_name(generation)
    if not path.is_file():
        raise BadRequest(
            f"{root} has no commit {generation}. `iak registry show registry={root}` lists them"
        )
    commit = read_sealed(
        path,
        Commit,
        kind="registry commit",
        current=COMMIT_FORMAT,
        migrations=_COMMIT_STEPS,
    )
    if commit.generation != generation:
        raise Corrupt(
            f"{path} is commit {commit.generation} under another name. Restore it from a copy"
        )
    return commit


def read_history(root: Path) -> Iterator[Commit]:
    """Yield every commit, oldest first, each compared with the one before it.

    Raises:
        Corrupt: a commit is missing, changed, or follows another one than it names.
    """
    head = read_head(root)
    before: Commit | None = None
    for generation in range(1, head.generation + 1 if head else 1):
        commit = read_commit(root, generation)
        if commit.parent_sha256 != (before.sha256 if before else None):
            raise Corrupt(
                f"{root / COMMITS / _file_name(generation)} does not follow the commit before it: "
                f"it names {commit.parent_sha256}, commit {generation - 1} has "
                f"{before.sha256 if before else None}. Restore both from a copy"
            )
        yield commit
        before = commit


def read_sealed(
    path: Path,
    model: type[M],
    *,
    kind: str,
    current: int,
    migrations: Mapping[int, Migration] | None = None,
) -> M:
    """Return a sealed document, after a check that its bytes were not changed.

    Args:
        path: path of the document.
        model: class that the document is validated as.
        kind: kind of document, for messages.
        current: format that this version writes.
        migrations: a format -> the step from it to the next one.

    Raises:
        Corrupt: it is missing, or a byte of it differs.
        OtherFormat: another version wrote it.
        NotPermitted: this user may not read it.
    """
    try:
        data = path.read_bytes()
        document = parsed(data)
        mend = "Read it with the version that wrote it"
        fields = current_document(
            document, kind=kind, current=current, where=path, mend=mend, migrations=migrations
        )
        check_seal(document, data)
        return model.model_validate(fields)
    except PermissionError as error:
        raise not_permitted(path, error) from error
    except OtherFormat as error:
        # A flipped byte may hit the number itself. So check the seal before believing the number.
        _check_seal_alone(path, data, error)
        raise
    except (OSError, ValueError, ValidationError) as error:
        raise Corrupt(
            f"{path} is not what was written: {error}. Restore it from a copy of the registry"
        ) from error


def _check_seal_alone(path: Path, data: bytes, error: Exception) -> None:
    """Refuse a damaged document, whatever its format says."""
    try:
        check_seal(parsed(data), data)
    except ValueError as damage:
        raise Corrupt(
            f"{path} is not what was written: {damage}. Restore it from a copy of the registry"
        ) from error


def pointer_of(commit: Commit | None, alias: Alias, folder: str) -> Pointer | None:
    """Return a domain's pointer after a commit; None where it has none."""
    return commit.pointers.get(alias, {}).get(folder) if commit else None


def earlier_pointers(
    root: Path, alias: Alias, folder: str, pointer: Pointer | None
) -> Iterator[Pointer]:
    """Yield the pointers that rollbacks of a domain would return to, nearest first."""
    while pointer is not None and pointer.before is not None:
        pointer = pointer_of(read_commit(root, pointer.before), alias, folder)
        if pointer is not None:
            yield pointer


def folder_of(root: Path, head: Commit | None, alias: Alias, domain: str) -> str:
    """Return the folder name of a domain that has a pointer.

    Args:
        root: folder of the registry, for messages.
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
    known = ", ".join(sorted(pointer.name for pointer in pointers.values())[:5]) or "none"
    raise BadRequest(
        f"domain={domain} has no {alias} in {root}. Domains that have one: {known}"
        f"{f' and {len(pointers) - 5} more' if len(pointers) > 5 else ''}"
    )


# ---------------------------------------------------------------- writing


def move_pointers(
    root: Path,
    action: Literal["promote", "rollback"],
    changes: Sequence[Change],
    *,
    expected: Commit | None,
    chains: Mapping[str, ChainState] | None = None,
) -> Commit:
    """Move pointers in one step, if none of them moved since they were read.

    The caller has the registry's lock. Pointers of other domains may have moved in the meantime.
    They stay as they are now. So do the chains of other domains.

    Args:
        root: folder of the registry.
        action: name of the action in the history.
        changes: at most one for each alias and domain.
        expected: the newest commit when the caller decided; None: there was none.
        chains: folder name of a domain -> what its chain is to be from now on.

    Raises:
        Overtaken: one of the pointers or chains moved since; nothing changed.
        BadRequest: bundles that cannot serve together would be pointed at; nothing changed.
    """
    head = read_head(root)
    generation = head.generation + 1 if head else 1
    pointers = (
        {alias: dict(by_folder) for alias, by_folder in head.pointers.items()} if head else {}
    )
    moves = []
    for change in changes:
        check_not_moved(root, head, expected, alias=change.alias, folder=change.folder)
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
    _check_forms(root, changes, pointers)
    _check_same_chains(root, head, expected, chains or {})
    return append(
        root, head, Draft(action=action, pointers=pointers, moves=moves, chains=chains or {})
    )


def _pointer(change: Change, entry: Entry, generation: int) -> Pointer:
    return Pointer(
        domain=entry.domain,
        bundle=entry.digest,
        base_fingerprint=entry.lineage.base_fingerprint,
        form=entry.form,
        generation=generation,
        before=change.before,
    )


def check_not_moved(
    root: Path, head: Commit | None, expected: Commit | None, *, alias: Alias, folder: str
) -> None:
    """Refuse to go on from a pointer that moved since the caller read it.

    Args:
        root: folder of the registry, for messages.
        head: the newest commit now.
        expected: the newest commit when the caller decided.
        alias: alias whose pointer is read.
        folder: folder name of the domain.

    Raises:
        Overtaken: the pointer moved between the two commits.
    """
    now, then = (pointer_of(commit, alias, folder) for commit in (head, expected))
    if now == then:
        return
    here, there = (f"at generation {p.generation}" if p else "absent" for p in (now, then))
    pointer = now or then
    domain = pointer.name if pointer else folder
    raise Overtaken(
        f"{root}: another writer moved the {alias} of {domain}: it was {there} when this "
        f"command read it and is {here} now (commit {head.generation if head else 0}). Nothing was "
        "changed. Look at it with `iak registry show`, then run the command again"
    )


def _check_same_chains(
    root: Path, head: Commit | None, expected: Commit | None, chains: Mapping[str, ChainState]
) -> None:
    """Refuse to write a chain over one that another writer has taken further.

    Raises:
        Overtaken: a chain moved since it was read, or has counted the night or a later one.
    """
    for folder, chain in chains.items():
        now, then = (commit.chains.get(folder) if commit else None for commit in (head, expected))
        if now != then or _is_ahead(now, chain):
            raise Overtaken(
                f"{root}: another writer counted the nights of {chain.name} up to "
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
    root: Path, changes: Sequence[Change], pointers: Mapping[Alias, Mapping[str, Pointer]]
) -> None:
    """Refuse pointers to bundles of one base that differ in form: they are served as one bank.

    Bundles of another base are not looked at: a reader takes only those of its own.
    """
    for change in changes:
        moved = pointers[change.alias].get(change.folder)
        for other in pointers[change.alias].values() if moved else ():
            assert moved is not None
            if other.base_fingerprint == moved.base_fingerprint and other.form != moved.form:
                raise BadRequest(
                    f"the {change.alias} of {moved.name} would be a bundle of other kernel.* "
                    f"settings than that of {other.name}, and bundles of one base serve together. "
                    f"Move all such domains of {root} in one command (promote without domains=, "
                    "or rollback domain=[...] with all of them)"
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


def append(root: Path, head: Commit | None, draft: Draft) -> Commit:
    """Write the commit that follows `head`.

    Raises:
        Overtaken: another writer's commit followed it first; nothing changed.
        BadRequest: the file system cannot write a file under a name that must be free.
    """
    unsealed = Commit(
        generation=head.generation + 1 if head else 1,
        parent_sha256=head.sha256 if head else None,
        action=draft.action,
        at=datetime.now(UTC).replace(microsecond=0),
        by=f"{_user()}@{socket.gethostname()}",
        moves=list(draft.moves),
        removed=list(draft.removed),
        pointers=draft.pointers,
        chains={**(head.chains if head else {}), **draft.chains},
        sha256=_ZEROS,
    )
    document = seal(unsealed.model_dump(mode="json"))
    path = root / COMMITS / _file_name(unsealed.generation)
    try:
        _put_new(root, path, spelled(document))
    except FileExistsError as error:
        raise Overtaken(
            f"{root}: another writer wrote commit {unsealed.generation} first. Nothing was "
            "changed. Look at it with `iak registry show`, then run the command again"
        ) from error
    return Commit.model_validate(document)


def _put_new(root: Path, path: Path, content: bytes) -> None:
    """Write a file under a name that must be free; raise where this file system cannot."""
    try:
        put_new_file(path, content)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        raise BadRequest(
            f"{root} lies on a file system that makes no hard links ({error.strerror}), so that "
            "two promotions at once could overwrite each other. Nothing was changed. Put the "
            "registry on a local disk, NFS or another file system that makes them"
        ) from error


def domain_name(domain: Sequence[tuple[str, str]]) -> str:
    """Return the name of a domain for tables and messages."""
    return Domain(tuple(domain)).name


def _numbers(root: Path) -> set[int]:
    """Return the numbers of all commits."""
    folder = root / COMMITS
    names = (path.name for path in folder.iterdir()) if folder.is_dir() else ()
    return {int(match[1]) for name in names if (match := _NAME.match(name))}


def _file_name(generation: int) -> str:
    return f"{generation:010d}.json"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as containers have
        return "unknown"
