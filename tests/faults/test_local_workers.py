"""A command is killed without warning; its workers on this machine end as well."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

STAY_S = 400
DRIVER = """
import sys
from pathlib import Path
from iak.jobs.local_launcher import LocalLauncher
from iak.pipeline.launcher import Launch
from tests.faults.test_local_workers import stay
launch = Launch(
    function=stay, work=sys.argv[1], result=dict, title="t", run_dir=Path(sys.argv[1]), workers=2,
    device="cpu", max_failures=0,
)
LocalLauncher().run(launch, lambda _: None)
"""


def stay(worker, run_dir, _report):
    """Say who this is, and stay until somebody ends it."""
    path = Path(run_dir) / f"{worker.rank}.pid"
    path.with_suffix(".part").write_text(str(os.getpid()))
    path.with_suffix(".part").rename(path)
    time.sleep(STAY_S)
    return {}


def wait_until(holds):
    """Wait until something holds; the test's own limit ends it where it never does."""
    while not holds():
        time.sleep(0.1)


def is_alive(pid):
    """Return whether a process runs, which one that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_workers_end_with_a_command_that_is_killed(tmp_path):
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(tmp_path)])
    try:
        files = [tmp_path / "0.pid", tmp_path / "1.pid"]
        wait_until(lambda: all(path.exists() for path in files))
        workers = [int(path.read_text()) for path in files]
        assert all(is_alive(pid) for pid in workers)
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    wait_until(lambda: not any(is_alive(pid) for pid in workers))
