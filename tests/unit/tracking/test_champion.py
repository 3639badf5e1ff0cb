"""The alias of an MLflow model follows the registry."""

import pytest

from iak.pipeline.tracking.champion import follow_registry, night_of
from iak.pipeline.tracking.mlflow_run import track_night
from iak.pipeline.tracking.mlflow_server import MlflowServer
from tests.nights import some_nights
from tests.unit.tracking.tracked import settings, written

OLDER, NEWER = some_nights(2, domains=2)
NIGHTS = [f"{record.night}-{record.id}" for record in (OLDER, NEWER)]
FOREIGN = "2026-10-29-0123456789abcdef"
"""A night that the server does not keep."""


@pytest.fixture
def kept(mlflow, tmp_path):
    """A server that keeps both nights, of which the newer one is the champion."""
    for record in (OLDER, NEWER):
        tracked, folder = written(tmp_path, record)
        track_night(MlflowServer(mlflow.address), settings(tmp_path), tracked, folder)
    assert mlflow.aliases == {"champion": "2", "candidate": "2"}
    return mlflow


@pytest.mark.parametrize(
    ("serving", "champion"),
    [
        (NIGHTS, "2"),
        (NIGHTS[:1], "1"),
        ([FOREIGN, NIGHTS[0]], "1"),
        ([], None),
        ([FOREIGN], None),
        (["not a night"], None),
    ],
)
def test_the_champion_is_the_newest_night_that_serves(kept, serving, champion):
    said = follow_registry(MlflowServer(kept.address), "shop", serving)
    assert kept.aliases.get("champion") == champion
    assert kept.aliases["candidate"] == "2", "a rollback tunes nothing"
    assert ("has no champion" in said) == (champion is None)


def test_without_an_experiment_nothing_moves(mlflow):
    said = follow_registry(MlflowServer(mlflow.address), "shop", NIGHTS)
    assert said.endswith("keeps no night of shop, so no alias moved")
    assert mlflow.aliases == {}


def test_a_run_folder_names_its_night():
    assert night_of(f"/nights/{NIGHTS[0]}/tune") == NIGHTS[0]
    assert night_of("s3://bucket/nights/2026-10-29-0123456789abcdef/tune") == FOREIGN
    assert night_of("/runs/finetune") is None
