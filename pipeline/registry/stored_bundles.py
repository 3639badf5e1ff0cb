"""Store bundles in a registry: written once, never changed.

    bundles/DIGEST-MARK/
        entry.json                       its domain, its lineage, every file's SHA-256
        region=a/kernel.safetensors      the bundle as it was published (publish/bundle.py)
        region=a/manifest.json

The entry is written last, and no commit points at a bundle before that. So an upload that was
interrupted is never read. Bundles are verified by their SHA-256, without torch.
"""

import secrets
from collections.abc import Mapping
from pathlib import Path

from iak.pipeline.errors import Corrupt
from iak.pipeline.formats import Migration
from iak.pipeline.registry.commits import read_sealed
from iak.pipeline.sealed import seal, spelled
from iak.pipeline.storage.folder_store import check_digest, not_stored
from iak.pipeline.storage.store import Store
from iak.schemas.base import JsonObject
from iak.schemas.registry import ENTRY_FORMAT, Entry

STORED, ENTRY = "bundles", "entry.json"
DIGEST_LENGTH = 64
"""Characters of a SHA-256, with which the name of a stored bundle begins."""


def _with_stored(entry: JsonObject) -> JsonObject:
    """Migrate an entry of format 1: a bundle was stored under its digest alone."""
    return {**entry, "stored": entry["digest"]}


_ENTRY_STEPS: Mapping[int, Migration] = {1: _with_stored}


def stored_key(stored: str, *names: str) -> str:
    """Return the key of a stored bundle, or of a file below it."""
    return "/".join((STORED, stored, *names))


def stored_bundles(store: Store) -> set[str]:
    """Return the names of all stored bundles, including those of killed promotions."""
    return store.names(STORED)


def newest_folders(root: Path) -> dict[str, Path]:
    """Return digest -> the folder where a registry in a folder holds that bundle.

    A bundle that was removed and promoted again may be stored twice; the newest folder counts.

    Args:
        root: folder of the registry; one that cannot be listed counts as empty.
    """
    try:
        folders = sorted((root / STORED).iterdir(), key=lambda folder: folder.stat().st_mtime)
    except OSError:
        return {}
    return {folder.name[:DIGEST_LENGTH]: folder for folder in folders}


def read_entry(store: Store, stored: str) -> Entry:
    """Return the entry of a stored bundle. Its files are not read.

    Raises:
        Corrupt: it is missing, changed, or of another bundle.
    """
    key = stored_key(stored, ENTRY)
    try:
        entry = read_sealed(
            store,
            key,
            Entry,
            kind="registry entry",
            current=ENTRY_FORMAT,
            migrations=_ENTRY_STEPS,
        )
    except FileNotFoundError as error:
        raise not_stored(store.where(key), "there is no such file") from error
    if entry.stored != stored:
        raise Corrupt(
            f"{store.where(key)} is the entry of bundle {entry.stored}, in the folder of {stored}. "
            "Restore it from a copy of the registry"
        )
    return entry


def verify_stored(store: Store, stored: str) -> Entry:
    """Read every byte of a stored bundle.

    Raises:
        Corrupt: a file is missing or differs; the message names it.
        NotPermitted: this user may not read it.
    """
    entry = read_entry(store, stored)
    for file in entry.files:
        key = stored_key(stored, entry.folder, file.name)
        try:
            content = store.read(key)
        except OSError as error:
            raise not_stored(
                store.where(key), f"it cannot be read: {error.strerror or 'there is none'}"
            ) from error
        check_digest(store.where(key), content, file.sha256)
    return entry


def put_stored(store: Store, unsealed: Entry, contents: Mapping[str, bytes]) -> Entry:
    """Store a bundle under a new name, even where the same bundle is stored already.

    Args:
        store: store of the registry.
        unsealed: the entry. Its own digest and its name are not read.
        contents: file name -> bytes, as the entry names them.
    """
    stored = f"{unsealed.digest}-{secrets.token_hex(8)}"
    document = unsealed.model_dump(mode="json") | {"stored": stored}
    entry = Entry.model_validate(seal(document))
    files = {stored_key(stored, entry.folder, name): data for name, data in contents.items()}
    store.put(files | {stored_key(stored, ENTRY): spelled(entry.model_dump(mode="json"))})
    return entry


def fetch_stored(store: Store, stored: str, to: Path) -> Entry:
    """Put a stored bundle's files into a folder of this machine, every byte verified.

    Args:
        store: store of the registry.
        stored: name of the bundle.
        to: folder in which the bundle's own folder is made.

    Raises:
        Corrupt: a file is missing or differs.
    """
    entry = read_entry(store, stored)
    folder = to / entry.folder
    folder.mkdir()
    store.fetch(
        (stored_key(stored, entry.folder, file.name), file.sha256, folder / file.name)
        for file in entry.files
    )
    return entry


def remove_stored(store: Store, stored: str) -> None:
    """Remove a stored bundle. A commit of gc must have named it before."""
    store.remove(stored_key(stored))


def stored_bytes(store: Store, stored: str) -> int:
    """Return the bytes of a stored bundle's files, from its entry."""
    return sum(file.bytes for file in read_entry(store, stored).files)
