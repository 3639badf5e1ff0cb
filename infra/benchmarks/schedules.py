"""Tune each public log by several schedules and seeds, and compare them on gate rows.

    python -m infra.benchmarks schedules DATA_ROOT RUNS OUT [LOG ...]

RUNS holds the bases that seven_logs.py made (or takes them); OUT takes schedules.json and
schedules.md, the table in README.md beside this file. Gate rows decide: neither training nor early
stops use them, and no test row is read.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from iak.jobs.cli import run
from iak.jobs.ray_launcher import ray_cluster

LOGS = ("frappe", "movielens", "retailrocket", "coupons", "xmrec")
SEEDS = range(3)
LONG = {"max_epochs": 8, "decay_share": 0}
SCHEDULES: dict[str, dict[str, dict[str, float]]] = {
    "falling, 4 and 2 epochs (the defaults)": {"pooled": {}, "domain": {}},
    "constant, 8 epochs at most": {
        "pooled": {**LONG, "lr": 1e-3, "compression_epochs": 2},
        "domain": {**LONG, "lr": 5e-4},
    },
}


def main(words: Sequence[str]) -> int:
    """Read the command line, and measure."""
    parser = argparse.ArgumentParser(
        prog="python -m infra.benchmarks schedules", description=__doc__
    )
    parser.add_argument("data_root", help="folder of the public logs")
    parser.add_argument("runs", type=Path, help="run folders, with the bases of seven_logs")
    parser.add_argument("out", type=Path, help="folder of schedules.json and schedules.md")
    parser.add_argument("logs", nargs="*", help=f"which logs; all of {', '.join(LOGS)} without")
    options = parser.parse_args(words)
    measure(options.data_root, options.runs, options.out, tuple(options.logs) or LOGS)
    return 0


def measure(data_root: str, runs: Path, out: Path, logs: tuple[str, ...]) -> None:
    """Run every log, schedule and seed, then write the table."""
    results = []
    with ray_cluster(2):
        for log in logs:
            common = [f"catalog={log}", f"data_root={data_root}"]
            run(["pretrain", *common, f"run_dir={runs / log / 'pretrain'}"])
            for number, (name, stages) in enumerate(SCHEDULES.items()):
                for seed in SEEDS:
                    run_dir = runs / log / f"schedule-{number}-{seed}"
                    words = [
                        f"{s}.{k}={v}" for s, fields in stages.items() for k, v in fields.items()
                    ]
                    base = f"base={runs / log / 'pretrain'}"
                    run(["finetune", *common, base, f"run_dir={run_dir}", f"seed={seed}", *words])
                    results.append({"log": log, "schedule": name, "seed": seed, **gains(run_dir)})
    out.mkdir(parents=True, exist_ok=True)
    (out / "schedules.json").write_text(json.dumps(results, indent=1))
    (out / "schedules.md").write_text(table(results, logs))


def gains(run_dir: Path) -> dict[str, Any]:
    """Return the nats per gate row by which a run's kernels improve on the base, by domain."""
    record = json.loads((run_dir / "record.json").read_text())
    kernels = record["result"]["kernels"]
    pooled = [k["gate"] for k in kernels if k["domain"] == "pooled"]
    own = [k["gate"] for k in kernels if k["domain"] != "pooled" and k["gate"]["gain"] is not None]
    rows = sum(gate["rows"] for gate in own)
    return {
        "pooled": pooled[0]["gain"],
        "domains": sum(g["gain"] * g["rows"] for g in own) / rows if rows else None,
        "epochs": record["result"]["epochs"],
        "tune_s": record["timings_s"]["tune"],
        "commit": record["commit"],
        "machine": record["machine"],
    }


def table(results: list[dict[str, Any]], logs: tuple[str, ...]) -> str:
    """Return a line for each log: both schedules' means over seeds, and their paired difference."""
    new, old = SCHEDULES
    lines = ["| log | kernels | " + f"{new} | {old} | difference, 95 % over seeds | seconds |"]
    lines.append("|---" * 6 + "|")
    for log in logs:
        seconds = " against ".join(
            f"{column(results, log, s, 'tune_s').mean():.0f}" for s in (new, old)
        )
        for level in ("pooled", "domains"):
            mine, other = (column(results, log, schedule, level) for schedule in (new, old))
            if np.isnan(mine).any() or np.isnan(other).any():
                continue
            low, high = stats.ttest_rel(mine, other).confidence_interval(0.95)
            lines.append(
                f"| {log} | {level} | {mine.mean():+.5f} | {other.mean():+.5f} "
                f"| {(mine - other).mean():+.5f} [{low:+.5f}, {high:+.5f}] | {seconds} |"
            )
    return "\n".join(lines) + "\n"


def column(results: list[dict[str, Any]], log: str, schedule: str, name: str) -> np.ndarray:
    """Return one number for each seed that has it."""
    return np.array(
        [f[name] for f in results if (f["log"], f["schedule"]) == (log, schedule)], float
    )
