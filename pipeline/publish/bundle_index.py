"""Publish a night's bundles at once: one folder, with an index that names all of them.

    bundles/
        index.json                       written last: every bundle, its SHA-256, published or held
        pooled/  region=a/  region=b/    kernel.safetensors and manifest.json (bundle.py)

Readers follow the index. The folder must have every bundle that the index names and no other, and
every manifest must be the one that it names. `read_bundle` verifies the weights.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from iak.pipeline.errors import BadRequest, Corrupt
from iak.pipeline.files import (
    not_permitted,
    put_file,
    putting_folder,
    remove_parts,
    sha256_of_file,
)
from iak.pipeline.first_few import first_few
from iak.pipeline.formats import current_document
from iak.pipeline.publish.bundle import MANIFEST, check_base, list_bundles, read_manifest
from iak.pipeline.sealed import check_seal, parsed, seal, spelled
from iak.schemas.manifest import BUNDLES_FORMAT, BundleEntry, BundleManifest, BundlesIndex

BUNDLES = "bundles"
INDEX = "index.json"
_AGAIN = "Run its `iak finetune` again with the same settings: it resumes and publishes all of them"


@contextmanager
def publishing_bundles(root: Path) -> Iterator[Path]:
    """Yield a hidden folder for a night's bundles, which replaces `root` when the block ends.

    The index is written then. Until then `root` has the old bundles. It keeps them where the block
    raises.

    Args:
        root: folder of the bundles; the caller is its only writer.
    """
    root.parent.mkdir(parents=True, exist_ok=True)
    remove_parts(root)  # of a night that was killed
    with putting_folder(root, syncs_files=True) as hidden:
        yield hidden
        write_index(hidden)


def write_index(root: Path) -> BundlesIndex:
    """Write the index of a folder's bundles, each read back and verified.

    Raises:
        BadRequest: there is no bundle.
        WrongBase: they are not of one base.
        Corrupt: a manifest is not what was written.
    """
    manifests = {folder: read_manifest(folder) for folder in list_bundles(root)}
    if not manifests:
        raise BadRequest(f"there is no bundle in {root} that an index could name")
    first = next(iter(manifests.values()))
    for folder, manifest in manifests.items():
        check_base(
            folder,
            manifest,
            base_fingerprint=first.base_fingerprint,
            schema_hash=first.schema_hash,
        )
    unsealed = BundlesIndex(
        base_fingerprint=first.base_fingerprint,
        schema_hash=first.schema_hash,
        bundles=[_entry(folder, manifest) for folder, manifest in manifests.items()],
        sha256="0" * 64,
    )
    document = seal(unsealed.model_dump(mode="json"))
    put_file(root / INDEX, spelled(document))
    return BundlesIndex.model_validate(document)


def _entry(folder: Path, manifest: BundleManifest) -> BundleEntry:
    return BundleEntry(
        folder=folder.name,
        domain=[(key, manifest.domain[key]) for key in manifest.level],
        manifest_sha256=sha256_of_file(folder / MANIFEST),
        weights_sha256=manifest.weights_sha256,
        published=manifest.verdict.publish,
    )


def find_bundles(path: Path) -> Path | None:
    """Return a folder of bundles, given its path or that of its run; None where there is none."""
    folders = (path, path / BUNDLES)
    indexed = [folder for folder in folders if (folder / INDEX).is_file()]
    return next(iter(indexed or [folder for folder in folders if list_bundles(folder)]), None)


def read_index(root: Path) -> BundlesIndex:
    """Return the index of a folder of bundles, after every manifest was compared with it.

    Raises:
        BadRequest: there is no index.
        OtherFormat: a newer version wrote it.
        Corrupt: it is not what was written, or the bundles are not those it names.
        NotPermitted: this user may not read it.
    """
    index = _parsed_index(root)
    named = {entry.folder: entry for entry in index.bundles}
    present = {folder.name for folder in list_bundles(root)}
    missing, foreign = sorted(named.keys() - present), sorted(present - named.keys())
    if missing:
        raise Corrupt(
            f"{root} lacks bundles that its {INDEX} names: {first_few(missing)}. "
            "Restore them from a copy, or tune again into a new --run-dir"
        )
    if foreign:
        raise Corrupt(
            f"{root} holds bundles that its {INDEX} does not name: {first_few(foreign)}. "
            "Keep the bundles of one night in a folder: move these out"
        )
    for entry in index.bundles:
        _check_entry(root / entry.folder, entry)
    return index


def check_index(root: Path, *, base_fingerprint: str, schema_hash: str) -> BundlesIndex:
    """Return the index of a folder of bundles that are to run on a base.

    Raises:
        WrongBase: they were tuned on another base, or on other inputs.
        BadRequest, OtherFormat, Corrupt, NotPermitted: see `read_index`.
    """
    index = read_index(root)
    check_base(root, index, base_fingerprint=base_fingerprint, schema_hash=schema_hash)
    return index


def _parsed_index(root: Path) -> BundlesIndex:
    """Return the index, after a check that its bytes were not changed."""
    path = root / INDEX
    try:
        data = path.read_bytes()
    except PermissionError as error:
        raise not_permitted(path, error) from error
    except OSError as error:
        raise _without_index(root) from error
    try:
        document = parsed(data)
        check_seal(document, data)
        current = current_document(
            document,
            kind="index of bundles",
            current=BUNDLES_FORMAT,
            where=path,
            remedy="Tune again with `iak finetune` into a new --run-dir",
        )
        return BundlesIndex.model_validate(current)
    except (ValueError, ValidationError) as error:
        raise Corrupt(
            f"{path} is not what was published: {error}. Restore it from a copy, or tune again "
            "into a new --run-dir"
        ) from error


def _without_index(root: Path) -> BadRequest:
    if not list_bundles(root):
        return BadRequest(f"no bundle below {root}; expected the bundles/ of an `iak finetune` run")
    return BadRequest(
        f"{root} holds bundles and no {INDEX}: it is of a night that was killed before it was "
        f"published. {_AGAIN}. If an earlier version finished it, which wrote no index, tune again "
        "into a new --run-dir"
    )


def _check_entry(folder: Path, entry: BundleEntry) -> None:
    """Compare a bundle's manifest with the index."""
    manifest = read_manifest(folder)
    actual = _entry(folder, manifest)
    if actual != entry:
        raise Corrupt(
            f"{folder / MANIFEST} is not the one that {INDEX} names: SHA-256 "
            f"{actual.manifest_sha256}, named {entry.manifest_sha256}. Restore the folder from a "
            "copy, or tune again into a new --run-dir"
        )
