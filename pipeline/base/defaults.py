"""Defaults of pre-training that depend on the number of training rows.

The rule was measured on slices of 5,000 to 340,000 rows of public logs. Too few steps cost most on
them: a conversion's tower starts at a probability of one half, and needs some hundred steps to come
down to its rate. Small batches and several epochs give these steps. Early stop on validation rows
ends a run that begins to overfit.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from iak.pipeline.base import trials
from iak.schemas.job import BaseOptimSpec, PretrainSpec

MIN_BATCH, MAX_BATCH = 64, 2048
STEPS_PER_EPOCH = 256
"""Steps of an epoch that the batch size aims at, as far as MIN_BATCH and MAX_BATCH allow."""
ROWS_SEEN = 4_000_000
"""Rows over all epochs that the number of epochs aims at, as far as 1 and MAX_EPOCHS allow."""
MAX_EPOCHS = 8
PATIENCE = 3
VALIDATIONS_PER_EPOCH = 2
TABLE_LR = 0.1
DENSE_LR = 1e-3
WARMUP_STEPS = 50
RATES_WITH_STATE, RATES_WITHOUT_STATE = 1.0, 0.3
"""Factors on both learning rates for a continued base. Of 1, 0.3, 0.1 and 0.03 these were the best
on validation rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """The settings that a run uses, with every default filled in."""

    batch_rows: int
    epochs: int
    patience: int
    validations_per_epoch: int
    from_rates: float
    """Factor on both learning rates; 1 for a fresh base."""
    optim: BaseOptimSpec
    """Its rates include the factor."""
    followed: tuple[str, ...]
    """Names of the settings that the user left open."""

    def described(self) -> dict[str, int | float]:
        """Return every setting that may be left open, by name, with the value that is used."""
        return {
            "batch_rows": self.batch_rows,
            "epochs": self.epochs,
            "patience": self.patience,
            "validations_per_epoch": self.validations_per_epoch,
            "from_rates": self.from_rates,
            "optim.table_lr": self.optim.table_lr,
            "optim.dense_lr": self.optim.dense_lr,
            "optim.warmup_steps": self.optim.warmup_steps,
        }


def batch_rows_for(rows: int) -> int:
    """Return the power of two that gives an epoch 256 to 512 steps, within [64, 2048].

    Args:
        rows: training rows, at least 0.
    """
    wanted = max(rows, 1) / STEPS_PER_EPOCH
    return min(max(2 ** math.floor(math.log2(wanted)) if wanted >= 1 else 1, MIN_BATCH), MAX_BATCH)


def epochs_for(rows: int) -> int:
    """Return the number of epochs that read four million rows, 1 to 8.

    Args:
        rows: training rows, at least 0.
    """
    return min(max(ROWS_SEEN // max(rows, 1), 1), MAX_EPOCHS)


def recipe(
    spec: PretrainSpec,
    *,
    rows: int,
    continues: bool,
    has_state: bool,
    chosen: Mapping[str, float] = MappingProxyType({}),
) -> Recipe:
    """Return the settings of a run: the user's, and defaults for those that are left open.

    Args:
        spec: the user's settings.
        rows: training rows.
        continues: whether a base is continued.
        has_state: whether that base has its optimisers' state.
        chosen: settings that were chosen when that base was trained. They hold on where the user
            leaves them open.
    """
    open_settings = {
        "batch_rows": batch_rows_for(rows),
        "epochs": epochs_for(rows),
        "patience": PATIENCE,
        "validations_per_epoch": VALIDATIONS_PER_EPOCH,
    }
    open_rates = {"table_lr": TABLE_LR, "dense_lr": DENSE_LR, "warmup_steps": WARMUP_STEPS}
    factor = 1.0
    if continues:
        factor = spec.from_rates or (RATES_WITH_STATE if has_state else RATES_WITHOUT_STATE)
    # A setting that the user left open is None.
    given = {name: getattr(spec, name) for name in open_settings}
    of_optim = spec.optim.model_dump()
    followed = [name for name, value in given.items() if value is None]
    followed += [f"optim.{name}" for name in open_rates if of_optim[name] is None]
    followed += ["from_rates"] if continues and spec.from_rates is None else []
    settings = open_settings | {name: value for name, value in given.items() if value is not None}
    rates = open_rates | {name: value for name, value in of_optim.items() if value is not None}
    rates |= trials.part_of(chosen, "optim", without=trials.given_settings(spec))
    for name in ("table_lr", "dense_lr"):
        rates[name] *= factor
    return Recipe(
        **settings,
        from_rates=factor,
        optim=BaseOptimSpec.model_validate(rates),
        followed=tuple(followed),
    )
