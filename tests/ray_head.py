"""A Ray head on loopback with a job server and token authentication, for tests that submit."""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.faults.test_kill import end

ROOT = Path(__file__).parents[1]
STORE_BYTES = 200 * 2**20
PATIENCE_S = 60


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
    """Yield a head, as `ray start --head` starts it, that ends with the block."""
    # All of 127/8 is loopback. Ray's own processes replace 127.0.0.1 by the machine's routable
    # address, where nobody would listen.
    address = f"127.{secrets.randbelow(254) + 1}.{secrets.randbelow(254) + 1}.2"
    # Ray 2.60 opens the agent's port on 127.0.0.1 too, 52365 for every Ray of the machine; where
    # it is taken, no job ever starts, and nothing says so.
    port, agents_port = free_port(address), free_port("127.0.0.1")
    environment = {name: text for name, text in os.environ.items() if not name.startswith("RAY_")}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment |= {
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "PYTHONPATH": str(ROOT / "infra/package"),
    }
    # A folder of its own: Ray 2.60 lets a job connect to the Ray that the folder names, and else to
    # any that runs on the machine.
    folder = tempfile.mkdtemp(prefix="iak-head-")
    words = [
        *("ray", "start", "--head", "--block", "--disable-usage-stats", "--include-dashboard=true"),
        *(f"--node-ip-address={address}", "--port=0", f"--temp-dir={folder}"),
        *(f"--dashboard-host={address}", f"--dashboard-port={port}"),
        *(f"--dashboard-agent-listen-port={agents_port}", "--num-cpus=3"),
        f"--object-store-memory={STORE_BYTES}",
    ]
    head = subprocess.Popen(
        words,
        cwd=ROOT,
        env=environment | {"RAY_AUTH_MODE": "token", "RAY_worker_niceness": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert head.stdout is not None
    try:
        wait_for(head)
        yield RayHead(f"http://{address}:{port}", environment, head)
    finally:
        head.terminate()
        with suppress(subprocess.TimeoutExpired):
            head.wait(PATIENCE_S)
        end(head)
        head.stdout.close()
        shutil.rmtree(folder, ignore_errors=True)


def wait_for(head: "subprocess.Popen[str]") -> None:
    """Read what a head says until it is up."""
    assert head.stdout is not None
    said = ""
    for line in head.stdout:
        said += line
        if "Ray runtime started" in line:
            return
    raise AssertionError(f"the head ended: {said}")


def free_port(address: str) -> int:
    with socket.socket() as free:
        free.bind((address, 0))
        port: int = free.getsockname()[1]
        return port
