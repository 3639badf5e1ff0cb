"""A published base in low precision: what it was measured to cost, and how it is opened."""

import dataclasses

import pytest
import torch

from iak.pipeline.base import published_base as bases
from iak.pipeline.base.frozen_base import FrozenBase
from iak.pipeline.base.pretrain import pretrain
from iak.pipeline.data.batch import to_batch
from iak.pipeline.data.reader import Reader
from iak.pipeline.errors import BadRequest
from iak.pipeline.model.loss import probabilities
from iak.pipeline.process import run_on_workers
from iak.pipeline.sharding.row_format import PRECISIONS
from iak.pipeline.stats.auc import auc
from iak.schemas.job import EvaluatedTablesSpec, FrozenTablesSpec
from iak.schemas.plan import ResolvedPlacement
from tests.integration.small_log import catalog, pretrain_spec, pretrain_work, publish, write_log

pytestmark = pytest.mark.slow

ANY = 1.0
CUT = ResolvedPlacement(row_wise_from_rows=100)
WHOLE = ResolvedPlacement(row_wise_from_rows=10**9)


def opened_by_two(worker, spec, work):
    """Train, publish, and open the base in every precision."""
    events = []
    result = pretrain(work, worker=worker, report=events.append)
    if worker.rank == 0:
        publish(spec, work, result)
    torch.distributed.barrier()
    opened = bases.open_base(spec.run_dir)
    answers = {
        "result": result.as_json(),
        "events": [e for e in events if "precision" in e.get("what", "")],
    }
    answers |= {precision: digests_in(worker, opened, precision) for precision in PRECISIONS}
    answers["refusals"] = refusals_of(worker, opened)
    return answers


def digests_in(worker, opened, precision):
    """Digests of the base with sharded and with mapped tables, and the tables' precisions."""
    answers = {}
    for mapped in (False, True):
        spec = FrozenTablesSpec(precision=precision, mapped=mapped, tolerance=ANY)
        base = FrozenBase.load(opened, spec, CUT, worker)
        answers["mapped" if mapped else "sharded"] = base.digest()
        answers["precisions"] = base.tables.precisions
    return answers


def refusals_of(worker, opened):
    """The errors of a base whose int8 costs .1 of AUC, and of one that nobody measured."""
    entries = [
        entry.model_copy(update={"auc": entry.auc - 0.1}) if entry.precision == "int8" else entry
        for entry in opened.manifest.precisions
    ]
    errors = []
    for measured in (entries, []):
        manifest = opened.manifest.model_copy(update={"precisions": measured})
        base = dataclasses.replace(opened, manifest=manifest)
        try:
            FrozenBase.load(base, FrozenTablesSpec(precision="int8"), CUT, worker)
        except BadRequest as error:
            errors.append(str(error))
    return errors


def opened_by_one(worker, folder):
    """The manifest, the base's digest in every precision, and the base in fp32."""
    opened = bases.open_base(folder)
    digests = {
        precision: FrozenBase.load(
            opened, FrozenTablesSpec(precision=precision, tolerance=ANY), WHOLE, worker
        ).digest()
        for precision in PRECISIONS
    }
    base = FrozenBase.load(opened, EvaluatedTablesSpec(), WHOLE, worker)
    return opened.manifest, digests, base.model


def own_auc(model, work, tasks):
    """AUC over all rows of the validation split, computed here."""
    rows = Reader(
        selection=work.view.selections["pretrain_valid"], catalog=work.view.catalog,
        encoding=work.encoding, rank=0, world=1, as_of=work.view.as_of,
    )  # fmt: skip
    p, labels, mask = [], [], []
    for table in rows.in_step(50):
        batch = to_batch(table, work.view.catalog)
        with torch.no_grad():
            logits_BT = model(batch.ids, batch.numeric_BN)
        p.append(probabilities(logits_BT.double(), tasks).entire_BT)
        labels.append(batch.labels_BT)
        mask.append(batch.mask_BT)
    p, labels, mask = (torch.cat(parts) for parts in (p, labels, mask))
    return [auc(labels[m, t].numpy(), p[m, t].numpy()) for t, m in enumerate(mask.unbind(1))]


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    root = tmp_path_factory.mktemp("precision")
    spec = pretrain_spec(write_log(root / "log"), root / "run", epochs=1)
    return spec, pretrain_work(spec, catalog())


@pytest.fixture(scope="module")
def two(job):
    return run_on_workers(opened_by_two, 2, *job)


@pytest.fixture(scope="module")
def one(two, job):
    assert two
    (answer,) = run_on_workers(opened_by_one, 1, job[0].run_dir)
    return answer


def test_every_precision_is_in_the_manifest_and_the_record(two, one):
    manifest, _, _ = one
    assert two[0]["result"] == two[1]["result"]
    measured = [entry.model_dump() for entry in manifest.precisions]
    assert [(e["precision"], e["task"]) for e in measured] == [
        (precision, task) for precision in PRECISIONS for task in ("ctr", "ctcvr")
    ]
    assert measured == two[0]["result"]["precisions"]


def test_a_lower_precision_costs_little_and_not_nothing(one):
    manifest, _, _ = one
    by_task = {(e.precision, e.task): e.auc for e in manifest.precisions}
    for task in ("ctr", "ctcvr"):
        assert by_task["fp16", task] == pytest.approx(by_task["fp32", task], abs=1e-3)
        assert by_task["int8", task] == pytest.approx(by_task["fp32", task], abs=1e-2)
        losses = {e.precision: e.log_loss for e in manifest.precisions if e.task == task}
        assert len(set(losses.values())) == len(PRECISIONS)


def test_the_numbers_are_those_of_the_published_base(one, job):
    manifest, _, model = one
    tasks = bases.task_shapes(job[1].view.catalog)
    published = [entry.auc for entry in manifest.precisions if entry.precision == "fp32"]
    assert published == pytest.approx(own_auc(model, job[1], tasks), abs=1e-6)


def test_progress_is_reported(two):
    events = two[0]["events"]
    assert [event["step"] for event in events] == list(range(1, events[-1]["of"] + 1))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_base_in_any_precision_has_one_digest(two, one, precision):
    manifest, digests, _ = one
    for answers in two:
        own = answers[precision]
        assert set(own["precisions"].values()) == {precision}
        assert own["sharded"] == own["mapped"] == digests[precision]
    if precision == "fp32":
        assert dict(digests[precision].by_name) == manifest.digest


def test_a_precision_that_costs_too_much_or_was_not_measured_is_refused(two):
    for answers in two:
        too_costly, unmeasured = answers["refusals"]
        assert "int8 tables cost 0.10" in too_costly
        assert "nobody measured what int8 costs" in unmeasured
