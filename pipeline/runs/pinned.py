"""Pin bundles that a setting names by a registry's alias for the length of a run."""

from pathlib import Path

from iak.pipeline.base.published_base import PublishedBase
from iak.pipeline.errors import BadRequest
from iak.pipeline.events import Notice
from iak.pipeline.first_few import first_few
from iak.pipeline.publish.bundle_index import BUNDLES, INDEX, read_index
from iak.pipeline.registry.resolve import alias_of, manifests_of, resolve
from iak.pipeline.runs.record import OpenRecord
from iak.pipeline.storage.store import Store, open_store
from iak.pipeline.storage.working_copy import readable_folder
from iak.schemas.paths import in_registry
from iak.schemas.registry import Alias

PINNED = "pinned"
"""Folder below a run folder: setting -> the bundles that its alias meant when the run began."""


def pinned_bundles(path: Path, opened: PublishedBase, record: OpenRecord, *, setting: str) -> Path:
    """Return the folder of bundles that a setting names, or one made from a registry's alias.

    A resumed run reads the bundles that it began with, whatever was promoted since.

    Args:
        path: a folder, `s3://bucket/prefix`, or `registry:PLACE@ALIAS`.
        opened: base that the bundles will run on.
        record: record of the run.
        setting: setting that names the path, for messages and as the folder's name.

    Raises:
        BadRequest: there is no such registry or alias, or the run is finished and the alias has
            moved since.
        WrongBase: all bundles of the alias run on another base.
        Corrupt: a stored bundle is damaged.
    """
    reference = in_registry(path)
    if reference is None:
        return readable_folder(path, below=[BUNDLES])
    store, alias = open_store(reference[0]), alias_of(path, reference[1], setting=setting)
    pinned, base = record.run_dir / PINNED / setting, opened.manifest.fingerprint
    if record.before is not None and record.before.inputs and (pinned / INDEX).is_file():
        if record.before.status == "finished":
            _check_not_moved(store, alias, pinned, base, setting=setting)
        return pinned
    resolved = resolve(store, alias, pinned, base_fingerprint=base)
    meaning = f"the {alias} of {store.uri} after commit {resolved.generation}"
    record.report(Notice(f"{setting}: {meaning}"))
    if resolved.of_other_bases:
        left_out = ", ".join(resolved.of_other_bases)
        record.report(Notice(f"  left out, tuned on another base: {left_out}"))
    return pinned


def bundles_now(path: Path, opened: PublishedBase, scratch: Path, *, setting: str) -> Path:
    """Return the folder of bundles that a setting names now.

    Args:
        path: a folder, `s3://bucket/prefix`, or `registry:PLACE@ALIAS`.
        opened: base that the bundles will run on.
        scratch: folder in which the bundles of an alias are put.
        setting: setting that names the path, for messages.

    Raises:
        BadRequest: there is no such registry or alias.
        WrongBase: all bundles of the alias run on another base.
        Corrupt: a stored bundle is damaged.
    """
    reference = in_registry(path)
    if reference is None:
        return readable_folder(path, below=[BUNDLES])
    store, alias = open_store(reference[0]), alias_of(path, reference[1], setting=setting)
    resolve(store, alias, scratch / setting, base_fingerprint=opened.manifest.fingerprint)
    return scratch / setting


def _check_not_moved(store: Store, alias: Alias, pinned: Path, base: str, *, setting: str) -> None:
    """Refuse a finished run whose alias has moved since."""
    now = manifests_of(store, alias, base_fingerprint=base)
    then = {entry.folder: entry.manifest_sha256 for entry in read_index(pinned).bundles}
    moved = sorted(name for name in now.keys() | then.keys() if now.get(name) != then.get(name))
    if moved:
        raise BadRequest(
            f"{pinned.parent.parent} holds a finished run that read an earlier state of {setting}: "
            f"the {alias} of {store.uri} moved since in {first_few(moved)}. "
            "Choose another --run-dir for what it means now"
        )
