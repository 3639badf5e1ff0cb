import pytest

from tests.unit.tracking.fake_mlflow import fake_mlflow


@pytest.fixture
def mlflow():
    with fake_mlflow() as server:
        yield server
