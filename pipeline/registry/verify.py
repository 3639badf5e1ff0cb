"""Read every byte of a registry and name the documents and bundles that are damaged."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from iak.pipeline.errors import PipelineError
from iak.pipeline.registry.commits import check_registry, read_history
from iak.pipeline.registry.stored_bundles import (
    stored_bytes,
    stored_digests,
    stored_folder,
    verify_stored,
)
from iak.schemas.registry import Commit


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """Counts of what was read, and the problems in it."""

    commits: int
    bundles: int
    bytes: int
    """Bytes of the sound bundles' files."""
    uncommitted: int
    """Bundles that no commit names, of a promotion that was killed. gc removes them."""
    problems: tuple[str, ...]


def verify_registry(root: Path) -> Verified:
    """Read all commits and all stored bundles, and go on after a damaged one.

    A bundle must exist from the commit that first points at it until the gc that names it.

    Raises:
        BadRequest: there is no registry.
    """
    check_registry(root)
    problems: list[str] = []
    history = list(_sound_commits(root, problems))
    wanted = _wanted(history)
    stored = stored_digests(root)
    problems += [
        f"{stored_folder(root, digest)} is missing, and no gc removed it"
        for digest in sorted(wanted - stored)
    ]
    size = 0
    for digest in sorted(stored):
        try:
            verify_stored(root, digest)
            size += stored_bytes(root, digest)
        except PipelineError as error:
            problems.append(str(error))
    return Verified(
        commits=len(history),
        bundles=len(stored),
        bytes=size,
        uncommitted=len(stored - _named(history)),
        problems=tuple(problems),
    )


def _sound_commits(root: Path, problems: list[str]) -> Iterator[Commit]:
    """Yield the commits up to the first that is damaged, which becomes a problem."""
    try:
        yield from read_history(root)
    except PipelineError as error:
        problems.append(str(error))


def _named(history: list[Commit]) -> set[str]:
    """Return the digests of all bundles that were ever pointed at."""
    return {move.after for commit in history for move in commit.moves if move.after}


def _wanted(history: list[Commit]) -> set[str]:
    """Return the digests of the bundles that were pointed at and that no gc has removed."""
    wanted: set[str] = set()
    for commit in history:
        wanted |= {move.after for move in commit.moves if move.after}
        wanted -= set(commit.removed)
    return wanted
