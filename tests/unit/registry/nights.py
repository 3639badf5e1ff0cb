"""Runs for the registry's tests, and a process that dies at a chosen write."""

import os
import signal
from contextlib import contextmanager
from pathlib import Path

from iak.pipeline import files
from iak.pipeline.publish.bundle_index import publishing_bundles, read_index
from iak.pipeline.registry.promote import Run, promote_run
from iak.schemas.job import KernelSpec
from iak.schemas.manifest import BundleSettings
from tests.unit.publish.test_bundle import VERDICT, write

POOLED, ROME, OSLO = None, {"city": "rome"}, {"city": "oslo/a b"}
DOMAINS = (POOLED, ROME, OSLO)
NAMES = ("pooled", "city=rome", "city=oslo%2Fa b")
SPEC = BundleSettings(kernel=KernelSpec(hidden=8), seed=0)
HELD = VERDICT.model_copy(update={"publish": False, "reason": "ctr: AUC falls"})


def night(folder, *, seed=0, domains=DOMAINS, held=(), parents=None, **changes):
    """Publish a night's bundles and return them as a promotion takes them."""
    with publishing_bundles(folder / "bundles") as built:
        for slot, domain in enumerate(domains):
            verdict = HELD if domain in held else VERDICT
            fields = {"spec": SPEC, "verdict": verdict} | changes
            write(built, seed=10 * seed + slot, domain=domain, **fields)
    return Run(
        name=str(folder),
        bundles=folder / "bundles",
        base=None,
        index_sha256=read_index(folder / "bundles").sha256,
        record_sha256="e" * 64,
        code="abc",
        parents=parents or {},
    )


def promote(store, run, alias="champion", *, domains=None, force=False):
    return promote_run(store, run, alias, domains=domains, force=force)


def served(head, alias="champion"):
    """Domain -> bundle, as a reader of the newest commit sees it."""
    pointers = head.pointers.get(alias, {}) if head else {}
    return {pointer.name: pointer.bundle for pointer in pointers.values()}


def stored(head, alias="champion"):
    """Domain -> name under which its bundle is stored."""
    pointers = head.pointers.get(alias, {}) if head else {}
    return {pointer.name: pointer.stored for pointer in pointers.values()}


WRITES = (
    (Path, "write_bytes"),
    (Path, "mkdir"),
    (Path, "chmod"),
    (Path, "replace"),
    (Path, "rename"),
    (Path, "unlink"),
    (os, "link"),
    (files, "sync_file"),
    (files, "sync_folder"),
    (files.shutil, "rmtree"),
    (files, "_exchange"),
)
"""Everything by which pipeline/files.py and the registry change a disk."""
SYNCS = (files.sync_file, files.sync_folder)


@contextmanager
def counted(count):
    """Call `count` before every write, with its function and what it is given."""
    kept = [(owner, name, getattr(owner, name)) for owner, name in WRITES]

    def wrapped(function):
        def call(*given, **named):
            count(function, given)
            if function in SYNCS:  # a process that is killed loses nothing that it wrote
                return None
            return function(*given, **named)

        return call

    for owner, name, function in kept:
        setattr(owner, name, wrapped(function))
    try:
        yield
    finally:
        for owner, name, function in kept:
            setattr(owner, name, function)


def writes_of(action):
    """Return the names of the functions by which an action writes, in order."""
    seen = []
    with counted(lambda function, _: seen.append(function.__name__)):
        action()
    return seen


def killed_at(action, number, *, torn=False):
    """Do an action in a process that is killed before its write of this number.

    Args:
        action: what writes.
        number: of the write, from 0.
        torn: where it writes bytes, write the first half of them before dying.

    Returns:
        Whether it came that far; False: it ended, or refused, before.
    """
    child = os.fork()
    if child == 0:
        seen = []

        def count(function, given):
            if len(seen) == number:
                if torn and function.__name__ == "write_bytes":
                    function(given[0], given[1][: len(given[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            seen.append(None)

        try:
            with counted(count):
                action()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)
