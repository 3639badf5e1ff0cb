"""Promote a night: the kernels that its gate published, in one step, domain by domain."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

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
class Promoted:
    """The result of a night's promotion."""

    promoted: tuple[str, ...] = ()
    """Domains whose new kernel serves."""
    held: Mapping[str, str] = field(default_factory=dict)
    """Domains whose pointer somebody else moved meanwhile, with the reason."""
    failed: Mapping[str, str] = field(default_factory=dict)
    """Domains whose bundle is damaged, with the reason."""
    candidates: Mapping[str, str] = field(default_factory=dict)
    """Digest of the bundle of every domain that was tuned."""
    generation: int | None = None
    """Number of the commit; None where nothing moved and no chain changed."""


def promote_night(
    store: Store, run: Run, expected: Commit | None, decided: ChainsOfNight
) -> Promoted:
    """Promote the kernels that the gate published. A failed domain stops no other domain.

    A promotion that was interrupted is done again: pointers that it moved already stay.

    Args:
        store: store of the registry, which is made when it is missing.
        run: the night's tuning.
        expected: the registry's newest commit when the night was planned.
        decided: chains after the night, and kernels that are to serve no longer.

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
    held = _moved_meanwhile(store, moving, candidates, expected, decided.withdrawn)
    failed = _damaged(run.bundles, index, published)
    left = {*held, *failed}
    done = promote_run(
        store,
        run,
        "champion",
        domains=[names[folder] for folder in published if folder not in left],
        force=False,
        night=_without(decided, left),
    )
    serving = {folder: candidates[folder] for folder in published if folder not in left}
    return Promoted(
        promoted=(*done.moved, *done.unchanged),
        held={names[folder]: reason for folder, reason in held.items()},
        failed={names[folder]: reason for folder, reason in failed.items()},
        candidates={names[folder]: digest for folder, digest in candidates.items()},
        generation=done.commit.generation
        if done.commit
        else _commit_before_interruption(store, expected, serving, _without(decided, left)),
    )


def _commit_before_interruption(
    store: Store, expected: Commit | None, serving: Mapping[str, str], decided: ChainsOfNight
) -> int | None:
    """Return the number of the commit that this night made before it was interrupted, if it did.

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
            return generation
    return None


def _without(decided: ChainsOfNight, left: Collection[str]) -> ChainsOfNight:
    """Return what the gate decided, without the domains that are left as they are."""
    return ChainsOfNight(
        chains={folder: c for folder, c in decided.chains.items() if folder not in left},
        withdrawn={folder: why for folder, why in decided.withdrawn.items() if folder not in left},
    )


def _moved_meanwhile(
    store: Store,
    moving: Collection[str],
    candidates: Mapping[str, str],
    expected: Commit | None,
    withdrawn: Collection[str],
) -> dict[str, str]:
    """Return the folders whose pointer is another one than when the night was planned.

    What the night itself moved before it was interrupted is as it should be.
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
