"""Answer requests by replicas of Ray Serve, on this machine or on the machines of a cluster.

A replica has base and kernels of its own, and follows the registry by itself: a promotion swaps its
kernels between two batches. It is never deployed again for that, since Ray Serve then restarts all
replicas (2.60).
"""

import logging
import os
import signal
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, HTTPOptions, ProxyLocation
from ray.serve.schema import LoggingConfig
from starlette.applications import Starlette

from iak.jobs.progress import announce, console
from iak.jobs.ray_launcher import ray_cluster
from iak.jobs.replica_metrics import ReplicaMetrics
from iak.jobs.serve import TOKEN
from iak.pipeline.errors import BadRequest, PipelineError
from iak.pipeline.process import keep_freed_memory
from iak.pipeline.runs.load import load_catalog
from iak.schemas.log import Catalog
from iak.schemas.serving import ServeSpec

APPLICATION = "iak"
"""Name of the application in Ray Serve; one that runs under it is replaced."""
_OVERTIME_S = 5.0
"""Seconds that a request may take beyond its limit, until the proxy gives it up: the replica's own
answer comes first."""
_STARTS = 3
"""How often a replica is started that cannot open what it needs."""
_QUIET = LoggingConfig(log_level="WARNING", enable_access_log=False)


@serve.ingress()
class Replica:
    """One process of Ray Serve that predicts."""

    def __init__(self, spec: ServeSpec, catalog: Catalog, *, is_open: bool) -> None:
        """Open base and kernels.

        Args:
            spec: settings of `iak serve`.
            catalog: the log's catalogue.
            is_open: whether requests need no token. Otherwise this process's environment has it.

        Raises:
            BadRequest: a token is needed, and the environment of this machine has none.
            PipelineError: base or bundles cannot be used.
        """
        self.ends = ExitStack()
        token = None if is_open else os.environ.get(TOKEN)
        if not is_open and not token:
            raise BadRequest(
                f"requests need a token, and {TOKEN} is not in the environment of a replica. Set "
                "it where Ray is started on each machine: it does not travel with a job"
            )
        # TorchRec takes seconds to import, and the process that starts replicas needs none.
        from iak.pipeline.runs.serve import serving
        from iak.pipeline.serving.app import Server

        keep_freed_memory()
        work = self.ends.enter_context(serving(spec, catalog))
        self.service = work.service
        self._server = Server(work.service, spec.limits, token, work.follower, work.labels)
        metrics = ReplicaMetrics(self._server.registry)
        metrics.start()
        self.ends.callback(metrics.stop)

    def __serve_build_asgi_app__(self) -> Starlette:
        """Return the application that Ray Serve's proxies send requests to."""
        return self._server.app()

    def check_health(self) -> None:
        """Raise where the thread that predicts has ended: Ray Serve then starts another replica."""
        if not self.service.is_alive:
            raise PipelineError("the thread that predicts has ended")

    def __del__(self) -> None:
        """Close what `__init__` opened; Ray Serve calls this once the last answer is sent."""
        self.ends.close()


def application(spec: ServeSpec) -> Application:
    """Return the application of some settings, for a file of `serve deploy` or of a RayService.

    `import_path` is `iak.jobs.replicas:application`, and `args` are the settings of `iak serve`.
    The file says itself where the proxies listen, so requests need a token, whatever `host` says.
    """
    return _application(spec, is_open=False)


def _application(spec: ServeSpec, *, is_open: bool) -> Application:
    """Return the application of some settings.

    Args:
        spec: settings of `iak serve`.
        is_open: whether requests need no token.
    """
    replicas = spec.replicas
    least = replicas.least or 1
    deployment: Any = serve.deployment(
        autoscaling_config=AutoscalingConfig(
            min_replicas=least,
            initial_replicas=least,
            max_replicas=replicas.most or least,
            target_ongoing_requests=replicas.requests,
        ),
        ray_actor_options={"num_cpus": replicas.cpus},
        # Requests wait for each other in the replica, which predicts them together.
        max_ongoing_requests=int(4 * replicas.requests),
        max_constructor_retry_count=_STARTS,
        graceful_shutdown_timeout_s=spec.limits.seconds + _OVERTIME_S,
        logging_config=_QUIET,
    )(Replica)
    bound: Application = deployment.bind(spec, load_catalog(spec.catalog), is_open=is_open)
    return bound


def serve_replicas(spec: ServeSpec) -> int:
    """Serve by Ray until SIGTERM or Ctrl-C, and answer the requests that came before it.

    Raises:
        PipelineError: the replicas cannot start.
    """
    ended = threading.Event()
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    with ray_cluster(max(spec.replicas.least or 1, spec.replicas.most or 1)):
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: ended.set())
        with announce("loading base and kernels"):
            _run(spec, is_open=needs_no_token(os.environ))
        console.print(f"serving at http://{spec.host}:{spec.port}", markup=False)
        ended.wait()
        serve.delete(APPLICATION)  # waits for the answers of requests that came before
    return 0


def needs_no_token(environment: Mapping[str, str]) -> bool:
    """Return whether requests need no token: on a local Ray, where none is given.

    On a cluster Ray Serve may run already. Its proxies then stay where they listen, whatever `host`
    says (2.60), so other machines may reach them.
    """
    return not environment.get(TOKEN) and not environment.get("RAY_ADDRESS")


def _run(spec: ServeSpec, *, is_open: bool) -> None:
    """Start the proxies and the replicas, and return once requests are taken."""
    serve.start(
        proxy_location=ProxyLocation.EveryNode,
        http_options=HTTPOptions(
            host=spec.host,
            port=spec.port,
            request_timeout_s=spec.limits.seconds + _OVERTIME_S,
        ),
        logging_config=_QUIET,
    )
    try:
        serve.run(_application(spec, is_open=is_open), name=APPLICATION, logging_config=_QUIET)
    except RuntimeError as error:  # Ray Serve has no class for it (2.60)
        messages = [
            d.message for d in serve.status().applications[APPLICATION].deployments.values()
        ]
        serve.delete(APPLICATION)
        raise PipelineError(f"no replica started: {reason_in(messages) or error}") from error


def reason_in(messages: Sequence[str]) -> str:
    """Return the error that a replica ended with, from what Ray Serve says of a deployment.

    Args:
        messages: texts that hold the traceback of a replica's constructor, or none.
    """
    found = ""
    for line in "\n".join(messages).splitlines():
        name, _, text = line.partition(": ")
        if name.startswith("iak.pipeline.errors.") or name.endswith(("Error", "Exception")):
            found = text or name
    return found
