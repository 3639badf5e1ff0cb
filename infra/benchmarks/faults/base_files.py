"""Inject faults in a published base, and in the settings of a resumed run."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from random import Random

from infra.benchmarks.faults.damage import exchange, hurt, replace_by
from infra.benchmarks.faults.outcome import Fault
from infra.benchmarks.faults.registry import Damaging, Vacuous, damage, register

BASE, OTHER = "R1/base", "B2/base"
_PARTS = {
    "manifest": ("manifest.json", "night"),
    "encoding": ("encoding/*", "night"),
    "dense weights": ("dense.safetensors", "night"),
    "tables": ("tables/**/*.safetensors", "night"),
    "optimiser's state": ("optimizer/**/*.safetensors", "continued pre-training"),
}
"""Part of a base -> its files, and an attempt that reads them."""
_ALL_PARTS = ", ".join(_PARTS)


@dataclass(frozen=True, slots=True)
class InBase:
    """Damages one file of a part of the base."""

    files: str
    how: str

    def __call__(self, workspace: Path, random: Random) -> Fault:
        """Damage one."""
        path = random.choice(sorted((workspace / BASE).glob(self.files)))
        if self.how != "swapped":
            return hurt(workspace, path, self.how, random, BASE)
        below = str(path.relative_to(workspace / BASE))
        other = workspace / OTHER / below
        if other.read_bytes() == path.read_bytes():
            raise Vacuous(f"both bases have the same {below}")
        replace_by(path, other)
        return Fault(what=f"{BASE}/{below} replaced by another base's", names=(BASE,))


def _register() -> None:
    for files, request in _PARTS.values():
        for how in ("flipped", "truncated", "deleted", "swapped"):
            register(f"base file {how}", _ALL_PARTS, Damaging(InBase(files, how), request))


_register()


@damage("base published again in place", where="R1/base", request="night", accepts="fresh")
def republished(workspace: Path, _random: Random) -> Fault:
    """Put another base where the first one was."""
    exchange(workspace / BASE, workspace / OTHER)
    shutil.rmtree(workspace / OTHER)
    shutil.copytree(workspace / BASE, workspace / OTHER)
    return Fault(what=f"{BASE} replaced by another base", names=("R1", "base changed"))


damage(
    "base published again in place",
    where="R1/base",
    request="resumed night",
    accepts="fresh",
)(republished)


@damage(
    "catalogue edited", where="before a resumed night", request="resumed night", accepts="fresh"
)
def edited(workspace: Path, random: Random) -> Fault:
    """Change a setting of the catalogue that decides kernels or rows."""
    path = workspace / "catalog.toml"
    text = path.read_text()
    old, new = random.choice(
        [
            ("min_rows = 20", f"min_rows = {random.randrange(90, 150)}"),
            ('keys = ["region"]', 'keys = ["scene"]'),
            ("slice = [0.0, 0.6]", f"slice = [0.0, 0.{random.randrange(30, 55)}]"),
        ]
    )
    if old not in text:
        raise Vacuous(f"the catalogue does not say {old}")
    path.write_text(text.replace(old, new))
    return Fault(what=f"catalog.toml: {old} became {new}", names=("catalog",))
