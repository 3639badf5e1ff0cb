"""With `min_workers` a run starts with what is free, goes on when a machine goes, and grows again.

The machines are nodes of one Ray on this machine, each with a single CPU.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from iak.jobs.ray_launcher import PATIENT, QUIET
from tests.ray_nodes import NODE_CHECKED_EVERY_MS

pytestmark = [pytest.mark.faults, pytest.mark.ray, pytest.mark.timeout(1100)]

ROOT = Path(__file__).parents[2]
DRIVER = """
import json, signal, sys, threading, time
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from iak.jobs import ray_launcher
from iak.pipeline.events import silent
from iak.pipeline.launcher import Launch
from tests.faults.waiting import wait_for_workers

ray_launcher.RESIZE_S = 2.0
place = Path(sys.argv[1])

def patiently(start):
    "Start a node, and again where its processes were slow, as a busy machine's are."
    for others in reversed(range(ray_launcher.STARTS)):
        try:
            return start()
        except Exception as error:
            if others == 0 or "timed out" not in str(error).lower():
                raise

head = {"num_cpus": 1, "include_dashboard": False}
cluster = patiently(lambda: Cluster(initialize_head=True, head_node_args=head))
ray.init(address=cluster.address, log_to_driver=False)

@ray.remote(num_cpus=1)
class Neighbour:
    def ping(self):
        pass

def groups():
    path = place / "progress.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [e["workers"] for e in map(json.loads, lines) if e["event"] == "group"]

def wait_for(count):
    while len(groups()) < count:
        time.sleep(0.1)

def disturb():
    wait_for(1)                     # one worker, since a neighbour has a CPU of two
    ray.kill(neighbour)
    wait_for(2)                     # two
    cluster.remove_node(second, allow_graceful=False)
    wait_for(3)                     # one, since a machine is gone
    signal.signal = lambda *_: None  # Ray's node sets a handler, which only the main thread may
    patiently(lambda: cluster.add_node(num_cpus=1))
    wait_for(4)                     # two
    (place / "allowed.part").write_text("2")
    (place / "allowed.part").rename(place / "allowed.json")  # whole, as the workers read it

second = patiently(lambda: cluster.add_node(num_cpus=1))
neighbour = Neighbour.remote()
ray.get(neighbour.ping.remote())
threading.Thread(target=disturb, daemon=True).start()
launch = Launch(
    function=wait_for_workers, work=str(place / "allowed.json"), result=dict, title="waits",
    run_dir=place, workers=2, device="cpu", max_failures=3,
)
result = ray_launcher.RayLauncher(min_workers=1).run(launch, silent)
(place / "told.json").write_text(json.dumps({"result": result, "groups": groups()}))
ray.shutdown()
cluster.shutdown()
"""


def test_a_run_has_as_many_workers_as_there_are_free_cpus_at_any_time(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(tmp_path)],
        cwd=ROOT,
        env={
            **os.environ,
            **QUIET,
            **PATIENT,
            "RAY_health_check_period_ms": NODE_CHECKED_EVERY_MS,
            "PYTHONPATH": f"{ROOT / 'infra/package'}:{ROOT}",
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        timeout=1000,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads((tmp_path / "told.json").read_text())  # Ray writes to stdout as well
    assert told == {"result": {"workers": 2}, "groups": [1, 2, 1, 2]}
