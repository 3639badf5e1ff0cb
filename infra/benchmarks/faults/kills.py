"""Kill attempts at any change of a file, and run two writers at once: results stay the same."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from iak.pipeline.base.published_base import MANIFEST, open_base
from iak.pipeline.errors import PipelineError
from iak.pipeline.publish.bundle import list_bundles, read_bundle
from iak.pipeline.sharding.rectangles import FileEntry, verify_file
from infra.benchmarks.faults.bundle_files import remove
from infra.benchmarks.faults.child import Damage
from infra.benchmarks.faults.log_files import TUNED, InLog, restated
from infra.benchmarks.faults.outcome import Fault, Judgement, judge
from infra.benchmarks.faults.registry import (
    Stage,
    Vacuous,
    lost,
    published,
    register,
)
from infra.benchmarks.faults.workspace import REQUESTS, RUN_DIRS


def killed(stage: Stage, request: str, watched: str) -> Fault:
    """Kill an attempt at one of the changes that an undamaged one makes below a watched name.

    Raises:
        Vacuous: it ended before.
    """
    writes = stage.undamaged(request).writes or {}
    count = writes.get(watched, 0)
    if not count:
        raise Vacuous(f"a {request} changes nothing below {watched}")
    nth = stage.random.randrange(1, count + 1)
    answer = stage.setup.ask(stage.workspace, replace(REQUESTS[request], kill=(watched, nth)))
    if not answer.signal:
        raise Vacuous(f"it ended before change {nth} of {watched}: {answer.message}")
    what = f"killed ahead of change {nth} of {count} below {watched}"
    return Fault(what=what, names=(RUN_DIRS[request],))


def half_written(workspace: Path, run_dir: str) -> list[str]:
    """Return the names in a run folder that readers find and cannot read."""
    broken = []
    for folder in list_bundles(workspace / run_dir / "bundles"):
        try:
            opened = open_base(workspace / "R1")
            read_bundle(
                folder,
                base_fingerprint=opened.manifest.fingerprint,
                schema_hash=opened.manifest.schema_hash,
            )
        except PipelineError as error:
            broken.append(f"{folder.relative_to(workspace)}: {error}")
    if (workspace / run_dir / "base" / MANIFEST).exists():
        try:
            opened = open_base(workspace / run_dir)
            for entry in (*opened.manifest.files, *opened.manifest.optimizer):
                verify_file(opened.folder, FileEntry(**entry.model_dump()))
        except PipelineError as error:
            broken.append(f"{run_dir}/base: {error}")
    return broken


@dataclass(frozen=True, slots=True)
class Killed:
    """An attempt that is killed, and the same one again."""

    request: str
    watched: str

    def __call__(self, stage: Stage) -> Judgement:
        """Play it once."""
        before = published(stage.workspace)
        fault = killed(stage, self.request, self.watched)
        broken = half_written(stage.workspace, RUN_DIRS[self.request])
        again = replace(REQUESTS[self.request], before=None)
        answer = stage.setup.ask(stage.workspace, again)
        return judge(
            answer,
            fault,
            honest=[stage.undamaged(self.request)],
            has_published=False,
            lost=[*broken, *lost(before, stage.workspace)],
        )


@dataclass(frozen=True, slots=True)
class KilledThenServed:
    """A night that is killed while it writes bundles, and an evaluation that reads them."""

    def __call__(self, stage: Stage) -> Judgement:
        """Play it once."""
        before = published(stage.workspace)
        fault = killed(stage, "night", "/bundles")
        asked = REQUESTS["evaluation"]
        settings = {**asked.settings, "bundles": "N3"}
        answer = stage.setup.ask(stage.workspace, replace(asked, settings=settings))
        return judge(
            answer,
            fault,
            honest=[stage.undamaged("evaluation")],  # N3 would have become what N1 is
            has_published=False,
            lost=lost(before, stage.workspace),
        )


@dataclass(frozen=True, slots=True)
class KilledThenDamaged:
    """A run that is killed, whose inputs change, and the same run again."""

    request: str
    watched: str
    inject: Damage
    names: tuple[str, ...]

    def __call__(self, stage: Stage) -> Judgement:
        """Play it once."""
        first = killed(stage, self.request, self.watched)
        then = self.inject(stage.workspace, stage.random)
        before = published(stage.workspace)
        answer = stage.setup.ask(stage.workspace, replace(REQUESTS[self.request], before=None))
        fault = Fault(what=f"{first.what}, then {then.what}", names=(*then.names, *self.names))
        honest = [stage.fresh(self.request)] if answer.ending == "ended" else []
        return judge(
            answer,
            fault,
            honest=honest,
            has_published=False,
            lost=lost(before, stage.workspace),
        )


def _remove_live(workspace: Path, random: Random) -> Fault:
    return Fault(what=remove(workspace, random), names=("live", "N1"))


@dataclass(frozen=True, slots=True)
class Together:
    """Two attempts at the same time in one workspace."""

    requests: tuple[str, str]
    settings: tuple[tuple[str, str], ...] = ()
    """Other settings of the second one."""

    def __call__(self, stage: Stage) -> Judgement:
        """Play it once, and return the worse of the two judgements."""
        before = published(stage.workspace)
        one, other = (REQUESTS[name] for name in self.requests)
        other = replace(other, settings={**other.settings, **dict(self.settings)})
        if one.before is not None:  # clears the cache, for both of them once
            one.before(stage.workspace)
        asked = [replace(request, before=None) for request in (one, other)]
        with ThreadPoolExecutor(2) as pool:
            answers = list(
                pool.map(lambda request: stage.setup.ask(stage.workspace, request), asked)
            )
        run_dir = RUN_DIRS[self.requests[0]]
        fault = Fault(what=f"{' and '.join(self.requests)} at once", names=(run_dir,))
        if not any(answer.ending == "ended" for answer in answers):
            fault = Fault(what=f"{fault.what}: none ended", names=())
        judged = [
            judge(
                answer,
                fault,
                honest=[stage.undamaged(name)],
                has_published=False,
                lost=lost(before, stage.workspace),
            )
            for answer, name in zip(answers, self.requests, strict=True)
        ]
        return _worst(judged)


def _worst(judged: Sequence[Judgement]) -> Judgement:
    """Return a wrong judgement, else a refused one, else any."""
    order = ("survived", "refused by name", "wrong")
    return max(judged, key=lambda one: (order.index(one.verdict), len(one.lost)))


_KILLS = {
    "night": ("tune.safetensors", "/bundles", "record.json"),
    "cold night": ("/activations",),
    "mapped night": ("/mapped",),
    "pre-training": ("/checkpoints", "/.best", "/.sealed", "record.json"),
    "resumed pre-training": ("/checkpoints",),
    "evaluation": ("/predictions",),
}


def _register() -> None:
    for request, names in _KILLS.items():
        for watched in names:
            register("killed and resumed", request, Killed(request, watched))
    register("killed, then served from", "night, at bundles", KilledThenServed())
    live = KilledThenDamaged("next night", "tune.safetensors", _remove_live, ("live", "N1"))
    register("killed, live bundle removed, resumed", "next night", live)
    log = KilledThenDamaged("night", "tune.safetensors", InLog(restated, TUNED), ("the log",))
    register("killed, labels restated, resumed", "night", log)
    register("two writers", "a run folder, a cache", Together(("night", "night")))
    shared = (("run_dir", "N4"),)
    register("two writers", "a run folder, a cache", Together(("cold night", "night"), shared))
    register("two writers", "a run folder, a cache", Together(("pre-training", "pre-training")))


_register()
