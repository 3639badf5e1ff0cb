"""Predict the rows of many requests together, in one thread.

Requests wait some milliseconds for others. A row's result does not depend on the rows beside it, so
a request gets the same answer alone. All requests of a batch are predicted by one set of kernels:
a swap takes effect between batches.
"""

import queue
import threading
import time
from collections import Counter
from concurrent.futures import Future
from dataclasses import dataclass

import pyarrow as pa
import torch

from iak.pipeline.serving.encode import check_columns, encode_to_score, identity_of, raw_batch
from iak.pipeline.serving.scorer import Scorer
from iak.pipeline.serving.stream import plain_schema


@dataclass(frozen=True, slots=True)
class _Request:
    rows: pa.RecordBatch
    answer: "Future[pa.Table]"


class Service:
    """A thread that predicts, and the requests that wait for it."""

    def __init__(self, scorer: Scorer, *, batch_rows: int, wait_s: float) -> None:
        """Start the thread.

        Args:
            scorer: base and kernels.
            batch_rows: rows at which a batch is full; one request may have more.
            wait_s: seconds that the first request of a batch waits for others.
        """
        self._scorer = scorer
        self._batch_rows, self._wait_s = batch_rows, wait_s
        self._waiting: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="predict", daemon=True)
        self._thread.start()

    @property
    def scorer(self) -> Scorer:
        """Return the base and the kernels that predict now."""
        return self._scorer

    def swap(self, scorer: Scorer) -> None:
        """Let other kernels predict, from the next batch on."""
        self._scorer = scorer  # one assignment: a batch reads it once

    def submit(self, rows: pa.RecordBatch) -> "Future[pa.Table]":
        """Return the predictions of a request's rows, once they are made.

        Args:
            rows: columns of the log, partition keys among them. BadRequest comes as the answer's
                error where they cannot be read.
        """
        request = _Request(rows, Future())
        self._waiting.put(request)
        return request.answer

    @property
    def is_alive(self) -> bool:
        """Return whether the thread still predicts."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Answer the requests that wait, then end the thread."""
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        torch.set_num_threads(1)  # with several, products of few rows round otherwise
        while (batch := self._next_batch()) is not None:
            self._answer(batch)

    def _next_batch(self) -> list[_Request] | None:
        """Return the requests of the next batch; None at the end."""
        first = self._waiting.get()
        if first is None:
            return None
        batch, rows, until = [first], len(first.rows), time.monotonic() + self._wait_s
        while rows < self._batch_rows:
            try:
                request = self._waiting.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                break
            if request is None:
                self._waiting.put(None)  # the end comes after this batch
                break
            batch.append(request)
            rows += len(request.rows)
        return batch

    def _answer(self, batch: list[_Request]) -> None:
        """Answer each request of a batch; one that cannot be read fails alone."""
        scorer = self._scorer
        encoded: list[tuple[_Request, pa.RecordBatch]] = []
        for request in batch:
            if request.answer.set_running_or_notify_cancel():
                try:
                    encoded.append((request, _encoded(scorer, request.rows)))
                except Exception as error:  # noqa: BLE001 - the request's answer
                    request.answer.set_exception(error)
        if not encoded:
            return
        try:
            rows = pa.Table.from_batches([rows for _, rows in encoded]).unify_dictionaries()
            scores = scorer.score(rows.combine_chunks()).cast(plain_schema(scorer.schema))
        except Exception as error:  # noqa: BLE001 - the answer of every request
            for request, _ in encoded:
                request.answer.set_exception(error)
            return
        first = 0
        for request, rows in encoded:
            request.answer.set_result(scores.slice(first, len(rows)))
            first += len(rows)


def _encoded(scorer: Scorer, batch: pa.RecordBatch) -> pa.RecordBatch:
    check_columns(batch.schema, scorer.catalog)
    rows = raw_batch(batch, scorer.catalog)
    return encode_to_score(
        rows,
        identity_of(rows, scorer.catalog, first=0),
        catalog=scorer.catalog,
        encoding=scorer.base.published.encoding,
        counts=Counter(),
    )
