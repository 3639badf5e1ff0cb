"""Store bundles in a registry by content: written once, never changed.

    bundles/DIGEST/
        entry.json                       its domain, its lineage, every file's SHA-256
        region=a/kernel.safetensors      the bundle as it was published (publish/bundle.py)
        region=a/manifest.json

A stored bundle is put in place whole. It is read by hashing, without torch.
"""

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from iak.pipeline.errors import Corrupt
from iak.pipeline.files import (
    is_part,
    not_permitted,
    put_file,
    putting_folder,
    remove_folder,
    remove_parts,
)
from iak.pipeline.registry.commits import COMMITS, read_sealed
from iak.pipeline.sealed import seal, spelled
from iak.schemas.registry import ENTRY_FORMAT, Entry

STORED, ENTRY = "bundles", "entry.json"


def stored_folder(root: Path, digest: str) -> Path:
    """Return the folder in which a registry stores a bundle."""
    return root / STORED / digest


def stored_digests(root: Path) -> set[str]:
    """Return the digests of all bundles whose bytes are there."""
    folder = root / STORED
    return (
        {path.name for path in folder.iterdir() if not is_part(path)} if folder.is_dir() else set()
    )


def read_entry(root: Path, digest: str) -> Entry:
    """Return the entry of a stored bundle. Its files are not read.

    Raises:
        Corrupt: it is missing, changed, or of another bundle.
    """
    path = stored_folder(root, digest) / ENTRY
    entry = read_sealed(path, Entry, kind="registry entry", current=ENTRY_FORMAT)
    if entry.digest != digest:
        raise Corrupt(
            f"{path} is the entry of bundle {entry.digest}, in the folder of {digest}. Restore it "
            "from a copy of the registry"
        )
    return entry


def verify_stored(root: Path, digest: str) -> Entry:
    """Read every byte of a stored bundle.

    Raises:
        Corrupt: a file is missing or differs; the message names it.
        NotPermitted: this user may not read it.
    """
    entry = read_entry(root, digest)
    for file in entry.files:
        path = stored_folder(root, digest) / entry.folder / file.name
        try:
            data = path.read_bytes()
        except PermissionError as error:
            raise not_permitted(path, error) from error
        except OSError as error:
            raise _corrupt(path, f"it cannot be read: {error.strerror}") from error
        sha256 = hashlib.sha256(data).hexdigest()
        if sha256 != file.sha256:
            raise _corrupt(path, f"it has SHA-256 {sha256}, its entry says {file.sha256}")
    return entry


def put_stored(root: Path, unsealed: Mapping[str, Any], contents: Mapping[str, bytes]) -> Entry:
    """Store a bundle, unless it is stored already, and return its entry.

    The caller has the registry's lock. A stored bundle that is damaged is replaced.

    Args:
        root: folder of the registry.
        unsealed: the entry as JSON values, without its own digest.
        contents: file name -> bytes, as the entry names them.
    """
    entry = Entry.model_validate(seal(unsealed))
    folder = stored_folder(root, entry.digest)
    folder.parent.mkdir(exist_ok=True)
    if folder.exists():
        try:
            return verify_stored(root, entry.digest)
        except Corrupt:
            pass  # the bytes at hand are sound: they take its place
    remove_parts(folder)
    with putting_folder(folder) as built:
        (built / entry.folder).mkdir()
        for name, content in contents.items():
            put_file(built / entry.folder / name, content)
        put_file(built / ENTRY, spelled(entry.model_dump(mode="json")))
    return entry


def remove_stored(root: Path, digest: str) -> None:
    """Remove a stored bundle. The caller has the registry's lock."""
    remove_folder(stored_folder(root, digest))


def remove_unfinished(root: Path) -> int:
    """Remove part files and folders of writers that died, and return their number.

    The caller has the registry's lock, so the writers that began them are gone.
    """
    folders = [folder for folder in (root, root / COMMITS, root / STORED) if folder.is_dir()]
    left = [path for folder in folders for path in folder.iterdir() if is_part(path)]
    for path in left:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return len(left)


def stored_bytes(root: Path, digest: str) -> int:
    """Return the bytes of a stored bundle's files, from its entry."""
    return sum(file.bytes for file in read_entry(root, digest).files)


def _corrupt(path: Path, what: str) -> Corrupt:
    return Corrupt(
        f"{path} is not what was stored: {what}. Promote the run that made it again, which stores "
        "it anew, or restore the file from a copy of the registry"
    )
