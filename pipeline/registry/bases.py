"""Open the base that a setting names: a folder, or the base on which a registry's bundles run.

A registry stores the path of a base and its fingerprint, not its files.
"""

from dataclasses import replace
from pathlib import Path

from iak.pipeline.base import published_base
from iak.pipeline.base.published_base import PublishedBase
from iak.pipeline.errors import BadRequest, WrongBase
from iak.pipeline.registry.commits import read_head
from iak.pipeline.registry.resolve import alias_of
from iak.pipeline.registry.stored_bundles import read_entry
from iak.pipeline.storage.store import open_store
from iak.pipeline.storage.working_copy import read_copy
from iak.schemas.paths import bucket_uri, in_registry, reference_text


def open_base(path: Path) -> PublishedBase:
    """Open a base that a setting names.

    While a base is refreshed, an alias has bundles of two bases. The newest pointer's base is
    opened.

    Args:
        path: a run, a published base, `s3://bucket/prefix` of one, or `registry:PLACE@ALIAS`.

    Raises:
        BadRequest: there is no such base, registry or alias, or the registry has no path of the
            base.
        WrongBase: another base lies there now.
        Corrupt: its manifest, or a document of the registry, was changed.
    """
    reference = in_registry(path)
    if reference is None:
        return _open_folder(path)
    store, alias = open_store(reference[0]), alias_of(path, reference[1], setting="base")
    head = read_head(store)
    pointers = head.pointers.get(alias, {}).values() if head else ()
    if not pointers:
        raise BadRequest(f"base={reference_text(path)}: {store.uri} has no {alias} yet")
    # While a base is refreshed, domains move to it one by one. The last one that moved decides.
    newest = max(pointers, key=lambda pointer: pointer.generation)
    lineage = read_entry(store, newest.stored).lineage
    if lineage.base is None:
        raise BadRequest(
            f"base={reference_text(path)}: the registry does not know where base "
            f"{lineage.base_fingerprint} lies. Name its folder"
        )
    opened = _open_folder(Path(lineage.base))
    if opened.manifest.fingerprint != lineage.base_fingerprint:
        raise WrongBase(
            f"base={reference_text(path)}: {lineage.base} is base {opened.manifest.fingerprint} "
            f"now, but the {alias} of {newest.name} runs on {lineage.base_fingerprint}. Name the "
            "folder that holds it"
        )
    return opened


def _open_folder(path: Path) -> PublishedBase:
    """Open a base in a folder, or a local copy of one on an object store."""
    uri = bucket_uri(path)
    if uri is None:
        return published_base.open_base(path)
    opened = published_base.open_base(read_copy(uri, below=[published_base.FOLDER]))
    return replace(opened, uri=uri)
