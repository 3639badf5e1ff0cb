"""Rows of which the true probabilities are known."""

import numpy as np

from iak.pipeline.stats.metrics import metric_rows


def planted(seed=0, *, size=4000, num_domains=5):
    """Labels of a known rate, a base that knows it roughly and a method that knows it better."""
    random = np.random.default_rng(seed)
    logit = random.normal(-1.5, 1.2, size)
    p_true = 1 / (1 + np.exp(-logit))
    labels = (random.random(size) < p_true).astype(np.int8)
    p_base = 1 / (1 + np.exp(-(logit + random.normal(0, 1.5, size))))
    p_tuned = 1 / (1 + np.exp(-(logit + random.normal(0, 0.5, size))))
    domain = random.integers(0, num_domains, size)
    users = random.integers(0, size // 20, size) * 7919 - 10**12
    return labels, p_true, p_base, p_tuned, domain, users


def metric_row(*, labels, p, p_base, users, kept=1.0):
    """One method's metrics on all these rows, which are of one domain."""
    (beside,) = metric_rows(
        method="kernel", domains=("d",), domain_index=np.zeros(labels.size, np.int64), task="ctr",
        labels=labels, p=p, p_base=p_base, users=users, kept=kept,
    )  # fmt: skip
    return beside.row
