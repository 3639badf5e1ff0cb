"""Read the run folder of a finished `iak finetune`, for the promotion of its bundles."""

from pathlib import Path

from iak.pipeline.errors import BadRequest, PipelineError
from iak.pipeline.publish.bundle import read_manifest
from iak.pipeline.publish.bundle_index import BUNDLES, find_bundles, read_index
from iak.pipeline.registry.bases import open_base
from iak.pipeline.registry.promote import Run
from iak.pipeline.runs.pinned import PINNED
from iak.pipeline.runs.record import RECORD, read_record
from iak.pipeline.storage.working_copy import readable_folder
from iak.schemas.paths import bucket_uri, reference_text
from iak.schemas.record import RunRecord
from iak.schemas.registry import bundle_digest
from iak.schemas.tuning import TunedBase


def finished_run(run_dir: Path) -> Run:
    """Return the facts of a run that a promotion needs.

    Args:
        run_dir: run folder of an `iak finetune`, or `s3://bucket/prefix` of one.

    Raises:
        BadRequest: the folder holds no finished run of that verb.
        Corrupt: its record was changed.
    """
    reference, run_dir = reference_text(run_dir), readable_folder(run_dir)
    record = read_record(run_dir)
    if record is None:
        raise BadRequest(
            f"run={reference} has no {RECORD}. Give the run folder of an `iak finetune`, whose "
            f"{BUNDLES}/ is promoted"
        )
    if record.verb != "finetune" or record.status != "finished":
        raise BadRequest(
            f"run={reference} is an iak {record.verb} that is {record.status}; expected a finished "
            "iak finetune. Finish it by its own command, or name another run"
        )
    output = record.outputs.get(BUNDLES)
    return Run(
        name=bucket_uri(reference) or str(run_dir.resolve()),
        bundles=run_dir / BUNDLES,
        base=_base_of(record),
        index_sha256=output.sha256 if output else None,
        record_sha256=record.record_sha256,
        code=record.commit,
        parents=_parents(run_dir, record),
    )


def _base_of(record: RunRecord) -> str | None:
    """Return the location of the base that a run read; None where it is no longer there."""
    path, tuned = record.settings.base, record.result_as(TunedBase)
    try:
        opened = open_base(Path(path)) if path else None
    except (PipelineError, OSError):
        return None
    if opened is None or opened.manifest.fingerprint != tuned.base_fingerprint:
        return None
    return opened.location


def _parents(run_dir: Path, record: RunRecord) -> dict[str, str]:
    """Return folder of a domain -> digest of the live bundle that its tuning started from.

    Empty where tuning started from no live bundle, or where those bundles have changed since.
    """
    pinned = run_dir / PINNED / "live"
    live = record.settings.live
    try:
        named = find_bundles(readable_folder(Path(live))) if live else None
        folder = pinned if pinned.is_dir() else named
        index = read_index(folder) if folder else None
    except (PipelineError, OSError):
        return {}
    if folder is None or index is None or index.sha256 != record.inputs.get("live bundles"):
        return {}
    return {
        entry.folder: bundle_digest(read_manifest(folder / entry.folder))
        for entry in index.bundles
        if entry.published
    }
