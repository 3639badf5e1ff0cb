"""Apply the retention of `nightly.toml`: remove old bundles, and run folders of old nights."""

from iak.pipeline.errors import PipelineError
from iak.pipeline.registry.live import registry_head
from iak.pipeline.registry.retention import remove_unneeded
from iak.pipeline.runs.stale import remove_stale_runs
from iak.pipeline.storage.store import open_store
from iak.schemas.nightly import NightlySpec


def apply_retention(spec: NightlySpec) -> list[str]:
    """Remove what `keep` does not keep, and return a notice for each part that failed.

    It raises nothing for a store or a disk that fails: the night itself has succeeded.

    Args:
        spec: the platform's settings; `keep` has the number of bundles and nights that stay.
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
