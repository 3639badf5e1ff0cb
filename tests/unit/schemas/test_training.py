"""The record of a pre-training has a fingerprint, or says why no base was published."""

import pytest

from iak.schemas.training import TrainingRunResult
from tests.builders import training_run_result


@pytest.mark.parametrize("ending", [{}, {"fingerprint": "f" * 64}, {"not_published": "worse"}])
def test_what_is_absent_is_left_out(ending):
    result = training_run_result(**ending)
    document = result.as_json()
    assert list(document)[-6 - len(ending) :] == [
        "contract", "settings", "advice", "labels", "labelled_rows", "unseen", *ending,
    ]  # fmt: skip
    assert TrainingRunResult.model_validate(document) == result


def test_settings_that_were_left_open_are_shown_and_keep_their_kind():
    settings = training_run_result().settings
    assert settings.describe() == "epochs=2"
    assert settings.model_dump_json() == (
        '{"used":{"epochs":2,"from_rates":1.0},"followed":["epochs"]}'
    )
