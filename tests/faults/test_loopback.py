"""A local Ray is its user's: it listens on loopback alone, and nobody may enter its folders."""

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.faults, pytest.mark.ray, pytest.mark.timeout(560)]

ROOT = Path(__file__).parents[2]
DRIVER = """
import contextlib, os, pathlib, ray
from iak.jobs.ray_launcher import ray_cluster

def processes():
    "Folders in /proc of this process and of all that descend from it."
    parents = {}
    for place in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            after_its_name = (place / "stat").read_text().rpartition(")")[2].split()
            parents[int(place.name)] = int(after_its_name[1])
    ours = {os.getpid()}
    while more := {one for one, parent in parents.items() if parent in ours} - ours:
        ours |= more
    return [pathlib.Path("/proc", str(one)) for one in ours]

def sockets():
    "Inodes of the sockets that these processes hold, as the kernel's table names them."
    for place in processes():
        for link in (place / "fd").glob("*"):
            with contextlib.suppress(OSError):
                kind, _, inode = os.readlink(link).partition(":")
                if kind == "socket":
                    yield inode.strip("[]")

def listening():
    "Local addresses of the listening sockets of these processes, as the kernel spells them."
    ours = set(sockets())
    for name in ("tcp", "tcp6"):
        for line in pathlib.Path("/proc/net", name).read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and words[9] in ours:
                yield words[1]

with ray_cluster(1):
    ray.get(ray.remote(lambda: None).remote())
    print("session:", ray._private.worker.global_worker.node.get_session_dir_path())
    print("processes:", *(place.joinpath("comm").read_text().strip() for place in processes()))
    print("listening:", *sorted(set(listening())))
"""


def is_loopback(address):
    """Whether /proc/net spells 127.0.0.0/8, ::1 or an IPv4 loopback inside IPv6."""
    raw = bytes.fromhex(address.partition(":")[0])
    words = b"".join(raw[i : i + 4][::-1] for i in range(0, len(raw), 4))
    if len(words) == 16 and words[:12] == b"\0" * 10 + b"\xff\xff":
        words = words[12:]
    return (
        words == socket.inet_pton(socket.AF_INET6, "::1") if len(words) == 16 else words[0] == 127
    )


@pytest.fixture(scope="module")
def told():
    done = subprocess.run(
        [sys.executable, "-c", DRIVER],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="needs /proc/net to list sockets")
def test_a_local_ray_listens_on_loopback_alone(told):
    processes = told.partition("processes:")[2].partition("\n")[0].split()
    assert {"gcs_server", "raylet", "ray::IDLE"} <= set(processes)
    addresses = told.partition("listening:")[2].split()
    assert len(addresses) > 3
    assert [a for a in addresses if not is_loopback(a)] == []


def test_nobody_else_may_enter_a_local_rays_session(told):
    session = Path(told.partition("session:")[2].split()[0])
    assert (session / "logs").is_dir()
    private = session.parents[1]
    assert private.name.startswith("iak-")
    found = private.stat()
    assert stat.S_IMODE(found.st_mode) == 0o700
    assert found.st_uid == os.getuid()
