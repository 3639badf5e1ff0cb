"""Promote a night: move the pointers to all kernels that its gate published, in one commit."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from iak.pipeline.errors import PipelineError
from iak.pipeline.publish.bundle import read_bundle, read_manifest
from iak.pipeline.publish.bundle_index import read_index
from iak.pipeline.registry.commits import domain_name, pointer_of, read_commit
from iak.pipeline.registry.live import registry_head
from iak.pipeline.registry.promote import ChainsOfNight, Run, promote_run
from iak.pipeline.storage.store import Store
from iak.schemas.manifest import BundlesIndex
from iak.schemas.registry import Commit, bundle_digest


@dataclass(frozen=True, slots=True, kw_only=True)
class NightPromotion:
    """The result of a night's promotion."""

    promoted: tuple[str, ...] = ()
    """Domains whose new kernel serves."""
    held: Mapping[str, str] = field(default_factory=dict)
    """Domains whose kernel the gate published and that is not promoted, with the reason: a replay
    held it, or another writer moved the pointer while the night ran."""
    failed: Mapping[str, str] = field(default_factory=dict)
    """Domains whose bundle is damaged, with the reason."""
    candidates: Mapping[str, str] = field(default_factory=dict)
    """Domain that was tuned -> digest of its bundle."""
    generation: int | None = None
    """Number of the commit; None where nothing moved and no chain changed."""


def promote_night(
    store: Store,
    run: Run,
    expected: Commit | None,
    decided: ChainsOfNight,
    *,
    held_by_replay: Mapping[str, str] = MappingProxyType({}),
) -> NightPromotion:
    """Promote the kernels that the gate published. A failed domain stops no other domain.

    A promotion that was interrupted is repeated. Pointers that it moved already stay.

    Args:
        store: store of the registry, which is made when it is missing.
        run: the night's tuning.
        expected: the registry's newest commit when the night was planned.
        decided: chains after the night, and kernels that are to serve no longer.
        held_by_replay: domain whose kernel is not to be promoted -> why. Its chain stays as it is.

    Raises:
        Corrupt: the run's index is not what the run wrote.
        Overtaken: another writer moved a pointer in this very moment; run the night again.
    """
    index = read_index(run.bundles)
    names = {e.folder: domain_name(e.domain) for e in index.bundles}
    manifests = {folder: read_manifest(run.bundles / folder) for folder in names}
    candidates = {folder: bundle_digest(manifest) for folder, manifest in manifests.items()}
    published = [e.folder for e in index.bundles if e.published]
    moving = [*published, *decided.withdrawn]
    held = {folder: held_by_replay[n] for folder, n in names.items() if n in held_by_replay}
    held |= _moved_meanwhile(store, moving, candidates, expected, decided.withdrawn)
    failed = _damaged(run.bundles, index, published)
    excluded = {*held, *failed}
    decided = _without(decided, excluded)
    serving = {folder: candidates[folder] for folder in published if folder not in excluded}
    done = promote_run(
        store,
        run,
        "champion",
        domains=[names[folder] for folder in serving],
        force=False,
        night=decided,
    )
    # Nothing moves in a repeated promotion: the commit of the first attempt is the night's.
    commit = done.commit or _commit_before_interruption(store, expected, serving, decided)
    return NightPromotion(
        promoted=(*done.moved, *done.unchanged),
        held={names[folder]: reason for folder, reason in held.items()},
        failed={names[folder]: reason for folder, reason in failed.items()},
        candidates={names[folder]: digest for folder, digest in candidates.items()},
        generation=commit.generation if commit else None,
    )


def _commit_before_interruption(
    store: Store, expected: Commit | None, serving: Mapping[str, str], decided: ChainsOfNight
) -> Commit | None:
    """Return the commit that this night made before it was interrupted; None where it made none.

    Args:
        store: store of the registry.
        expected: the newest commit when the night was planned.
        serving: folder name of a domain -> digest of the bundle that the night promoted.
        decided: chains and withdrawals that the night wrote in the same commit.
    """
    if not serving and not decided.chains:
        return None
    head = registry_head(store)
    first = expected.generation + 1 if expected else 1
    for generation in range(first, head.generation + 1 if head else first):
        commit = read_commit(store, generation)
        pointers = {folder: pointer_of(commit, "champion", folder) for folder in serving}
        is_serving = all(p and p.bundle == serving[folder] for folder, p in pointers.items())
        if is_serving and all(commit.chains.get(f) == c for f, c in decided.chains.items()):
            return commit
    return None


def _without(decided: ChainsOfNight, excluded: Collection[str]) -> ChainsOfNight:
    """Return what the gate decided on the other domains."""
    kept = [folder for folder in decided.chains if folder not in excluded]
    withdrawn = [folder for folder in decided.withdrawn if folder not in excluded]
    return ChainsOfNight(
        chains={folder: decided.chains[folder] for folder in kept},
        withdrawn={folder: decided.withdrawn[folder] for folder in withdrawn},
    )


def _moved_meanwhile(
    store: Store,
    moving: Collection[str],
    candidates: Mapping[str, str],
    expected: Commit | None,
    withdrawn: Collection[str],
) -> dict[str, str]:
    """Return folder -> reason, where another writer moved the pointer since the night was planned.

    A move that this night itself made before it was interrupted does not count.
    """
    head = registry_head(store)
    moved: dict[str, str] = {}
    for folder in moving:
        now, then = (pointer_of(commit, "champion", folder) for commit in (head, expected))
        is_same = (now and now.generation) == (then and then.generation)
        is_own = folder in withdrawn if now is None else now.bundle == candidates[folder]
        if is_same or is_own:
            continue
        where = f"commit {now.generation}" if now else "a rollback that removed it"
        moved[folder] = (
            f"its pointer was moved while the night ran, by {where}; what was moved there serves on"
        )
    return moved


def _damaged(bundles: Path, index: BundlesIndex, published: Collection[str]) -> dict[str, str]:
    """Return the folders of published bundles whose bytes are not what their manifest says."""
    damaged: dict[str, str] = {}
    for folder in published:
        try:
            read_bundle(
                bundles / folder,
                base_fingerprint=index.base_fingerprint,
                schema_hash=index.schema_hash,
            )
        except (PipelineError, OSError) as error:
            damaged[folder] = f"its bundle cannot be read: {error}"
    return damaged
