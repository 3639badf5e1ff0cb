"""Remove what `nightly.toml` no longer keeps: bundles, and the run folders of old nights."""

from iak.pipeline.errors import PipelineError
from iak.pipeline.registry.live import registry_head
from iak.pipeline.registry.retention import remove_unneeded
from iak.pipeline.runs.stale import remove_stale_runs
from iak.pipeline.storage.store import open_store
from iak.schemas.nightly import NightlySpec


def keep_what_is_needed(spec: NightlySpec) -> list[str]:
    """Remove the rest, and return a notice for whatever failed: no night fails by its cleaning.

    Args:
        spec: the platform's settings; `keep` says what stays.
    """
    notices = []
    try:
        store = open_store(spec.registry)
        if registry_head(store):
            remove_unneeded(store, keep=spec.keep.bundles, dry_run=False)
    except (PipelineError, OSError) as error:
        notices.append(f"The registry was not cleaned: {error}")
    try:
        remove_stale_runs(spec.nights, keep=spec.keep.nights, dry_run=False)
    except (PipelineError, OSError) as error:
        notices.append(f"Old nights were not cleaned: {error}")
    return notices
