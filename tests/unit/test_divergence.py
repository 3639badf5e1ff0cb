"""A loss that is not a number stops a run at once, on every worker, with what to lower."""

import math
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.base.train_state import TrainState
from iak.pipeline.base.trainer import Pretraining
from iak.pipeline.data.reader import Cursor
from iak.pipeline.divergence import refuse_diverged
from iak.pipeline.errors import Diverged
from iak.schemas.job import BaseOptimSpec

RATES = {"optim.table_lr": 0.05, "optim.dense_lr": 1e-3}
BROKEN = (math.nan, math.inf, -math.inf)


@given(st.floats())
def test_a_finite_loss_passes_and_no_other_one_does(loss):
    if math.isfinite(loss):
        refuse_diverged(loss, where="the loss", rates=RATES)
        return
    with pytest.raises(Diverged, match=r"the loss is -?(nan|inf) under"):
        refuse_diverged(loss, where="the loss", rates=RATES)


def test_the_message_names_the_step_the_rates_and_what_to_lower():
    with pytest.raises(Diverged) as told:
        refuse_diverged(math.nan, where="the training loss at step 3 of 9", rates=RATES)
    assert str(told.value).startswith(
        "the training loss at step 3 of 9 is nan under optim.table_lr=0.05 and "
        "optim.dense_lr=0.001. Lower optim.table_lr first, then optim.dense_lr, by a factor of ten"
    )


class FromStep(Pretraining):
    """Training whose loss is broken from one step on; nothing else of a run is there."""

    def __init__(self, first, broken):
        self.first, self.broken = first, broken
        self.state = TrainState()
        self.steps, self.steps_per_epoch = 8, 4
        self.train = SimpleNamespace(start_of=lambda epoch: Cursor(epoch=epoch))
        self.work = SimpleNamespace(
            optim=BaseOptimSpec(),
            from_base=None,
            validations_per_epoch=1,
            checkpoint_every_steps=99,
            patience=9,
        )

    def rest_of_epoch(self):
        """Yield as many batches as an epoch has steps."""
        yield from ((None, self.state.cursor) for _ in range(self.steps_per_epoch))

    def step(self, batch):
        assert batch is None
        return self.broken if self.state.step + 1 >= self.first else 0.5

    def _validate(self):
        return


@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize("first", [1, 3, 6])
def test_pretraining_stops_at_the_very_step(first, broken):
    training = FromStep(first, broken)
    with pytest.raises(Diverged, match=f"the training loss at step {first} of 8 is"):
        training.run()
    assert training.state.step == first
