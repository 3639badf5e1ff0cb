"""Resolve an alias: make a folder of the bundles that it points at now, for a run to read."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from iak.pipeline.errors import BadRequest, Corrupt, WrongBase
from iak.pipeline.files import putting_folder, remove_parts
from iak.pipeline.publish.bundle_index import write_index
from iak.pipeline.registry.commits import read_head
from iak.pipeline.registry.stored_bundles import fetch_stored, read_entry
from iak.pipeline.storage.store import Store, map_concurrently
from iak.schemas.paths import reference_text
from iak.schemas.registry import ALIASES, Alias, Commit, Pointer

MAX_ATTEMPTS = 3
"""Most times that the bundles are read, where gc removes one of them meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedAlias:
    """The commit whose pointers were followed, and the domains that were left out."""

    generation: int
    """The commit that was read."""
    stored: Mapping[str, str]
    """Folder name of each domain -> name of the stored bundle that its pointer means."""
    of_other_bases: tuple[str, ...]
    """Domains that are left out: their bundle runs on another base."""


def resolve(store: Store, alias: Alias, to: Path, *, base_fingerprint: str) -> ResolvedAlias:
    """Make a folder of the bundles of an alias that run on a base.

    The folder has hard links to the stored files, or copies where the file system makes no links
    or the registry is in a bucket, and an index as a night's bundles have. Later changes of the
    registry do not change it.

    Args:
        store: store of the registry.
        alias: alias whose pointers are read.
        to: the folder; it is replaced.
        base_fingerprint: fingerprint of the base that the bundles will run on.

    Raises:
        BadRequest: there is no registry, or the alias has no pointer.
        WrongBase: every bundle of the alias runs on another base.
        Corrupt: a stored bundle or a document of the registry is damaged.
    """

    def link(head: Commit | None) -> ResolvedAlias:
        resolved = _meaning(store, head, alias, base_fingerprint)
        _fetch(store, resolved.stored.values(), to, indexed=True)
        return resolved

    return _with_newest(store, link)


def resolve_moved(
    store: Store, alias: Alias, to: Path, *, base_fingerprint: str, since: ResolvedAlias
) -> ResolvedAlias:
    """Make a folder of the bundles whose pointers moved, and of no others.

    The folder has no index. Of bundles that did not move, nothing is read.

    Args:
        store: store of the registry.
        alias: alias whose pointers are read.
        to: the folder; it is replaced.
        base_fingerprint: fingerprint of the base that the bundles will run on.
        since: what the alias meant before.

    Raises:
        BadRequest, WrongBase, Corrupt: see `resolve`.
    """
    present = set(since.stored.values())

    def link(head: Commit | None) -> ResolvedAlias:
        resolved = _meaning(store, head, alias, base_fingerprint)
        moved = [stored for stored in resolved.stored.values() if stored not in present]
        _fetch(store, moved, to, indexed=False)
        return resolved

    return _with_newest(store, link)


def alias_of(path: Path, name: str, *, setting: str) -> Alias:
    """Return the alias that a reference names.

    Args:
        path: the whole reference, for the message.
        name: the part of the reference behind `@`.
        setting: setting that has the reference, for the message.

    Raises:
        BadRequest: it is no alias.
    """
    for alias in ALIASES:
        if name == alias:
            return alias
    raise BadRequest(
        f"{setting}={reference_text(path)} names no alias of a registry; expected "
        "registry:PLACE@champion or registry:PLACE@candidate"
    )


def manifests_of(store: Store, alias: Alias, *, base_fingerprint: str) -> dict[str, str]:
    """Return folder name -> SHA-256 of the manifest, of the bundles `resolve` would link now."""
    pointers, _ = _pointers(store, read_head(store), alias, base_fingerprint)
    entries = map_concurrently(store, lambda p: read_entry(store, p.stored), pointers.values())
    return {e.folder: f.sha256 for e in entries for f in e.files if f.name == "manifest.json"}


def _with_newest(store: Store, link: Callable[[Commit | None], ResolvedAlias]) -> ResolvedAlias:
    """Link the bundles of the newest commit, again where gc removed one of them meanwhile."""
    for _ in range(MAX_ATTEMPTS - 1):
        head = read_head(store)
        try:
            return link(head)
        except Corrupt:
            # The pointer may have moved meanwhile, and gc may have removed the bundle. Without a
            # new commit the bundle is damaged.
            if read_head(store) == head:
                raise
    return link(read_head(store))


def _meaning(
    store: Store, head: Commit | None, alias: Alias, base_fingerprint: str
) -> ResolvedAlias:
    """Return the bundles that the pointers of a commit mean. None of them is read."""
    pointers, others = _pointers(store, head, alias, base_fingerprint)
    assert head is not None, "an alias without a commit has no pointer"
    return ResolvedAlias(
        generation=head.generation,
        stored={folder: pointer.stored for folder, pointer in pointers.items()},
        of_other_bases=others,
    )


def _fetch(store: Store, stored: Iterable[str], to: Path, *, indexed: bool) -> None:
    """Put stored bundles into a folder, every byte verified, with an index where it is asked."""
    remove_parts(to)
    with putting_folder(to) as built:
        for _ in map_concurrently(store, lambda name: fetch_stored(store, name, built), stored):
            pass
        if indexed:
            write_index(built)


def _pointers(
    store: Store, head: Commit | None, alias: Alias, base_fingerprint: str
) -> tuple[dict[str, Pointer], tuple[str, ...]]:
    """Return the pointers for a base by folder name, and the domains of those for another one."""
    pointers = head.pointers.get(alias, {}) if head else {}
    if not pointers:
        raise BadRequest(
            f"{store.uri} has no {alias}: nothing was promoted to it. `iak registry promote "
            f"run=RUN registry={store.uri} alias={alias}` does"
        )
    kept = {f: p for f, p in pointers.items() if p.base_fingerprint == base_fingerprint}
    if not kept:
        bases = sorted({p.base_fingerprint for p in pointers.values()})
        raise WrongBase(
            f"every {alias} of {store.uri} was tuned on another base ({', '.join(bases)}), but the "
            f"base here is {base_fingerprint}. Load the base they name, or promote a run on this "
            "one"
        )
    others = tuple(p.name for p in pointers.values() if p.base_fingerprint != base_fingerprint)
    return kept, others
