"""The probe: what each kernel would cost on rows of other domains."""

import pytest
import torch

from iak.pipeline.iak.bank import stack
from iak.pipeline.iak.kernel import fresh, run
from iak.pipeline.model.loss import task_losses
from iak.pipeline.tuning import probe
from iak.pipeline.tuning.probe import outside_losses
from tests.unit.iak.small import SHAPE, TASKS, context, moved_kernel, only, tuning_rows
from tests.unit.workers import on_threads

LEVEL = 1
KERNELS = {"a": moved_kernel(0), "b": fresh(SHAPE, seed=0), "c": moved_kernel(2)}
BANK = stack(SHAPE, KERNELS)
ROWS = tuning_rows(300, 3)
AROUND = context(ROWS, ROWS)


def row_losses(logits):
    weights = torch.tensor([task.weight for task in TASKS])
    return (task_losses(logits, ROWS.labels_nT, ROWS.mask_nT, TASKS) * weights).sum(1).double()


@pytest.mark.parametrize("slot", [0, 2])
def test_a_kernel_is_compared_with_the_base_on_labelled_rows_of_other_domains(slot):
    h, a = ROWS.activations.of(torch.arange(len(ROWS)))
    name = BANK.names[slot]
    own = run(KERNELS[name], AROUND.heads, h, a, None).logits_BT
    change = row_losses(own) - row_losses(AROUND.heads(h))
    change = change[ROWS.mask_nT.any(dim=1) & (ROWS.slots_nL[:, LEVEL] != slot)]
    found = outside_losses(BANK, LEVEL, AROUND, ROWS)[name]
    assert found.rows == len(change)
    assert found.change == pytest.approx(float(change.mean()), rel=1e-5)
    assert found.error == pytest.approx(float(change.std()) / len(change) ** 0.5, rel=1e-4)
    assert abs(found.change) > found.error


def test_kernels_side_by_side_cost_what_each_does_alone(monkeypatch):
    together = outside_losses(BANK, LEVEL, AROUND, ROWS)
    for rows_at_once in (1, 2 * len(ROWS)):  # one kernel, and two and one
        monkeypatch.setattr(probe, "_ROWS_AT_ONCE", rows_at_once)
        found = outside_losses(BANK, LEVEL, AROUND, ROWS)
        for name, each in together.items():
            assert found[name].rows == each.rows
            assert found[name].change == pytest.approx(each.change, abs=1e-6)
            assert found[name].error == pytest.approx(each.error, abs=1e-6)


def test_a_kernel_that_changes_no_logit_costs_nothing():
    found = outside_losses(BANK, LEVEL, AROUND, ROWS)["b"]
    assert (found.change, found.error) == (pytest.approx(0, abs=1e-6), pytest.approx(0, abs=1e-6))


def test_without_rows_of_another_domain_nothing_is_measured():
    own = only(ROWS, ROWS.slots_nL[:, LEVEL] == 1)
    assert set(outside_losses(BANK, LEVEL, AROUND, own)) == {"a", "c"}
    assert outside_losses(BANK, LEVEL, AROUND, only(ROWS, torch.zeros(300, dtype=torch.bool))) == {}


def test_the_probe_stands_a_row_is_in_it_by_its_key_alone(monkeypatch):
    """The same rows in another order, as another night would read them, give the same numbers."""
    monkeypatch.setattr(probe, "PROBE_ROWS", 60)
    found = outside_losses(BANK, LEVEL, AROUND, ROWS)
    shuffled = only(ROWS, torch.randperm(300, generator=torch.Generator().manual_seed(1)))
    again = outside_losses(BANK, LEVEL, AROUND, shuffled)
    assert all(20 < each.rows < 100 for each in found.values())
    for name, each in found.items():
        assert again[name].rows == each.rows
        assert again[name].change == pytest.approx(each.change, abs=1e-6)


def test_two_workers_with_half_the_rows_each_measure_what_one_does():
    def on_part(worker):
        part = only(ROWS, torch.arange(len(ROWS)) % worker.world == worker.rank)
        return outside_losses(BANK, LEVEL, context(part, part, worker), part)

    one, other = on_threads(on_part, 2)
    assert one == other
    alone = outside_losses(BANK, LEVEL, AROUND, ROWS)
    for name, each in alone.items():
        assert one[name].rows == each.rows
        assert one[name].change == pytest.approx(each.change, abs=1e-6)
