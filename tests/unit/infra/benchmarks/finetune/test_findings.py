"""Numbers become lines and targets that say what they are."""

import dataclasses

import numpy as np
import pytest

from iak.pipeline.bench.counters import Cost
from iak.pipeline.bench.torchrec_variants import Trajectory
from iak.schemas.manifest import PrecisionEntry
from infra.benchmarks.finetune import findings
from infra.benchmarks.finetune.findings import Findings
from infra.benchmarks.finetune.lines import DurationLine, VariantLine
from infra.benchmarks.finetune.nights import Night
from infra.benchmarks.finetune.rates import Rates
from infra.benchmarks.finetune.roofline import Floor
from infra.benchmarks.finetune.steps import Measured, Steps
from infra.benchmarks.finetune.sweep import AtK, fitted_costs
from infra.benchmarks.specs import BenchFinetuneSpec

COST = Cost(
    sent_bytes=2048.0, received_bytes=1024.0, collectives={"allreduce": 1}, peak_bytes=2**20,
    top=(("aten::mm", 0.6), ("aten::copy_", 0.2)),
)  # fmt: skip
PER_S = {"a": 100, "b": 90, "c": 120, "d[fp32]": 260, "d[int8]": 270, "d[int4]": 250,
         "e[hx]": 1600, "e[h]": 2400}  # fmt: skip
TABLES = {"d[int8]": 26, "d[int4]": 13}


def measured(name):
    return Measured(
        name=name,
        title=f"variant {name}",
        rows_per_s=PER_S[name],
        spread=1.1,
        cost=COST,
        memory={"tables": TABLES.get(name, 90), "optimiser": 10, "kernels": 0, "cache": 0},
        floor=Floor(flops=1e9 / PER_S[name], num_bytes=1.0),
        first_pass_s=10.0 if name.startswith("e") else 0.0,
        slice_rows=1_000,
    )


def trajectory(*losses):
    run = Trajectory()
    for step, loss in enumerate(losses):
        run.steps, run.trained_s = step, 100.0 * step
        run.judged(loss)
    return run


def night(seconds):
    return Night(
        seconds=seconds, to_best_s=seconds, rows_from_cache=6, rows_computed=1,
        rows_to_best=9_000.0, epochs=(2, 3), gain=0.01, pooled_gain=0.02, stopped_at_cap=0,
        at_once=4, moment_bytes=0,
        parts={"reading": 1.0},
    )  # fmt: skip


def at(domains, **changes):
    fields = {
        "domains": domains, "rows": 1_000, "steps": 4, "bank_epoch_s": 2.0,
        "bank_alone_epoch_s": 1.6, "separate_epoch_s": 10.0, "bank_whole_s": 10.0,
        "separate_whole_s": 29.0, "batch_rows": 256, "epochs": 3, "domain_epochs": 2.5,
        "measured_domains": 3,
    }  # fmt: skip
    return AtK(**fields | changes)


FOUND = Findings(
    spec=BenchFinetuneSpec(domains=(1, 4)),
    rates=Rates(flops_per_s=1e8, bytes_per_s=1e9),
    steps=Steps(
        variants=tuple(measured(name) for name in PER_S),
        full=trajectory(0.5, 0.4),
        continued=trajectory(0.5, 0.4, 0.45, 0.46),
        parameters_per_kernel=0,
        domains=4,
    ),
    first=night(51.0),
    steady=night(12.5),
    others={"in bf16": (night(40.0), night(10.0))},
    sweep=(at(1), at(4)),
    window_rows=1_000,
    auc_costs={"int8": 0.0001},
)


def variants():
    lines = findings.lines_of(FOUND)
    return {line.variant: line for line in lines if isinstance(line, VariantLine)}


def test_targets_are_met_at_their_bound_and_missed_beyond_it_with_a_reason():
    targets = {target.name: target for target in findings.targets_of(FOUND)}
    met = {name: target.is_met for name, target in targets.items()}
    assert met == {
        "ours uncached, rows/s over full fine-tune": True,
        "cached [h;x], rows/s over full fine-tune": True,
        "cached h, rows/s over full fine-tune": False,
        "steady night over continued training, each to its best step": True,
        "first night over continued training, each to its best step": False,
        "bytes of tables (int8) and optimiser of 1 kernels over (a)'s": True,
        "bytes of tables (int8) and optimiser of 4 kernels over (a)'s": True,
        "bytes of tables (int4) and optimiser of 1 kernels over (a)'s": True,
        "bytes of tables (int4) and optimiser of 4 kernels over (a)'s": True,
        "bank of 4 over a bank of 1, same rows and rows a step": True,
        "bank of 4 over separate fine-tunes, an epoch": True,
        "bank of 4 over separate fine-tunes, whole tuning": False,
    }
    assert all(bool(target.note) != target.is_met for target in targets.values())
    assert "aten::mm 60%" in targets["cached h, rows/s over full fine-tune"].note
    assert targets["cached h, rows/s over full fine-tune"].measured == 24.0


def test_nothing_is_a_share_of_training_that_never_bettered_its_start():
    steps = dataclasses.replace(FOUND.steps, continued=trajectory(0.4, 0.5, 0.6))
    found = dataclasses.replace(FOUND, steps=steps)
    nights = [line for line in findings.lines_of(found) if isinstance(line, DurationLine)]
    assert {line.of_continued for line in nights} == {None}
    assert not [t for t in findings.targets_of(found) if "continued training" in t.name]
    assert len(findings.targets_of(found)) == len(findings.targets_of(FOUND)) - 2


def test_a_kernels_moments_count_against_the_memory_target():
    heavy = dataclasses.replace(FOUND, first=dataclasses.replace(FOUND.first, moment_bytes=32))
    by_name = {t.name: t for t in findings.targets_of(heavy)}
    assert by_name["bytes of tables (int8) and optimiser of 4 kernels over (a)'s"].measured == 0.58


def test_every_variant_is_held_against_a_and_against_its_floor():
    lines = variants()
    assert lines["d[fp32]"].times_a == 2.6
    for line in lines.values():
        assert line.times_the_floor == pytest.approx(2 * 1e8 / 1e9, abs=0.01)
        assert line.floor_is == "flops"
        assert (line.sent_kib_a_step, line.received_kib_a_step) == (2.0, 1.0)
    assert lines["d[int8]"].auc_cost == 0.0001


def test_seconds_to_the_best_step_are_the_runs_own_or_the_nights_rows():
    lines = variants()
    assert lines["b"].seconds_to_best == 100.0
    assert "measured, step 1" in lines["b"].seconds_to_best_is
    assert lines["d[fp32]"].seconds_to_best == round(9_000 / 260, 2)
    assert lines["e[hx]"].seconds_to_best == 10 + 8_000 / 1_600
    assert lines["e[hx]"].times_a_with_cache_pass == 6.0


def test_a_run_that_might_have_gone_on_is_named():
    notes = " ".join(findings.notes_of(FOUND))
    assert "(a) was still getting better" in notes
    assert "(b)" not in notes.split("(a) was still")[1]


def test_a_run_stops_when_two_validations_were_no_better():
    run = Trajectory()
    verdicts = []
    for run.steps, loss in enumerate((0.5, 0.4, 0.41, 0.39, 0.39, 0.4)):
        verdicts.append(run.judged(loss))
    assert verdicts == [False, False, False, False, False, True]
    assert (run.best_step, run.gain) == (3, pytest.approx(0.11))


def test_a_precisions_cost_is_that_of_the_task_it_hurts_most():
    entries = [
        PrecisionEntry(precision=precision, task=task, rows=9, auc=auc)
        for precision, task, auc in (
            ("fp32", "ctr", 0.7), ("fp32", "ctcvr", 0.8), ("int8", "ctr", 0.71),
            ("int8", "ctcvr", 0.795), ("int4", "ctr", 0.69),
        )
    ]  # fmt: skip
    assert findings.auc_costs(entries) == {"fp32": 0.0, "int8": 0.005, "int4": 0.01}


def test_seconds_of_a_step_and_of_a_row_are_told_apart():
    steps, rows = np.array([1, 2, 8, 1]), np.array([50, 300, 2_000, 4])
    per_step, per_row = fitted_costs(0.01 * steps + 2e-5 * rows, steps, rows)
    assert (per_step, per_row) == (pytest.approx(0.01), pytest.approx(2e-5))
