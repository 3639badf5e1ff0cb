"""Ask servers over loopback: by domains and rows of a request, and while kernels are promoted."""

import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from iak.pipeline.bench.setup import BenchSetup
from iak.pipeline.bench.wide_log import wide_catalog
from iak.pipeline.errors import PipelineError
from iak.pipeline.events import BenchAdvanced, Report
from iak.pipeline.publish.bundle_index import read_index
from iak.pipeline.registry.promote import Run, promote_run
from iak.pipeline.storage.folder_store import FolderStore
from infra.benchmarks.bad_inputs.catalogs import text_of
from infra.benchmarks.serve.kernels import Kernels
from infra.benchmarks.serve.servers import Client, body_of, rows_of, serving
from infra.benchmarks.specs import BenchServeSpec

BASE, POOLED, ALL = "base alone", "one kernel", "all kernels"
_WARM_UP = 3
_FOLLOW_S = 0.5
"""Seconds between a server's looks at the registry."""
_MAX_WAIT_S = 120.0
"""Seconds within which a promotion must be followed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Seconds of each request, by what was asked."""

    by_domains: Mapping[tuple[str, int], list[float]]
    """(server, distinct domains in the request) -> seconds."""
    by_rows: Mapping[tuple[str, int], list[float]]
    """(server, rows of the request) -> seconds."""
    promotion_s: list[float]
    """Seconds from each promotion's commit to the first answer by its kernel."""
    requests: int
    """Requests that were sent while kernels were promoted."""
    failed: int
    """Those of them that were not answered."""


def measure(setup: BenchSetup, spec: BenchServeSpec, kernels: Kernels, report: Report) -> Asked:
    """Start three servers on one base, and ask them in turns."""
    scratch = kernels.all.parent
    catalog = scratch / "wide.toml"
    document = wide_catalog(setup.knobs, domains=spec.domains[-1])
    catalog.write_text(text_of(document.model_dump(mode="json", exclude_defaults=True)))
    store = FolderStore(scratch / "registry")
    report(BenchAdvanced("registry", {"bundles": len(kernels.names) + 1}))
    promote_run(store, _run(kernels.all), "champion", domains=None, force=False)
    bundles = {
        BASE: [],
        POOLED: [f"bundles={kernels.pooled}"],
        ALL: [f"bundles=registry:{scratch / 'registry'}@champion"],
    }
    words = [
        f"catalog={catalog}", f"base={setup.base}", "wait_ms=0", f"follow_s={_FOLLOW_S}",
        "tables.precision=int8", "tables.tolerance=1",
    ]  # fmt: skip
    with ExitStack() as stack:
        clients = {
            name: stack.enter_context(serving([*words, *own], scratch / f"{number}.log"))
            for number, (name, own) in enumerate(bundles.items())
        }
        rows = _rows(setup, max(*spec.sizes, spec.request_rows))
        report(BenchAdvanced("requests by domains", {"rows": spec.request_rows}))
        by_domains = _by_domains(spec, clients, rows, kernels.names)
        report(BenchAdvanced("requests by rows", {"sizes": len(spec.sizes)}))
        by_rows = _by_rows(spec, clients, rows)
        report(BenchAdvanced("promotions under load", {"clients": spec.clients}))
        load = _Load(clients[ALL], body_of(rows.slice(0, 64)), spec.clients)
        with load:
            promotion_s = [
                _promoted(clients[ALL], store, kernels, rows, is_newer=number % 2 == 0)
                for number in range(spec.promotions)
            ]
    return Asked(
        by_domains=by_domains,
        by_rows=by_rows,
        promotion_s=promotion_s,
        requests=load.sent,
        failed=load.failed,
    )


def _run(bundles: Path) -> Run:
    """Return a folder of bundles as a promotion takes it."""
    return Run(
        name=str(bundles),
        bundles=bundles,
        base=None,
        index_sha256=read_index(bundles).sha256,
        record_sha256=None,
        code=None,
        parents={},
    )


def _rows(setup: BenchSetup, count: int) -> pa.Table:
    """Return the first rows of the log's last day, with the day as a column."""
    last = max(Path(setup.data_root).rglob("*.parquet"))
    rows = pq.ParquetFile(last).read().slice(0, count)
    rows = rows.drop_columns(["click", "order"])
    day = last.parent.name.removeprefix("dt=")
    return rows.append_column("dt", pa.array([day] * len(rows)))


def _with_domains(rows: pa.Table, names: Sequence[str], domains: int) -> pa.Table:
    """Return rows of so many distinct domains, each of them about as often."""
    # Every n-th by size: whether a kernel is of a large domain moves no time.
    chosen = [names[index] for index in np.linspace(0, len(names) - 1, domains).astype(int)]
    column = f"domain_{len(names)}"
    values = pa.array([chosen[row % domains] for row in range(len(rows))])
    return rows.set_column(rows.schema.get_field_index(column), column, values)


def _by_domains(
    spec: BenchServeSpec, clients: Mapping[str, Client], rows: pa.Table, names: Sequence[str]
) -> dict[tuple[str, int], list[float]]:
    """Send requests of one size with more and more distinct domains."""
    some = rows.slice(0, spec.request_rows)
    counts = sorted({min(count, len(names), len(some)) for count in spec.domains_in_request})
    bodies = {count: body_of(_with_domains(some, names, count)) for count in counts}
    asked = [(BASE, counts[0]), (POOLED, counts[0]), *((ALL, count) for count in counts)]
    return _in_turns(spec, clients, {key: bodies[key[1]] for key in asked})


def _by_rows(
    spec: BenchServeSpec, clients: Mapping[str, Client], rows: pa.Table
) -> dict[tuple[str, int], list[float]]:
    """Send requests of several sizes, with the log's own domains."""
    bodies = {
        (name, size): body_of(rows.slice(0, size)) for size in spec.sizes for name in (BASE, ALL)
    }
    return _in_turns(spec, clients, bodies)


def _in_turns(
    spec: BenchServeSpec, clients: Mapping[str, Client], bodies: Mapping[tuple[str, int], bytes]
) -> dict[tuple[str, int], list[float]]:
    """Send each request many times, all of them in turns."""
    seconds: dict[tuple[str, int], list[float]] = {key: [] for key in bodies}
    for turn in range(_WARM_UP + spec.requests):
        for key, body in bodies.items():
            taken = clients[key[0]].seconds(body)
            if turn >= _WARM_UP:
                seconds[key].append(taken)
    return seconds


class _Load:
    """Clients that ask again and again, each in a thread."""

    def __init__(self, client: Client, body: bytes, clients: int) -> None:
        self.sent = self.failed = 0
        self._over, self._count = threading.Event(), threading.Lock()
        self._threads = [
            threading.Thread(target=self._ask, args=(client.another(), body))
            for _ in range(clients)
        ]

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, client: Client, body: bytes) -> None:
        while not self._over.is_set():
            try:
                is_answered = client.predict(body)[0] == 200
            except OSError:
                is_answered, client = False, client.another()
            with self._count:
                self.sent += 1
                self.failed += not is_answered


def _promoted(
    client: Client, store: FolderStore, kernels: Kernels, rows: pa.Table, *, is_newer: bool
) -> float:
    """Promote the largest domain's other kernel; return the seconds until it answers.

    Raises:
        PipelineError: a request was refused, or the promotion was not followed.
    """
    bundles = kernels.newer if is_newer else kernels.all
    name = f"domain_{len(kernels.names)}={kernels.names[0]}"
    body = body_of(_with_domains(rows.slice(0, 1), kernels.names, 1))
    client = client.another()
    before = _version(client, body)
    promote_run(store, _run(bundles), "champion", domains=[name], force=False)
    started = time.monotonic()
    while _version(client, body) == before:
        if time.monotonic() - started > _MAX_WAIT_S:
            raise PipelineError(f"a promotion was not followed within {_MAX_WAIT_S:g} s")
    return time.monotonic() - started


def _version(client: Client, body: bytes) -> str:
    """Return the version of the kernel that answers a request of one row.

    Raises:
        PipelineError: the request was refused.
    """
    status, answer = client.predict(body)
    if status != 200:
        raise PipelineError(f"the server answered {status}: {answer[:200]!r}")
    version: str = rows_of(answer)[0]["version"]
    return version
