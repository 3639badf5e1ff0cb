"""Run a benchmark of this project: `python -m infra.benchmarks NAME [settings]`.

Benchmarks and scripts run in a checkout; the installed package does not hold them. What users run
on their own cluster is `iak bench sharding` and `iak bench scaling`.
"""

import importlib
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

Start = Callable[[BaseModel], int]
"""Takes the settings of a benchmark, and returns an exit code."""
PROGRAM = "python -m infra.benchmarks"
CONFIGS = Path(__file__).parent / "configs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """A benchmark with settings, a record and a picture."""

    spec: str
    """Name of its class in specs.py."""
    help: str


BENCHMARKS = {
    "data": Benchmark(
        spec="BenchDataSpec",
        help="How fast rows become batches, against raw decoding",
    ),
    "finetune": Benchmark(
        spec="BenchFinetuneSpec",
        help="What a night costs on a frozen base, against full fine-tuning",
    ),
    "tables": Benchmark(
        spec="BenchTablesSpec",
        help="Whether a night costs more on a table of a billion rows than on a small one",
    ),
    "gate": Benchmark(
        spec="BenchGateSpec",
        help="How often a gate errs in a month of nights, and the smallest gain that it finds",
    ),
    "nights": Benchmark(
        spec="BenchNightsSpec",
        help="What weeks of nights bring, beside the first night alone and nights from scratch",
    ),
    "quality": Benchmark(
        spec="BenchQualitySpec",
        help="IAK beside continued training, LoRA and others, on public logs, with intervals",
    ),
    "trunks": Benchmark(
        spec="BenchTrunksSpec",
        help="Each trunk and reader of histories as a base, alone and with kernels, on public logs",
    ),
    "terms": Benchmark(
        spec="BenchTermsSpec",
        help="Where rate and compression pay: left out, on planted logs that are made harder",
    ),
    "serve": Benchmark(
        spec="BenchServeSpec",
        help="What a thousand kernels cost in predictions, from Parquet and over HTTP",
    ),
    "faults": Benchmark(
        spec="BenchFaultsSpec",
        help="Whether runs survive damaged files, full disks and killed processes",
    ),
}
SCRIPTS = {
    "mapped": "Compare tables in shares with tables mapped from disk: start, memory, lookups",
    "vocabulary": "Count a vocabulary of tens of millions of ids and open it: memory, lookups",
    "schedules": "Tune each public log by several schedules and seeds",
    "seven_logs": "Run pretrain, finetune and evaluate on each public log",
    "two_builds": "Compare two checkouts: seconds, CPU and memory of whole commands",
    "readme": "Write the records of a folder into infra/benchmarks/README.md",
    "faults_readme": "Write a record of `faults` into tests/faults/README.md",
}
"""Modules of this folder, each with a `main(words)` that returns an exit code."""
IN_THE_PACKAGE = ("sharding", "scaling")


def main(words: Sequence[str], *, start: Start | None = None) -> int:
    """Run the benchmark or script that the first word names.

    Args:
        words: the words after `python -m infra.benchmarks`.
        start: called with a benchmark's settings, in the place of the benchmark.

    Returns:
        Exit code: 0 ok, 1 a target is missed and `check_targets` is set, 2 bad request.
    """
    if not words or words[0] in ("--help", "-h"):
        print(_help())
        return 0
    name, *rest = words
    if name in BENCHMARKS:
        return _run_benchmark(name, rest, start)
    if name in SCRIPTS:
        return _run_script(name, rest)
    print(f"error: {_unknown(name)}", file=sys.stderr)
    return 2


def kind_of(name: str) -> type[BaseModel]:
    """Return the class of a benchmark's settings."""
    specs = importlib.import_module("infra.benchmarks.specs")
    kind: type[BaseModel] = getattr(specs, BENCHMARKS[name].spec)
    return kind


def _run_benchmark(name: str, words: Sequence[str], start: Start | None) -> int:
    from iak.jobs.bench import run_benchmark
    from iak.jobs.cli import run_command
    from iak.jobs.command import Command
    from iak.schemas.bench import BenchSpec

    benchmark = BENCHMARKS[name]
    command = Command(
        name=f"{PROGRAM} {name}",
        kind=kind_of(name),
        help=benchmark.help,
        example=f"{PROGRAM} {name} --smoke",
        files=(CONFIGS / f"{name}.toml",),
        smoke_files=(CONFIGS / "smoke" / f"{name}.toml",),
    )
    typed = shlex.join([*PROGRAM.split(), name, *words])

    def measured(spec: BaseModel) -> int:
        assert isinstance(spec, BenchSpec)
        from infra.benchmarks.figures import picture_of

        measure = importlib.import_module(f"infra.benchmarks.{name}").measure
        return run_benchmark(name, spec, lambda report: measure(spec, report), picture_of, typed)

    try:
        return run_command(command, words, start or measured)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _run_script(name: str, words: Sequence[str]) -> int:
    run: Callable[[Sequence[str]], int] = importlib.import_module(f"infra.benchmarks.{name}").main
    return run(words)


def _help() -> str:
    width = max(map(len, (*BENCHMARKS, *SCRIPTS)))
    lines = [
        f"Usage: {PROGRAM} NAME [settings]",
        "",
        "Run in a checkout of the project. `NAME --help` lists the settings of each.",
        "",
        "Benchmarks (each writes NAME.json, a record, and NAME.png into out=FOLDER;",
        "--smoke runs a small size that only shows that it works):",
        *(f"  {name:<{width}}  {benchmark.help}" for name, benchmark in BENCHMARKS.items()),
        "",
        "Scripts:",
        *(f"  {name:<{width}}  {help_}" for name, help_ in SCRIPTS.items()),
        "",
        "What users run on their own cluster: iak bench sharding, iak bench scaling",
    ]
    return "\n".join(lines)


def _unknown(name: str) -> str:
    if name in IN_THE_PACKAGE:
        return f"'{name}' belongs to the installed package: iak bench {name}"
    names = ", ".join((*BENCHMARKS, *SCRIPTS))
    return f"there is no benchmark '{name}'; the names are {names}. See {PROGRAM} --help"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
