"""Inject faults in the activation cache. A night must survive them by computing rows again."""

import os
import shutil
from collections import Counter, namedtuple
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from infra.benchmarks.faults.damage import HURTS, exchange
from infra.benchmarks.faults.outcome import Fault, Judgement, judge
from infra.benchmarks.faults.registry import (
    CannotInject,
    Damaging,
    Stage,
    Vacuous,
    damage,
    lost,
    published,
    register,
    unnamed_fault,
)
from infra.benchmarks.faults.workspace import CACHE, REQUESTS

KINDS = ("activations", "rows", "standard")
_ALL_KINDS = ", ".join(f".{kind}" for kind in KINDS)
NOBODY = 65534
_Disk = namedtuple("_Disk", "total used free")


def entries(workspace: Path, kind: str = "*") -> list[Path]:
    """Return the cache's entries of one kind, in order."""
    return sorted(path for path in (workspace / CACHE).rglob(f"*.{kind}") if path.is_file())


@dataclass(frozen=True, slots=True)
class InCache:
    """Damages one entry of a kind."""

    kind: str
    how: str

    def __call__(self, workspace: Path, random: Random) -> Fault:
        """Damage one."""
        matches = entries(workspace, self.kind)
        if not matches:
            raise CannotInject(f"the cache has no entry of kind .{self.kind}")
        path = random.choice(matches)
        return unnamed_fault(f"an entry .{self.kind}: {HURTS[self.how](path, random)}")


@dataclass(frozen=True, slots=True)
class Swapped:
    """Puts two entries under each other's names; the base's one standardisation under another's."""

    kind: str

    def __call__(self, workspace: Path, random: Random) -> Fault:
        """Swap two of one size, where there are such."""
        matches = entries(workspace, self.kind)
        if len(matches) == 1:
            (own,) = matches
            other = next(iter(sorted((workspace / "B2/activations").rglob(f"*.{self.kind}"))))
            shutil.copy2(other, own)
            return unnamed_fault(f"an entry .{self.kind} replaced by another base's")
        sizes = Counter(path.stat().st_size for path in matches)
        twins = [path for path in matches if sizes[path.stat().st_size] > 1]
        one = random.choice(twins or matches)
        others = [p for p in twins if p.stat().st_size == one.stat().st_size and p != one]
        exchange(one, random.choice(others or [p for p in matches if p != one]))
        return unnamed_fault(f"two entries .{self.kind} swapped")


def _register() -> None:
    for kind in KINDS:
        for how in ("flipped", "truncated", "emptied", "deleted"):
            register(f"cache entry {how}", _ALL_KINDS, Damaging(InCache(kind, how), "night"))
        register("cache entries swapped", _ALL_KINDS, Damaging(Swapped(kind), "night"))


_register()


@damage("cache entry's rows permuted", where=".activations", request="night")
def permuted(workspace: Path, random: Random) -> Fault:
    """Put the rows of one entry in another order, and keep its metadata."""
    path = random.choice(entries(workspace, "activations"))
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise CannotInject(f"entries are not safetensors files: {error}") from error
    name, rows = max(tensors.items(), key=lambda item: item[1].numel())
    order = list(range(len(rows)))
    random.shuffle(order)
    other = rows[torch.tensor(order)].contiguous()
    if torch.equal(other, rows):
        raise Vacuous("an entry of one row, or of rows that are all the same")
    save_file(tensors | {name: other}, path, metadata=metadata)
    return unnamed_fault(f"{len(rows)} rows of an entry permuted")


@damage("cache folder is a file", where="cache", request="night")
def is_a_file(workspace: Path, _random: Random) -> Fault:
    """Put a file where the cache's folder was."""
    shutil.rmtree(workspace / CACHE)
    (workspace / CACHE).write_text("not a folder\n")
    return unnamed_fault(f"{CACHE} is a file")


@damage("cache evicted in mid-run", where="cache", request="night", moment=("listed", 1))
def evicted(workspace: Path, random: Random) -> Fault:
    """Remove half of the entries, as another night's eviction may."""
    matches = entries(workspace)
    gone = random.sample(matches, len(matches) // 2)
    for path in gone:
        path.unlink()
    return unnamed_fault(f"{len(gone)} of {len(matches)} entries evicted")


damage("cache evicted in mid-run", where="cache", request="night", moment=("rows", 1))(evicted)


def full_disk(_place: Path) -> None:
    """Make every disk seem full to the cache, which checks before it writes."""
    shutil.disk_usage = lambda _path: _Disk(1, 1, 0)  # type: ignore[assignment, return-value]


def as_nobody(_place: Path) -> None:
    """Go on as a user who owns nothing."""
    os.setegid(NOBODY)
    os.seteuid(NOBODY)


def play_full_disk(stage: Stage) -> Judgement:
    """Let a night meet a full disk, with half a cache."""
    fault = evicted(stage.workspace, stage.random)
    answer = stage.setup.ask(stage.workspace, replace(REQUESTS["night"], before=full_disk))
    honest = [stage.undamaged("night")]
    both = replace(fault, what=f"{fault.what}, and the disk full")
    return judge(answer, both, honest=honest, has_published=False)


register("disk full", "cache", play_full_disk)


@dataclass(frozen=True, slots=True)
class Colleague:
    """A night of another user, who has fewer rights than the owner of the cache."""

    folder_mode: int
    entry_mode: int
    evicted: bool
    """Whether some entries are missing, so that the night tries to write."""

    def __call__(self, stage: Stage) -> Judgement:
        """Give the workspace to another user, but not the cache, and let a night run there."""
        if os.geteuid() != 0:
            raise CannotInject("only root can become another user; run it as root")
        fault = evicted(stage.workspace, stage.random) if self.evicted else unnamed_fault("")
        _give_away(stage.workspace, self.folder_mode, self.entry_mode)
        before, present = published(stage.workspace), set(entries(stage.workspace))
        answer = stage.setup.ask(stage.workspace, replace(REQUESTS["night"], before=as_nobody))
        gone = sorted(present - set(entries(stage.workspace)))
        what = f"folders {self.folder_mode:o}, entries {self.entry_mode:o}; {fault.what}"
        return judge(
            answer,
            replace(fault, what=what.rstrip("; ")),
            honest=[stage.undamaged("night")],
            has_published=False,
            lost=[*lost(before, stage.workspace), *(f"{CACHE}/{path.name}" for path in gone)],
        )


def _give_away(workspace: Path, folder_mode: int, entry_mode: int) -> None:
    """Let everything but the cache belong to nobody."""
    cache = workspace / CACHE
    for path in [workspace, *workspace.rglob("*")]:
        if path == cache or cache in path.parents:
            path.chmod(folder_mode if path.is_dir() else entry_mode)
        else:
            os.chown(path, NOBODY, NOBODY, follow_symlinks=False)


register("another user's cache", "cache", Colleague(0o555, 0o444, evicted=True))
register("another user's cache", "cache", Colleague(0o777, 0o600, evicted=False))
register("another user's cache", "cache", Colleague(0o700, 0o600, evicted=False))
