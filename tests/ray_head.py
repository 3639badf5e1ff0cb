"""A Ray head on loopback with a job server and token authentication, for tests that submit."""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
HEAD = """
import os, sys, ray
from pathlib import Path
from iak.jobs.ray_launcher import local_settings
os.environ["RAY_worker_niceness"] = "0"
port, folder = sys.argv[1:]
context = ray.init(log_to_driver=False, **local_settings(2) | {
    "_node_ip_address": "127.0.0.2", "include_dashboard": True, "_temp_dir": folder,
    "dashboard_host": "127.0.0.2", "dashboard_port": int(port),
})
Path(folder, "ray_current_cluster").write_text(context.address_info["gcs_address"])
print("up", flush=True)
sys.stdin.read()
ray.shutdown()
"""
# 127.0.0.2 is loopback too, and one that Ray's own processes do not replace by the machine's
# routable address, where nobody would listen. Ray 2.60 lets a job connect to *any* Ray that runs on
# the machine, unless the folder of its own one names an address, as `ray start` writes it there.


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
    folder = tempfile.mkdtemp(prefix="iak-head-")
    head = subprocess.Popen(
        [sys.executable, "-c", HEAD, str(port), folder],
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
        shutil.rmtree(folder, ignore_errors=True)
