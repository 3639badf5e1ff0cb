"""Attempts that end in every way a process can, for a test of what is told of them."""

import mmap
import os
import signal
from pathlib import Path

from iak.pipeline.errors import Corrupt
from infra.benchmarks.faults.outcome import Ended, Fault


def end(verb, settings, at):
    """Write, pass a moment, write again, then end as the verb says."""
    at("started")
    for number in range(3):
        Path("N9").mkdir(exist_ok=True)
        part = Path(f"N9/.record.json.{number}")
        part.write_text("{}")
        part.replace("N9/record.json")
        at("written")
    return _ENDS[verb](settings)


def raise_refusal(_):
    """Refuse by name."""
    raise Corrupt("N9/record.json was changed")


def raise_raw(_):
    """Crash as code does that nobody thought of."""
    raise KeyError("standard")


def fall(_):
    """Read a mapped file's page that is no longer there: a bus error."""
    path = Path("mapped")
    path.write_bytes(b"x" * 8192)
    with path.open("rb") as file:
        pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        os.truncate(path, 0)
        return pages[4096]


def die(_):
    """Be killed, as by the kernel that is short of memory."""
    os.kill(os.getpid(), signal.SIGKILL)


_ENDS = {
    "end": lambda settings: Ended(things={"cwd": Path.cwd().name, **settings}, rows={"a": 1}),
    "refuse": raise_refusal,
    "crash": raise_raw,
    "fall": fall,
    "die": die,
}


def spoil(workspace, random):
    """Damage the place at a position that the seed chooses."""
    (workspace / "spoiled").write_text(str(random.random()))
    return Fault(what="spoiled", names=("spoiled",))
