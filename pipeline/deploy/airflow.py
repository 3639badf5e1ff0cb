"""Describe the nights as an Airflow 3 DAG of one task."""

import json
from pathlib import PurePath

from iak.pipeline.deploy.command import dns_name, scheduled_command
from iak.pipeline.deploy.kubernetes import seconds_of_a_night
from iak.schemas.nightly import NightlySpec


def dag(spec: NightlySpec, file: PurePath) -> str:
    """Return the DAG's file.

    The night itself finds the newest complete day. So it reads no date of Airflow's run, whose data
    interval has length 0 with a cron schedule (Airflow 3.3).

    Args:
        spec: the nights.
        file: nightly.toml on Airflow's workers, as an absolute path.
    """
    name = dns_name(spec).replace("-", "_")
    schedule, zone = spec.schedule.cron, spec.schedule.time_zone
    command = json.dumps(scheduled_command(spec, file))  # also a text of Python
    return f'''\
"""Nights of {spec.name}. Rendered by `iak infra render` from {file.name}: render it again."""

from datetime import timedelta

import pendulum
from airflow.sdk import dag, task


@dag(
    dag_id="{name}",
    schedule="{schedule}",
    start_date=pendulum.datetime(2026, 1, 1, tz="{zone}"),
    catchup=False,  # a night reads all days that are new, so a missed one needs no run of its own
    max_active_runs=1,
    default_args={{
        "retries": {spec.deploy.retries},
        "retry_delay": timedelta(minutes=10),
        "execution_timeout": timedelta(seconds={seconds_of_a_night(spec)}),
    }},
    tags=["iak"],
)
def {name}():
    """Tune every domain's kernel, gate it, promote it, and write the morning page."""

    @task.bash(append_env=True)
    def night() -> str:
        return {command}

    night()


{name}()
'''
