"""Give a folder that several machines share one writer, by a lease on its object store.

    leases/000007.json    who may write; the lease with the newest number is valid

A lease is created under a number that must be free, so one of several writers gets it. Its owner
writes it again every few seconds as a sign of life. When no sign came for `seconds`, by the store's
own clock, the next writer takes the next number. An owner that stalled and wakes up sees a newer
number. Its files still have the old number, and readers ignore them (stored_folder.py). So the
clock decides who waits, and the number decides which version is valid.
"""

import os
import secrets
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from iak.pipeline.errors import Busy, Overtaken
from iak.pipeline.storage.store import Store
from iak.schemas.stored import LeaseDocument

LEASES, CLOCKS = "leases", "clocks"
LEASE_S = 120
"""Seconds without a sign of life after which a lease may be taken over."""
_POLL_S = 5.0
"""Seconds between two looks at a lease that another writer has."""
_NAMESPACE = Path("/proc/self/ns/pid")
_BOOT = Path("/proc/sys/kernel/random/boot_id")


@dataclass(slots=True)
class Lease:
    """The right to write a folder, until it is released or another writer takes over."""

    store: Store
    number: int
    document: LeaseDocument

    def renew(self) -> None:
        """Give a sign of life.

        Raises:
            Overtaken: another writer has taken over.
        """
        self.check()
        self._write(self.document)

    def check(self) -> None:
        """Check that no other writer has taken over.

        Raises:
            Overtaken: one has; readers ignore what this process still writes.
        """
        newest = newest_lease(self.store)
        if newest > self.number:
            raise Overtaken(
                f"{self.store.uri} was taken over by {_owner(self.store, newest)}: this process "
                f"gave no sign of life for {self.document.seconds} s. What it has not uploaded is "
                "left out. Run the command again once the other one has ended"
            )

    def release(self) -> None:
        """End the lease, so that the next writer need not wait."""
        self._write(self.document.model_copy(update={"is_released": True}))

    def _write(self, document: LeaseDocument) -> None:
        self.store.put({key_of(self.number): document.model_dump_json().encode()})


def take_lease(store: Store, *, waits: bool, sleep: Callable[[float], None] = time.sleep) -> Lease:
    """Become the writer of a folder.

    Args:
        store: the folder.
        waits: wait until its writer has ended, instead of leaving at once.
        sleep: waits for some seconds; tests replace it.

    Raises:
        Busy: another process writes there; the message says which.
        BadRequest: the store cannot refuse a key that is taken.
    """
    store.check_creates_once()
    document = own_document()
    while True:
        newest = newest_lease(store)
        if newest and not _is_free(store, newest):
            if not waits:
                raise Busy(
                    f"{store.uri} is in use by {_owner(store, newest)}. Wait for it (if_busy=wait "
                    f"does), stop it, or choose another folder. The lease of a process that died "
                    f"ends {LEASE_S} s after its last sign of life"
                )
            sleep(_POLL_S)
            continue
        try:
            store.create(key_of(newest + 1), document.model_dump_json().encode())
        except FileExistsError:
            continue  # another writer was faster
        lease = Lease(store, newest + 1, document)
        store.remove_files([key_of(n) for n in _numbers(store) if n <= newest])
        return lease


def newest_lease(store: Store) -> int:
    """Return the number of a folder's newest lease; 0 where it never had one."""
    return max(_numbers(store), default=0)


def key_of(number: int) -> str:
    """Return the key of a lease."""
    return f"{LEASES}/{number:06d}.json"


def _numbers(store: Store) -> list[int]:
    stems = [name.removesuffix(".json") for name in store.names(LEASES)]
    return [int(stem) for stem in stems if stem.isdecimal()]


def _is_free(store: Store, number: int) -> bool:
    """Return whether a lease was released, ran out, or its owner has died."""
    document = _read(store, number)
    if document is None or document.is_released or _has_died(document):
        return True
    try:
        written = store.written_at(key_of(number))
    except FileNotFoundError:  # a newer lease has replaced it
        return False
    return store_time(store) - written > document.seconds


def store_time(store: Store) -> float:
    """Return the present moment by the store's own clock, so that no machine's clock matters."""
    key = f"{CLOCKS}/{secrets.token_hex(8)}"
    store.put({key: b""})
    try:
        return store.written_at(key)
    finally:
        store.remove_files([key])


def _read(store: Store, number: int) -> LeaseDocument | None:
    """Return a lease's document; None where it is gone or damaged."""
    try:
        return LeaseDocument.model_validate_json(store.read(key_of(number)))
    except (FileNotFoundError, ValidationError):
        return None


def _owner(store: Store, number: int) -> str:
    document = _read(store, number)
    return document.owner if document else "another process"


def own_document() -> LeaseDocument:
    """Return the document by which this process takes a lease."""
    command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:3]])
    return LeaseDocument(
        owner=f"process {os.getpid()} on {socket.gethostname()} ({command})",
        machine=_machine(),
        process=os.getpid(),
        mark=secrets.token_hex(8),
        seconds=LEASE_S,
    )


def _machine() -> str:
    """Return an identifier of this boot and process namespace; empty where there is none."""
    with suppress(OSError):
        return f"{_BOOT.read_text().strip()} {_NAMESPACE.readlink()}"
    return ""


def _has_died(document: LeaseDocument) -> bool:
    """Return whether the owner was a process of this machine that has ended."""
    if not document.machine or document.machine != _machine():
        return False
    with suppress(PermissionError):  # a process of another user, which is alive
        try:
            os.kill(document.process, 0)  # sends no signal, and only checks the process
        except ProcessLookupError:
            return True
    return False
