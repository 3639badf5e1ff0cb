"""The functions that `import iak` offers: check a log, pre-train, tune a night, evaluate, read.

Each takes the settings of its verb as keywords. `iak VERB --help` explains them all. Settings that
are left out come from the catalogue's presets, then from the defaults. Workers run in this process
unless `workers` asks for several processes or `launcher` for Ray. (A script that asks for several
needs Python's usual `if __name__ == "__main__":`, since each process imports it.)

The examples use two folders: `log`, with a planted log (`iak synth out=log rows=20000 days=14`),
and `runs`, an empty one.
"""

from pathlib import Path
from typing import Any

from iak.pipeline.base import published_base
from iak.pipeline.base.published_base import PublishedBase
from iak.pipeline.errors import BadRequest
from iak.pipeline.events import Report, silent
from iak.pipeline.launcher import Launcher, ProcessLauncher
from iak.pipeline.publish.bundle import Bundle, read_bundle
from iak.pipeline.publish.bundle_index import find_bundles, read_index
from iak.pipeline.runs import check
from iak.pipeline.runs import evaluate as evaluation
from iak.pipeline.runs.check import Findings
from iak.pipeline.runs.evaluate import Evaluation
from iak.pipeline.runs.finetune import tune_night as tune_night_of_spec
from iak.pipeline.runs.load import load_catalog, spec_with_presets
from iak.pipeline.runs.pretrain import pretrain_base
from iak.schemas.job import CheckSpec, EvaluateSpec, FinetuneSpec, PretrainSpec
from iak.schemas.results import NightResult, PretrainResult

_ONE_WORKER: dict[str, Any] = {"workers": 1}


def check_log(
    catalog: str | Path,
    data_root: str | Path,
    *,
    report: Report = silent,
    **settings: Any,  # noqa: ANN401 - settings of the verb, which its spec checks
) -> Findings:
    """Check and profile a log by its catalogue before anything is trained.

    Args:
        catalog: TOML file of the catalogue, or the name of a shipped one.
        data_root: folder or URI under which the log lies.
        report: gets the events of the check.
        settings: further settings of `iak check`.

    Raises:
        BadRequest: there is no such log or catalogue, or a setting is unknown.

    Example:
        >>> import iak
        >>> findings = iak.check_log("planted", log, profile=False)
        >>> findings.is_refused
        False
        >>> sum(findings.report.split_rows.values()) <= findings.report.rows
        True
    """
    described = load_catalog(Path(catalog))
    asked = {"catalog": catalog, "data_root": str(data_root)}
    # `iak check` reads no presets: they are settings of training.
    bare = described.model_copy(update={"presets": {}})
    spec = spec_with_presets(CheckSpec, "check", bare, asked | settings)
    return check.check_log(spec, described, report)


def pretrain(
    catalog: str | Path,
    data_root: str | Path,
    *,
    run_dir: str | Path,
    launcher: Launcher | None = None,
    report: Report = silent,
    **settings: Any,  # noqa: ANN401 - settings of the verb, which its spec checks
) -> PretrainResult:
    """Pre-train a base on the catalogue's `pretrain` split and publish it in the run folder.

    Args:
        catalog: TOML file of the catalogue, or the name of a shipped one.
        data_root: folder or URI under which the log lies.
        run_dir: the run folder; an interrupted run in it is resumed.
        launcher: starts the workers; None runs one worker in this process.
        report: gets the events of the run.
        settings: further settings of `iak pretrain`.

    Raises:
        AlreadyFinished: the folder holds this very run, finished.
        PipelineError: the request cannot be met.

    Example:
        >>> import iak
        >>> small = {"width": 4, "mlp": [8], "experts": 2, "expert_width": 4}
        >>> result = iak.pretrain("planted", log, run_dir=runs / "base", model=small)
        >>> result.base.name
        'base'
    """
    asked = {"catalog": catalog, "data_root": str(data_root), "run_dir": run_dir}
    described = load_catalog(Path(catalog))
    spec = spec_with_presets(PretrainSpec, "pretrain", described, _ONE_WORKER | asked | settings)
    return pretrain_base(spec, described, launcher or ProcessLauncher(), report)


def tune_night(
    catalog: str | Path,
    data_root: str | Path,
    *,
    base: str | Path,
    run_dir: str | Path,
    launcher: Launcher | None = None,
    report: Report = silent,
    **settings: Any,  # noqa: ANN401 - settings of the verb, which its spec checks
) -> NightResult:
    """Tune every domain's kernel on a frozen base, and write the bundles in the run folder.

    Args:
        catalog: TOML file of the catalogue, or the name of a shipped one.
        data_root: folder or URI under which the log lies.
        base: run folder of a pre-training, or a published base.
        run_dir: the run folder; an interrupted run in it is resumed.
        launcher: starts the workers; None runs one worker in this process.
        report: gets the events of the run.
        settings: further settings of `iak finetune`.

    Raises:
        AlreadyFinished: the folder holds this very run, finished.
        PipelineError: the request cannot be met.

    Example:
        >>> import iak
        >>> night = iak.tune_night(
        ...     "planted", log, base=runs / "base", run_dir=runs / "night",
        ...     pooled={"max_epochs": 1}, domain={"max_epochs": 1},
        ... )
        >>> "pooled" in [kernel.domain for kernel in night.kernels]
        True
    """
    asked = {"catalog": catalog, "data_root": str(data_root), "base": base, "run_dir": run_dir}
    described = load_catalog(Path(catalog))
    spec = spec_with_presets(FinetuneSpec, "finetune", described, _ONE_WORKER | asked | settings)
    return tune_night_of_spec(spec, described, launcher or ProcessLauncher(), report)


def evaluate(
    catalog: str | Path,
    data_root: str | Path,
    *,
    base: str | Path,
    run_dir: str | Path,
    launcher: Launcher | None = None,
    report: Report = silent,
    **settings: Any,  # noqa: ANN401 - settings of the verb, which its spec checks
) -> Evaluation:
    """Evaluate a base, and kernels where `bundles` names them, on the same later rows.

    Args:
        catalog: TOML file of the catalogue, or the name of a shipped one.
        data_root: folder or URI under which the log lies.
        base: run folder of a pre-training, or a published base.
        run_dir: the run folder; predictions and metrics lie there afterwards.
        launcher: starts the workers; None runs one worker in this process.
        report: gets the events of the run.
        settings: further settings of `iak evaluate`.

    Raises:
        AlreadyFinished: the folder holds this very run, finished.
        PipelineError: the request cannot be met.

    Example:
        >>> import iak
        >>> evaluation = iak.evaluate(
        ...     "planted", log, base=runs / "base", bundles=runs / "night",
        ...     run_dir=runs / "evaluation",
        ... )
        >>> sorted({row.method for row in evaluation.rows})
        ['base', 'iak', 'iak_published', 'oracle', 'oracle_global']
    """
    asked = {"catalog": catalog, "data_root": str(data_root), "base": base, "run_dir": run_dir}
    described = load_catalog(Path(catalog))
    spec = spec_with_presets(EvaluateSpec, "evaluate", described, _ONE_WORKER | asked | settings)
    return evaluation.evaluate(spec, described, launcher or ProcessLauncher(), report)


def open_base(path: str | Path) -> PublishedBase:
    """Open a published base by its documents. Weights are read when workers load them.

    Args:
        path: run folder of a pre-training, or the published base in it.

    Raises:
        BadRequest: there is no base.
        Corrupt: its manifest was changed.

    Example:
        >>> import iak
        >>> base = iak.open_base(runs / "base")
        >>> len(base.manifest.fingerprint)
        64
    """
    return published_base.open_base(Path(path))


def read_bundles(path: str | Path) -> tuple[Bundle, ...]:
    """Read every bundle of a night, published or held, and verify every byte of them.

    Args:
        path: run folder of a night, or its bundles/.

    Returns:
        The bundles in the order of their index: manifest, verdict and tensors of each.

    Raises:
        BadRequest: there is no bundle, or no index that names them.
        Corrupt: a file is not what the index or its manifest says.

    Example:
        >>> import iak
        >>> bundles = iak.read_bundles(runs / "night")
        >>> "pooled" in [bundle.manifest.name for bundle in bundles]
        True
    """
    folder = find_bundles(Path(path))
    if folder is None:
        raise BadRequest(
            f"{path} has no bundles. Expected: the run folder of an `iak finetune`, or its bundles/"
        )
    index = read_index(folder)
    written_for = {"base_fingerprint": index.base_fingerprint, "schema_hash": index.schema_hash}
    return tuple(read_bundle(folder / entry.folder, **written_for) for entry in index.bundles)
