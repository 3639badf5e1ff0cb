"""Use what the generator of a planted log knows: its true probabilities, and its features.

The `ceiling` is what kernels over a frozen base could reach if they knew the form of the truth. To
the base's logits it adds the generator's own features of a domain, whose coefficients are fitted on
the tuning window alone. The drift after that window stays unknown to it, as to every kernel.

Shapes: N rows, F features, T tasks.
"""

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from scipy.optimize import minimize
from scipy.special import expit

from iak.pipeline.planted.population import CATEGORIES, DAYPARTS, SCENES
from iak.pipeline.planted.taste import DOMAIN_CLICK, DOMAIN_ORDER
from infra.benchmarks.quality.calibration import base_logits
from infra.benchmarks.quality.cells import Hyper
from infra.benchmarks.quality.logs import events_of, truth_of
from infra.benchmarks.quality.methods import Fitted
from infra.benchmarks.quality.setup import FrozenRows, MethodSetup, Predicted, Slice
from infra.benchmarks.quality.space import LogRange, Space

Floats = npt.NDArray[np.float64]
_READ = ("category", "daypart", "scene", "price", "distance_km")


def fit_oracle(suffix: str) -> Callable[[MethodSetup, Hyper], Fitted]:
    """Return the fit of the true probabilities, which learns nothing.

    Args:
        suffix: end of the names of their columns: empty, or `_global` for a taste that all domains
            share.
    """
    return lambda _setup, _hyper: Fitted(
        predict=lambda rows: true_probabilities(rows, suffix), parameters=0
    )


def true_probabilities(rows: Slice, suffix: str = "") -> Predicted:
    """Return the probabilities from which a planted log's labels were drawn.

    Args:
        rows: a slice of a planted log.
        suffix: end of the names of their columns; see `fit_oracle`.
    """
    table = truth_of(rows.window, rows.split)
    click, order = (table.column(f"p_{e}{suffix}").to_numpy() for e in ("click", "order"))
    return {"ctr": click, "cvr": order, "ctcvr": click * order}


def ceiling_space(_presets: Mapping[str, object]) -> Space:
    """Return the search space: the weight of the penalty, 1 for coefficients of the sizes drawn."""
    return {"penalty": LogRange(1.0, 1e-2, 1e2)}


def fit_ceiling(setup: MethodSetup, hyper: Hyper) -> Fitted:
    """Fit the generator's features of a domain on the tuning rows: of all rows, then by domain."""
    penalty, tune = float(hyper["penalty"]), setup.tune
    features = [scaled_features(Slice(setup.window, "tune"), task) for task in range(2)]
    logits_NT = base_logits(setup, tune).double().numpy()
    names = np.array([name or "" for name in tune.domains])
    pooled = np.stack(
        [_coefficients(f, logits_NT, tune, task, penalty) for task, f in enumerate(features)]
    )
    own: dict[str, Floats] = {}
    for name in setup.domains():
        is_own_N = names == name
        rows, parts = tune.of_domain(name), [f[is_own_N] for f in features]
        shifted_NT = logits_NT[is_own_N] + _products(parts, pooled)
        own[name] = pooled + np.stack(
            [_coefficients(f, shifted_NT, rows, task, penalty) for task, f in enumerate(parts)]
        )

    def predict(rows: Slice) -> Predicted:
        frozen = setup.frozen(rows)
        logits_NT = base_logits(setup, frozen).double().numpy()
        parts = [scaled_features(rows, task) for task in range(2)]
        domains = np.array([name or "" for name in frozen.domains])
        changes_NT = _products(parts, pooled)
        for name, coefficients in own.items():
            is_own_N = domains == name
            changes_NT[is_own_N] = _products([f[is_own_N] for f in parts], coefficients)
        return setup.predicted_by_logits(torch.from_numpy(logits_NT + changes_NT))

    return Fitted(predict=predict, parameters=pooled.size, copies=1 + len(own))


def scaled_features(rows: Slice, task: int) -> npt.NDArray[np.float32]:
    """Return the features of a domain's part of the truth, (N, F), each times its size.

    A coefficient then has a variance of about 1, so that one penalty fits all of them.

    Args:
        rows: a slice of a planted log.
        task: 0 for the click, 1 for the order.
    """
    table = events_of(rows.window, rows.split, _READ)
    category = _one_hot(table, "category", CATEGORIES)
    daypart = _one_hot(table, "daypart", DAYPARTS)
    crossed = (daypart[:, :, None] * category[:, None, :]).reshape(len(category), -1)
    price = (np.log(table.column("price").to_numpy()) - 3.2) * 2.0
    distance = (np.log1p(table.column("distance_km").to_numpy()) - 1.06) * 2.2
    scene = _one_hot(table, "scene", SCENES)
    level = np.ones((len(category), 1), dtype=np.float32)
    # In the order of the sizes; `planted/rows.py` has the formulas of price and distance.
    features = np.hstack([category, crossed, price[:, None], distance[:, None], scene, level])
    sizes = (DOMAIN_CLICK, DOMAIN_ORDER)[task].per_coefficient
    return np.asarray(features * sizes, dtype=np.float32)


def _one_hot(table: pa.Table, name: str, values: tuple[str, ...]) -> npt.NDArray[np.float32]:
    index = {value: number for number, value in enumerate(values)}
    codes = [index[value] for value in table.column(name).cast(pa.string()).to_pylist()]
    return np.eye(len(values), dtype=np.float32)[codes]


def _products(features: list[npt.NDArray[np.float32]], coefficients_TF: Floats) -> Floats:
    """Return each task's change of the logit, (N, T)."""
    return np.stack([f @ c for f, c in zip(features, coefficients_TF, strict=True)], axis=1)


def _coefficients(
    features_NF: npt.NDArray[np.float32],
    logits_NT: Floats,
    rows: FrozenRows,
    task: int,
    penalty: float,
) -> Floats:
    """Return the coefficients of one task; those of the order are fitted on clicked rows."""
    labels_NT, counts_N = rows.labels_NT.numpy(), rows.mask_NT.numpy()[:, task]
    if task:
        counts_N = counts_N & (labels_NT[:, 0] == 1)
    kept = features_NF[counts_N]
    return fit_logistic(kept, logits_NT[counts_N, task], labels_NT[counts_N, task], penalty)


def fit_logistic(
    features_NF: npt.NDArray[np.float32] | Floats,
    logit_N: Floats,
    label_N: npt.NDArray[np.float32],
    penalty: float,
) -> Floats:
    """Return the coefficients that minimise summed log-loss plus penalty, a convex problem.

    Args:
        features_NF: inputs.
        logit_N: part of each row's logit that is given.
        label_N: 0 or 1.
        penalty: weight of half the coefficients' squares.
    """
    # Once: a product of float32 and float64 would convert all features at every step.
    features_NF = features_NF.astype(np.float64)

    def loss(coefficients_F: Floats) -> tuple[float, Floats]:
        z_N = logit_N + features_NF @ coefficients_F
        error_N = expit(z_N) - label_N
        nats = np.logaddexp(0.0, z_N).sum() - label_N @ z_N
        nats += penalty / 2 * (coefficients_F @ coefficients_F)
        return float(nats), error_N @ features_NF + penalty * coefficients_F

    start = np.zeros(features_NF.shape[1])
    solved = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 200})
    found: Floats = solved.x
    return found
