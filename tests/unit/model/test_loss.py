import torch
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.model.loss import (
    TaskShape,
    log_probabilities,
    probabilities,
    share_of_mean,
    task_losses,
)

TASKS = (
    TaskShape(name="like", kind="binary"),
    TaskShape(name="click", kind="click"),
    TaskShape(name="cart", kind="conversion", given=1),
    TaskShape(name="buy", kind="conversion", given=2, weight=3.0),
)
logits = st.lists(st.floats(-40, 40, width=32), min_size=4, max_size=4)
labels = st.lists(st.sampled_from([0.0, 1.0]), min_size=4, max_size=4)
mask = st.lists(st.booleans(), min_size=4, max_size=4)


def naive_losses(logits_BT, labels_BT):
    """The formula as one writes it, in float64."""
    p = logits_BT.double().sigmoid()
    p = torch.stack([p[:, 0], p[:, 1], p[:, 1] * p[:, 2], p[:, 1] * p[:, 2] * p[:, 3]], dim=1)
    y = labels_BT.double()
    return -torch.where(y == 1, p.log(), torch.log1p(-p))


@given(st.lists(st.floats(-12, 12, width=32), min_size=4, max_size=4), labels)
def test_equals_the_naive_formula_where_that_one_works(logits, labels):
    logits_BT, labels_BT = torch.tensor([logits], requires_grad=True), torch.tensor([labels])
    losses_BT = task_losses(logits_BT, labels_BT, torch.ones(1, 4, dtype=torch.bool), TASKS)
    naive_BT = naive_losses(logits_BT, labels_BT)
    torch.testing.assert_close(losses_BT.double(), naive_BT, rtol=3e-5, atol=0)
    for task in range(4):
        (grad,) = torch.autograd.grad(losses_BT[0, task], logits_BT, retain_graph=True)
        (naive_grad,) = torch.autograd.grad(naive_BT[0, task], logits_BT, retain_graph=True)
        torch.testing.assert_close(grad, naive_grad, rtol=1e-4, atol=1e-9)


@given(logits, labels, mask)
def test_losses_and_gradients_stay_finite(logits, labels, mask):
    logits_BT = torch.tensor([logits], requires_grad=True)
    losses_BT = task_losses(logits_BT, torch.tensor([labels]), torch.tensor([mask]), TASKS)
    losses_BT.sum().backward()
    assert losses_BT.isfinite().all()
    assert (losses_BT >= 0).all()
    assert logits_BT.grad.isfinite().all()


@given(logits)
def test_log_probabilities_are_of_complements(logits):
    log_p = log_probabilities(torch.tensor([logits], dtype=torch.float64), TASKS)
    torch.testing.assert_close(
        torch.logaddexp(log_p.yes_BT, log_p.no_BT), torch.zeros(1, 4).double(), atol=1e-9, rtol=0
    )


def test_what_stands_under_a_mask_is_not_read():
    logits_BT = torch.randn(2, 4, requires_grad=True)
    mask_BT = torch.tensor([[True, False, True, False]] * 2)
    labels_BT = torch.where(mask_BT, 1.0, torch.nan)
    losses_BT = task_losses(logits_BT, labels_BT, mask_BT, TASKS)
    losses_BT.sum().backward()
    assert (losses_BT[:, [1, 3]] == 0).all()
    assert logits_BT.grad.isfinite().all()
    assert (logits_BT.grad[:, 3] == 0).all()


def test_a_conversion_is_never_likelier_than_its_click():
    p = probabilities(torch.randn(100, 4) * 5, TASKS)
    assert (p.entire_BT[:, 2] <= p.entire_BT[:, 1]).all()
    assert (p.entire_BT[:, 3] <= p.entire_BT[:, 2]).all()
    torch.testing.assert_close(p.entire_BT[:, 2], p.own_BT[:, 1] * p.own_BT[:, 2])


def test_shares_of_two_workers_average_to_the_mean_of_one():
    losses_BT = torch.rand(10, 4)
    counts_T = torch.tensor([10, 8, 0, 3])
    whole = share_of_mean(losses_BT, counts_T=counts_T, tasks=TASKS)
    shares = [
        share_of_mean(part, counts_T=counts_T, tasks=TASKS, world=2)
        for part in (losses_BT[:3], losses_BT[3:])
    ]
    torch.testing.assert_close(sum(shares) / 2, whole)
