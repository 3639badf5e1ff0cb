"""The checkpoint of a tuning run: two generations, each verified before it is used.

    tune.safetensors            the newest: levels at their best, and the cohort that tuning is at
    tune.previous.safetensors   the one before it

The metadata carries a digest (xxh3_128) of every tensor and of the metadata itself. Where the
newest one is damaged, all workers go on from the one before it: more steps are replayed, and the
kernels end with the same bits. Where both are damaged, tuning starts from the beginning: nothing
that was published is lost.

Shapes: K kernels of a level that are tuned, N units of a kernel's row.
"""

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from xxhash import xxh3_128

from iak.pipeline.errors import BadLog, Corrupt
from iak.pipeline.files import not_permitted, putting_file, remove_parts
from iak.pipeline.formats import current_document
from iak.pipeline.process import Worker
from iak.pipeline.sharding.rectangles import together
from iak.pipeline.tuning.tune import CohortTuner, Tuned

CHECKPOINT = "tune.safetensors"
PREVIOUS = "tune.previous.safetensors"
CHECKPOINT_FORMAT = 2
"""1: written before checkpoints carried a digest; it cannot be verified, and is refused."""
_METADATA, _DIGEST = "tuning", "content"
_MISSING = "it is missing"
Report = Callable[[Mapping[str, Any]], None]
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """A level in the checkpoint."""

    is_finished: bool
    flat_KN: Tensor
    """Of the kernels that are tuned."""
    how: dict[str, Any]
    tuner: dict[str, Tensor] | None
    """State of the cohort that follows them, if it had begun."""


class TuningCheckpoint:
    """Writes the checkpoint now and then, on worker 0, and reads it back on all workers."""

    def __init__(
        self, folder: Path, *, snapshot: str, every_s: float, worker: Worker, report: Report
    ) -> None:
        """Open the checkpoint of a run; nothing is read or written yet.

        Args:
            folder: of the run.
            snapshot: fingerprint of the log; a checkpoint of another one is refused.
            every_s: seconds between two checkpoints.
            worker: this process.
            report: given what must be said of a damaged checkpoint.
        """
        self.newest, self.previous = folder / CHECKPOINT, folder / PREVIOUS
        self.snapshot, self.every_s, self.worker, self.report = snapshot, every_s, worker, report
        self.written_at = time.monotonic()
        self._is_newest_sound = True

    def save(
        self,
        finished: Sequence[Tuned],
        current: Tuned | None = None,
        tuner: CohortTuner | None = None,
        *,
        is_time: bool = False,
    ) -> None:
        """Write a checkpoint when it is time: levels at their best, and a cohort as it stands.

        Args:
            finished: levels that are.
            current: the level that follows them.
            tuner: of the cohort that it is at.
            is_time: whatever the clock says.
        """
        is_time = is_time or time.monotonic() - self.written_at >= self.every_s
        if self.worker.rank or not is_time:
            return
        levels = [*finished, *([current] if current else [])]
        tensors = {f"{d}/flat": t.bank.flat_KN[: t.kernels] for d, t in enumerate(levels)}
        if tuner is not None:
            tensors |= {f"{len(finished)}/tuner.{n}": t for n, t in tuner.state().items()}
        whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        told: dict[str, Any] = {
            "format": CHECKPOINT_FORMAT,
            "snapshot": self.snapshot,
            "finished": len(finished),
            "levels": [level.how() for level in levels],
        }
        told[_DIGEST] = _digest(whole, told)
        with putting_file(self.newest) as part:
            save_file(whole, part, metadata={_METADATA: json.dumps(told)})
            if self._is_newest_sound and self.newest.exists():
                self.newest.replace(self.previous)
        self._is_newest_sound = True
        self.written_at = time.monotonic()

    def load(self) -> dict[int, Saved]:
        """Return the levels in the newest sound checkpoint, none without one; a collective call.

        Raises:
            BadLog: the log has changed since.
            OtherFormat: another version wrote it.
            NotPermitted: this user may not read it.
        """
        problems: list[str] = []
        for path in (self.newest, self.previous):
            levels, problem = self._read_on_all(path)
            if not problem:
                self._say_fallback(problems)
                return levels
            problems.append(problem)
        if problems != [_MISSING] * 2:
            self._is_newest_sound = False
            self._say(
                f"no checkpoint can be read, so tuning starts from the beginning: {self.newest}: "
                f"{problems[0]}; {self.previous.name}: {problems[1]}"
            )
        return {}

    def _read_on_all(self, path: Path) -> tuple[dict[int, Saved], str]:
        """Return one generation's levels, and what is wrong with it on any worker."""
        levels: dict[int, Saved] = {}

        def read() -> str:
            if not path.exists():
                return _MISSING
            try:
                levels.update(_read(path, self.snapshot))
            except Corrupt as error:
                return str(error)
            return ""

        problems = [problem for problem in together(read, self.worker) if problem]
        return ({}, problems[0]) if problems else (levels, "")

    def _say_fallback(self, problems: Sequence[str]) -> None:
        if not problems:
            return
        self._is_newest_sound = False  # it must not take the place of the one that is read
        self._say(
            f"{self.newest} cannot be used: {problems[0]}. Tuning goes on from "
            f"{self.previous.name}, the checkpoint before it; a few more steps are replayed"
        )

    def _say(self, sentence: str) -> None:
        if self.worker.rank == 0:
            _log.warning("%s", sentence)
            self.report({"event": "loaded", "told": sentence})


def remove_checkpoint(folder: Path) -> None:
    """Remove what a run needs until it is over."""
    for name in (CHECKPOINT, PREVIOUS):
        (folder / name).unlink(missing_ok=True)
        remove_parts(folder / name)


def _read(path: Path, snapshot: str) -> dict[int, Saved]:
    """Return the levels in a file.

    Raises:
        Corrupt: it is not what was written.
        BadLog, OtherFormat, NotPermitted: as `TuningCheckpoint.load`.
    """
    try:
        path.open("rb").close()  # safetensors does not tell this error from others
        with safe_open(path, framework="pt") as file:
            told = json.loads((file.metadata() or {})[_METADATA])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except PermissionError as error:
        raise not_permitted(path, error) from error
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise Corrupt(f"it is damaged ({type(error).__name__}: {error})") from error
    if not isinstance(told, dict):
        raise Corrupt(f"it is damaged (its metadata holds a {type(told).__name__})")
    if _DIGEST in told or told.get("format") == CHECKPOINT_FORMAT:
        found = _digest(tensors, told)
        if found != told.get(_DIGEST):
            raise Corrupt(f"it is damaged (digest {found}, written as {told.get(_DIGEST)})")
    current_document(
        told,
        kind="tuning checkpoint",
        current=CHECKPOINT_FORMAT,
        where=path,
        mend="Remove it to start the run again, or choose another --run-dir",
    )
    if told["snapshot"] != snapshot:
        raise BadLog(
            f"the log changed since {path} was written; its kernels belong to other rows. Start a "
            "new run"
        )
    return {
        depth: Saved(
            is_finished=depth < told["finished"],
            flat_KN=tensors[f"{depth}/flat"],
            how=how,
            tuner=_below(tensors, f"{depth}/tuner."),
        )
        for depth, how in enumerate(told["levels"])
    }


def _digest(tensors: Mapping[str, Tensor], told: Mapping[str, Any]) -> str:
    """Return the digest of tensors on the CPU, and of the metadata but for the digest itself."""
    kept = {key: value for key, value in told.items() if key != _DIGEST}
    total = xxh3_128(json.dumps(kept, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        total.update(f"{name!r} {tensor.dtype} {list(tensor.shape)}\n".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return str(total.hexdigest())


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor] | None:
    found = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
    return found or None
