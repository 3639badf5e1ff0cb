"""Look up rows that other workers own, in three collective calls.

    sizes       how many rows and bags each worker requests from each other worker
    requests    row numbers; for bags that their owners sum, also how many rows each bag has
    answers     the stored bytes of each requested row, or the fp32 sum of each bag

Every worker brings the same number of questions, on the same rows, in the same order. A question
may be empty.

Shapes: I ids, G bags, O = G + 1 offsets, M parts of bags (the ids of one bag on one owner), N
bytes of a row, W columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch import distributed as dist

from iak.pipeline.process import Worker
from iak.pipeline.sharding.quantised import Lookup

_FP32_BYTES = 4


@dataclass(slots=True, kw_only=True)
class LocalRows:
    """This worker's rows of one precision and width."""

    bytes_RN: Tensor
    lookup: Lookup
    """Sums stored rows."""
    partial: Lookup
    """Sums fp32 rows of the same width: the sums that several owners answer for one bag."""

    def sums(self, rows_I: Tensor, offsets_O: Tensor) -> Tensor:
        """Return the sum of each bag of this worker's own rows, (G, W) in fp32."""
        return self.lookup(self.bytes_RN, rows_I, offsets_O)

    def answer_bytes(self, *, is_summed: bool) -> int:
        """Return the bytes of one answer: of a stored row, or of the fp32 sum of a bag."""
        return _FP32_BYTES * self.lookup.width if is_summed else self.bytes_RN.shape[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Bags of rows, each row on some worker; the answer is the sum of each bag."""

    local: LocalRows
    is_summed: bool
    """Whether owners sum the rows of a bag before they answer."""
    owners_I: Tensor
    """The rank that owns each row."""
    rows_I: Tensor
    """The number of each row among its owner's rows."""
    offsets_O: Tensor
    """Index in `rows_I` at which each bag begins, then the end of the last one."""


class _Sent(NamedTuple):
    """A question sorted by owner, and the indices by which answers are summed."""

    rows_I: Tensor
    """Row numbers, sorted by owner."""
    ids: list[int]
    """Number of row numbers for each owner."""
    lengths_M: Tensor
    """Rows of each part of a bag, sorted by owner; none where bags are not summed by owners."""
    bags: list[int]
    """Number of parts of bags for each owner."""
    answer_ids: Tensor
    """For each term of the sums, bag after bag, the index of the answer that has it."""
    answer_offsets: Tensor
    """Index in `answer_ids` at which each bag begins, then the end of the last one."""


def exchange(questions: Sequence[Question], worker: Worker) -> list[Tensor]:
    """Return the sums (G, W) of each question; a collective call.

    Args:
        questions: questions on the same rows in the same order, as many on every worker.
        worker: this process.

    Raises:
        ValueError: another worker has called `refuse`.
    """
    sent = [_by_owner(question, worker.world) for question in questions]
    sizes = [[(s.ids[rank], s.bags[rank]) for s in sent] for rank in range(worker.world)]
    asked = _exchange_sizes(sizes, worker)
    requests = _exchange_requests(sent, sizes, asked)
    answers = _exchange_answers(questions, requests, sizes, asked)
    return [
        _sums(question, s, [part[number] for part in answers])
        for number, (question, s) in enumerate(zip(questions, sent, strict=True))
    ]


def refuse(num_questions: int, worker: Worker) -> None:
    """Take the place of `exchange` on a worker that cannot ask, so that every other worker raises.

    Otherwise the other workers would wait for this one forever.

    Args:
        num_questions: number of questions, the same on every worker.
        worker: this process.
    """
    _send_sizes([[(-1, -1)] * num_questions for _ in range(worker.world)], worker)


def _by_owner(question: Question, world: int) -> _Sent:
    """Sort a question's rows by owner; where owners sum bags, cut each bag into parts by owner."""
    # Stable: within an owner bags stay in order, as `unique_consecutive` below needs them.
    order_I = torch.argsort(question.owners_I, stable=True)
    ids = torch.bincount(question.owners_I, minlength=world).tolist()
    rows_I = question.rows_I.index_select(0, order_I)
    if not question.is_summed:
        # The inverse of the sort: answers are summed where they arrive, without a sorted copy.
        index_I = torch.empty_like(rows_I)
        index_I[order_I] = torch.arange(len(rows_I), dtype=rows_I.dtype, device=rows_I.device)
        return _Sent(rows_I, ids, rows_I[:0], [0] * world, index_I, question.offsets_O)
    bags = len(question.offsets_O) - 1
    bag_I = torch.arange(bags, device=rows_I.device).repeat_interleave(
        question.offsets_O.diff(), output_size=len(rows_I)
    )
    # One key for owner and bag: runs of equal keys are the parts of bags, in the order of answers.
    # `long` copies, since owners have a smaller type. So `mul_` does not change the question.
    key_I = question.owners_I.long().mul_(bags).add_(bag_I).index_select(0, order_I)
    key_M, lengths_M = key_I.unique_consecutive(return_counts=True)
    owner_M, bag_M = key_M // max(bags, 1), key_M % max(bags, 1)  # max: no division by 0 bags
    return _Sent(
        rows_I=rows_I,
        ids=ids,
        lengths_M=lengths_M.to(rows_I.dtype),
        bags=torch.bincount(owner_M, minlength=world).tolist(),
        answer_ids=torch.argsort(bag_M, stable=True),
        answer_offsets=offsets_of(torch.bincount(bag_M, minlength=bags)),
    )


def offsets_of(lengths_G: Tensor) -> Tensor:
    """Return the index at which each bag begins, then the end of the last one, as int64.

    Args:
        lengths_G: ids of each bag.
    """
    offsets_O = lengths_G.new_zeros(len(lengths_G) + 1, dtype=torch.int64)
    torch.cumsum(lengths_G, dim=0, out=offsets_O[1:])
    return offsets_O


_Sizes = list[list[tuple[int, int]]]
"""By rank and question: the number of row numbers, and of parts of bags that owners sum."""


def _send_sizes(sizes: _Sizes, worker: Worker) -> _Sizes:
    """Make the first call; return the sizes that every other rank requests from this one."""
    sent = torch.tensor(sizes, dtype=torch.int64, device=worker.device)
    received = torch.empty_like(sent)
    dist.all_to_all_single(received, sent)
    asked: _Sizes = received.tolist()
    return asked


def _exchange_sizes(sizes: _Sizes, worker: Worker) -> _Sizes:
    """Make the first call, and raise where a worker called `refuse`: its sizes are negative."""
    asked = _send_sizes(sizes, worker)
    for rank, of_rank in enumerate(asked):
        if any(ids < 0 for ids, _ in of_rank):
            raise ValueError(f"worker {rank} cannot take part in the lookup; see its own error")
    return asked


def _exchange_requests(
    sent: Sequence[_Sent], sizes: _Sizes, asked: _Sizes
) -> list[tuple[Tensor, ...]]:
    """Make the second call; return each rank's row numbers and lengths, question after question."""
    parts = [(s.rows_I.split(s.ids), s.lengths_M.split(s.bags)) for s in sent]
    # Rows and lengths of all questions in one message: a call costs more than the bytes it sends.
    message = torch.cat(
        [
            p
            for rank in range(len(sizes))
            for rows, lengths in parts
            for p in (rows[rank], lengths[rank])
        ]
    )
    counts = [[n for pair in of_rank for n in pair] for of_rank in asked]
    received = _all_to_all(
        message, [sum(n for pair in mine for n in pair) for mine in sizes], [sum(c) for c in counts]
    )
    return [
        part.split(lengths)
        for part, lengths in zip(received.split([sum(c) for c in counts]), counts, strict=True)
    ]


def _exchange_answers(
    questions: Sequence[Question],
    requests: Sequence[tuple[Tensor, ...]],
    sizes: _Sizes,
    asked: _Sizes,
) -> list[tuple[Tensor, ...]]:
    """Make the third call; return the bytes with which each owner answers each question."""
    given = [_answer_sizes(questions, of_rank) for of_rank in asked]
    wanted = [_answer_sizes(questions, mine) for mine in sizes]
    device = questions[0].rows_I.device
    message = torch.empty(sum(map(sum, given)), dtype=torch.uint8, device=device)
    # Views of the message, into which answers are written: no answer is copied before it is sent.
    slots = message.split([size for of_rank in given for size in of_rank])
    for rank, parts in enumerate(requests):
        for number, question in enumerate(questions):
            slot = slots[rank * len(questions) + number]
            _answer(question, parts[2 * number], parts[2 * number + 1], slot)
    received = _all_to_all(message, list(map(sum, given)), list(map(sum, wanted)))
    return [
        part.split(lengths)
        for part, lengths in zip(received.split(list(map(sum, wanted))), wanted, strict=True)
    ]


def _answer_sizes(questions: Sequence[Question], sizes: Sequence[tuple[int, int]]) -> list[int]:
    """Return the bytes of the answers to each question.

    Args:
        questions: questions of this worker.
        sizes: row numbers and parts of bags of each question.
    """
    return [
        (bags if q.is_summed else ids) * q.local.answer_bytes(is_summed=q.is_summed)
        for q, (ids, bags) in zip(questions, sizes, strict=True)
    ]


def _answer(question: Question, rows_I: Tensor, lengths_M: Tensor, out: Tensor) -> None:
    """Write the answer to another rank's question into its part of the message."""
    local = question.local
    if question.is_summed:
        out.copy_(local.sums(rows_I, offsets_of(lengths_M)).view(torch.uint8).flatten())
    else:
        out_IN = out.view(len(rows_I), local.bytes_RN.shape[1])
        torch.index_select(local.bytes_RN, 0, rows_I, out=out_IN)


def _sums(question: Question, sent: _Sent, parts: Sequence[Tensor]) -> Tensor:
    """Sum all owners' answers to a question by bag."""
    local = question.local
    rows_MN = torch.cat(list(parts)).view(-1, local.answer_bytes(is_summed=question.is_summed))
    lookup = local.partial if question.is_summed else local.lookup
    return lookup(rows_MN, sent.answer_ids, sent.answer_offsets)


def _all_to_all(message: Tensor, sent: list[int], received: list[int]) -> Tensor:
    """Send each rank its part of a message; return what all ranks sent here, in order of rank.

    Args:
        message: the parts, one after the other.
        sent: elements of each part.
        received: elements that each rank sends here.
    """
    answer = message.new_empty(sum(received))
    dist.all_to_all_single(answer, message, received, sent)
    return answer
