"""Answer requests over HTTP, as a plain ASGI application.

POST /predict    rows in, predictions out, as JSON or as an Arrow stream
GET /kernels     the base and the kernels that predict now
GET /health      200 while the process works
GET /ready       200 while requests are taken, 503 while the last ones are answered
GET /metrics     numbers for Prometheus
"""

import asyncio
import json
import secrets
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import pyarrow as pa
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client import Counter as Total
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from iak.pipeline.errors import BadRequest
from iak.pipeline.serving.calibration import ServedCalibration
from iak.pipeline.serving.follow import Follower
from iak.pipeline.serving.label_log import LabelLog
from iak.pipeline.serving.requests import ARROW, JSON, BadRows, rows_of_arrow, rows_of_json
from iak.pipeline.serving.service import Service
from iak.schemas.serving import LimitsSpec

OWN = "own kernel"
"""Value of the label `reason` for rows that their domain's own kernel predicted."""


@dataclass
class Server:
    """What the application answers from."""

    service: Service
    limits: LimitsSpec
    token: str | None = None
    """Token that requests must carry; None where everybody may ask."""
    follower: Follower | None = None
    labels: LabelLog | None = None
    """Compares what is served with labels as they arrive; None where no log of them is given."""
    is_draining: bool = False
    """Whether new requests are refused, since the process ends."""
    in_flight: int = 0
    """Requests that are being answered."""
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def __post_init__(self) -> None:
        """Define the metrics."""
        self.latency = Histogram(
            "iak_serve_seconds", "Time of a request", ("status",), registry=self.registry
        )
        self.rows = Total(
            "iak_serve_rows", "Rows predicted, by reason", ("reason",), registry=self.registry
        )
        self.registry.register(_KernelTimes(self.service))
        if self.labels is not None:
            self.registry.register(_Calibration(self.labels.calibration))

    def app(self) -> Starlette:
        """Return the ASGI application."""
        return Starlette(
            routes=[
                Route("/predict", self.predict, methods=["POST"]),
                Route("/kernels", self.kernels),
                Route("/health", self.health),
                Route("/ready", self.ready),
                Route("/metrics", self.metrics),
            ]
        )

    async def predict(self, request: Request) -> Response:
        """Predict the rows of a request."""
        if self.is_draining:
            return _refusal(503, "this server is shutting down; send the request to another one")
        start = monotonic()
        self.in_flight += 1
        try:
            response = self._unauthorised(request) or await self._predict(request)
        finally:
            self.in_flight -= 1
        self.latency.labels(str(response.status_code)).observe(monotonic() - start)
        return response

    async def _predict(self, request: Request) -> Response:
        kind = request.headers.get("content-type", JSON).partition(";")[0].strip().lower()
        if kind not in (JSON, ARROW):
            return _refusal(415, f"content-type {kind} is not read; expected {JSON} or {ARROW}")
        body = await self._body(request)
        if body is None:
            return _refusal(413, f"the body has more than {self.limits.body_mib:g} MiB")
        try:
            catalog = self.service.scorer.catalog
            rows = rows_of_json(body, catalog) if kind == JSON else rows_of_arrow(body)
            if len(rows) > self.limits.rows:
                return _refusal(413, f"{len(rows):,} rows, at most {self.limits.rows:,} are read")
            waiting = asyncio.wrap_future(self.service.submit(rows))
            scores = await asyncio.wait_for(waiting, self.limits.seconds)
        except (BadRows, BadRequest) as error:
            return _refusal(422, str(error))
        except TimeoutError:
            return _refusal(503, f"no answer within {self.limits.seconds:g} s; ask again later")
        self._count(scores)
        if self.labels is not None:
            self.labels.calibration.add(scores)
        return _as_json(scores, self._base) if kind == JSON else _as_arrow(scores)

    async def _body(self, request: Request) -> bytes | None:
        """Return the body; None, without reading on, where it is too large."""
        most = int(self.limits.body_mib * 2**20)
        parts: list[bytes] = []
        size = 0
        async for part in request.stream():
            size += len(part)
            if size > most:
                return None
            parts.append(part)
        return b"".join(parts)

    @property
    def _base(self) -> str:
        return self.service.scorer.base.published.manifest.fingerprint

    def _count(self, scores: pa.Table) -> None:
        for reason, rows in Counter(scores.column("reason").to_pylist()).items():
            self.rows.labels(reason or OWN).inc(rows)

    def _unauthorised(self, request: Request) -> Response | None:
        """Return the refusal of a request without the token; None where it may ask."""
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        # Bytes: compare_digest takes no text beyond ASCII.
        if self.token is None or secrets.compare_digest(given.encode(), self.token.encode()):
            return None
        return _refusal(401, "expected the header `Authorization: Bearer TOKEN`")

    async def kernels(self, request: Request) -> Response:
        """Name the base, the registry's commit, and each kernel's version and calibration."""
        if refusal := self._unauthorised(request):
            return refusal
        scorer = self.service.scorer
        return JSONResponse(
            {
                "base": self._base,
                "commit": self.follower.generation if self.follower else None,
                "not_followed": self.follower.problem if self.follower else "",
                "kernels": scorer.routes.versions,
            }
            | ({"calibration": _calibration(self.labels)} if self.labels else {})
        )

    async def health(self, _: Request) -> Response:
        """Say whether the process works."""
        if not self.service.is_alive:
            return PlainTextResponse("the thread that predicts has ended\n", status_code=503)
        return PlainTextResponse("ok\n")

    async def ready(self, _: Request) -> Response:
        """Say whether requests are taken."""
        if self.is_draining:
            return PlainTextResponse("draining\n", status_code=503)
        return PlainTextResponse("ready\n")

    async def metrics(self, request: Request) -> Response:
        """Return the metrics in Prometheus's text format."""
        refusal = self._unauthorised(request)
        return refusal or PlainTextResponse(generate_latest(self.registry))

    async def drain(self) -> None:
        """Refuse new requests, and wait until those that came before are answered."""
        self.is_draining = True
        while self.in_flight:
            await asyncio.sleep(0.01)


class _KernelTimes(Collector):
    """When each kernel that predicts now was written: a promotion or a rollback changes it."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield a line for each kernel; Prometheus calls this when it scrapes."""
        times = GaugeMetricFamily(
            "iak_serve_kernel_created_timestamp_seconds",
            "When the kernel was written; its age is time() less this",
            labels=("kernel",),
        )
        for name, created_at in self._service.scorer.routes.created_at.items():
            times.add_metric((name,), created_at.timestamp())
        yield times


class _Calibration(Collector):
    """Sums of predictions and of labels, over the rows whose label is known."""

    def __init__(self, calibration: ServedCalibration) -> None:
        self._calibration = calibration

    def collect(self) -> Iterator[Metric]:
        """Yield the sums by task, kernel and version; Prometheus calls this when it scrapes."""
        names = ("task", "kernel", "version")
        rows = CounterMetricFamily(
            "iak_serve_labelled_rows", "Served rows with a ripe label", labels=names
        )
        predicted = CounterMetricFamily(
            "iak_serve_predicted", "Sum of their probabilities", labels=names
        )
        observed = CounterMetricFamily("iak_serve_observed", "Sum of their labels", labels=names)
        for line in self._calibration.lines():
            labels = (line.task, line.kernel, line.version)
            rows.add_metric(labels, line.sums.rows)
            predicted.add_metric(labels, line.sums.predicted)
            observed.add_metric(labels, line.sums.observed)
        waiting = GaugeMetricFamily("iak_serve_waiting_rows", "Served rows that wait for a label")
        waiting.add_metric((), self._calibration.waiting)
        yield from (rows, predicted, observed, waiting)


def _calibration(labels: LabelLog) -> dict[str, Any]:
    """Return what `/kernels` says of labels."""
    lines = [
        {
            "kernel": line.kernel,
            "version": line.version,
            "task": line.task,
            "rows": line.sums.rows,
            "predicted": line.sums.predicted,
            "observed": line.sums.observed,
            "ratio": line.sums.ratio,
        }
        for line in labels.calibration.lines()
    ]
    return {"waiting": labels.calibration.waiting, "not_read": labels.problem, "sums": lines}


def _refusal(status: int, error: str) -> Response:
    return JSONResponse({"error": error}, status_code=status)


def _as_json(scores: pa.Table, base: str) -> Response:
    """Return predictions as rows, each task's probability under its name in `p`."""
    tasks = [name for name in scores.schema.names if name.startswith("p.")]
    rows = [
        {name: value for name, value in row.items() if name not in tasks}
        | {"p": {task.removeprefix("p."): row[task] for task in tasks}}
        for row in scores.to_pylist()
    ]
    return Response(json.dumps({"base": base, "rows": rows}), media_type=JSON)


def _as_arrow(scores: pa.Table) -> Response:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, scores.schema) as writer:
        writer.write_table(scores)
    return Response(sink.getvalue().to_pybytes(), media_type=ARROW)
