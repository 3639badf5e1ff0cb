import math

import pytest
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from iak.pipeline.base import precision
from iak.pipeline.data.batch import Batch
from iak.pipeline.errors import BadRequest
from iak.pipeline.model.loss import TaskShape
from iak.pipeline.process import Worker
from iak.pipeline.stats.auc import auc, paired_auc
from iak.pipeline.stats.losses import log_loss
from iak.schemas.job import FrozenTablesSpec
from iak.schemas.manifest import BaseManifest
from tests.unit.schemas.test_manifest import base as manifest_document

ALONE = Worker(rank=0, world=1, device=torch.device("cpu"))
TASKS = (TaskShape(name="ctr", kind="click"), TaskShape(name="like", kind="binary"))
TITLES = ("ctr", "like")
STEPS = {"fp32": 0.0, "fp16": 1e-3, "int8": 1e-2, "int4": 0.5}
ROWS = 600


class Model(torch.nn.Module):
    """Logits that are read off the numbers, to a step."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    def forward(self, _, numeric_BN):
        return (numeric_BN / self.step).round() * self.step if self.step else numeric_BN


class Rows:
    """Batches in the place of a reader's tables."""

    catalog = None

    def __init__(self, labels, mask):
        draw = torch.Generator().manual_seed(0)
        self.numeric = torch.randn(len(labels), 2, generator=draw)
        self.labels, self.mask = labels, mask

    def steps(self, batch_rows):
        return -(-len(self.labels) // batch_rows)

    def in_step(self, batch_rows):
        for first in range(0, len(self.labels), batch_rows):
            part = slice(first, first + batch_rows)
            yield Batch(
                ids=KeyedJaggedTensor(["f"], torch.zeros(0), lengths=torch.zeros(0)),
                numeric_BN=self.numeric[part],
                labels_BT=self.labels[part],
                mask_BT=self.mask[part],
            )


def labels_like(p_like=0.3):
    draw = torch.Generator().manual_seed(1)
    return (torch.rand(ROWS, 2, generator=draw) < torch.tensor([0.2, p_like])).float()


@pytest.fixture
def measured(monkeypatch):
    def measure(rows, base_in=lambda kind: Model(STEPS[kind]), **changes):
        monkeypatch.setattr(precision, "to_batch", lambda batch, _: batch)
        reports = []
        found = precision.measure(
            base_in, rows, tasks=TASKS, titles=TITLES, batch_rows=64, worker=ALONE,
            report=reports.append, **changes,
        )  # fmt: skip
        assert reports[-1]["step"] == reports[-1]["of"] == len(reports)
        return found

    return measure


def test_every_precision_is_measured_on_every_task(measured):
    rows = Rows(labels_like(), torch.ones(ROWS, 2, dtype=torch.bool))
    rows.mask[::3, 1] = False
    entries = measured(rows)
    assert [(e.precision, e.task) for e in entries] == [(p, t) for p in STEPS for t in TITLES]
    for entry in entries:
        task = TITLES.index(entry.task)
        keep = rows.mask[:, task]
        p = Model(STEPS[entry.precision])(None, rows.numeric.double()).sigmoid()[keep, task].numpy()
        labels = rows.labels[keep, task].numpy()
        assert entry.rows == int(keep.sum())
        assert entry.auc == pytest.approx(auc(labels, p), abs=1e-6)
        assert entry.log_loss == pytest.approx(log_loss(labels, p), rel=1e-6)
        full = Model(0.0)(None, rows.numeric.double()).sigmoid()[keep, task].numpy()
        error = None if entry.precision == "fp32" else paired_auc(labels, p, full).se
        assert entry.auc_error == (error and pytest.approx(error, rel=1e-3))


def test_no_more_rows_are_read_than_it_takes(measured, monkeypatch):
    monkeypatch.setattr(precision, "MAX_ROWS", 128)
    (entry, *_) = measured(Rows(labels_like(), torch.ones(ROWS, 2, dtype=torch.bool)))
    assert entry.rows == 128


def test_labels_of_one_class_leave_the_log_loss(measured):
    entries = measured(Rows(labels_like(p_like=0.0), torch.ones(ROWS, 2, dtype=torch.bool)))
    for entry in entries:
        assert (entry.auc is None) == (entry.task == "like")
        assert entry.log_loss is not None


def test_a_single_positive_leaves_the_log_loss(measured):
    labels = labels_like(p_like=0.0)
    labels[7, 1] = 1
    entries = measured(Rows(labels, torch.ones(ROWS, 2, dtype=torch.bool)))
    assert {entry.task for entry in entries if entry.auc is None} == {"like"}
    assert all(entry.log_loss is not None for entry in entries)


def test_a_precision_that_cannot_be_held_says_why(measured):
    def base_in(kind):
        if kind == "int4":
            raise BadRequest("table t has 3 columns")
        return Model(STEPS[kind])

    entries = measured(Rows(labels_like(), torch.ones(ROWS, 2, dtype=torch.bool)), base_in)
    for entry in entries:
        assert entry.reason == ("table t has 3 columns" if entry.precision == "int4" else "")
        assert (entry.auc is None) == (entry.precision == "int4")


def test_predictions_that_are_not_finite_are_counted(measured):
    rows = Rows(labels_like(), torch.ones(ROWS, 2, dtype=torch.bool))
    rows.numeric[5, 0] = math.nan
    entries = measured(rows)
    assert {e.task: e.reason for e in entries if e.precision == "int8"} == {
        "ctr": "1 predictions are not finite",
        "like": "",
    }


def numbers(**changes):
    """A base's numbers: (AUC, log-loss) of every precision on two tasks."""
    found = {
        "fp32": {"ctr": (0.74, 0.40), "like": (0.70, 0.5)},
        "fp16": {"ctr": (0.74, 0.40), "like": (0.70, 0.5)},
        "int8": {"ctr": (0.7395, 0.401), "like": (0.7005, 0.5)},
        "int4": {"ctr": (0.732, 0.41), "like": (0.699, 0.52)},
    }
    for name, by_task in changes.items():
        found[name] = found[name] | by_task
    return [
        {"precision": p, "task": task, "rows": 900, "auc": pair[0], "log_loss": pair[1]}
        for p, by_task in found.items()
        for task, pair in by_task.items()
    ]


def manifest(entries):
    return BaseManifest.model_validate(manifest_document(precisions=entries))


def asked(kind, tolerance=1e-3, **by_table):
    return FrozenTablesSpec(precision=kind, precisions=by_table, tolerance=tolerance)


@pytest.mark.parametrize(
    ("spec", "entries"),
    [
        pytest.param(asked("fp32"), [], id="fp32 needs no number"),
        pytest.param(asked("fp32", tolerance=0), numbers(), id="fp32 costs nothing"),
        pytest.param(asked("fp16", tolerance=0), numbers(), id="no cost at all"),
        pytest.param(asked("int8"), numbers(), id="a cost that is tolerated"),
        pytest.param(asked("int4", tolerance=0.0081), numbers(), id="a tolerance that is wide"),
        pytest.param(asked("int4", tolerance=1), [], id="any risk, without a number"),
        pytest.param(asked("int4", item="fp16"), numbers(), id="no table is left in int4"),
        pytest.param(
            asked("int8"),
            numbers(fp32={"like": (None, 0.5)}, int8={"like": (None, 0.5009)}),
            id="log-loss in place of an AUC",
        ),
    ],
)
def test_what_costs_no_more_than_it_may_is_taken(spec, entries):
    assert precision.check(manifest(entries), spec) == []


@pytest.mark.parametrize(
    ("spec", "entries", "says"),
    [
        pytest.param(
            asked("int4"), numbers(),
            r"int4 tables cost 0.00800 on 900 validation rows of ctr: AUC 0.74000 -> 0.73200; "
            r"at most 0.001",
            id="too dear",
        ),
        pytest.param(asked("int8", tolerance=0), numbers(), "cost 0.00050", id="no tolerance"),
        pytest.param(asked("fp32", item="int4"), numbers(), "int4 tables cost", id="one table"),
        pytest.param(
            asked("int8"),
            numbers(fp32={"like": (None, 0.5)}, int8={"like": (None, 0.502)}),
            r"cost 0.00200 .* log-loss 0.50000 -> 0.50200 \(labels of one class\)",
            id="log-loss in place of an AUC",
        ),
        pytest.param(asked("int8"), [], "nobody measured what int8 costs", id="no numbers"),
        pytest.param(
            asked("int8"), [n for n in numbers() if n["precision"] == "fp32"],
            "nobody measured what int8 costs", id="no number of this one",
        ),
        pytest.param(
            asked("int8"),
            [n | ({"auc": None, "log_loss": None, "reason": "row 17 holds nan"}
                  if n["precision"] == "int8" else {}) for n in numbers()],
            "the base has no int8: row 17 holds nan", id="could not be held",
        ),
        pytest.param(asked("int8", shop="fp32"), numbers(), "unknown tables", id="no such table"),
    ],
)  # fmt: skip
def test_what_costs_more_is_refused_with_its_number(spec, entries, says):
    with pytest.raises(BadRequest, match=says):
        precision.check(manifest(entries), spec)


@pytest.mark.parametrize(("error", "is_refused"), [(0.002, True), (0.004, False)])
def test_a_cost_within_the_noise_of_few_rows_is_told_and_not_refused(error, is_refused):
    """The AUC falls by .008, where .002 is tolerated."""
    entries = [
        entry
        | ({"auc_error": error} if (entry["precision"], entry["task"]) == ("int4", "ctr") else {})
        for entry in numbers()
    ]
    if is_refused:
        with pytest.raises(BadRequest, match=r"int4 tables cost 0\.00800"):
            precision.check(manifest(entries), asked("int4", tolerance=0.002))
        return
    told = precision.check(manifest(entries), asked("int4", tolerance=0.002))
    assert told == [
        "int4 tables cost 0.00800 +- 0.00784 on 900 validation rows of ctr, too few to tell it "
        "from the 0.002 that is tolerated"
    ]


def test_a_task_without_labels_is_told_and_not_judged():
    nothing = {"like": (None, None)}
    entries = numbers(fp32=nothing, int8=nothing)
    entries = [n | ({"rows": 0} if n["task"] == "like" else {}) for n in entries]
    (sentence,) = precision.check(manifest(entries), asked("int8"))
    assert sentence == "int8 was not judged on 0 validation rows of like: there are none"
