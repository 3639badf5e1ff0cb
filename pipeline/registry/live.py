"""Find the bundles that serve now: a registry's champions on one base. It imports no torch."""

from datetime import date

from iak.pipeline.registry.commits import is_registry, read_head
from iak.pipeline.registry.stored_bundles import read_entry
from iak.pipeline.storage.store import Store
from iak.schemas.registry import Commit, Pointer


def registry_head(store: Store) -> Commit | None:
    """Return the newest commit of a registry; None where there is no registry yet."""
    return read_head(store) if is_registry(store) else None


def live_pointers(head: Commit | None, base: str) -> dict[str, Pointer]:
    """Return the champions that run on a base, by domain.

    Args:
        head: a commit of the registry; None has no pointer.
        base: fingerprint of the base.
    """
    pointers = head.pointers.get("champion", {}).values() if head else ()
    return {p.name: p for p in pointers if p.base_fingerprint == base}


def data_until(store: Store, pointer: Pointer) -> date | None:
    """Return the last day of the data that a kernel was tuned on; None where it is not known."""
    return read_entry(store, pointer.stored).lineage.data_window.tune.last
