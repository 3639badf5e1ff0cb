"""Promote: store the bundles of a night, then point an alias at them in one step."""

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from iak.pipeline.errors import BadRequest, Corrupt
from iak.pipeline.first_few import first_few
from iak.pipeline.fresh.state import STATISTICS, read_state
from iak.pipeline.publish.bundle import (
    MANIFEST,
    WEIGHTS,
    read_bundle,
    read_manifest,
    weights_digest,
)
from iak.pipeline.publish.bundle_index import read_index
from iak.pipeline.registry.commits import (
    Change,
    check_not_moved,
    domain_name,
    is_registry,
    make_registry,
    move_pointers,
    pointer_of,
    read_head,
    removed_since,
)
from iak.pipeline.registry.stored_bundles import put_stored, verify_stored
from iak.pipeline.storage.store import Store, map_concurrently
from iak.schemas.chain import ChainState
from iak.schemas.manifest import BundleEntry, BundleManifest
from iak.schemas.registry import (
    ALIASES,
    Alias,
    Commit,
    Entry,
    Lineage,
    Pointer,
    StoredFile,
    bundle_digest,
    form_of,
)
from iak.schemas.shadow import ShadowDocument
from iak.schemas.tuning import KernelResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The run whose bundles are promoted, with the facts for their lineage."""

    name: str
    """Its run folder."""
    bundles: Path
    """Its folder of bundles."""
    base: str | None
    """Location of the base that it ran on, from its record; None where it is not there now."""
    index_sha256: str | None
    """SHA-256 of the bundles' index in the run's record; None where the record has none."""
    record_sha256: str | None
    code: str | None
    """Commit of the code that ran."""
    parents: Mapping[str, str]
    """Folder name of a domain -> digest of the live bundle that its tuning started from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Promotion:
    """Result of a promotion."""

    commit: Commit | None
    """The new commit; None where nothing had to move."""
    moved: tuple[str, ...]
    """Domains whose pointer moved."""
    forced: tuple[str, ...]
    """Domains among them whose bundle the gate had held."""
    unchanged: tuple[str, ...]
    """Domains whose pointer already pointed at the same bundle."""
    held: Mapping[str, str]
    """Domain that was left out because the gate held it -> the gate's reason."""
    withdrawn: tuple[str, ...] = ()
    """Folder names of domains whose kernel serves no longer."""


@dataclass(frozen=True, slots=True)
class _VerifiedBundle:
    """A bundle of the run, every byte of it verified."""

    manifest: BundleManifest
    contents: Mapping[str, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainsOfNight:
    """Decisions of a night's gate beside its bundles, written in the commit of the promotion."""

    chains: Mapping[str, ChainState]
    """Folder name of a domain -> its chain after the night, also of domains that were held."""
    withdrawn: Mapping[str, str] = field(default_factory=dict)
    """Folder name of a domain whose kernel is to serve no longer -> why."""

    @classmethod
    def of(cls, kernels: Iterable[KernelResult]) -> "ChainsOfNight":
        """Return what a run's gate decided on chains; nothing where it judged one night alone."""
        judged = {kernel.bundle: kernel.chain for kernel in kernels if kernel.chain is not None}
        return cls(
            chains={folder: c.state for folder, c in judged.items() if c.state is not None},
            withdrawn={f: c.sentence for f, c in judged.items() if c.outcome == "fall_back"},
        )


NO_CHAINS = ChainsOfNight(chains={})
"""Of a promotion by hand, which counts no night."""


def promote_run(
    store: Store,
    run: Run,
    alias: Alias,
    *,
    domains: Collection[str] | None,
    force: bool,
    night: ChainsOfNight = NO_CHAINS,
    replay: ShadowDocument | None = None,
) -> Promotion:
    """Store what the gate published in a run, and point `alias` at it.

    Readers see the present pointers until the commit is written, and then all new ones.

    Args:
        store: store of the registry, which is made when it is missing.
        run: run whose bundles are promoted.
        alias: alias whose pointers move.
        domains: names of the domains to promote; None: all that the gate published.
        force: also take bundles that the gate held.
        night: chains to write, and pointers to remove, in the same commit. The chains are written
            even if no pointer moves, because a held night has been counted too.
        replay: what `iak shadow` wrote of these bundles, which must have passed; None asks for
            none.

    Raises:
        BadRequest: a named domain has no bundle in the run or was held, bundles of two forms would
            serve together, or the replay did not pass.
        Corrupt: a bundle is not what the run published, or a document of the registry is damaged.
        Overtaken: another writer moved one of the pointers or chains in the meantime.
    """
    expected = read_head(store) if is_registry(store) else None
    chosen, held = choose_bundles(run, domains, force=force)
    bundles = [_read_verified(run.bundles / entry.folder) for entry in chosen]
    digests = [bundle_digest(bundle.manifest) for bundle in bundles]
    names = [domain_name(entry.domain) for entry in chosen]
    check_replayed(replay, dict(zip(names, digests, strict=True)))
    if not bundles and night == NO_CHAINS:
        return Promotion(commit=None, moved=(), forced=(), unchanged=(), held=held)
    store.check_creates_once()
    with store.one_writer():
        make_registry(store)
        pending = _Pending(store, alias, run, bundles, known_head=expected)
        return _point(store, alias, pending.entries, expected=expected, held=held, night=night)


def promote_alias(
    store: Store,
    source: Alias,
    alias: Alias,
    *,
    domains: Collection[str] | None,
    force: bool,
    replay: ShadowDocument | None = None,
) -> Promotion:
    """Point `alias` at the bundles that `source` points at now.

    Args:
        store: store of the registry.
        source: alias whose bundles are promoted.
        alias: alias whose pointers move.
        domains: names of the domains to promote; None: all that `source` has.
        force: also take bundles that the gate held.
        replay: what `iak shadow` wrote of these bundles, which must have passed; None asks for
            none.

    Raises:
        BadRequest: a named domain has none or was held, bundles of two forms would serve together,
            or the replay did not pass.
        Corrupt: a stored bundle or a document of the registry is damaged.
        Overtaken: another writer moved one of the pointers in the meantime.
    """
    expected = read_head(store)
    pointers = expected.pointers.get(source, {}) if expected else {}
    by_name = {pointer.name: pointer for pointer in pointers.values()}
    _check_known(by_name, domains, where=f"the {source} pointers of {store.uri}")
    store.check_creates_once()
    with store.one_writer():
        names = [by_name[name].stored for name in domains or by_name]
        entries = list(map_concurrently(store, lambda stored: verify_stored(store, stored), names))
        held = {domain_name(e.domain): e.reason for e in entries if not e.published and not force}
        _check_held(held, domains)
        kept = [entry for entry in entries if entry.published or force]
        check_replayed(replay, {domain_name(entry.domain): entry.digest for entry in kept})

        def still_pointed_at(head: Commit | None) -> list[Entry]:
            for entry in kept:  # gc may remove a bundle that the source no longer points at
                check_not_moved(store, head, expected, alias=source, folder=entry.folder)
            return kept

        return _point(store, alias, still_pointed_at, expected=expected, held=held)


def check_replayed(replay: ShadowDocument | None, digests: Mapping[str, str]) -> None:
    """Refuse bundles whose replay did not pass.

    Args:
        replay: what `iak shadow` wrote; None asks for none.
        digests: domain -> digest of its bundle, of all that are promoted.

    Raises:
        BadRequest: it looked at no limit, one was exceeded, or its candidate had another bundle.
    """
    if replay is None:
        return
    if not replay.limits.bounds_something:
        raise BadRequest(
            "the replay of shadow= looked at no limit, so it cannot have passed. Replay again with "
            "limits.mean_change= or another limit"
        )
    if replay.exceeded:
        first = replay.exceeded[0]
        where = f" by {first.task} of {first.domain}" if first.domain else ""
        more = f", and {len(replay.exceeded) - 1} more" if len(replay.exceeded) > 1 else ""
        raise BadRequest(
            f"the replay of shadow= did not pass: limits.{first.limit} allows {first.allowed:g}, "
            f"and {first.seen:g} was seen{where}{more}. Promote other kernels, or leave shadow= out"
        )
    other = [name for name, digest in digests.items() if replay.kernels.get(name) != digest]
    if other:
        raise BadRequest(
            f"the replay of shadow= had other bundles of {first_few(sorted(other))} or none. "
            "Replay what is promoted: `iak shadow candidate=` takes the same run or alias"
        )


def choose_bundles(
    run: Run, domains: Collection[str] | None, *, force: bool
) -> tuple[list[BundleEntry], dict[str, str]]:
    """Return the bundles to promote, and the gate's reason for each one left out."""
    index = read_index(run.bundles)
    if run.index_sha256 is not None and index.sha256 != run.index_sha256:
        raise Corrupt(
            f"{run.bundles} is not what {run.name} wrote: its index has SHA-256 {index.sha256}, "
            f"the run's record says {run.index_sha256}. Restore it from a copy, or tune again"
        )
    by_name = {domain_name(entry.domain): entry for entry in index.bundles}
    _check_known(by_name, domains, where=str(run.bundles))
    asked = {name: by_name[name] for name in (by_name if domains is None else domains)}
    kept = [entry for entry in asked.values() if entry.published or force]
    held = {name: entry for name, entry in asked.items() if not entry.published and not force}
    reasons = {
        name: read_manifest(run.bundles / entry.folder).verdict.reason
        for name, entry in held.items()
    }
    _check_held(reasons, domains)
    return kept, reasons


def _check_known(known: Collection[str], domains: Collection[str] | None, *, where: str) -> None:
    """Refuse names of domains that have no bundle."""
    if unknown := [name for name in domains or () if name not in known]:
        raise BadRequest(
            f"domains={', '.join(unknown)}: there is no such bundle in {where}. It has "
            f"{first_few(sorted(known)) or 'none'}"
        )


def _check_held(reasons: Mapping[str, str], domains: Collection[str] | None) -> None:
    """Refuse domains that the caller named and that the gate held."""
    if domains is not None and reasons:
        listing = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        raise BadRequest(
            f"the gate held {listing}. Leave these domains out, or promote them against the gate "
            "with force=true"
        )


def _read_verified(folder: Path) -> _VerifiedBundle:
    """Read a bundle of a run, and compare its tensors with the digest that will name it."""
    # Read once into memory: what is stored are these bytes, whoever writes the folder meanwhile.
    contents = {name: (folder / name).read_bytes() for name in (MANIFEST, WEIGHTS)}
    manifest = BundleManifest.model_validate_json(contents[MANIFEST])
    if (entry := manifest.statistics) is not None:
        read_state(folder / STATISTICS, definition=entry.definition, id=entry.state)
        contents[STATISTICS] = (folder / STATISTICS).read_bytes()
    on = {"base_fingerprint": manifest.base_fingerprint, "schema_hash": manifest.schema_hash}
    bundle = read_bundle(folder, **on)
    weights = hashlib.sha256(contents[WEIGHTS]).hexdigest()
    if bundle.manifest != manifest or weights != manifest.weights_sha256:
        raise Corrupt(f"{folder} changed while it was read. Promote again when nobody writes it")
    digest = weights_digest(bundle.tensors)
    if digest != manifest.weights_digest:
        raise Corrupt(
            f"{folder / WEIGHTS} holds tensors of digest {digest}, the manifest says "
            f"{manifest.weights_digest}. Publish the domain again"
        )
    return _VerifiedBundle(manifest, contents)


def _unsealed(bundle: _VerifiedBundle, run: Run) -> Entry:
    """Return a bundle's entry, without its own digest and without a name."""
    manifest = bundle.manifest
    return Entry(
        digest=bundle_digest(manifest),
        stored=f"{'0' * 64}-{'0' * 16}",  # put_stored draws it
        folder=manifest.name,
        domain=[(key, manifest.domain[key]) for key in manifest.level],
        form=form_of(manifest),
        files=[
            StoredFile(name=name, sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
            for name, data in bundle.contents.items()
        ],
        published=manifest.verdict.publish,
        reason=manifest.verdict.reason,
        gain=manifest.verdict.gain,
        lineage=Lineage(
            base_fingerprint=manifest.base_fingerprint,
            base=run.base,
            schema_hash=manifest.schema_hash,
            parent=run.parents.get(manifest.name),
            data_window=manifest.data_window,
            run=run.name,
            record_sha256=run.record_sha256,
            code=run.code,
            tuned_at=manifest.created_at,
            added_at=datetime.now(UTC).replace(microsecond=0),
        ),
        sha256="0" * 64,  # and computes it
    )


@dataclass(slots=True)
class _Pending:
    """The bundles of a run while they are stored in a registry."""

    store: Store
    alias: Alias
    run: Run
    bundles: Sequence[_VerifiedBundle]
    known_head: Commit | None
    """The commit up to which removals by gc are known."""
    uploaded: dict[str, Entry] = field(default_factory=dict)
    """Digest -> entry of a bundle that this command has stored."""

    def entries(self, head: Commit | None) -> list[Entry]:
        """Return the entries of all bundles, after storing those that `head` does not point at."""
        # gc of another writer may have removed what no commit pointed at yet.
        gone = set(removed_since(self.store, self.known_head, head))
        self.uploaded = {d: e for d, e in self.uploaded.items() if e.stored not in gone}
        self.known_head = head
        return list(
            map_concurrently(self.store, lambda bundle: self._entry(head, bundle), self.bundles)
        )

    def _entry(self, head: Commit | None, bundle: _VerifiedBundle) -> Entry:
        """Return the entry of a stored bundle that a pointer points at, or store this one."""
        digest = bundle_digest(bundle.manifest)
        if digest in self.uploaded:
            return self.uploaded[digest]
        for alias in (self.alias, *ALIASES):
            pointer = pointer_of(head, alias, bundle.manifest.name)
            if pointer is not None and pointer.bundle == digest:
                try:
                    return verify_stored(self.store, pointer.stored)
                except Corrupt:
                    break  # store the run's copy, which was verified, beside the damaged one
        entry = put_stored(self.store, _unsealed(bundle, self.run), bundle.contents)
        self.uploaded[digest] = entry
        return entry


def _point(
    store: Store,
    alias: Alias,
    entries_at: Callable[[Commit | None], Sequence[Entry]],
    *,
    expected: Commit | None,
    held: Mapping[str, str],
    night: ChainsOfNight = NO_CHAINS,
) -> Promotion:
    """Move the pointers of all entries that are not pointed at yet.

    Args:
        store: store of the registry.
        alias: alias whose pointers move.
        entries_at: returns what is promoted, given the newest commit.
        expected: the newest commit when the caller read the pointers.
        held: domain that is left out -> the gate's reason.
        night: chains to write and pointers to remove in the same commit.
    """
    entries: dict[str, Entry] = {}
    moving: list[str] = []
    withdrawn: list[str] = []

    # Called again for each commit that another writer makes first. The lists have its last result.
    def decide(head: Commit | None) -> list[Change]:
        entries.update({entry.folder: entry for entry in entries_at(head)})
        changes = []
        for entry in entries.values():
            check_not_moved(store, head, expected, alias=alias, folder=entry.folder)
            old = pointer_of(head, alias, entry.folder)
            if old is None or old.stored != entry.stored:
                changes.append(_change(alias, entry, old))
        moving[:] = [change.folder for change in changes]
        removals = _withdrawals(alias, night, head, moving)
        withdrawn[:] = [change.folder for change in removals]
        return changes + removals

    commit = move_pointers(store, "promote", decide, expected=expected, chains=night.chains)
    names = {folder: domain_name(entry.domain) for folder, entry in entries.items()}
    return Promotion(
        commit=commit,
        moved=tuple(names[folder] for folder in moving),
        forced=tuple(names[folder] for folder in moving if not entries[folder].published),
        unchanged=tuple(name for folder, name in names.items() if folder not in moving),
        withdrawn=tuple(withdrawn),
        held=held,
    )


def _withdrawals(
    alias: Alias, night: ChainsOfNight, head: Commit | None, moving: Collection[str]
) -> list[Change]:
    """Return the removals of pointers that a night asks for, of domains that have one."""
    asked = {f: why for f, why in night.withdrawn.items() if f not in moving}
    return [
        Change(alias=alias, folder=folder, entry=None, before=None, reach=None, reason=why)
        for folder, why in asked.items()
        if pointer_of(head, alias, folder) is not None
    ]


def _change(alias: Alias, entry: Entry, old: Pointer | None) -> Change:
    reason, before = entry.reason, old.generation if old else None
    if not entry.published:
        reason = f"held by the gate, promoted by force: {reason}"
    if old is not None and old.bundle == entry.digest:
        # The bundle stays the same, so a rollback must return to the one before it.
        reason, before = f"stored again, its copy was damaged: {reason}", old.before
    return Change(
        alias=alias,
        folder=entry.folder,
        entry=entry,
        before=before,
        reach=old.reach if old else None,
        reason=reason,
    )
