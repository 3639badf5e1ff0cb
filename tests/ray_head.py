"""A Ray head on loopback with a job server and token authentication, for tests that submit."""

import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
HEAD = """
import os, sys, ray
from iak.jobs.ray_launcher import local_settings
os.environ["RAY_worker_niceness"] = "0"
ray.init(log_to_driver=False, **local_settings(2) | {
    "_node_ip_address": "127.0.0.2", "include_dashboard": True,
    "dashboard_host": "127.0.0.2", "dashboard_port": int(sys.argv[1]),
})
print("up", flush=True)
sys.stdin.read()
ray.shutdown()
"""
# 127.0.0.2 is loopback too, and one that Ray's own processes do not replace by the machine's
# routable address, where nobody would listen.


@dataclass(frozen=True, slots=True)
class RayHead:
    """A running head."""

    address: str
    """Of its job server."""
    environment: Mapping[str, str]
    """For processes that talk to it: with its token, and no other setting of Ray."""
    process: "subprocess.Popen[str]"
    """All of its Ray, and what runs there, lives below it."""


@contextmanager
def ray_head() -> Iterator[RayHead]:
    """Yield a head that ends with the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.2", 0))
        port = free.getsockname()[1]
    environment = {name: text for name, text in os.environ.items() if not name.startswith("RAY_")}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment |= {
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "PYTHONPATH": str(ROOT / "infra/package"),
    }
    head = subprocess.Popen(
        [sys.executable, "-c", HEAD, str(port)],
        cwd=ROOT,
        env=environment | {"RAY_AUTH_MODE": "token"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert head.stdout is not None
        assert head.stdout.readline() == "up\n"
        yield RayHead(f"http://127.0.0.2:{port}", environment, head)
    finally:
        head.communicate(timeout=60)
