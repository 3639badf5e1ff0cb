"""An error that would come again is not tried again: one attempt, one sentence."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.faults, pytest.mark.ray, pytest.mark.timeout(560)]

ROOT = Path(__file__).parents[2]
DRIVER = """
import sys
from pathlib import Path
from iak.jobs.ray_launcher import RayLauncher
from iak.pipeline.errors import PipelineError
from iak.pipeline.events import silent
from iak.pipeline.launcher import Launch
from tests.faults.failing import fail

place = Path(sys.argv[1])
try:
    launch = Launch(
        function=fail, work=str(place), result=dict, title="fails", run_dir=place,
        workers=1, device="cpu", max_failures=3,
    )
    RayLauncher().run(launch, silent)
except PipelineError as error:
    print(error)
"""


def test_an_error_that_would_come_again_ends_the_run_at_its_first_attempt(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(tmp_path)],
        cwd=ROOT,
        env={
            "PYTHONPATH": str(ROOT / "infra/package"),
            "OMP_NUM_THREADS": "1",
            "PATH": "/usr/bin:/bin",
        },
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "worker 0 failed with ValueError: columns end to end" in done.stdout
    assert (tmp_path / "attempts").read_text() == "1"
    assert "Traceback" in (tmp_path / "worker-0.error.json").read_text()
