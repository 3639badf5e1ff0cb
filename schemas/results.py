"""Define what the use cases return: the run's folder and record, and what was published."""

from pathlib import Path

from iak.schemas.adoption import AdoptionResult
from iak.schemas.base import Spec
from iak.schemas.manifest import BaseManifest
from iak.schemas.record import RunRecord
from iak.schemas.training import TrainingRunResult
from iak.schemas.tuning import KernelResult, TuningRunResult


class RunResult(Spec):
    """A run that finished."""

    run_dir: Path
    """The run folder."""
    record: RunRecord
    """Its `record.json`: settings, inputs, timings, and every number that it measured."""

    @property
    def exit_code(self) -> int:
        """Return the exit code: 0, 4 where a kernel or a base is held, 5 where a kernel failed."""
        return self.record.exit_code or 0


class PretrainResult(RunResult):
    """Result of a pre-training run."""

    training: TrainingRunResult
    """What the run measured."""
    manifest: BaseManifest | None
    """Manifest of the published base; None where the continued base was better than its child."""

    @property
    def base(self) -> Path | None:
        """Return the folder of the published base; None where none was published."""
        return self.run_dir / "base" if self.manifest else None


class AdoptResult(RunResult):
    """Result of an adoption."""

    adoption: AdoptionResult
    """What was read and measured."""
    manifest: BaseManifest
    """Manifest of the published base."""

    @property
    def base(self) -> Path:
        """Return the folder of the published base."""
        return self.run_dir / "base"


class NightResult(RunResult):
    """Result of a tuning run."""

    tuning: TuningRunResult
    """Every kernel after the gate, and counts of rows, labels and epochs."""

    @property
    def kernels(self) -> tuple[KernelResult, ...]:
        """Return every kernel, published or held, level by level."""
        return self.tuning.kernels

    @property
    def bundles(self) -> Path:
        """Return the folder of the bundles."""
        return self.run_dir / "bundles"
