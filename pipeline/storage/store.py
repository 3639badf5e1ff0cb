"""Define the few operations on files that a registry and folders on an object store need.

Two operations that write are enough. `create` writes a document under a key that must be free, so
one of several writers wins. `put` writes a file under a key that nobody else writes. A folder
(folder_store.py) and a bucket of the S3 API (bucket_store.py) keep the same laws, and pass the same
tests.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, ClassVar, Protocol, TypeVar

from iak.pipeline.errors import BadRequest
from iak.schemas.paths import BUCKET

_Item = TypeVar("_Item")
_Made = TypeVar("_Made")


class Store(Protocol):
    """Files by key. A key is a relative path with `/` between its parts."""

    max_requests: ClassVar[int]
    """Requests that `map_concurrently` has under way at the same time."""

    @property
    def uri(self) -> str:
        """Return the folder or the `s3://bucket/prefix`, as settings name it."""

    def where(self, key: str) -> str:
        """Return the full path or URI of a key, for messages."""

    def read(self, key: str) -> bytes:
        """Return a file's bytes.

        Raises:
            FileNotFoundError: there is none.
            NotPermitted: this user may not read it.
            Unreachable: the store does not answer.
        """

    def create(self, key: str, content: bytes) -> None:
        """Write a file under a key that must be free.

        Raises:
            FileExistsError: the key is taken; nothing changed.
            BadRequest: the store cannot refuse a key that is taken.
        """

    def put(self, files: Mapping[str, bytes]) -> None:
        """Write files under keys that nobody else writes, one after the other."""

    def upload(self, key: str, file: BinaryIO) -> None:
        """Write a file of any size under a key that nobody else writes.

        Args:
            key: key of the file.
            file: local file, open at its beginning. It is read to its end.
        """

    def download(self, key: str, path: Path) -> None:
        """Write a file's bytes to a local path; they are not verified.

        Raises:
            FileNotFoundError: the store has no such file.
        """

    def written_at(self, key: str) -> float:
        """Return when a file was written, in seconds since 1970 by the store's own clock.

        Raises:
            FileNotFoundError: there is none.
        """

    def remove_files(self, keys: Collection[str]) -> None:
        """Remove files; one that is gone already is no error."""

    def fetch(self, files: Iterable[tuple[str, str, Path]]) -> None:
        """Give each of some files a local path, with every byte verified.

        Args:
            files: key, SHA-256 that its bytes must have, and the local path, whose folder exists.

        Raises:
            Corrupt: a file is missing, or its bytes have another digest.
        """

    def names(self, below: str = "") -> set[str]:
        """Return the names of files and folders directly below a key; "" is the top."""

    def sizes(self) -> dict[str, int]:
        """Return the bytes of every file, by key."""

    def remove(self, folder: str) -> None:
        """Remove all files below a key."""

    def remove_unfinished(self) -> int:
        """Remove unfinished files of writers that died; return how many."""

    def one_writer(self) -> AbstractContextManager[None]:
        """Let one writer of this machine in at a time, where the store has locks.

        Writers of other machines are kept apart by `create`.
        """

    def check_creates_once(self) -> None:
        """Refuse a store on which two promotions at once could overwrite each other.

        Raises:
            BadRequest: the store cannot refuse a key that is taken. The message says what it did.
        """


def open_store(location: str | Path) -> Store:
    """Return the store that a setting names, without reading from it.

    Args:
        location: a folder, or `s3://bucket/prefix`.

    Raises:
        BadRequest: a registry cannot be stored at this kind of URI.
    """
    text = str(location)
    if text.startswith(BUCKET):
        # Loads obstore, which a registry in a folder does not need.
        from iak.pipeline.storage.bucket_store import BucketStore

        return BucketStore.of_uri(text)
    if "://" in text:
        raise BadRequest(f"{text} names no store of files; expected a folder or s3://bucket/prefix")
    from iak.pipeline.storage.folder_store import FolderStore

    return FolderStore(Path(text))


def map_concurrently(
    store: Store, do: Callable[[_Item], _Made], items: Iterable[_Item]
) -> Iterator[_Made]:
    """Apply a function to each item in several threads, and yield the results in order.

    The first error ends it.

    Args:
        store: the store. Its `max_requests` is the number of threads; at 1 this is plain `map`.
        do: the function that reads from the store, or writes to it.
        items: the argument of each call.
    """
    if store.max_requests == 1:
        yield from map(do, items)
        return
    with ThreadPoolExecutor(store.max_requests) as pool:
        yield from pool.map(do, items)
