"""Settings of `iak serve`: what goes together."""

import pytest
from pydantic import ValidationError

from iak.schemas.serving import ReplicasSpec, ServedLabelsSpec, ServeSpec


@pytest.mark.parametrize("given", [{}, {"least": 2}, {"least": 2, "most": 2}])
def test_replicas_need_not_be_bounded(given):
    assert ReplicasSpec(**given).most in (None, 2)


@pytest.mark.parametrize("given", [{"most": 3}, {"least": 4, "most": 3}])
def test_most_replicas_are_no_fewer_than_least(given):
    with pytest.raises(ValidationError, match="give a `least` that is not above it"):
        ReplicasSpec(**given)


def test_labels_are_compared_by_one_process():
    words = {"catalog": "shop.toml", "base": "R1", "labels": ServedLabelsSpec(data="DATA")}
    assert ServeSpec(**words).labels.data is not None
    with pytest.raises(ValidationError, match=r"labels\.data with replicas\.least"):
        ServeSpec(**words, replicas=ReplicasSpec(least=1))
