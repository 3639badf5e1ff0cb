"""Run a platform's night in this process, and read what its folders, pages and registry hold."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from iak.jobs.console_report import console_report
from iak.pipeline.events import AnyEvent, Event, LogListed, PhaseEnded, PhaseStarted, Report
from iak.pipeline.launcher import Launcher, ProcessLauncher
from iak.pipeline.publish.bundle import MANIFEST, WEIGHTS, list_bundles, weights_digest
from iak.pipeline.publish.bundle_index import BUNDLES
from iak.pipeline.registry.commits import is_registry, read_head, read_history
from iak.pipeline.registry.verify import verify_registry
from iak.pipeline.report.index_page import index_page
from iak.pipeline.report.night_page import night_page
from iak.pipeline.report.nights import INDEX, PAGE, NightFolder, earlier_nights, night_folders
from iak.pipeline.runs.nightly import NightRequest, run_night
from iak.pipeline.runs.nightly_records import TUNE
from iak.pipeline.runs.record import AlreadyFinished, now
from iak.pipeline.storage.store import Store, open_store
from iak.schemas.base import Settings
from iak.schemas.manifest import BundleManifest
from iak.schemas.night import NightRecord
from iak.schemas.nightly import NightlySpec
from iak.schemas.registry import bundle_digest
from infra.benchmarks.faults.outcome import Ended

Moment = Callable[[str], None]


def attempt_night(settings: Settings, at: Moment) -> Ended:
    """Run a night to its end, or from where it broke, and read what all nights came to.

    Args:
        settings: what `nightly.toml` says, with three more: `night`, the date; `clock_days`, days
            that the clock is wrong by; `launcher`, which is `ray` for a local Ray.
        at: gets the name of each moment: `listed`, and `PHASE begins` and `PHASE ends`.
    """
    written = {name: value for name, value in settings.items() if name not in _OF_REQUEST}
    spec = NightlySpec.model_validate(written)
    wrong_by = timedelta(days=settings.get("clock_days", 0))
    asked = NightRequest(
        night=date.fromisoformat(settings["night"]), clock=lambda: now() + wrong_by
    )
    with console_report() as on_console, suppress(AlreadyFinished):
        run_night(spec, _launcher(spec, settings), asked, _report(at, on_console))
    return Ended(things=dict(_results(spec.nights, open_store(spec.registry))))


_OF_REQUEST = ("night", "clock_days", "launcher")


def _launcher(spec: NightlySpec, settings: Settings) -> Launcher:
    """Return what starts the night's workers."""
    if settings.get("launcher") != "ray":
        return ProcessLauncher()
    from iak.jobs.ray_launcher import RayLauncher  # takes a second, and few attempts need it

    return RayLauncher.of(spec.workers)


def _report(at: Moment, on_console: Report) -> Report:
    """Return a report that passes on moments, and shows notices."""

    def report(event: AnyEvent) -> None:
        on_console(event)
        if isinstance(event, LogListed):
            at("listed")
        elif isinstance(event, PhaseStarted):
            at(f"{event.phase} begins")
        elif isinstance(event, PhaseEnded):
            at(f"{event.phase} ends")
        elif not isinstance(event, Event):
            at(str(event.get("event")))

    return report


def _results(nights: Path, store: Store) -> Iterator[tuple[str, str]]:
    """Yield a digest of everything that nights leave behind, without times."""
    folders = list(night_folders(nights))
    yield "unreadable records", "; ".join(f.problem for f in folders if f.record is None)
    for folder, record in _newest(folders):
        name = str(record.night)
        yield f"{name}: record", _digest(_decided(record))
        shown = night_page(record, earlier_nights(folders, record), folder.path)
        yield f"{name}: page", _is_current(folder.path / PAGE, shown)
        for bundle in list_bundles(folder.path / TUNE / BUNDLES):
            yield f"{name}: {bundle.name}", _bundle(bundle)
    yield "index", _is_current(nights / INDEX, index_page(folders, nights))
    if not is_registry(store):
        return
    head = read_head(store)
    # Cleaning is no part of a night: one that was killed before it is cleaned by the next.
    moved = [commit for commit in read_history(store) if commit.action != "gc"] if head else []
    yield "commits", str(len(moved))
    yield "problems", "; ".join(verify_registry(store).problems)
    if head is not None:
        served = {p.name: p.bundle for p in head.pointers.get("champion", {}).values()}
        yield "pointers", _digest(served)
        yield "chains", _digest({c.name: c.model_dump(mode="json") for c in head.chains.values()})


def _newest(folders: Sequence[NightFolder]) -> Iterable[tuple[NightFolder, NightRecord]]:
    """Return the night that counts of each date: the finished one, where there is one.

    A night that failed, and whose log then changed, is another night with a folder of its own.
    """
    by_date: dict[date, tuple[NightFolder, NightRecord]] = {}
    for folder in folders:
        record = folder.record
        if record is not None and (record.night not in by_date or record.status == "finished"):
            by_date[record.night] = folder, record
    return by_date.values()


def _decided(record: NightRecord) -> Any:  # noqa: ANN401 - JSON
    """Return what a night decided and did, as JSON values without times, costs and attempts."""
    domains = [
        [d.decision.name, d.decision.choice, d.outcome, d.served_by, d.bundle, d.candidate]
        for d in record.domains
    ]
    numbers = [record.exit_code, record.registry_before, record.registry_after]
    return [record.status, record.error, *numbers, sorted(domains)]


def _bundle(folder: Path) -> str:
    """Return the identity of a bundle, after its tensors are compared with it."""
    manifest = BundleManifest.model_validate_json((folder / MANIFEST).read_bytes())
    if weights_digest(load_file(folder / WEIGHTS)) != manifest.weights_digest:
        return "its tensors are not those of its manifest"
    return bundle_digest(manifest)


def _is_current(path: Path, wanted: str) -> str:
    """Tell whether a page is what would be written now."""
    if not path.is_file():
        return "absent"
    return "current" if path.read_text() == wanted else "out of date"


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
