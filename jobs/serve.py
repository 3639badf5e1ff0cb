"""`iak serve`: answer requests for predictions over HTTP, until SIGTERM or Ctrl-C."""

import asyncio
import importlib.util
import ipaddress
import os
import signal
from contextlib import ExitStack

from iak.jobs.progress import announce, console
from iak.pipeline.errors import BadRequest
from iak.pipeline.runs.load import load_catalog
from iak.pipeline.runs.serve import Serving, serving
from iak.schemas.serving import ServeSpec

TOKEN = "IAK_SERVE_TOKEN"
"""Variable of the environment that holds the token."""


def main(spec: ServeSpec) -> int:
    """Serve until SIGTERM or Ctrl-C, and answer the requests that came before it."""
    token = os.environ.get(TOKEN) or None
    check_token(spec.host, token)
    if spec.replicas.least is not None:
        check_libraries("starlette", "fastapi", "uvicorn", "grpc_reflection", extra="replicas")
        from iak.jobs.replicas import serve_replicas  # Ray takes seconds to import

        return serve_replicas(spec)
    check_libraries("granian", "starlette", extra="serve")
    catalog = load_catalog(spec.catalog)
    with ExitStack() as stack:
        with announce("loading base and kernels"):
            work = stack.enter_context(serving(spec, catalog))
        asyncio.run(_serve(spec, work, token))
    return 0


def check_token(host: str, token: str | None) -> None:
    """Refuse to listen beyond loopback without a token.

    Raises:
        BadRequest: names the address and the variable.
    """
    try:
        is_loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError as error:
        raise BadRequest(f"host={host}: expected an IP address or localhost") from error
    if not is_loopback and token is None:
        raise BadRequest(
            f"host={host} is not loopback, so other machines could send requests. Set a token in "
            f"the environment variable {TOKEN}, or leave host out"
        )


def check_libraries(*names: str, extra: str) -> None:
    """Refuse to go on without the libraries of an extra.

    Args:
        names: modules that are imported.
        extra: name of the extra in pyproject.toml.

    Raises:
        BadRequest: names what is missing, and how it is installed.
    """
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise BadRequest(
            f"iak serve needs {' and '.join(missing)}; install them: pip install 'iak[{extra}]'"
        )


async def _serve(spec: ServeSpec, work: Serving, token: str | None) -> None:
    """Answer requests until a signal arrives, and then those that came before it."""
    from granian.constants import Interfaces
    from granian.server.embed import Server as Http

    from iak.pipeline.serving.app import Server

    server = Server(work.service, spec.limits, token, work.follower, work.labels)
    http = Http(
        server.app(),
        address=spec.host,
        port=spec.port,
        interface=Interfaces.ASGINL,
        log_enabled=False,
        websockets=False,
    )
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    running = asyncio.ensure_future(http.serve())
    console.print(f"serving at http://{spec.host}:{spec.port}", markup=False)
    waiting = asyncio.ensure_future(ended.wait())
    await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
    await server.drain()
    http.stop()  # type: ignore[no-untyped-call]
    await running
    waiting.cancel()
