"""Tune each public log by several schedules and seeds, and keep what gate rows say of them.

    .venv/bin/python infra/benchmarks/schedules.py DATA_ROOT RUNS OUT [LOG ...]

RUNS holds the bases that seven_logs.py made (or takes them); OUT takes schedules.json and
schedules.md, the table in the README. Gate rows decide: neither training nor early stops use them,
and no test row is read.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from jobs._ray import ray_cluster
from jobs.cli import run

LOGS = ("frappe", "movielens", "retailrocket", "coupons", "xmrec")
SEEDS = range(3)
LONG = {"max_epochs": 8, "decay_share": 0}
SCHEDULES = {
    "falling, 4 and 2 epochs (the defaults)": {"pooled": {}, "domain": {}},
    "constant, 8 epochs at most": {
        "pooled": {**LONG, "lr": 1e-3, "compression_epochs": 2},
        "domain": {**LONG, "lr": 5e-4},
    },
}


def main(data_root: str, runs: Path, out: Path, logs: tuple[str, ...]) -> None:
    """Every log, schedule and seed, then the table."""
    found = []
    with ray_cluster(2):
        for log in logs:
            common = [f"catalog={log}", f"data_root={data_root}"]
            run(["pretrain", *common, f"run_dir={runs / log / 'pretrain'}"])
            for number, (name, stages) in enumerate(SCHEDULES.items()):
                for seed in SEEDS:
                    place = runs / log / f"schedule-{number}-{seed}"
                    words = [
                        f"{s}.{k}={v}" for s, fields in stages.items() for k, v in fields.items()
                    ]
                    base = f"base={runs / log / 'pretrain'}"
                    run(["finetune", *common, base, f"run_dir={place}", f"seed={seed}", *words])
                    found.append({"log": log, "schedule": name, "seed": seed, **gains(place)})
    out.mkdir(parents=True, exist_ok=True)
    (out / "schedules.json").write_text(json.dumps(found, indent=1))
    (out / "schedules.md").write_text(table(found, logs))


def gains(place: Path) -> dict[str, Any]:
    """Nats a gate row by which a run's kernels better the base, pooled and domain by domain."""
    record = json.loads((place / "record.json").read_text())
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


def table(found: list[dict[str, Any]], logs: tuple[str, ...]) -> str:
    """A line a log: both schedules' means over seeds, and their paired difference."""
    new, old = SCHEDULES
    lines = ["| log | kernels | " + f"{new} | {old} | difference, 95 % over seeds | seconds |"]
    lines.append("|---" * 6 + "|")
    for log in logs:
        for level in ("pooled", "domains"):
            mine, other = (
                np.array(
                    [f[level] for f in found if (f["log"], f["schedule"]) == (log, name)], float
                )
                for name in SCHEDULES
            )
            if np.isnan(mine).any() or np.isnan(other).any():
                continue
            low, high = stats.t.interval(0.95, len(mine) - 1, *mean_and_error(mine - other))
            seconds = (
                np.mean([f["tune_s"] for f in found if (f["log"], f["schedule"]) == (log, name)])
                for name in SCHEDULES
            )
            lines.append(
                f"| {log} | {level} | {mine.mean():+.5f} | {other.mean():+.5f} "
                f"| {(mine - other).mean():+.5f} [{low:+.5f}, {high:+.5f}] "
                f"| {' against '.join(f'{s:.0f}' for s in seconds)} |"
            )
    return "\n".join(lines) + "\n"


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """Mean, and its standard error."""
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), tuple(sys.argv[4:]) or LOGS)
