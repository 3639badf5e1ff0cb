"""Read every byte of a registry and name the documents and bundles that are damaged."""

from collections.abc import Iterator
from dataclasses import dataclass

from iak.pipeline.errors import PipelineError
from iak.pipeline.registry.commits import check_registry, read_history
from iak.pipeline.registry.stored_bundles import (
    stored_bundles,
    stored_bytes,
    stored_key,
    verify_stored,
)
from iak.pipeline.storage.store import Store
from iak.schemas.registry import Commit


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """The result of a verification: counts of what was read, and problems."""

    commits: int
    bundles: int
    bytes: int
    """Bytes of the files of undamaged bundles."""
    uncommitted: int
    """Bundles that no commit names: a promotion stored them and was killed, or runs now. gc removes
    them."""
    problems: tuple[str, ...]


def verify_registry(store: Store) -> Verification:
    """Read all commits and all bundles they point at, also after a damaged bundle.

    A bundle must exist from the commit that first points at it until the gc that names it.

    Raises:
        BadRequest: there is no registry.
    """
    check_registry(store)
    problems: list[str] = []
    named = _named(_sound_commits(store, problems))
    stored = stored_bundles(store)
    problems += [
        f"{store.where(stored_key(name))} is missing, and no gc removed it"
        for name in sorted(named.wanted - stored)
    ]
    size = 0
    for name in sorted(named.wanted & stored):
        try:
            verify_stored(store, name)
            size += stored_bytes(store, name)
        except PipelineError as error:
            problems.append(str(error))
    return Verification(
        commits=named.commits,
        bundles=len(named.wanted & stored),
        bytes=size,
        uncommitted=len(stored - named.ever),
        problems=tuple(problems),
    )


def _sound_commits(store: Store, problems: list[str]) -> Iterator[Commit]:
    """Yield the commits up to the first that is damaged, which becomes a problem."""
    try:
        yield from read_history(store)
    except PipelineError as error:
        problems.append(str(error))


@dataclass(frozen=True, slots=True)
class _Named:
    """The bundles that a history names."""

    commits: int
    ever: frozenset[str]
    """Bundles that any commit pointed at."""
    wanted: frozenset[str]
    """Those of them that gc has not removed since."""


def _named(history: Iterator[Commit]) -> _Named:
    commits = 0
    ever: set[str] = set()
    wanted: set[str] = set()
    for commit in history:
        pointed = {p.stored for by_folder in commit.pointers.values() for p in by_folder.values()}
        ever |= pointed
        wanted = (wanted | pointed) - set(commit.removed)
        commits += 1
    return _Named(commits, frozenset(ever), frozenset(wanted))
