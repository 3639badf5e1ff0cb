"""A Ray head on loopback with a job server and token authentication, for tests that submit."""

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from iak.jobs.ray_launcher import PATIENT, QUIET, STARTS
from tests.faults.test_kill import end
from tests.ports import free_port

ROOT = Path(__file__).parents[1]
STORE_BYTES = 200 * 2**20
PATIENCE_S = 180


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
    try:
        head = start_ray(words, environment | {"RAY_AUTH_MODE": "token"})
        try:
            yield RayHead(f"http://{address}:{port}", environment, head)
        finally:
            head.terminate()
            with suppress(subprocess.TimeoutExpired):
                head.wait(PATIENCE_S)
            end_ray(head)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def start_ray(words: Sequence[str], environment: Mapping[str, str]) -> "subprocess.Popen[str]":
    """Run `ray start --block`, and wait until it is up; run it again where it was too slow.

    Args:
        words: the command.
        environment: of the process. The times that it waits for its own processes are added.
    """
    patient = {**PATIENT, "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "300", "RAY_worker_niceness": "0"}
    patient |= QUIET
    for others in reversed(range(STARTS)):
        node = subprocess.Popen(
            words,
            cwd=ROOT,
            env={**environment, **patient},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        said = _until_up(node)
        if said is None:
            return node
        end_ray(node)
        assert others, said
        assert "timed out" in said.lower(), said
    raise AssertionError("it was never started")


def _until_up(node: "subprocess.Popen[str]") -> str | None:
    """Read what a node says until it is up; return what it said where it ended before."""
    assert node.stdout is not None
    said = ""
    for line in node.stdout:
        said += line
        if "Ray runtime started" in line:
            return None
    return said


def end_ray(node: "subprocess.Popen[str]") -> None:
    """Kill a node with all that runs there."""
    end(node)
    assert node.stdout is not None
    node.stdout.close()
