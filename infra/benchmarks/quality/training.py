"""Train everything, tables too: continue the base, once or for each domain, or train a new one."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iak.pipeline.base.published_base import OPTIMIZER
from iak.pipeline.runs.load import nested
from iak.schemas.log import Catalog
from infra.benchmarks.quality.cells import Hyper
from infra.benchmarks.quality.methods import Fitted
from infra.benchmarks.quality.setup import MethodSetup, Predicted, Slice, train_base
from infra.benchmarks.quality.space import LogRange, Space, first_of

CONTINUED: Mapping[str, Any] = {"patience": 3, "validations_per_epoch": 2}
"""Settings of early stopping of every continued training."""


def continued_space(has_state: bool) -> Callable[[Mapping[str, Any]], Space]:
    """Return the search space of continued training.

    Args:
        has_state: whether the base has its optimisers' state. Without it the shipped rate is lower,
            because Adagrad's first steps are then large.
    """

    def space(presets: Mapping[str, Any]) -> Space:
        return {
            "from_rates": LogRange(1.0 if has_state else 0.3, 0.02, 1.0),
            "epochs": first_of(8, 4, 16),
            "optim.decay_share": first_of(presets.get("optim.decay_share", 0.4), 0.0, 1.0),
        }

    return space


def continued(*, keeps_state: bool) -> Callable[[MethodSetup, Hyper], Fitted]:
    """Return the fit of continued training of everything on the recent rows.

    Args:
        keeps_state: whether it begins with the base's optimiser state.
    """

    def fit(setup: MethodSetup, hyper: Hyper) -> Fitted:
        start = setup.base
        if not keeps_state:
            start = setup.folder("stateless")
            shutil.copytree(setup.base, start, ignore=shutil.ignore_patterns(OPTIMIZER))
        fixed = {**CONTINUED, "from": start}
        return _fitted(setup, _trained(setup, setup.window.learning("tune"), hyper, fixed))

    return fit


def joint_space(presets: Mapping[str, Any]) -> Space:
    """Return the search space of a training from scratch, around the base's own settings."""
    tables, dense = presets.get("optim.table_lr", 0.1), presets.get("optim.dense_lr", 1e-3)
    epochs = presets.get("epochs", 8)
    return {
        "epochs": first_of(epochs, 2 * epochs),
        "optim.table_lr": LogRange(tables, tables / 3, tables * 3),
        "optim.dense_lr": LogRange(dense, dense / 3, dense * 3),
    }


def fit_joint(setup: MethodSetup, hyper: Hyper) -> Fitted:
    """Train a new base on old and recent rows together."""
    return _fitted(setup, _trained(setup, setup.window.learning("pretrain", "tune"), hyper, {}))


def fit_by_domain(setup: MethodSetup, hyper: Hyper) -> Fitted:
    """Continue the base on all recent rows, then the result on each domain's rows.

    Everything is trained. That is the practice that kernels replace: a whole model for each domain.
    """
    pooled = _trained(
        setup, setup.window.learning("tune"), hyper, {**CONTINUED, "from": setup.base}
    )
    start = setup.base if pooled.base is None else pooled.base
    own: dict[str, _Trained] = {}
    for number, (name, domain) in enumerate(setup.window.domains("tune").items()):
        if name in setup.domains():
            catalog = setup.window.learning("tune", where=domain.as_dict())
            fixed = {**CONTINUED, "from": start}
            own[name] = _trained(setup, catalog, hyper, fixed, folder=f"domain-{number}")
    bases = {name: trained.base or start for name, trained in own.items()}

    def predict(rows: Slice) -> Predicted:
        of_row = setup.rows(rows)
        mixed = {task: p.copy() for task, p in setup.predicted(rows, base=start).items()}
        for name, base in bases.items():
            if name not in of_row.domain_names:
                continue
            mine_N = of_row.domain_N == of_row.domain_names.index(name)
            for task, p in setup.predicted(rows, base=base).items():
                mixed[task][mine_N] = p[mine_N]
        return mixed

    at_cap = [name for name, trained in {"pooled": pooled, **own}.items() if trained.is_at_cap]
    return Fitted(
        predict=predict,
        parameters=setup.base_parameters,
        copies=1 + len(own),
        at_cap=tuple(at_cap),
    )


@dataclass(frozen=True, slots=True)
class _Trained:
    """The result of a training."""

    base: Path | None
    """The published base; None where no step was better than the base that was continued."""
    is_at_cap: bool
    """Whether the training was still improving at its last epoch."""


def _trained(
    setup: MethodSetup,
    catalog: Catalog,
    hyper: Hyper,
    fixed: Mapping[str, Any],
    *,
    folder: str = "trained",
) -> _Trained:
    """Train a base.

    A training that still improves at its end is repeated with twice the epochs, at most twice: a
    rival that is stopped too early would make a false win.

    Args:
        setup: log and base.
        catalog: rows that the training learns from.
        hyper: settings of `iak pretrain` that are searched.
        fixed: its further settings.
        folder: name of its run folder, which must stay until everything is predicted.
    """
    for factor in (1, 2, 4):
        settings = nested({**hyper, "epochs": factor * int(hyper["epochs"])})
        result = train_base(
            setup.window,
            catalog,
            setup.folder(folder),
            seed=setup.seed,
            **{**fixed, **settings},
        )
        if not result.training.improving_at_the_end:
            break
    return _Trained(result.base, result.training.improving_at_the_end)


def _fitted(setup: MethodSetup, trained: _Trained) -> Fitted:
    """Return a trained base as a fitted method; the base itself where none was better."""
    base = trained.base or setup.base
    return Fitted(
        predict=lambda rows: setup.predicted(rows, base=base),
        parameters=setup.base_parameters,
        at_cap=("base",) if trained.is_at_cap else (),
    )
