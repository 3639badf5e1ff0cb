"""Inject faults in a finished night's bundles, which serve and from which nights start."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from iak.pipeline.publish.bundle import MANIFEST, WEIGHTS, list_bundles
from infra.benchmarks.faults.damage import exchange, hurt
from infra.benchmarks.faults.outcome import Fault
from infra.benchmarks.faults.registry import CannotInject, Damaging, register

BUNDLES = "N1/bundles"
_PARTS = {"manifest": f"*/{MANIFEST}", "weights": f"*/{WEIGHTS}", "index": "*.json"}
_ALL_PARTS = ", ".join(_PARTS)
_REQUESTS = ("evaluation", "next night", "finished night")
"""Attempts that read the bundles: one serves from them, one starts from them, one verifies them."""


@dataclass(frozen=True, slots=True)
class InBundles:
    """Damages one file of the bundles."""

    files: str
    how: str

    def __call__(self, workspace: Path, random: Random) -> Fault:
        """Damage one."""
        files = sorted((workspace / BUNDLES).glob(self.files))
        if not files:
            raise CannotInject("a folder of bundles has no index")
        return hurt(workspace, random.choice(files), self.how, random, BUNDLES)


@dataclass(frozen=True, slots=True)
class WithBundles:
    """Damages whole bundles."""

    do: Callable[[Path, Random], str]

    def __call__(self, workspace: Path, random: Random) -> Fault:
        """Damage the bundles of the copy."""
        return Fault(what=f"{BUNDLES}: {self.do(workspace, random)}", names=(BUNDLES, "N1"))


def _one(workspace: Path, random: Random) -> Path:
    return random.choice(list_bundles(workspace / BUNDLES))


def remove(workspace: Path, random: Random) -> str:
    """Remove one bundle."""
    folder = _one(workspace, random)
    shutil.rmtree(folder)
    return f"{folder.name} removed"


def rename(workspace: Path, random: Random) -> str:
    """Give one bundle the name of another domain."""
    folder = _one(workspace, random)
    folder.rename(folder.with_name("region=z"))
    return f"{folder.name} renamed to region=z"


def swap(workspace: Path, random: Random) -> str:
    """Swap the folders of two domains."""
    one, other = random.sample(list_bundles(workspace / BUNDLES), 2)
    exchange(one, other)
    return f"{one.name} and {other.name} swapped"


def clear(workspace: Path, random: Random) -> str:
    """Empty one bundle's folder, or the folder of all."""
    folder = random.choice([_one(workspace, random), workspace / BUNDLES])
    shutil.rmtree(folder)
    folder.mkdir()
    return f"{folder.name} emptied"


def add_foreign(workspace: Path, random: Random) -> str:
    """Add a bundle of a night on another base."""
    foreign = random.choice(list_bundles(workspace / "M1/bundles"))
    shutil.copytree(foreign, workspace / BUNDLES / "region=z")
    return f"{foreign.name} of a night on another base added as region=z"


def replace_by_other_night(workspace: Path, random: Random) -> str:
    """Replace a bundle by the same domain's of another night on the same base."""
    folder = _one(workspace, random)
    shutil.rmtree(folder)
    shutil.copytree(workspace / "N5/bundles" / folder.name, folder)
    return f"{folder.name} replaced by another night's"


_WHOLE = {
    "removed": remove,
    "renamed": rename,
    "swapped with another domain's": swap,
    "emptied": clear,
    "of another base added": add_foreign,
    "replaced by another night's": replace_by_other_night,
}


def _register() -> None:
    for request in _REQUESTS:
        for what, do in _WHOLE.items():
            register(f"bundle {what}", "in a finished night", Damaging(WithBundles(do), request))
    for files in _PARTS.values():
        for how in ("flipped", "truncated", "deleted"):
            register(
                f"bundle file {how}", _ALL_PARTS, Damaging(InBundles(files, how), "evaluation")
            )
        play = Damaging(InBundles(files, "flipped"), "finished night")
        register("bundle file flipped", _ALL_PARTS, play)


_register()
