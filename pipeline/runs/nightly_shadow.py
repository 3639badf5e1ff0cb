"""Replay the newest days of the log before a night promotes its kernels.

What would serve is replayed, and not each kernel by itself: tonight's kernels with the live ones
that stay. Where a kernel is held, other kernels predict its rows. So the rest is replayed again.
"""

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from iak.pipeline.events import Report
from iak.pipeline.files import link_or_copy
from iak.pipeline.publish.bundle import list_bundles
from iak.pipeline.publish.bundle_index import read_index, write_index
from iak.pipeline.registry.commits import domain_name
from iak.pipeline.registry.live import live_pointers, registry_head
from iak.pipeline.registry.promote import Run
from iak.pipeline.registry.resolve import resolve
from iak.pipeline.runs.nightly_plan import NightPlan
from iak.pipeline.runs.shadow import shadow
from iak.pipeline.stats.metrics import POOLED_ROWS
from iak.pipeline.storage.store import open_store
from iak.schemas.night import NightShadow
from iak.schemas.nightly import NightlySpec
from iak.schemas.shadow import Exceeded, ShadowDocument, ShadowGateSpec, ShadowLimits, ShadowSpec

_WORDS = {
    "mean_change": "mean change",
    "rank_correlation": "rank correlation",
    "auc_loss": "loss of AUC",
    "calibration": "distance of calibration from 1",
    "latency": "time over live",
}


def replay_night(
    spec: NightlySpec,
    asked: ShadowGateSpec,
    plan: NightPlan,
    run: Run,
    *,
    withdrawn: Collection[str],
    scratch_in: Path,
    report: Report,
) -> NightShadow | None:
    """Return the verdict of a replay on tonight's kernels; None where the gate published none.

    Args:
        spec: the platform's settings.
        asked: days, share of the rows, and limits.
        plan: the night's plan; its base predicts on both sides.
        run: the night's tuning.
        withdrawn: folder names of domains whose live kernel is to serve no longer.
        scratch_in: folder of the night, in which the bundles of each side are linked.
        report: gets the events.

    Raises:
        PipelineError: base, bundles or log cannot be used.
    """
    index = read_index(run.bundles)
    names = {entry.folder: domain_name(entry.domain) for entry in index.bundles}
    fresh = {entry.folder for entry in index.bundles if entry.published}
    documents: list[ShadowDocument] = []
    held: dict[str, str] = {}
    with _live_bundles(spec, plan, scratch_in) as (scratch, live):
        while promoted := {folder for folder in fresh if names[folder] not in held}:
            candidate = scratch / f"candidate-{len(documents)}"
            kept = () if live is None else _other_folders(live, {*promoted, *withdrawn})
            link_bundles([*kept, *(run.bundles / folder for folder in promoted)], candidate)
            settings = _settings(spec, asked, plan, live, candidate)
            documents.append(shadow(settings, plan.catalog, report))
            found = held_kernels(
                documents[-1],
                {names[folder] for folder in promoted},
                withdrawn={names[folder] for folder in withdrawn},
            )
            if not found:
                break
            held |= found
    return _verdict(asked, plan, documents, held, has_live=live is not None) if documents else None


@contextmanager
def _live_bundles(
    spec: NightlySpec, plan: NightPlan, scratch_in: Path
) -> Iterator[tuple[Path, Path | None]]:
    """Yield a folder for links, and in it the live bundles; None where none serves on the base."""
    store, base = open_store(spec.registry), plan.base.manifest.fingerprint
    with TemporaryDirectory(prefix=".shadow-", dir=scratch_in) as folder:
        live = None
        if live_pointers(registry_head(store), base):
            live = Path(folder) / "live"
            resolve(store, "champion", live, base_fingerprint=base)
        yield Path(folder), live


def _other_folders(bundles: Path, replaced: Collection[str]) -> list[Path]:
    """Return the folders of the bundles of other domains than those that are replaced."""
    return [folder for folder in list_bundles(bundles) if folder.name not in replaced]


def link_bundles(bundles: Iterable[Path], to: Path) -> None:
    """Make a folder of some bundles, with an index as a night's bundles have.

    Args:
        bundles: folders of the bundles, in any places.
        to: the folder, which does not exist yet.
    """
    for bundle in bundles:
        (to / bundle.name).mkdir(parents=True)
        for file in bundle.iterdir():
            link_or_copy(file, to / bundle.name / file.name)
    write_index(to)


def _settings(
    spec: NightlySpec, asked: ShadowGateSpec, plan: NightPlan, live: Path | None, candidate: Path
) -> ShadowSpec:
    """Return the settings of `iak shadow` for a night. Tables are those that the night tunes on."""
    return ShadowSpec.model_validate(
        {
            "catalog": spec.catalog,
            "data_root": spec.data_root,
            "as_of": plan.night,
            "base": plan.base_path,
            "tables": spec.finetune.tables.model_dump(),
            "live": live,
            "candidate": candidate,
            "dates": (plan.night - timedelta(days=asked.days - 1), plan.night),
            "share": asked.share,
            "limits": _limits(asked),
            "moved": 0,
        }
    )


def _limits(asked: ShadowGateSpec) -> ShadowLimits:
    return ShadowLimits(**{name: getattr(asked, name) for name in ShadowLimits.model_fields})


def held_kernels(
    document: ShadowDocument, new: Collection[str], *, withdrawn: Collection[str]
) -> dict[str, str]:
    """Return the new kernels that a replay holds, each with the limit that it exceeds.

    A limit that rows of one domain exceed holds the kernel that predicts them, if that is new. A
    limit over all rows, or on the time, holds all new kernels, but only where no single one is to
    blame: without those, it may hold.

    Args:
        document: the replay's result.
        new: names of the domains that have a new kernel in it.
        withdrawn: domains whose live kernel serves no longer. Their rows hold nothing: they change
            because the gate found harm in what serves.
    """
    kernels = {change.domain: change.candidate_kernel for change in document.changes}
    held: dict[str, str] = {}
    over_all = []
    for limit in document.exceeded:
        if limit.domain in withdrawn:
            continue
        kernel = kernels.get(limit.domain) if limit.domain else None
        if kernel is None:
            over_all.append(limit)
        elif kernel in new:
            held.setdefault(kernel, _sentence(limit))
    if over_all and not held:
        return dict.fromkeys(new, _sentence(over_all[0]))
    return held


def _sentence(limit: Exceeded) -> str:
    """Return why a kernel is held, with the numbers."""
    of = f" of {limit.task}" if limit.task else ""
    where = "" if limit.domain in (None, POOLED_ROWS) else f" in {limit.domain}"
    return (
        f"held by the replay: {_WORDS[limit.limit]}{of}{where} is {limit.seen:.4g}, and "
        f"shadow.{limit.limit} allows {limit.allowed:g}"
    )


def _verdict(
    asked: ShadowGateSpec,
    plan: NightPlan,
    documents: list[ShadowDocument],
    held: dict[str, str],
    *,
    has_live: bool,
) -> NightShadow:
    """Return what the record of the night says of its replays."""
    last = documents[-1]
    return NightShadow(
        first=plan.night - timedelta(days=asked.days - 1),
        last=plan.night,
        against="live" if has_live else "base",
        limits=_limits(asked),
        rows=last.rows,
        replays=len(documents),
        latency=last.latency,
        changes=[change for change in last.changes if change.domain == POOLED_ROWS],
        exceeded=[limit for document in documents for limit in document.exceeded],
        held=held,
    )
