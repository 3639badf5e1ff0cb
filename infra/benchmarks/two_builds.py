"""Compare two checkouts of this project: seconds, CPU and memory of whole commands.

    python -m infra.benchmarks two_builds BEFORE AFTER DATA_ROOT RUNS OUT [--repeats 3]

BEFORE and AFTER are folders of checkouts, DATA_ROOT holds the public logs, RUNS takes the run
folders, OUT takes two_builds.json and two_builds.md, a table of medians. The builds take turns.

Each run is a command of its own with all processes that it starts, Ray's too. Its memory is the
largest sum over these processes, once a second; a page that some of them share counts in
part for each of them (Pss).
"""

import argparse
import ctypes
import json
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from iak.pipeline.runs.record import machine

LOG = "frappe"
"""The small log."""
_SAMPLED_S = 1.0
_LEFT_S = 20.0
"""Seconds after which processes that a command left behind are stopped."""
_SET_CHILD_SUBREAPER = 36
"""An option of Linux' prctl: orphans below this process become its children."""
_MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one command took, with all processes that it started."""

    seconds: float
    cpu_s: float
    """User and system, of each process when it was last looked at."""
    peak_mib: float


def main(words: Sequence[str]) -> int:
    """Read the command line, and measure."""
    parser = argparse.ArgumentParser(
        prog="python -m infra.benchmarks two_builds", description=__doc__
    )
    parser.add_argument("before", type=Path, help="checkout of the build to compare with")
    parser.add_argument("after", type=Path, help="checkout of this build")
    parser.add_argument("data_root", type=Path, help="folder of the public logs")
    parser.add_argument("runs", type=Path, help="takes the run folders")
    parser.add_argument("out", type=Path, help="folder of two_builds.json and two_builds.md")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each command and build")
    options = parser.parse_args(words)
    builds = {"before": options.before.absolute(), "after": options.after.absolute()}
    runs, out = options.runs.absolute(), options.out.absolute()
    costs = measure(builds, options.data_root.absolute(), runs, options.repeats)
    out.mkdir(parents=True, exist_ok=True)
    record = {
        "command": f"python -m infra.benchmarks two_builds … --repeats {options.repeats}",
        "commits": {name: commit_of(checkout) for name, checkout in builds.items()},
        "machine": machine().model_dump(),
        "costs": {what: {b: [asdict(c) for c in cs] for b, cs in by.items()}
                  for what, by in costs.items()},
    }  # fmt: skip
    (out / "two_builds.json").write_text(json.dumps(record, indent=1))
    (out / "two_builds.md").write_text(table(costs))
    return 0


def measure(
    builds: Mapping[str, Path], data_root: Path, runs: Path, repeats: int
) -> dict[str, dict[str, list[Cost]]]:
    """Return the costs of each command by build, the builds in turn.

    Args:
        builds: name -> checkout.
        data_root: folder of the public logs.
        runs: takes the run folders, which each repeat makes anew.
        repeats: runs of each command and build.
    """
    costs: dict[str, dict[str, list[Cost]]] = {}
    log = [f"catalog={LOG}", f"data_root={data_root}", "workers=2"]
    for _ in range(repeats):
        for build, checkout in builds.items():
            folder = runs / build
            shutil.rmtree(folder, ignore_errors=True)
            base, tuned = f"base={folder / 'base'}", folder / "tuned"
            judged = [base, f"bundles={tuned / 'bundles'}", f"run_dir={folder / 'judged'}"]
            commands = {
                "iak demo": ["demo", f"run_dir={folder / 'demo'}"],
                f"iak pretrain, {LOG}": ["pretrain", *log, f"run_dir={folder / 'base'}"],
                f"iak finetune, {LOG}": ["finetune", *log, base, f"run_dir={tuned}"],
                f"iak evaluate, {LOG}": ["evaluate", *log, *judged],
            }
            for what, words in commands.items():
                cost = cost_of(command_of(checkout, words))
                print(f"{what}, {build}: {cost}", flush=True)
                costs.setdefault(what, {}).setdefault(build, []).append(cost)
    return costs


def command_of(checkout: Path, words: Sequence[str]) -> list[str]:
    """Return the command line of `iak` in a checkout, whose package had no name of its own once."""
    package = "iak.jobs.cli" if _package_folder(checkout).is_dir() else "jobs.cli"
    start = f"import sys; from {package} import main; sys.exit(main())"
    paths = f"PYTHONPATH={_package_folder(checkout)}:{checkout}"
    # Ray's workers import from the folder in which the command runs, before PYTHONPATH.
    inside = ["env", "--chdir", str(checkout), paths, "OMP_NUM_THREADS=1"]
    return [*inside, sys.executable, "-P", "-c", start, *words]


def _package_folder(checkout: Path) -> Path:
    return checkout / "infra" / "package"


def cost_of(command: Sequence[str]) -> Cost:
    """Run a command to its end, and return what it and all its processes took.

    Raises:
        RuntimeError: it failed. Exit code 4, for kernels that the gate held, is a success.
    """
    others = _children()
    started, peak = time.monotonic(), 0
    cpu_s: dict[psutil.Process, float] = {}
    with _adopting_orphans(), tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said)
        while process.poll() is None:
            peak = max(peak, sum(_pss_of(child, cpu_s) for child in _children() - others))
            with suppress(subprocess.TimeoutExpired):
                process.wait(_SAMPLED_S)
        seconds = time.monotonic() - started
        stop_the_rest(others)
        if process.returncode not in (0, 4):
            said.seek(0)
            end = said.read()[-2_000:]
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {end}")
    return Cost(
        seconds=round(seconds, 2),
        cpu_s=round(sum(cpu_s.values()), 2),
        peak_mib=round(peak / _MIB, 1),
    )


@contextmanager
def _adopting_orphans() -> Iterator[None]:
    """Make processes below this one, whose parents end, its children."""
    prctl = ctypes.CDLL(None).prctl
    prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        prctl(_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def stop_the_rest(others: Collection[psutil.Process]) -> None:
    """Wait for the processes that a command left behind, and stop those that do not end.

    Args:
        others: processes below this one that are not of the command.
    """
    until = time.monotonic() + _LEFT_S
    while left := _children() - {*others}:
        if time.monotonic() > until:
            for process in left:
                process.send_signal(signal.SIGKILL)
        psutil.wait_procs(left, timeout=_SAMPLED_S)  # also reaps them


def _children() -> set[psutil.Process]:
    """Return all processes below this one."""
    return {*psutil.Process().children(recursive=True)}


def _pss_of(process: psutil.Process, cpu_s: dict[psutil.Process, float]) -> int:
    """Return a process's memory in bytes, 0 for one that has ended, and note its CPU so far.

    Linux would tell the CPU of ended children too, but not of those that Ray's daemon starts.

    Args:
        process: process of the command.
        cpu_s: process -> seconds of CPU when it was last looked at; it is changed.
    """
    try:
        times = process.cpu_times()
        cpu_s[process] = times.user + times.system
        pss: int = process.memory_full_info().pss
    except psutil.Error:
        return 0
    return pss


def commit_of(checkout: Path) -> str:
    """Return the commit of a checkout."""
    words = ["git", "-C", str(checkout), "rev-parse", "--short=12", "HEAD"]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()


def table(costs: Mapping[str, Mapping[str, Sequence[Cost]]]) -> str:
    """Return the table of medians, and the ratios of the build after to the one before."""
    lines = [
        "| command | seconds, before → after | ratio | CPU seconds | ratio | peak MiB | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    for what, by in costs.items():
        cells = []
        for field in ("seconds", "cpu_s", "peak_mib"):
            before, after = (
                statistics.median(getattr(cost, field) for cost in by[build])
                for build in ("before", "after")
            )
            cells.append(f"{before:,.1f} → {after:,.1f} | {after / before:.2f}")
        lines.append(f"| `{what}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
