"""Inject faults in checkpoints and records, from which killed and later runs go on."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from iak.pipeline.data.content import DIGESTS
from infra.benchmarks.faults.damage import hurt
from infra.benchmarks.faults.outcome import Fault
from infra.benchmarks.faults.registry import CannotInject, Damaging, register

_HOWS = ("flipped", "truncated", "emptied", "deleted")


@dataclass(frozen=True, slots=True)
class InFiles:
    """Damages one file of some."""

    files: str
    how: str
    names: tuple[str, ...] = ()
    """By which a refusal may call it, beside its path."""

    def __call__(self, workspace: Path, random: Random) -> Fault:
        """Damage one."""
        matches = sorted(path for path in workspace.glob(self.files) if path.is_file())
        if not matches:
            raise CannotInject(f"there is no {self.files}")
        return hurt(workspace, random.choice(matches), self.how, random, *self.names)


@dataclass(frozen=True, slots=True)
class InEvery:
    """Damages every one of some files."""

    files: str
    how: str

    def __call__(self, workspace: Path, random: Random) -> Fault:
        """Damage them."""
        done = [
            hurt(workspace, path, self.how, random) for path in sorted(workspace.glob(self.files))
        ]
        return Fault(
            what="; ".join(fault.what for fault in done),
            names=tuple(name for fault in done for name in fault.names),
        )


@dataclass(frozen=True, slots=True)
class InCheckpoint:
    """Damages one file of the newest checkpoint, or one of each."""

    files: str
    how: str
    every: bool = False

    def __call__(self, workspace: Path, random: Random) -> Fault:
        """Damage it."""
        steps = sorted((workspace / "P2/checkpoints").glob("step-*"))
        done = []
        for step in steps if self.every else steps[-1:]:
            path = random.choice(sorted(p for p in step.glob(self.files) if p.is_file()))
            done.append(hurt(workspace, path, self.how, random, "P2/checkpoints"))
        names = tuple(name for fault in done for name in fault.names)
        return Fault(what="; ".join(fault.what for fault in done), names=names)


@dataclass(frozen=True, slots=True)
class Edited:
    """Changes one value of a record, which stays valid JSON."""

    run: str
    change: Callable[[dict[str, object], Random], str]

    def __call__(self, workspace: Path, random: Random) -> Fault:
        """Edit it."""
        path = workspace / self.run / "record.json"
        document = json.loads(path.read_text())
        record = document.get("record", document)
        what = self.change(record, random)
        path.write_text(json.dumps(document, indent=1))
        return Fault(what=f"{self.run}/record.json: {what}", names=(f"{self.run}/record.json",))


def another_result(record: dict[str, object], random: Random) -> str:
    """Change a result in the record."""
    result = record["result"]
    assert isinstance(result, dict)
    name = random.choice(["parameters_per_kernel", "digest", "below_floor"])
    result[name] = {"parameters_per_kernel": 7, "digest": "0" * 64, "below_floor": {"x": 1}}[name]
    return f"result.{name} edited"


def as_finished(record: dict[str, object], _random: Random) -> str:
    """Mark the record as that of a finished run."""
    record |= {"status": "finished", "exit_code": 0, "ended_at": record["started_at"]}
    return "status running became finished"


def _register() -> None:
    where = "tune.safetensors, checkpoints/"
    for how in _HOWS:
        name = f"checkpoint {how}"
        register(name, where, Damaging(InFiles("N2/tune.safetensors", how), "resumed night"))
        register(name, where, Damaging(InEvery("N2/tune*.safetensors", how), "resumed night"))
        for files in ("**/*.safetensors", "state.json"):
            newest = InCheckpoint(files, how)
            register(name, where, Damaging(newest, "resumed pre-training"))
        mapped = InFiles("R1/mapped/**/[!.]*", how, ("R1/mapped",))
        register(f"mapped table {how}", "mapped/", Damaging(mapped, "mapped night"))
        for run, request in (("N1", "finished night"), ("N2", "resumed night"), ("N1", "record")):
            if (how, request) != ("deleted", "record"):  # there is nothing to show, then
                record = InFiles(f"{run}/record.json", how, (run,))
                register(f"record {how}", "record.json", Damaging(record, request))
    for how in ("flipped", "truncated", "emptied"):
        kept = InFiles(f"R1/{DIGESTS}", how)
        play = Damaging(kept, "night", is_warm=True)
        register(f"kept digests {how}", DIGESTS, play)
    every = InCheckpoint("**/*", "flipped", every=True)
    register("checkpoint flipped", where, Damaging(every, "resumed pre-training"))
    register("checkpoint deleted", where, Damaging(_no_checkpoints, "resumed pre-training"))
    register("record edited", "record.json", Damaging(Edited("N1", another_result), "record"))
    register("record edited", "record.json", Damaging(Edited("N2", as_finished), "resumed night"))


def _no_checkpoints(workspace: Path, _random: Random) -> Fault:
    shutil.rmtree(workspace / "P2/checkpoints")
    return Fault(what="P2/checkpoints removed", names=("P2/checkpoints",))


_register()
