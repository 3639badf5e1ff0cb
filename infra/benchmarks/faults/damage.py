"""Damage files: a flipped bit, a lost end, another file's content, nothing left."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random

from infra.benchmarks.faults.outcome import Fault

Hurt = Callable[[Path, Random], str]
"""Damages one file; says what was done."""


def flip(path: Path, random: Random) -> str:
    """Flip one bit somewhere in a file."""
    content = bytearray(path.read_bytes())
    at = random.randrange(len(content))
    bit = random.randrange(8)
    content[at] ^= 1 << bit
    path.write_bytes(content)
    return f"bit {bit} of byte {at:,} of {len(content):,} flipped"


def truncate(path: Path, random: Random) -> str:
    """Cut a file off somewhere."""
    content = path.read_bytes()
    kept = random.randrange(len(content))
    path.write_bytes(content[:kept])
    return f"cut to {kept:,} of {len(content):,} bytes"


def empty(path: Path, _random: Random) -> str:
    """Empty a file, as a stopped machine may leave it."""
    path.write_bytes(b"")
    return "emptied"


def delete(path: Path, _random: Random) -> str:
    """Remove a file."""
    path.unlink()
    return "deleted"


HURTS: Mapping[str, Hurt] = {
    "flipped": flip,
    "truncated": truncate,
    "emptied": empty,
    "deleted": delete,
}


def hurt(workspace: Path, path: Path, how: str, random: Random, *more: str) -> Fault:
    """Damage one file of a workspace.

    Args:
        workspace: the copy.
        path: the file.
        how: one of `HURTS`.
        random: chooses positions.
        more: further names by which a refusal may call it, beside its path.
    """
    done = HURTS[how](path, random)
    below = str(path.relative_to(workspace))
    return Fault(what=f"{below}: {done}", names=(below, *more))


def exchange(one: Path, other: Path) -> None:
    """Swap the contents of two files, or two folders."""
    aside = one.with_name(f"{one.name}.aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def replace_by(path: Path, other: Path) -> None:
    """Put another file's content under a name."""
    shutil.copy2(other, path)
