"""Keep a second writer out of a folder, by a lock that ends with its owner.

    <folder>/.lock        locked by the kernel (flock), free as soon as its owner ends
    <folder>/.lock.json   the owner: host, process, command, start

The kernel's lock works between processes of one machine, and between machines where the file system
supports locks (NFS 4, Lustre with flock, most parallel ones). Where it cannot lock at all, a
warning says so and the folder is used without a lock. `.lock.json` still names the last owner.
"""

import json
import logging
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from iak.pipeline.errors import Busy
from iak.pipeline.files import put_file
from iak.schemas.base import JsonObject

LOCK, OWNER = ".lock", ".lock.json"
_FOREVER = -1.0
_log = logging.getLogger(__name__)


@contextmanager
def one_writer(folder: Path, *, waits: bool) -> Iterator[None]:
    """Keep other writers out of a folder for the length of the block.

    Args:
        folder: folder to lock; made when it is missing.
        waits: wait until the folder is free, instead of leaving at once.

    Raises:
        Busy: another process has the lock; the message says which.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK, fallback_to_soft=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _wait(lock, folder, waits=waits)
    except NotImplementedError as error:
        _log.warning(
            "%s lies on a file system that cannot lock (%s); nothing keeps a second writer out",
            folder,
            error,
        )
    left = _owner(folder)
    if left is not None:
        _log.warning("%s was locked by %s, which died; its lock is taken over", folder, left)
    put_file(folder / OWNER, json.dumps(_own_name()))
    try:
        yield
    finally:
        (folder / OWNER).unlink(missing_ok=True)
        lock.release()


def _wait(lock: FileLock, folder: Path, *, waits: bool) -> None:
    owner = _owner(folder) or "another process, which has not said who it is"
    if not waits:
        raise Busy(
            f"{folder} is in use by {owner}. Wait for it (if_busy=wait does), stop it, or choose "
            "another folder"
        )
    _log.warning("%s is in use by %s; waiting until it is free", folder, owner)
    lock.acquire(timeout=_FOREVER)


def _own_name() -> JsonObject:
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:3]]),
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _owner(folder: Path) -> str | None:
    """Return the owner that `.lock.json` names, in words; None without one."""
    try:
        owner = json.loads((folder / OWNER).read_text())
        return (
            f"process {owner['pid']} on {owner['host']} ({owner['command']}, since "
            f"{owner['started_at']})"
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
