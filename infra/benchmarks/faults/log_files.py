"""Inject faults in the log: files whose rows change under the same name."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq

from infra.benchmarks.faults.damage import delete, empty, truncate
from infra.benchmarks.faults.outcome import Fault
from infra.benchmarks.faults.registry import Accepts, Damaging, Vacuous, damage, register
from infra.benchmarks.faults.workspace import write_log_file

EVENTS = "log/events"
_LABELS = ("label_click", "label_order")
_FEATURES = ("item_id", "price", "shop_id")
_TRIES = 40
_FOOTER_BYTES = 8
"""The footer's length and the closing magic."""
Rewrite = Callable[[pa.Table, Random], pa.Table]
OnFile = Callable[[Path, Random], str]
"""Damages one file of the log; says what was done."""


def files(workspace: Path, days: slice) -> list[Path]:
    """Return the log's files of some of its days, in order."""
    paths = sorted((workspace / EVENTS).glob("region=*/dt=*/*.parquet"))
    dates = sorted({path.parent.name for path in paths})
    return [path for path in paths if path.parent.name in dates[days]]


TUNED, TRAINED, TESTED = slice(-3, -1), slice(0, -3), slice(-1, None)
"""Days that nights read, that pre-training reads, and that evaluations read."""


@dataclass(frozen=True, slots=True)
class InLog:
    """Damages one of the log's files, of the days that the attempt reads."""

    hurt: OnFile
    days: slice
    names: tuple[str, ...] = ()
    """By which a refusal may call it, beside its path below the log."""

    def __call__(self, workspace: Path, random: Random) -> Fault:
        """Damage one."""
        path = random.choice(files(workspace, self.days))
        name = str(path.relative_to(workspace / EVENTS))
        return Fault(what=f"{name}: {self.hurt(path, random)}", names=(name, *self.names))


def rewritten(rewrite: Rewrite, what: str) -> OnFile:
    """Return a damage that writes a file with other rows, if possible of the same size and times.

    Other rows are drawn several times until the size is the same.
    """
    return _Rewritten(rewrite, what)


@dataclass(frozen=True, slots=True)
class _Rewritten:
    rewrite: Rewrite
    what: str

    def __call__(self, path: Path, random: Random) -> str:
        before, stat = pq.read_table(path, partitioning=None), path.stat()
        changed = before
        for _ in range(_TRIES):
            changed = self.rewrite(before, random)
            write_log_file(changed, path)
            if path.stat().st_size == stat.st_size and not changed.equals(before):
                break
        if changed.equals(before):
            raise Vacuous(f"{path} has no row that could be changed")
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        kept = "its size kept" if path.stat().st_size == stat.st_size else "another size"
        return f"{self.what}, {kept}, its times kept"


def restate(rows: pa.Table, random: Random) -> pa.Table:
    """Swap the labels of a clicked row and of one that was not clicked."""
    clicks = rows.column("label_click").to_pylist()
    ones, zeros = ([n for n, c in enumerate(clicks) if c == value] for value in (1, 0))
    if not ones or not zeros:
        return rows
    order = list(range(len(rows)))
    one, zero = random.choice(ones), random.choice(zeros)
    order[one], order[zero] = zero, one
    return _reordered(rows, _LABELS, order)


def shuffle(rows: pa.Table, random: Random) -> pa.Table:
    """Shuffle the labels of a file."""
    order = list(range(len(rows)))
    random.shuffle(order)
    return _reordered(rows, _LABELS, order)


def change_features(rows: pa.Table, random: Random) -> pa.Table:
    """Shuffle the values of one feature."""
    order = list(range(len(rows)))
    random.shuffle(order)
    return _reordered(rows, (random.choice(_FEATURES),), order)


def _reordered(rows: pa.Table, names: tuple[str, ...], order: list[int]) -> pa.Table:
    for name in names:
        index = rows.schema.get_field_index(name)
        rows = rows.set_column(index, rows.schema.field(index), rows.column(name).take(order))
    return rows


def flip_page(path: Path, random: Random) -> str:
    """Flip a bit before the footer."""
    return _flipped(path, random, 4, path.stat().st_size - _FOOTER_BYTES - _footer_bytes(path))


def flip_footer(path: Path, random: Random) -> str:
    """Flip a bit in the footer."""
    size = path.stat().st_size
    return _flipped(path, random, size - _FOOTER_BYTES - _footer_bytes(path), size)


def _flipped(path: Path, random: Random, first: int, stop: int) -> str:
    stat = path.stat()
    content = bytearray(path.read_bytes())
    at, bit = random.randrange(first, stop), random.randrange(8)
    content[at] ^= 1 << bit
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    return f"bit {bit} of byte {at:,} of {len(content):,} flipped"


def _footer_bytes(path: Path) -> int:
    return int.from_bytes(path.read_bytes()[-8:-4], "little")


restated = rewritten(restate, "the labels of two rows swapped")
shuffled = rewritten(shuffle, "labels shuffled")
changed = rewritten(change_features, "a feature's values shuffled")

_BETWEEN: dict[str, tuple[OnFile, Accepts]] = {
    "labels restated": (restated, "fresh"),
    "labels shuffled": (shuffled, "fresh"),
    "features changed": (changed, "fresh"),
    "page flipped": (flip_page, "undamaged"),
    "footer flipped": (flip_footer, "left out"),
    "truncated": (truncate, "left out"),
    "emptied": (empty, "left out"),
}
_WHILE: dict[str, OnFile] = {
    "labels restated": restated,
    "features changed": changed,
    "page flipped": flip_page,
    "footer flipped": flip_footer,
    "truncated": truncate,
    "deleted": delete,
}
_READERS = {"night": TUNED, "evaluation": TESTED, "pre-training": TRAINED}
_MEANWHILE = "while a run reads"
_RESUMED = {"resumed night": TUNED, "resumed pre-training": TRAINED}


def _register() -> None:
    for what, (hurt, accepts) in _BETWEEN.items():
        for request, days in _READERS.items():
            play = Damaging(InLog(hurt, days), request, accepts, is_warm=request != "pre-training")
            register(f"log file {what}", "before a run", play)
    for what in ("labels restated", "features changed", "truncated"):
        for request, days in _RESUMED.items():
            inject = InLog(_BETWEEN[what][0], days, names=("the log",))
            register(f"log file {what}", "before a resumed run", Damaging(inject, request, "fresh"))
    for what, hurt in _WHILE.items():
        for request, days in {**_READERS, "cold night": TUNED}.items():
            play = Damaging(InLog(hurt, days), request, "either", ("listed", 1))
            register(f"log file {what}", _MEANWHILE, play)
        play = Damaging(InLog(hurt, TRAINED), "pre-training", "undamaged", ("validated", 1))
        register(f"log file {what}", _MEANWHILE, play)


_register()


@damage("log file there twice", where="log/events", request="night")
def copied(workspace: Path, random: Random) -> Fault:
    """Copy a file beside itself."""
    path, twin = _twin(workspace, random)
    shutil.copy2(path, twin)
    return _twice(workspace, path, twin, "copied to")


@damage("log file there twice", where="log/events", request="night")
def hard_linked(workspace: Path, random: Random) -> Fault:
    """Link a file beside itself."""
    path, twin = _twin(workspace, random)
    os.link(path, twin)
    return _twice(workspace, path, twin, "linked hard as")


@damage("log file there twice", where="log/events", request="night")
def soft_linked(workspace: Path, random: Random) -> Fault:
    """Link a file beside itself, by name."""
    path, twin = _twin(workspace, random)
    twin.symlink_to(path.name)
    return _twice(workspace, path, twin, "linked as")


@damage("log file there twice", where="log/events", request="night")
def folder_linked(workspace: Path, random: Random) -> Fault:
    """Link another partition's folder into one."""
    path, other = random.sample(files(workspace, TUNED), 2)
    link = path.parent / "more"
    link.symlink_to(other.parent.resolve())
    return _twice(workspace, other, link, "its folder linked as")


def _twin(workspace: Path, random: Random) -> tuple[Path, Path]:
    path = random.choice(files(workspace, TUNED))
    return path, path.with_name("part-00001.parquet")


def _twice(workspace: Path, path: Path, twin: Path, how: str) -> Fault:
    names = tuple(str(one.relative_to(workspace / EVENTS)) for one in (path, twin))
    # rows that are there twice are refused by the column that tells them apart
    return Fault(what=f"{names[0]} {how} {names[1]}", names=(*names, "event_id"))
