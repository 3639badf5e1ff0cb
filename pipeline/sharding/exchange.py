"""Rows asked of the workers that hold them, in three collective calls.

    sizes       how much each worker asks of each other
    requests    numbers of rows; for bags that are summed before they travel, also their lengths
    answers     a row for each number, as it is stored; or the fp32 sum of each bag

Every worker brings the same number of questions, over the same stores, in the same order; each
question may be empty.

Shapes: I ids, G bags, M bags with ids on one owner, N bytes of a row, W columns.
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
class Store:
    """This worker's rows of one precision and width."""

    bytes_RN: Tensor
    lookup: Lookup
    partial: Lookup
    """Of fp32 rows of the same width: sums of sums."""

    def sums(self, rows_I: Tensor, offsets_G1: Tensor) -> Tensor:
        """The sums of bags of this worker's own rows."""
        return self.lookup(self.bytes_RN, rows_I, offsets_G1)

    def answer_bytes(self, *, is_summed: bool) -> int:
        """Bytes in which a row, or the sum of a bag, travels."""
        return _FP32_BYTES * self.lookup.width if is_summed else self.bytes_RN.shape[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Bags of rows, each row on some worker; their sums are the answer."""

    store: Store
    is_summed: bool
    """Whether owners add up the rows of a bag before they travel."""
    owners_I: Tensor
    """The rank that holds each row."""
    rows_I: Tensor
    """The row of that rank's store."""
    offsets_G1: Tensor
    """Where each bag begins, and where the last one ends."""


class _Sent(NamedTuple):
    """A question in the order of its owners, and what becomes of their answers."""

    rows_I: Tensor
    ids: list[int]
    lengths_M: Tensor
    bags: list[int]
    answer_ids: Tensor
    answer_offsets: Tensor


def exchange(questions: Sequence[Question], worker: Worker) -> list[Tensor]:
    """The sums (G, W) each question asks for; a collective call.

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
    """Take the place of `exchange` on a worker that cannot ask; every other one then raises."""
    _send_sizes([[(-1, -1)] * num_questions for _ in range(worker.world)], worker)


def _by_owner(question: Question, world: int) -> _Sent:
    """Sort the rows by owner, keeping their order; and where bags are summed, cut them by owner."""
    order_I = torch.argsort(question.owners_I, stable=True)
    ids = torch.bincount(question.owners_I, minlength=world).tolist()
    rows_I = question.rows_I.index_select(0, order_I)
    if not question.is_summed:
        place_I = torch.empty_like(rows_I)
        place_I[order_I] = torch.arange(len(rows_I), dtype=rows_I.dtype, device=rows_I.device)
        return _Sent(rows_I, ids, rows_I[:0], [0] * world, place_I, question.offsets_G1)
    bags = len(question.offsets_G1) - 1
    bag_I = torch.arange(bags, device=rows_I.device).repeat_interleave(
        question.offsets_G1.diff(), output_size=len(rows_I)
    )
    key_I = question.owners_I.long().mul_(bags).add_(bag_I).index_select(0, order_I)
    key_M, lengths_M = key_I.unique_consecutive(return_counts=True)
    owner_M, bag_M = key_M // max(bags, 1), key_M % max(bags, 1)
    return _Sent(
        rows_I=rows_I,
        ids=ids,
        lengths_M=lengths_M.to(rows_I.dtype),
        bags=torch.bincount(owner_M, minlength=world).tolist(),
        answer_ids=torch.argsort(bag_M, stable=True),
        answer_offsets=offsets_of(torch.bincount(bag_M, minlength=bags)),
    )


def offsets_of(lengths_G: Tensor) -> Tensor:
    """Where each of the bags begins, and where the last one ends."""
    offsets_G1 = lengths_G.new_zeros(len(lengths_G) + 1, dtype=torch.int64)
    torch.cumsum(lengths_G, dim=0, out=offsets_G1[1:])
    return offsets_G1


_Sizes = list[list[tuple[int, int]]]
"""By rank and question: row numbers, and bags that are summed."""


def _send_sizes(sizes: _Sizes, worker: Worker) -> _Sizes:
    """The first call: what every other rank asks of this one."""
    sent = torch.tensor(sizes, dtype=torch.int64, device=worker.device)
    received = torch.empty_like(sent)
    dist.all_to_all_single(received, sent)
    asked: _Sizes = received.tolist()
    return asked


def _exchange_sizes(sizes: _Sizes, worker: Worker) -> _Sizes:
    asked = _send_sizes(sizes, worker)
    for rank, theirs in enumerate(asked):
        if any(ids < 0 for ids, _ in theirs):
            raise ValueError(f"worker {rank} cannot take part in the lookup; see what it says")
    return asked


def _exchange_requests(
    sent: Sequence[_Sent], sizes: _Sizes, asked: _Sizes
) -> list[tuple[Tensor, ...]]:
    """The second call: by rank, its row numbers and lengths, question after question."""
    parts = [(s.rows_I.split(s.ids), s.lengths_M.split(s.bags)) for s in sent]
    message = torch.cat(
        [
            p
            for rank in range(len(sizes))
            for rows, lengths in parts
            for p in (rows[rank], lengths[rank])
        ]
    )
    counts = [[n for pair in theirs for n in pair] for theirs in asked]
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
    """The third call: by owner, the bytes that answer each question."""
    given = [_answer_sizes(questions, theirs) for theirs in asked]
    wanted = [_answer_sizes(questions, mine) for mine in sizes]
    device = questions[0].rows_I.device
    message = torch.empty(sum(map(sum, given)), dtype=torch.uint8, device=device)
    places = message.split([size for theirs in given for size in theirs])
    for rank, parts in enumerate(requests):
        for number, question in enumerate(questions):
            place = places[rank * len(questions) + number]
            _answer(question, parts[2 * number], parts[2 * number + 1], place)
    received = _all_to_all(message, list(map(sum, given)), list(map(sum, wanted)))
    return [
        part.split(lengths)
        for part, lengths in zip(received.split(list(map(sum, wanted))), wanted, strict=True)
    ]


def _answer_sizes(questions: Sequence[Question], sizes: Sequence[tuple[int, int]]) -> list[int]:
    """Bytes of the answers to so many row numbers and bags of each question."""
    return [
        (bags if q.is_summed else ids) * q.store.answer_bytes(is_summed=q.is_summed)
        for q, (ids, bags) in zip(questions, sizes, strict=True)
    ]


def _answer(question: Question, rows_I: Tensor, lengths_M: Tensor, place: Tensor) -> None:
    """Write what was asked for into its place in the message."""
    store = question.store
    if question.is_summed:
        place.copy_(store.sums(rows_I, offsets_of(lengths_M)).view(torch.uint8).flatten())
    else:
        out_IN = place.view(len(rows_I), store.bytes_RN.shape[1])
        torch.index_select(store.bytes_RN, 0, rows_I, out=out_IN)


def _sums(question: Question, sent: _Sent, parts: Sequence[Tensor]) -> Tensor:
    """All owners' answers to a question, added up by bag."""
    store = question.store
    rows_MN = torch.cat(list(parts)).view(-1, store.answer_bytes(is_summed=question.is_summed))
    lookup = store.partial if question.is_summed else store.lookup
    return lookup(rows_MN, sent.answer_ids, sent.answer_offsets)


def _all_to_all(message: Tensor, sent: list[int], received: list[int]) -> Tensor:
    """Each rank's part of the message to that rank; what all of them sent here, in their order."""
    answer = message.new_empty(sum(received))
    dist.all_to_all_single(answer, message, received, sent)
    return answer
