"""Let a run start and continue with fewer workers than it asks for, while machines are missing.

Ray Train's elastic policy (2.60) counts the resources that live machines have, not those that are
free. With one of two CPUs taken it asks for two workers, waits a minute for them, and asks for two
again, without end. Here the size of a group follows from its own resources and the free ones.
"""

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import ray
from ray.train.v2._internal.execution.scaling_policy import (
    ElasticScalingPolicy,
    ResizeDecision,
    ScalingDecision,
    ScalingPolicy,
)
from ray.train.v2._internal.execution.worker_group import WorkerGroupPollStatus, WorkerGroupState
from ray.train.v2.api import data_parallel_trainer
from ray.train.v2.api.config import ScalingConfig

Resources = Mapping[str, float]
PATIENCE_S = 30.0
"""Seconds after which Ray's own size is taken for a group that does not start. A group that died
before Ray saw it running still has its resources, and gives them back when the next one starts."""


class FreeResourcesPolicy(ElasticScalingPolicy):
    """Choose the size of a group by the resources that are free, on machines that are alive."""

    def __init__(self, scaling_config: ScalingConfig) -> None:
        """Take the fewest and most workers, and the resources of one, from `scaling_config`."""
        super().__init__(scaling_config)
        self._running: Counter[str] = Counter()
        """Machine -> workers of the last group that ran. Their resources are not free until the
        next group starts, also after one of them died."""
        self._waits_since: float | None = None
        """When the present group was asked for first; None while a group runs."""

    def make_decision_for_non_running_worker_group(self) -> ScalingDecision:
        """Decide how large a group starts, or that it waits."""
        if self._waits_since is None:
            self._waits_since = time.monotonic()
        decision = super().make_decision_for_non_running_worker_group()
        if isinstance(decision, ResizeDecision):
            self._running.clear()
            self._waits_since = None
        return decision

    def make_decision_for_running_worker_group(
        self, worker_group_state: WorkerGroupState, worker_group_status: WorkerGroupPollStatus
    ) -> ScalingDecision:
        """Decide whether a group is restarted with more workers, or goes on as it is."""
        self._running = Counter(worker.metadata.node_id for worker in worker_group_state.workers)
        return super().make_decision_for_running_worker_group(
            worker_group_state, worker_group_status
        )

    def _count_possible_workers(self, reserved_resources: dict[str, dict[str, float]]) -> int:
        """Return how many workers a group can have; the base class asks in both decisions."""
        on_live_machines: int = super()._count_possible_workers(reserved_resources)
        if self._waits_since and time.monotonic() > self._waits_since + PATIENCE_S:
            return on_live_machines
        # Only machines that are alive: what workers had on the others cannot be used again.
        own = sum(count for node, count in self._running.items() if node in reserved_resources)
        need = self.scaling_config._resources_per_worker_not_none
        return min(on_live_machines, own + workers_that_fit(ray.available_resources(), need))


def workers_that_fit(free: Resources, need: Resources) -> int:
    """Return how many workers fit into free resources.

    Args:
        free: resources of the whole cluster that no worker has.
        need: resources of one worker.
    """
    return int(min(free.get(name, 0.0) // amount for name, amount in need.items() if amount))


@contextmanager
def sized_by_what_is_free() -> Iterator[None]:
    """Let trainers use `FreeResourcesPolicy` where the number of workers is a range.

    Ray has no public setting for the policy (2.60). So the function that makes it is replaced while
    the block lasts.
    """
    create = data_parallel_trainer.create_scaling_policy

    def policy(scaling_config: ScalingConfig) -> ScalingPolicy:
        is_range = scaling_config.elasticity_enabled
        return FreeResourcesPolicy(scaling_config) if is_range else create(scaling_config)

    data_parallel_trainer.create_scaling_policy = policy
    try:
        yield
    finally:
        data_parallel_trainer.create_scaling_policy = create
