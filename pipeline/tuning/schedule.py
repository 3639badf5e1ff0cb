"""Plan the rows of each step of an epoch, in steps that touch few domains at a time.

A domain with n rows takes about n / batch steps in an epoch. The step that uses a row is a function
of (seed, domain, epoch, row, phase) and of the number of the domain's steps (iak/noise.py). Domains
share no weights, so any of them may go into one step. They are taken in blocks, each of as many
domains as fill a step with rows. A block runs to its last step before the next block begins. So a
step reads and moves only the weights of its block. A cohort (cohorts.py) is usually one block. An
epoch of a whole level has many.

Shapes: K slots of the level, P slots present in a step, S steps of an epoch, T tasks, n rows of
this worker, B of them.
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
    index_B: Tensor
    """Indices of the rows among this worker's."""
    streams_B: Tensor
    """Key of each row's random numbers, `noise.stream` of its slot."""
    lengths_P: Tensor
    """Rows of this worker in each slot."""
    rows_P: Tensor
    """Rows of all workers in each slot."""
    labelled_PT: Tensor
    """Labelled rows of all workers in each slot."""

    def segments(self, device: torch.device) -> Segments:
        """Return the end of each slot's rows among those of this step."""
        return Segments.of(self.lengths_P, device)


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """An epoch's rows in the order of their steps."""

    blocks: list[Tensor]
    """Slots that run together, those with most steps first."""
    steps_K: Tensor
    """Steps of each slot in this epoch."""
    order_n: Tensor
    """Indices of this worker's rows, sorted by block, step, then slot."""
    streams_n: Tensor
    """Key of each row's random numbers, `noise.stream` of its slot."""
    own_SK: Tensor
    """Rows of this worker in each step and slot."""
    rows_SK: Tensor
    """Rows of all workers in each step and slot."""
    labelled_SKT: Tensor
    """Labelled rows of all workers in each step and slot, by task."""

    def steps(self) -> Iterator[Step]:
        """Yield the steps, the same number on every worker; a step may have no row of this one."""
        done = 0
        for block in self.blocks:
            # The first slot of a block has most steps, so the block ends with it.
            for step in range(int(self.steps_K[block[0]])):
                slots_P = block[self.steps_K[block] > step]
                lengths_P = self.own_SK[step][slots_P]
                count = int(lengths_P.sum())
                index_B = self.order_n[done : done + count]
                done += count
                yield Step(
                    slots=slots_P.tolist(),
                    index_B=index_B,
                    streams_B=self.streams_n[index_B],
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
    max_steps: int,
    step_rows: int,
    worker: Worker,
) -> Schedule:
    """Give each of this worker's rows its step, and count every step's rows over all workers.

    Args:
        identity_n: key of each row, the same whichever worker reads it.
        mask_nT: True for each label that counts.
        slots_n: slot of each row, -1 for none.
        streams_K: key of each slot's random numbers in this epoch, from `noise.stream`.
        steps_K: steps of each slot; 0 leaves it out.
        max_steps: steps after which a slot's epoch ends although rows are left. Each epoch then
            uses another random part of the rows.
        step_rows: rows over all workers at which a step is full.
        worker: this process.
    """
    slots, run_K = len(steps_K), steps_K.clamp(max=max_steps)
    count = int(run_K.max()) if slots else 0
    used = torch.nonzero(slots_n >= 0).squeeze(1)
    used = used[steps_K[slots_n[used]] > 0]
    streams_n = torch.zeros(len(slots_n), dtype=torch.int64)
    streams_n[used] = streams_K[slots_n[used]]
    # Drawn among all of a slot's steps, not the first `max_steps` alone, so that batches keep
    # their size. Rows with a later step are not used in this epoch.
    step_B = noise.steps_of(identity_n[used], streams_n[used], steps_K[slots_n[used]])
    in_time = step_B < max_steps
    used, step_B = used[in_time], step_B[in_time]
    slot_B = slots_n[used]
    # One number for each step and slot, so that one bincount counts all of them.
    cell_B = step_B * slots + slot_B
    own = torch.bincount(cell_B, minlength=count * slots).view(count, slots)
    labelled = [
        torch.bincount(cell_B[mask[used]], minlength=count * slots).view(count, slots)
        for mask in mask_nT.unbind(1)
    ]
    # One collective call per epoch, so that no step has to ask for other workers' rows.
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
    """Return slots in blocks whose steps have about `step_rows` rows, those with most steps first.

    Slots of one block then have about as many steps, so that its last steps are not nearly empty.

    Args:
        steps_K: steps of each slot; one with 0 is in no block.
        rows_SK: rows of all workers.
        step_rows: rows at which a step is full. A slot still joins where the step comes nearer to
            this number with its rows than without.
    """
    order = torch.argsort(steps_K, descending=True, stable=True)
    order = order[steps_K[order] > 0]
    rows_a_step = rows_SK.sum(0) / steps_K.clamp(min=1)
    blocks: list[list[int]] = []
    filled = float(step_rows)  # as if a block before the first were full
    for slot, rows in zip(order.tolist(), rows_a_step[order].tolist(), strict=True):
        if filled + rows / 2 >= step_rows:
            blocks.append([])
            filled = 0.0
        blocks[-1].append(slot)
        filled += rows
    return [torch.tensor(block) for block in blocks]


def _in_order(
    blocks: Sequence[Tensor], slot_B: Tensor, step_B: Tensor, *, slots: int, steps: int
) -> Tensor:
    """Return the rows' order by block, step and position of their slot in the block.

    Args:
        blocks: slots that run together.
        slot_B: slot of each row.
        step_B: step of each row.
        slots: K.
        steps: S.
    """
    if not blocks:
        return torch.zeros(0, dtype=torch.int64)
    position_K, block_K = (torch.zeros(slots, dtype=torch.int64) for _ in range(2))
    in_blocks = torch.cat(list(blocks))
    position_K[in_blocks] = torch.arange(len(in_blocks))
    block_K[in_blocks] = torch.arange(len(blocks)).repeat_interleave(
        torch.tensor([len(block) for block in blocks])
    )
    # Stable, so that rows of one slot and step stay in the order they were read.
    key_B = (block_K[slot_B] * steps + step_B) * slots + position_K[slot_B]
    return torch.argsort(key_B, stable=True)


def steps_per_epoch(rows_K: Tensor, *, wanted_steps: int, min_batch: int, max_batch: int) -> Tensor:
    """Return the steps of each domain's epoch, 0 for a domain without rows.

    The batch is clip(2^round(log2(rows / wanted_steps)), min_batch, max_batch). The number of steps
    is rows / batch, rounded.

    Args:
        rows_K: rows of each domain over all workers.
        wanted_steps: steps to aim at.
        min_batch: smallest batch, in rows.
        max_batch: largest batch, in rows.
    """
    steps = []
    for rows in rows_K.tolist():
        wanted = 2 ** round(math.log2(max(rows / wanted_steps, 1)))
        batch = min(max(wanted, min_batch), max_batch)
        steps.append(max(round(rows / batch), 1) if rows else 0)
    return torch.tensor(steps, dtype=torch.int64)


def by_slot(
    slots_n: Tensor, wanted_K: Tensor, *, batch_rows: int, worker: Worker
) -> Iterator[tuple[Tensor, slice, Tensor]]:
    """Yield the wanted slots' rows, sorted by slot, in batches, the same number on every worker.

    Args:
        slots_n: slot of each row, -1 for none.
        wanted_K: True for each slot that is wanted.
        batch_rows: most rows of a batch. A worker that runs out of rows gets empty batches.
        worker: this process.

    Yields:
        The rows' indices, the slots from the first to the last present, and each one's rows.
    """
    order = torch.argsort(slots_n, stable=True)
    order = order[slots_n[order] >= 0]
    order = order[wanted_K[slots_n[order]]]
    for batch in range(most(-(-len(order) // batch_rows), worker)):
        index_B = order[batch * batch_rows : (batch + 1) * batch_rows]
        slot_B = slots_n[index_B]
        # A bank needs a slot even for no rows, so an empty batch names the first one.
        present = slice(int(slot_B[0]), int(slot_B[-1]) + 1) if len(slot_B) else slice(0, 1)
        lengths_P = torch.bincount(slot_B - present.start, minlength=present.stop - present.start)
        yield index_B, present, lengths_P
