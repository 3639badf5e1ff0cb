"""`iak demo`: what it shows of its runs, what it keeps, and when it fails. The verbs are played."""

import dataclasses
import json
from datetime import UTC, datetime

import pytest

from iak.jobs import demo
from iak.pipeline.errors import BadRequest
from iak.pipeline.runs.record import AlreadyFinished
from iak.schemas.job import DemoSpec
from iak.schemas.manifest import sha256_of
from iak.schemas.prediction import EvaluationResult
from iak.schemas.record import RunRecord
from tests.unit.report.rows import metric
from tests.unit.runs.platform import kernel, tuning_run_result

REACHED = EvaluationResult(
    contract={}, digest="d" * 64, unseen={}, reachable_share=0.4321,
    reachable_share_published=0.41, base_gap=0.004,
)  # fmt: skip
GATE = {"publish": True, "reason": "gain", "rows": 10, "gain": 0.0123, "gain_low": 0.0101}
KERNEL = kernel("region=a", 9) | {"gate": GATE}
HELD = kernel("region=b", 9) | {"published": False, "reason": "ctr: AUC falls"}


def write_run(run_dir, verb, result):
    run_dir.mkdir(parents=True, exist_ok=True)
    record = RunRecord(
        verb=verb, status="finished", exit_code=0, spec={}, spec_digest="x",
        result=result.as_json(), started_at=datetime(2026, 10, 29, tzinfo=UTC),
    )  # fmt: skip
    document = json.loads(record.model_dump_json(exclude={"record_sha256"}))
    text = json.dumps(document | {"record_sha256": sha256_of(document)})
    (run_dir / "record.json").write_text(text)


@pytest.fixture
def played(monkeypatch, tmp_path):
    """Play the verbs; `run` returns the exit code and the verbs that were called."""
    called = []
    rows = [
        dataclasses.asdict(metric(method, domain, delta=(0.02, 0.01, 0.03)))
        for domain in ("region=a", "region=b")
        for method in ("base", "iak", "oracle")
    ]

    def verb(name, write):
        def use_case(spec, *_):
            called.append(name)
            write(spec.run_dir)

        return use_case

    def evaluated(run_dir, gap=None):
        changes = {"base_gap": gap} if gap else {}
        write_run(run_dir, "evaluate", REACHED.model_copy(update=changes))
        (run_dir / "metrics.json").write_text(json.dumps(rows))

    def run(*, gap=None, finished=(), **asked):
        def kept(run_dir):
            evaluated(run_dir, gap)

        def tuned(run_dir):
            write_run(run_dir, "finetune", tuning_run_result(kernels=[KERNEL, HELD]))
            if "finetune" in finished:
                raise AlreadyFinished("it is finished")

        monkeypatch.setattr(demo, "pretrain_base", verb("pretrain", lambda _: None))
        monkeypatch.setattr(demo, "tune_night", verb("finetune", tuned))
        monkeypatch.setattr(demo, "evaluate", verb("evaluate", kept))
        monkeypatch.setattr(demo.synth, "main", lambda _: called.append("synth"))
        return demo.main(DemoSpec(run_dir=tmp_path / "demo", **asked)), called

    return run


def test_all_verbs_run_in_their_order_and_each_domain_is_shown(played, capsys):
    code, called = played()
    assert code == 0
    assert called == ["synth", "pretrain", "finetune", "evaluate"]
    said = " ".join(capsys.readouterr().out.split())
    assert "share of the reachable gain: 0.432" in said
    assert "region=a" in said
    assert "held: ctr" in said


@pytest.mark.parametrize(("gap", "code"), [(0.01, 0), (0.0101, 1)])
def test_a_base_that_is_too_weak_to_compare_with_fails_the_demo(played, gap, code):
    assert played(gap=gap)[0] == code


def test_a_step_that_was_finished_before_is_kept(played, capsys):
    code, called = played(finished=("finetune",))
    assert (code, called[-1]) == (0, "evaluate")
    assert "finetune: finished before, kept" in capsys.readouterr().out.replace("\n", "")


def test_fresh_removes_what_an_earlier_demo_left(played, tmp_path):
    left = tmp_path / "demo" / "pretrain" / "left"
    left.mkdir(parents=True)
    played()
    assert left.is_dir()
    played(fresh=True)
    assert not left.exists()


def test_knobs_of_a_file_that_are_wrong_are_refused(played, tmp_path):
    knobs = tmp_path / "synth.toml"
    knobs.write_text("rows = -1\n")
    with pytest.raises(BadRequest, match=r"(?s)synth\.toml.*rows"):
        played(synth=knobs)
