"""A dense optimiser's state is read back by name; what does not fit starts at zero as a whole."""

import pytest
import torch
from torch import nn

from iak.pipeline.base import optimizer_state
from iak.pipeline.base.optimizer_state import ADAM, read_state, write_state
from iak.pipeline.errors import Corrupt
from iak.pipeline.model.inputs import AlongX, Input, input_origin
from iak.pipeline.process import Worker
from iak.pipeline.sharding import adagrad_state
from iak.pipeline.sharding.growth import Growth

ALONE = Worker(rank=0, world=1, device=torch.device("cpu"))
OTHER = Worker(rank=1, world=1, device=torch.device("cpu"))


class Model(nn.Module):
    """A model of which only the part along x matters here."""

    table_sizes: dict = {}  # noqa: RUF012 - of a test

    def along_x(self):
        return {"trunk.w": AlongX(reads=1)}


@pytest.fixture(autouse=True)
def _no_tables(monkeypatch):
    """Tables have their own tests: here there are none."""
    for module in (adagrad_state, optimizer_state):
        monkeypatch.setattr(module, "unwrap", lambda model: model)
    monkeypatch.setattr(adagrad_state, "write_accumulators", lambda *_, **__: [])
    monkeypatch.setattr(adagrad_state, "read_accumulators", lambda *_, **__: ["table t: zero"])


def adam(w=(2, 3), b=(2,), start=1.0):
    """Moments and counts of two parameters."""
    return {
        "trunk.w.exp_avg": torch.full(w, start),
        "trunk.w.exp_avg_sq": torch.full(w, start + 1),
        "trunk.w.step": torch.tensor(start + 2),
        "trunk.b.exp_avg": torch.full(b, start + 3),
        "trunk.b.exp_avg_sq": torch.full(b, start + 4),
        "trunk.b.step": torch.tensor(start + 5),
    }


def read(folder, now, entries, **settings):
    return read_state(Model(), now, folder, entries, ALONE, **settings)


def test_what_is_written_is_read_in_place(tmp_path):
    entries = write_state(Model(), adam(), tmp_path, ALONE)
    assert [entry.path for entry in entries] == [ADAM]
    now = adam(start=0.0)
    assert read(tmp_path, now, entries) == ["table t: zero"]
    assert all(torch.equal(now[name], tensor) for name, tensor in adam().items())


def test_only_rank_0_writes_the_dense_part(tmp_path):
    assert write_state(Model(), adam(), tmp_path, OTHER) == []
    assert list(tmp_path.iterdir()) == []


def test_a_parameter_of_another_shape_starts_at_zero_with_its_count(tmp_path):
    entries = write_state(Model(), adam(b=(5,)), tmp_path, ALONE)
    now = adam(start=7.0)
    assert read(tmp_path, now, entries)[1:] == ["dense trunk.b: its Adam state starts at zero"]
    assert not any(now[f"trunk.b.{what}"].any() for what in ("exp_avg", "exp_avg_sq", "step"))
    assert torch.equal(now["trunk.w.exp_avg"], adam()["trunk.w.exp_avg"])


def test_a_parameter_that_the_base_did_not_have_starts_at_zero(tmp_path):
    before = {name: tensor for name, tensor in adam().items() if not name.startswith("trunk.b")}
    entries = write_state(Model(), before, tmp_path, ALONE)
    now = adam(start=7.0)
    assert read(tmp_path, now, entries)[1:] == ["dense trunk.b: its Adam state starts at zero"]
    assert not now["trunk.b.step"].any()


def test_moments_move_with_the_inputs_they_belong_to(tmp_path):
    before = adam()
    before["trunk.w.exp_avg"] = torch.arange(6.0).reshape(2, 3)
    entries = write_state(Model(), before, tmp_path, ALONE)
    origin = input_origin(
        [Input("a", 1), Input("b", 2)], [Input("new", 1), Input("b", 2), Input("a", 1)]
    )
    now = adam(w=(2, 4), start=7.0)
    assert read(tmp_path, now, entries, growth=Growth(inputs=origin))[1:] == []
    assert now["trunk.w.exp_avg"].tolist() == [[0, 1, 2, 0], [0, 4, 5, 3]]
    assert now["trunk.w.step"] == before["trunk.w.step"]


def test_a_flipped_byte_is_refused(tmp_path):
    entries = write_state(Model(), adam(), tmp_path, ALONE)
    path = tmp_path / ADAM
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(Corrupt, match=r"adam\.safetensors is not the file"):
        read(tmp_path, adam(), entries)
