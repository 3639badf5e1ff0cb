"""A module is adopted with weights and with tasks of its own, or refused before a row is read."""

import pytest
from safetensors import torch as safetensors_torch

from iak.pipeline.errors import BadRequest
from iak.pipeline.events import silent
from iak.pipeline.runs.adopt_module import adopt_module
from iak.pipeline.runs.record import run_record
from iak.schemas.job import AdoptSpec
from tests.dlrm_log import dlrm_catalog
from tests.plain_dlrm import Dlrm


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"weights": None}, r"names no file of weights. Give weights=model\.safetensors"),
        (
            {"scores": {"cvr": "score"}},
            r"scores names unknown tasks \['cvr'\]; there are \['ctr'\]",
        ),
        ({"outputs": {"out": "top"}}, "scores= names no score"),
    ],
)
def test_what_cannot_be_adopted_is_refused_before_the_log_is_read(tmp_path, settings, says):
    safetensors_torch.save_file(Dlrm().state_dict(), tmp_path / "model.safetensors")
    asked = {"catalog": "dlrm.toml", "data_root": str(tmp_path), "run_dir": tmp_path / "run"}
    asked |= {"weights": tmp_path / "model.safetensors"} | settings
    spec = AdoptSpec.model_validate(asked)
    with (
        pytest.raises(BadRequest, match=says),
        run_record("adopt", spec, spec.run_dir, may_differ=frozenset(), report=silent) as record,
    ):
        adopt_module(spec, dlrm_catalog(), record)
