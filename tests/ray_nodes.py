"""A Ray cluster of several machines, played on this one: each node has a scratch of its own."""

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.test_kill import end
from tests.ports import free_port
from tests.ray_head import ROOT, STORE_BYTES, end_ray, start_ray

NODE_CHECKED_EVERY_MS = "1000"
"""Five refused checks make a node dead: Ray's default, 3 s between two, is waiting alone."""


@dataclass(frozen=True, slots=True)
class Driver:
    """A process that starts runs."""

    process: "subprocess.Popen[bytes]"
    path: Path
    """File with its output. A pipe that nobody reads would stop it once it is full."""

    def said(self) -> str:
        """Return what it has said so far."""
        return self.path.read_text(errors="replace")


@dataclass
class RayNodes:
    """A head, on whose machine drivers run, and the nodes that joined it."""

    folder: Path
    environment: Mapping[str, str]
    """Of every node and driver, but for the scratch."""
    address: str
    """Of the head, for RAY_ADDRESS."""
    network: str
    nodes: dict[str, "subprocess.Popen[str]"] = field(default_factory=dict)

    def cache(self, name: str) -> Path:
        """Return the folder for caches of a node's machine."""
        return self.folder / name

    def driver(self, words: list[str], *, is_local: bool) -> Driver:
        """Start Python on the head's machine, with these arguments; `is_local` hides the head."""
        address = {} if is_local else {"RAY_ADDRESS": self.address}
        number, path = tempfile.mkstemp(prefix="driver-", dir=self.folder)
        with os.fdopen(number, "wb") as said:
            process = subprocess.Popen(
                [sys.executable, *words],
                cwd=self.folder,
                env={
                    **self.environment,
                    **address,
                    "XDG_CACHE_HOME": str(self.cache("head")),
                },
                stdout=said,
                stderr=subprocess.STDOUT,
            )
        return Driver(process, Path(path))

    def start(self, name: str, *words: str) -> None:
        """Start a node, and wait until it is up."""
        temporary = self.folder / f"{len(self.nodes)}"
        words = (
            *("ray", "start", "--block", "--disable-usage-stats", *words),
            *(f"--node-ip-address={self.network}.{len(self.nodes) + 2}",),
            *(f"--temp-dir={temporary}", f"--object-store-memory={STORE_BYTES}"),
            f"--dashboard-agent-listen-port={free_port('127.0.0.1')}",
        )
        environment = {**self.environment, "XDG_CACHE_HOME": str(self.cache(name))}
        self.nodes[name] = start_ray(words, environment)

    def join(self, name: str) -> None:
        """Start a node with one core that joins the head."""
        self.start(name, f"--address={self.address}", "--num-cpus=1")

    def kill(self, name: str) -> None:
        """Kill a node with all that runs there, as a machine that loses its power."""
        end(self.nodes[name])


@contextmanager
def ray_nodes(**environment: str) -> Iterator[RayNodes]:
    """Yield a cluster with a head that takes no worker, as in Kubernetes, until the block ends."""
    network = f"127.{secrets.randbelow(254) + 1}.{secrets.randbelow(254) + 1}"
    kept = {name: text for name, text in os.environ.items() if not name.startswith("RAY_")}
    kept["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    kept |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "PYTHONPATH": str(ROOT / "infra/package"),
        "OMP_NUM_THREADS": "1",
        "RAY_health_check_period_ms": NODE_CHECKED_EVERY_MS,
        **environment,
    }
    folder = Path(tempfile.mkdtemp(prefix="iak-nodes-"))
    port = free_port(f"{network}.2")
    nodes = RayNodes(folder, kept, f"{network}.2:{port}", network)
    try:
        nodes.start("head", "--head", "--num-cpus=0", f"--port={port}", "--include-dashboard=false")
        yield nodes
    finally:
        for node in nodes.nodes.values():
            end_ray(node)
        shutil.rmtree(folder, ignore_errors=True)
