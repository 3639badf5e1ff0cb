"""Write and read the checkpoint of a tuning run: two generations, each verified before use.

    tune.safetensors            the newest: levels at their best, and the cohort that tuning is at
    tune.previous.safetensors   the one before it

The metadata carries a digest (xxh3_128) of every tensor and of the metadata itself. Where the
newest file is damaged, all workers go on from the one before it. More steps are then replayed, and
the kernels end with the same bits. Where both are damaged, tuning starts from the beginning.
Published bundles are not affected.

Shapes: K kernels of a level that are tuned, N units of a kernel's row.
"""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ConfigDict
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from xxhash import xxh3_128

from iak.pipeline.errors import BadLog, Corrupt
from iak.pipeline.events import NotLoaded, Report
from iak.pipeline.files import not_permitted, putting_file, remove_parts
from iak.pipeline.formats import current_document
from iak.pipeline.process import Worker
from iak.pipeline.sharding.rectangles import together
from iak.pipeline.tuning.tune import CohortTuner
from iak.pipeline.tuning.tuned_kernels import Tuned, TunedNumbers
from iak.schemas.base import Spec

CHECKPOINT = "tune.safetensors"
PREVIOUS = "tune.previous.safetensors"
CHECKPOINT_FORMAT = 3
"""Format 1 has no digest, cannot be verified, and is refused. Format 2 has no list of kernels that
diverged, since the first of them ended the run."""
_METADATA, _DIGEST = "tuning", "content"
_MISSING = "it is missing"
_log = logging.getLogger(__name__)


class _Metadata(Spec):
    """What a checkpoint says of its tensors, in the order in which it is written."""

    # A kernel without a validation yet has an infinite loss. What another version added is ignored.
    model_config = ConfigDict(allow_inf_nan=True, extra="ignore")

    format: Literal[3] = 3
    snapshot: str
    """Fingerprint of the log."""
    finished: int
    """Levels that are tuned; the one that follows them may have begun."""
    levels: tuple[TunedNumbers, ...]
    names: tuple[tuple[str, ...], ...] = ()
    """By level, the domains of its kernels; empty where an earlier version wrote the checkpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """A level in the checkpoint."""

    is_finished: bool
    flat_KN: Tensor
    """Weights of the kernels that are tuned."""
    numbers: TunedNumbers
    """Their losses and epochs."""
    tuner: dict[str, Tensor] | None
    """State of the cohort that follows them, if it had begun."""
    names: tuple[str, ...] | None = None
    """Domains of these kernels; None where an earlier version wrote the checkpoint."""


class TuningCheckpoint:
    """Writes the checkpoint every few seconds, on worker 0, and reads it back on all workers."""

    def __init__(
        self, folder: Path, *, snapshot: str, every_s: float, worker: Worker, report: Report
    ) -> None:
        """Name the checkpoint of a run; nothing is read or written yet.

        Args:
            folder: run folder.
            snapshot: fingerprint of the log. A checkpoint of another log is refused.
            every_s: seconds between two checkpoints; 0 writes one at every call of `save`.
            worker: this process.
            report: called with an event where a damaged checkpoint is passed over.
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
        is_due: bool = False,
    ) -> None:
        """Write a checkpoint when one is due: levels at their best, and the cohort being tuned.

        Args:
            finished: levels that are tuned, in order. A resumed run starts after them.
            current: the level that follows them, with the cohorts tuned so far.
            tuner: tuner of the level's next cohort, where it has begun.
            is_due: write one although `every_s` seconds have not passed.
        """
        is_due = is_due or time.monotonic() - self.written_at >= self.every_s
        if self.worker.rank or not is_due:
            return
        levels = [*finished, *([current] if current else [])]
        tensors = {f"{d}/flat": t.bank.flat_KN[: t.kernels] for d, t in enumerate(levels)}
        if tuner is not None:
            tensors |= {f"{len(finished)}/tuner.{n}": t for n, t in tuner.state().items()}
        whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        metadata = _Metadata(
            snapshot=self.snapshot,
            finished=len(finished),
            levels=tuple(level.numbers() for level in levels),
            names=tuple(tuple(level.bank.names[: level.kernels]) for level in levels),
        ).model_dump()
        metadata[_DIGEST] = content_digest(whole, metadata)
        with putting_file(self.newest) as part:
            save_file(whole, part, metadata={_METADATA: json.dumps(metadata)})
            # Only now that the new file is whole. A process that dies before this leaves both old
            # files as they are.
            if self._is_newest_sound and self.newest.exists():
                self.newest.replace(self.previous)
                # Before the newest, which replaces the driver's copy under its name.
                self.worker.files.send(self.previous)
        self.worker.files.send(self.newest)
        self._is_newest_sound = True
        self.written_at = time.monotonic()

    def load(self) -> dict[int, Saved]:
        """Return the levels in the newest sound checkpoint by depth; a collective call.

        Returns:
            An empty mapping where no checkpoint is sound.

        Raises:
            BadLog: the log has changed since it was written.
            OtherFormat: another version wrote it.
            NotPermitted: this user may not read it.
        """
        problems: list[str] = []
        for path in (self.newest, self.previous):
            levels, problem = self._read_on_all(path)
            if not problem:
                self._warn_of_fallback(problems)
                return levels
            problems.append(problem)
        if problems != [_MISSING] * 2:
            self._is_newest_sound = False
            self._warn(
                f"no checkpoint can be read, so tuning starts from the beginning: {self.newest}: "
                f"{problems[0]}; {self.previous.name}: {problems[1]}"
            )
        return {}

    def _read_on_all(self, path: Path) -> tuple[dict[int, Saved], str]:
        """Return one generation's levels, and its problem on any worker; "" for none.

        All workers must take the same generation, even where only one of them finds the damage.
        """
        levels: dict[int, Saved] = {}

        def read() -> str:
            if not path.exists():
                return _MISSING
            try:
                levels.update(read_levels(path, self.snapshot))
            except Corrupt as error:
                return str(error)
            return ""

        problems = [problem for problem in together(read, self.worker) if problem]
        return ({}, problems[0]) if problems else (levels, "")

    def _warn_of_fallback(self, problems: Sequence[str]) -> None:
        if not problems:
            return
        self._is_newest_sound = False  # it must not replace the one that is read
        self._warn(
            f"{self.newest} cannot be used: {problems[0]}. Tuning goes on from "
            f"{self.previous.name}, the checkpoint before it; a few more steps are replayed"
        )

    def _warn(self, sentence: str) -> None:
        if self.worker.rank == 0:
            _log.warning("%s", sentence)
            self.report(NotLoaded(sentence))


def remove_checkpoint(folder: Path) -> None:
    """Remove both generations and half-written files when the run is over."""
    for name in (CHECKPOINT, PREVIOUS):
        (folder / name).unlink(missing_ok=True)
        remove_parts(folder / name)


def read_levels(path: Path, snapshot: str) -> dict[int, Saved]:
    """Return the levels in a file by depth.

    Args:
        path: path of the checkpoint.
        snapshot: fingerprint of the log that it must belong to.

    Raises:
        Corrupt: it is not what was written.
        BadLog, OtherFormat, NotPermitted: see `TuningCheckpoint.load`.
    """
    try:
        # safetensors 0.8 raises FileNotFoundError where this user may not read; `open` does not.
        path.open("rb").close()
        with safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {})[_METADATA])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except PermissionError as error:
        raise not_permitted(path, error) from error
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise Corrupt(f"it is damaged ({type(error).__name__}: {error})") from error
    if not isinstance(metadata, dict):
        raise Corrupt(f"it is damaged (its metadata holds a {type(metadata).__name__})")
    # Before the format is looked at: a damaged number must not pass for another version's.
    if _DIGEST in metadata or metadata.get("format") == CHECKPOINT_FORMAT:
        digest = content_digest(tensors, metadata)
        if digest != metadata.get(_DIGEST):
            raise Corrupt(f"it is damaged (digest {digest}, written as {metadata.get(_DIGEST)})")
    known = _Metadata.model_validate(
        current_document(
            metadata,
            kind="tuning checkpoint",
            current=CHECKPOINT_FORMAT,
            where=path,
            remedy="Remove it to start the run again, or choose another --run-dir",
            migrations={2: _with_none_failed},
        )
    )
    if known.snapshot != snapshot:
        raise BadLog(
            f"the log changed since {path} was written; its kernels belong to other rows. Start a "
            "new run"
        )
    return {
        depth: Saved(
            is_finished=depth < known.finished,
            flat_KN=tensors[f"{depth}/flat"],
            numbers=level,
            tuner=_below(tensors, f"{depth}/tuner."),
            names=known.names[depth] if known.names else None,
        )
        for depth, level in enumerate(known.levels)
    }


def _with_none_failed(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return metadata of format 2 as format 3 has it."""
    return {**metadata, "levels": [level | {"failed": {}} for level in metadata["levels"]]}


def content_digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> str:
    """Return the digest of tensors on the CPU, and of the metadata without the digest itself."""
    signed = {key: value for key, value in metadata.items() if key != _DIGEST}
    total = xxh3_128(json.dumps(signed, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        total.update(f"{name!r} {tensor.dtype} {list(tensor.shape)}\n".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return str(total.hexdigest())


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor] | None:
    """Return the tensors whose names start with a prefix, without it; None where there is none."""
    matches = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
    return matches or None
