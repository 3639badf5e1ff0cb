"""The DAG: parsed and run once by a real Airflow, in an environment of its own."""

import os
import subprocess
from pathlib import PurePath

import pytest

from iak.pipeline.deploy.airflow import dag
from tests.tools import tool_python
from tests.unit.deploy.nights import nights

AIRFLOW = "apache-airflow==3.3.2"
PINS = "https://raw.githubusercontent.com/apache/airflow/constraints-3.3.2/constraints-3.11.txt"


def test_the_dag_is_python():
    text = dag(nights(), PurePath('/srv/a "quoted" folder/nightly.toml'))
    compile(text, "dag.py", "exec")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_airflow_runs_the_night(tmp_path):
    """A night with some kernels held (4) succeeds; one that failed (5) does not.

    Nothing is tried again: Airflow would wait for ten minutes before it does.
    """
    python = tool_python("airflow", AIRFLOW)
    program = tmp_path / "bin" / "iak"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\necho "$PWD $*" >> "$IAK_SAID"\nexit $IAK_CODE\n')
    program.chmod(0o755)
    dags = tmp_path / "dags"
    dags.mkdir()
    (dags / "iak_shop_eu.py").write_text(
        dag(nights(deploy={"retries": 0}), PurePath(tmp_path / "nightly.toml"))
    )
    environment = os.environ | {
        "AIRFLOW_HOME": str(tmp_path / "airflow"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "PATH": f"{program.parent}:{python.parent}:{os.environ['PATH']}",
        "IAK_SAID": str(tmp_path / "said"),
    }
    environment.pop("PYTHONPATH", None)

    def airflow(*words, code="0"):
        return subprocess.run(
            [str(python.parent / "airflow"), *words],
            env=environment | {"IAK_CODE": code},
            capture_output=True,
            text=True,
            check=False,
        )

    migrated = airflow("db", "migrate")
    assert migrated.returncode == 0, migrated.stderr[-2000:]
    held = airflow("dags", "test", "iak_shop_eu", code="4")
    assert held.returncode == 0, held.stderr[-2000:]
    assert "state=success" in held.stdout + held.stderr
    failed = airflow("dags", "test", "iak_shop_eu", "2026-11-02", code="5")
    assert "state=failed" in failed.stdout + failed.stderr
    said = (tmp_path / "said").read_text().splitlines()
    assert said[0] == f"{tmp_path} nightly run nightly.toml"
