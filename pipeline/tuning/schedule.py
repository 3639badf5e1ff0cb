"""Which rows a step uses: an epoch of every domain, in steps that hold few domains at a time.

A domain with n rows takes about n / batch steps an epoch; which of them uses a row is a function of
the row alone (iak/noise.py). Domains do not touch each other, so a step may hold any of them: they
are taken in blocks, each of as many domains as fill a step with rows, and a block is run to its
last step before the next begins. What the step then reads and moves are the block's weights alone.
A cohort (cohorts.py) is one block as a rule; an epoch of a whole level has many.

Shapes: K slots of the level, P present in a step, S steps of an epoch, T tasks, n rows of this
worker.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from iak.pipeline.collectives import most, total
from iak.pipeline.iak import noise
from iak.pipeline.iak.grouped import Segments
from iak.pipeline.process import Worker


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The rows of one step on this worker, sorted by slot, and their counts over all workers."""

    slots: list[int]
    places_B: Tensor
    streams_B: Tensor
    lengths_P: Tensor
    rows_P: Tensor
    labelled_PT: Tensor

    def segments(self, device: torch.device) -> Segments:
        """Which of this worker's rows are whose."""
        return Segments.of(self.lengths_P, device)


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """An epoch's rows in the order of their steps."""

    blocks: list[Tensor]
    """Slots that are run together, those with most steps first."""
    steps_K: Tensor
    """Steps that are run of each slot."""
    order_n: Tensor
    """Places of this worker's rows, by block, step, then slot."""
    streams_n: Tensor
    own_SK: Tensor
    """Rows of this worker."""
    rows_SK: Tensor
    """Rows of all workers."""
    labelled_SKT: Tensor
    """Labelled rows of all workers."""

    def steps(self) -> Iterator[Step]:
        """The steps, the same number on every worker."""
        done = 0
        for block in self.blocks:
            for step in range(int(self.steps_K[block[0]])):
                slots_P = block[self.steps_K[block] > step]
                lengths_P = self.own_SK[step][slots_P]
                count = int(lengths_P.sum())
                places_B = self.order_n[done : done + count]
                done += count
                yield Step(
                    slots=slots_P.tolist(),
                    places_B=places_B,
                    streams_B=self.streams_n[places_B],
                    lengths_P=lengths_P,
                    rows_P=self.rows_SK[step][slots_P],
                    labelled_PT=self.labelled_SKT[step][slots_P],
                )


def make_schedule(
    identity_n: Tensor,
    mask_nT: Tensor,
    slots_n: Tensor,
    *,
    streams_K: Tensor,
    steps_K: Tensor,
    most_steps: int,
    step_rows: int,
    worker: Worker,
) -> Schedule:
    """Give each of this worker's rows its step, and count every step's rows over all workers.

    Args:
        identity_n: each row's key.
        mask_nT: which labels count.
        slots_n: each row's slot, -1 for none.
        streams_K: key of each slot's draws in this epoch.
        steps_K: steps of each slot; 0 leaves it out.
        most_steps: steps after which an epoch of a slot ends, whatever rows it has left: they are
            a random part, another one each epoch.
        step_rows: rows over all workers at which a step takes no further slot in.
        worker: this process.
    """
    slots, run_K = len(steps_K), steps_K.clamp(max=most_steps)
    count = int(run_K.max()) if slots else 0
    used = torch.nonzero(slots_n >= 0).squeeze(1)
    used = used[steps_K[slots_n[used]] > 0]
    streams_n = torch.zeros(len(slots_n), dtype=torch.int64)
    streams_n[used] = streams_K[slots_n[used]]
    step_B = noise.steps_of(identity_n[used], streams_n[used], steps_K[slots_n[used]])
    in_time = step_B < most_steps
    used, step_B = used[in_time], step_B[in_time]
    slot_B = slots_n[used]
    cell_B = step_B * slots + slot_B
    own = torch.bincount(cell_B, minlength=count * slots).view(count, slots)
    labelled = [
        torch.bincount(cell_B[mask[used]], minlength=count * slots).view(count, slots)
        for mask in mask_nT.unbind(1)
    ]
    rows_SK, *labelled_TSK = total(torch.stack([own, *labelled]), worker)
    blocks = blocks_of(run_K, rows_SK, step_rows)
    return Schedule(
        blocks=blocks,
        steps_K=run_K,
        order_n=used[_in_order(blocks, slot_B, step_B, slots=slots, steps=count)],
        streams_n=streams_n,
        own_SK=own,
        rows_SK=rows_SK,
        labelled_SKT=torch.stack(labelled_TSK, dim=2),
    )


def blocks_of(steps_K: Tensor, rows_SK: Tensor, step_rows: int) -> list[Tensor]:
    """Slots in blocks whose steps hold about `step_rows` rows; slots with most steps come first."""
    order = torch.argsort(steps_K, descending=True, stable=True)
    order = order[steps_K[order] > 0]
    rows_a_step = rows_SK.sum(0) / steps_K.clamp(min=1)
    blocks: list[list[int]] = []
    held = float(step_rows)
    for slot, rows in zip(order.tolist(), rows_a_step[order].tolist(), strict=True):
        if held + rows / 2 >= step_rows:
            blocks.append([])
            held = 0.0
        blocks[-1].append(slot)
        held += rows
    return [torch.tensor(block) for block in blocks]


def _in_order(
    blocks: Sequence[Tensor], slot_B: Tensor, step_B: Tensor, *, slots: int, steps: int
) -> Tensor:
    """The rows' order by block, step and place in the block."""
    if not blocks:
        return torch.zeros(0, dtype=torch.int64)
    place_K, block_K = (torch.zeros(slots, dtype=torch.int64) for _ in range(2))
    laid = torch.cat(list(blocks))
    place_K[laid] = torch.arange(len(laid))
    block_K[laid] = torch.arange(len(blocks)).repeat_interleave(
        torch.tensor([len(block) for block in blocks])
    )
    key_B = (block_K[slot_B] * steps + step_B) * slots + place_K[slot_B]
    return torch.argsort(key_B, stable=True)


def steps_per_epoch(rows_K: Tensor, *, wanted_steps: int, min_batch: int, max_batch: int) -> Tensor:
    """Steps of each domain's epoch: rows over a batch of clip(2^round(log2(rows / wanted)))."""
    steps = []
    for rows in rows_K.tolist():
        wanted = 2 ** round(math.log2(max(rows / wanted_steps, 1)))
        batch = min(max(wanted, min_batch), max_batch)
        steps.append(max(round(rows / batch), 1) if rows else 0)
    return torch.tensor(steps, dtype=torch.int64)


def by_slot(
    slots_n: Tensor, wanted_K: Tensor, *, batch_rows: int, worker: Worker
) -> Iterator[tuple[Tensor, slice, Tensor]]:
    """Rows of the wanted slots, sorted by slot, in batches; every worker gets as many batches.

    Yields:
        Places of the rows, the slots from the first to the last present, and each one's rows.
    """
    order = torch.argsort(slots_n, stable=True)
    order = order[slots_n[order] >= 0]
    order = order[wanted_K[slots_n[order]]]
    for batch in range(most(-(-len(order) // batch_rows), worker)):
        places_B = order[batch * batch_rows : (batch + 1) * batch_rows]
        slot_B = slots_n[places_B]
        present = slice(int(slot_B[0]), int(slot_B[-1]) + 1) if len(slot_B) else slice(0, 1)
        lengths_P = torch.bincount(slot_B - present.start, minlength=present.stop - present.start)
        yield places_B, present, lengths_P
