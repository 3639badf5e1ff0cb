"""What `iak finetune` prints of its kernels: every task, and which one held."""

from datetime import date
from pathlib import Path
from types import SimpleNamespace

import pytest

from iak.jobs.finetune import MAX_DOMAINS, at_cap, below_floor, counted_facts, show
from iak.schemas.job import FinetuneSpec
from iak.schemas.log_snapshot import CountedRows, LogSnapshot
from iak.schemas.tuning import CodeDiagnostics, KernelResult, StandardisationResult, TuningRunResult
from iak.schemas.verdict import Comparison, TaskVerdict, Verdict

FELL = Comparison(kernel=0.622, base=0.689, delta=-0.067, low=-0.121, high=-0.013, harm=True)
ROSE = Comparison(kernel=0.72, base=0.70, delta=0.02, low=0.01, high=0.03)


def task(name, auc, *, holds=False, reason="", judged=True, ratio=1.4):
    return TaskVerdict(
        task=name, rows=900, positives=90, negatives=810, cluster="user" if ratio else "row",
        clusters=300, se_ratio=ratio, auc=auc, judged=judged, holds=holds, reason=reason,
    )  # fmt: skip


def kernel(domain, verdict):
    return KernelResult(
        domain=domain, tuning_rows=1234, published=verdict.publish, best_epoch=2,
        reason=verdict.reason, gate=verdict, valid_gain=0.01, bundle=domain,
    )  # fmt: skip


SPEC = FinetuneSpec.model_validate(
    {"catalog": "planted", "data_root": "/logs", "base": "/runs/base", "run_dir": "/runs/r"}
)


def tuning(*kernels, stopped_at_cap=(), failed=None, live=()):
    return TuningRunResult(
        kernels=kernels, stopped_at_cap=stopped_at_cap, below_floor={}, epochs=(2, 2), contract={},
        labels={"known ctr": 9_000, "known cvr": 9_000, "positive ctr": 3_100, "positive cvr": 40},
        cache={}, standardisation=StandardisationResult.model_validate(
            {"from": "this run's rows", "digest": "e" * 64}
        ),
        digest="d" * 64, digest_before="d" * 64, tables_and_trunk_unchanged=True,
        parameters_per_kernel=7, plan=(), failed=failed or {}, base_fingerprint="b" * 64, live=live,
        untuned_domains=(),
    )  # fmt: skip


def told(capsys, *kernels, exit_code=4, **fields):
    show(
        SimpleNamespace(
            tuning=tuning(*kernels, **fields), kernels=kernels,
            bundles=Path("r/bundles"), exit_code=exit_code,
            record=SimpleNamespace(timings_s={}, exit_code=exit_code, snapshot=LogSnapshot()),
        ),
        SPEC,
    )  # fmt: skip
    return " ".join(capsys.readouterr().out.split())


def test_the_table_says_which_task_held_and_which_was_not_judged(capsys):
    held = Verdict(
        publish=False, reason="cvr holds it: AUC fell", gain=0.01, gain_low=0.005, rows=900,
        tasks=(
            task("ctr", ROSE),
            task("cvr", FELL, holds=True, reason="AUC fell"),
            task("ctcvr", Comparison(), judged=False, reason="5 positives, fewer than 30"),
        ),
    )  # fmt: skip
    words = told(capsys, kernel("region=a", held))
    assert "+0.0200 [+0.0100, +0.0300]" in words
    assert "HOLDS -0.0670 [-0.1210, -0.0130]" in words
    assert "not judged" in words
    assert "cvr holds it" in words
    assert "rows of one user count as dependent" in words
    assert "median over kernels: ctr 1.40, cvr 1.40" in words


@pytest.mark.parametrize(
    ("tasks", "words"),
    [
        ((task("ctr", ROSE, ratio=None),), "rows are taken as independent"),
        (
            (task("ctr", ROSE, judged=False, reason="few"),),
            "No task of any kernel has enough gate rows",
        ),
        ((), "No task of any kernel has enough gate rows"),
    ],
    ids=["no user", "nothing judged", "diverged"],
)
def test_the_caption_says_what_the_intervals_count_on(tasks, words, capsys):
    verdict = Verdict(publish=False, reason="why", rows=9, tasks=tasks)
    assert words in told(capsys, kernel("pooled", verdict))


def test_a_kernel_that_diverged_is_told_with_its_sentence_and_the_exit_code(capsys):
    sentence = "the kernel of region=a diverged: the training loss is nan"
    held = kernel("pooled", Verdict(publish=False, reason="why", rows=9))
    words = told(capsys, held, failed={"region=a": sentence}, exit_code=5)
    assert sentence in words
    assert "some kernels failed" in words
    assert "exit code 5" in words


def test_the_rows_that_each_task_learns_from_are_said_as_pretrain_says_them(capsys):
    text = told(capsys, kernel("pooled", Verdict(publish=True, reason="gain", rows=900)))
    assert "ctr 9,000 (3,100 positive), cvr 9,000 (40 positive)" in text


def constant(spec, *stages):
    """The spec with rates that stay in some stages."""
    return spec.model_copy(
        update={name: getattr(spec, name).model_copy(update={"decay_share": 0}) for name in stages}
    )


@pytest.mark.parametrize("starts_live", [True, False], ids=["a next night", "a first night"])
@pytest.mark.parametrize("stages", [("pooled",), ("domain",), ("pooled", "domain")])
def test_where_rates_stay_the_settings_that_give_more_epochs_are_named(starts_live, stages):
    verdict = Verdict(publish=True, reason="gain", rows=900)
    live = ("region=a",) if starts_live else ()
    two = tuning(
        kernel("pooled", verdict), kernel("region=a", verdict), stopped_at_cap=("region=a",),
        live=live,
    )  # fmt: skip
    said = at_cap(two, constant(SPEC, *stages))
    assert said.startswith("1 of 2 (region=a); pooled.max_epochs, domain.max_epochs give more")
    assert ("domain.live_epochs" in said) == starts_live


def test_where_rates_fall_to_zero_a_best_last_epoch_asks_for_nothing():
    verdict = Verdict(publish=True, reason="gain", rows=900)
    two = tuning(kernel("pooled", verdict), kernel("a", verdict), stopped_at_cap=("a",))
    assert at_cap(two, SPEC) == "1 of 2 (a); usual where rates fall to zero"


def counted(rows, last_day):
    return LogSnapshot(counted=CountedRows(rows=rows, last_day=last_day))


def test_what_fresh_statistics_counted_is_said_where_there_are_any():
    assert counted_facts(LogSnapshot()) == {}
    (said,) = counted_facts(counted(12_000, date(2026, 10, 6))).values()
    assert said == "of 12,000 rows, until 2026-10-06"
    (said,) = counted_facts(counted(9, None)).values()
    assert said == "of 9 rows, out of fold"


def test_domains_below_their_floor_are_counted_and_the_largest_named():
    assert below_floor({}) == "none"
    assert below_floor({"city=a": 3, "city=b": 7}) == "2 domains: city=b (7 rows), city=a (3 rows)"
    many = below_floor({f"city={number}": number for number in range(1_200)})
    assert many.startswith("1,200 domains: city=1199 (1,199 rows), city=1198 (1,198 rows), ")
    assert many.endswith("city=1195 (1,195 rows), and 1,195 more")


def test_of_many_kernels_the_largest_are_shown_and_all_are_counted(capsys):
    judged = Verdict(publish=True, reason="gain", rows=900, tasks=(task("ctr", ROSE),))
    few = Verdict(
        publish=False, reason="few", rows=9, tasks=(task("ctr", ROSE, judged=False, reason="few"),)
    )
    dead = CodeDiagnostics(units=16, active_units=0, largest_change=0.1)
    users = [
        kernel(f"user={number}", few).model_copy(update={"tuning_rows": number, "code": dead})
        for number in range(4_500)
    ]
    words = told(capsys, kernel("pooled", judged), *users)
    assert "1 of 4,501 published, 4,500 held (4,500 of them with too few gate rows" in words
    assert "coarser keys or a larger min_rows of [domain]" in words
    assert words.count("held: few") == MAX_DOMAINS
    assert "user=4499" in words, "the largest"
    assert "4,460 smaller domains are in record.json." in words
    assert words.count("the code has collapsed") == 1
