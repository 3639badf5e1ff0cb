"""Run pretrain, finetune and evaluate on each public log, and collect their records.

    python -m infra.benchmarks seven_logs DATA_ROOT RUNS OUT [LOG ...] [--init]

DATA_ROOT holds the logs, RUNS takes the run folders (finished ones are kept), OUT takes one JSON a
log and `table.md`, the table in README.md beside this file. A log's settings are the presets of its
catalogue. With `--init` the catalogue is the one that `iak init` writes, unedited, and every
setting is a default: what a log gets that nobody has looked at.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from iak.jobs.cli import run
from iak.jobs.ray_launcher import ray_cluster
from iak.pipeline.runs.load import load_catalog

LOGS = ("coupons", "frappe", "movielens", "retailrocket", "xmrec", "open_bandit", "ipinyou")
KEPT = ("status", "spec", "commit", "machine", "versions", "timings_s", "started_at", "ended_at")
PATHS = ("data_root", "run_dir", "base", "bundles")
SHOWN = ("ctr", "cvr", "cart", "conversion", "ctcvr", "ct_cart", "ct_conversion")


def main(words: Sequence[str]) -> int:
    """Read the command line, and measure."""
    parser = argparse.ArgumentParser(
        prog="python -m infra.benchmarks seven_logs", description=__doc__
    )
    parser.add_argument("data_root", help="folder of the public logs")
    parser.add_argument("runs", type=Path, help="takes the run folders; finished ones are kept")
    parser.add_argument("out", type=Path, help="folder of one JSON a log, and table.md")
    parser.add_argument("logs", nargs="*", help=f"which logs; all of {', '.join(LOGS)} without")
    parser.add_argument("--init", action="store_true", help="take the catalogues of `iak init`")
    options = parser.parse_args(words)
    logs = tuple(options.logs) or LOGS
    measure(options.data_root, options.runs, options.out, logs, by_init=options.init)
    return 0


def measure(data_root: str, runs: Path, out: Path, logs: tuple[str, ...], by_init: bool) -> None:
    """Run every log, then write the table."""
    out.mkdir(parents=True, exist_ok=True)
    with ray_cluster(2):
        for log in logs:
            common = [f"catalog={log}", f"data_root={data_root}"]
            one_log(initial(log, data_root, runs / log) if by_init else common, runs / log)
            (out / f"{log}.json").write_text(json.dumps(summary(runs / log), indent=1))
    rows = [row for log in LOGS if (out / f"{log}.json").exists() for row in lines(out, log)]
    head = (
        "| log | task | test rows | base AUC | tuned AUC | delta, 95 % | after the gate "
        "| calibration base → tuned | error over DeLong's | gate of this task "
        "| published | seconds |"
    )
    (out / "table.md").write_text("\n".join([head, "|---" * 12 + "|", *rows]) + "\n")


def initial(log: str, data_root: str, run_dir: Path) -> list[str]:
    """Write the catalogue of `iak init` where there is none; return it and the root of its log."""
    events = f"{data_root}/{load_catalog(Path(log)).log.path}"
    written = run_dir / "catalog.toml"
    if not written.exists():
        run(["init", events, f"name={log}", f"out={written}"])
    return [f"catalog={written}", f"data_root={Path(events).parent}"]


def one_log(common: list[str], run_dir: Path) -> None:
    """Run the three verbs. A finished run is kept."""
    base, tuned = run_dir / "pretrain", run_dir / "finetune"
    run(["pretrain", *common, f"run_dir={base}"])
    run(["finetune", *common, f"base={base}", f"run_dir={tuned}"])
    words = [f"base={base}", f"bundles={tuned / 'bundles'}", f"run_dir={run_dir / 'evaluate'}"]
    run(["evaluate", *common, *words])


def summary(run_dir: Path) -> dict[str, Any]:
    """Return the three records and the metrics, without the lists of files."""
    verbs = ("pretrain", "finetune", "evaluate")
    records = {v: json.loads((run_dir / v / "record.json").read_text()) for v in verbs}
    for record in records.values():
        record["spec"] = {k: v for k, v in record["spec"].items() if k not in PATHS}
    metrics = json.loads((run_dir / "evaluate" / "metrics.json").read_text())
    return {
        **{v: {k: r[k] for k in KEPT} | {"result": r["result"]} for v, r in records.items()},
        "splits": records["finetune"]["snapshot"]["splits"],
        "metrics": metrics,
    }


def lines(out: Path, log: str) -> list[str]:
    """Return the log's lines of the table: one for each task, all rows ranked together."""
    results = json.loads((out / f"{log}.json").read_text())
    pooled = {(m["method"], m["task"]): m for m in results["metrics"] if m["domain"] == "pooled"}
    kernels = results["finetune"]["result"]["kernels"]
    published = f"{sum(k['published'] for k in kernels)} of {len(kernels)}"
    seconds = sum(
        sum(results[v]["timings_s"].values()) for v in ("pretrain", "finetune", "evaluate")
    )
    rows = []
    for task in (t for t in SHOWN if ("base", t) in pooled):
        base, tuned = pooled["base", task], pooled["iak", task]
        gated = pooled["iak_published", task]
        if base["auc"] is None:
            continue
        cells = [log, task, f"{base['rows']:,}", f"{base['auc']:.4f}", f"{tuned['auc']:.4f}"]
        cells += [delta(tuned), delta(gated)]
        cells += [
            f"{base['calibration']:.3f} → {tuned['calibration']:.3f}",
            "-" if tuned["se_ratio"] is None else f"{tuned['se_ratio']:.2f}",
            gate_of(kernels, task),
            published,
            f"{seconds:.0f}",
        ]
        rows.append("| " + " | ".join(cells) + " |")
    return rows


def gate_of(kernels: list[dict[str, Any]], task: str) -> str:
    """Return the number of kernels in which the gate judged a task, and of those it held."""
    judgements = [t for k in kernels for t in k["gate"]["tasks"] if t["task"] == task]
    judged, holds = (sum(t[what] for t in judgements) for what in ("judged", "holds"))
    return f"judged {judged} of {len(kernels)}, holds {holds}"


def delta(row: dict[str, Any]) -> str:
    """Return a paired difference with its interval."""
    if row["delta_auc"] is None:
        return "-"
    return f"{row['delta_auc']:+.4f} [{row['delta_auc_low']:+.4f}, {row['delta_auc_high']:+.4f}]"
