"""Each of two checkpoints comes back bit for bit; damage to the newest takes a run to the other."""

import shutil
from dataclasses import dataclass, field, replace

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from iak.pipeline.base import checkpoint
from iak.pipeline.base.checkpoint import optimizer_tensors
from iak.pipeline.base.checkpoint_folders import KEEP, complete
from iak.pipeline.base.train_state import TrainState
from iak.pipeline.data.reader import Cursor
from iak.pipeline.errors import Corrupt
from iak.pipeline.sharding import adagrad_state
from iak.pipeline.sharding.shard import dense_state, local_shards
from tests.unit.model.small import SHAPES, small_model
from tests.unit.workers import on_threads


@dataclass
class Remembered:
    """A model's tables beside their row-wise memories, as fbgemm's modules show them."""

    model: nn.Module
    memories: list[Tensor] = field(default_factory=list)

    def split_embedding_weights(self):
        return [shard.tensor_RW for shard in local_shards(self.model)]

    def split_optimizer_states(self):
        return [(memory_R,) for memory_R in self.memories]


@dataclass
class State:
    """All that a checkpoint keeps of one worker's run: each number follows from a seed."""

    seed: int

    def __post_init__(self):
        draw = torch.Generator().manual_seed(self.seed)
        self.model = small_model(seed=self.seed)
        memories = [torch.rand(shape.rows, generator=draw) for shape in SHAPES]
        self.model.remembered = [Remembered(self.model, memories)]
        self.adam = {"w.exp_avg": torch.rand(3, generator=draw), "w.step": torch.tensor(2.0)}
        self.progress = TrainState(cursor=Cursor(epoch=self.seed), steps_per_epoch=100)

    def tensors(self):
        """Every tensor that a checkpoint holds, by what it is."""
        return {
            **{f"dense {n}": t for n, t in dense_state(self.model).items()},
            **{f"table {s.table}": s.tensor_RW for s in local_shards(self.model)},
            **{f"memory {n}": t for n, t in enumerate(self.model.remembered[0].memories)},
            **{f"adam {n}": t for n, t in self.adam.items()},
        }

    def is_as(self, other):
        theirs = other.tensors()
        return all(torch.equal(tensor, theirs[name]) for name, tensor in self.tensors().items())


@pytest.fixture(autouse=True, scope="module")
def _memory_of_whole_tables():
    """Tables are not sharded here: that would take a process group, and fbgemm's modules."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adagrad_state, "table_modules", lambda model: model.remembered)
        yield


def save(folder, state, step):
    on_threads(
        lambda w: checkpoint.save(
            folder, state.model, state.adam, replace(state.progress, step=step), worker=w
        ),
        1,
    )  # fmt: skip


def resume(folder, state):
    """Fill a state from a run's checkpoints; what its workers said, and what is to be told."""
    (found,) = on_threads(
        lambda w: checkpoint.resume(complete(folder), state.model, state.adam, worker=w), 1
    )
    return found


BEFORE, NEWEST = State(1), State(2)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Two checkpoints, of steps 200 and 400."""
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    save(folder, BEFORE, 200)
    save(folder, NEWEST, 400)
    return folder


@pytest.fixture
def folder(written, tmp_path):
    """A copy of them, to be damaged."""
    return shutil.copytree(written, tmp_path / "checkpoints")


def names(folder):
    return [path.name for path in complete(folder)]


def test_the_newest_comes_back_bit_for_bit_and_nothing_is_told(folder):
    state = State(9)
    assert resume(folder, state) == ([replace(NEWEST.progress, step=400)], [])
    assert state.is_as(NEWEST)
    assert not state.is_as(BEFORE)


FILES = (
    "state.json", "dense.safetensors", "adam.safetensors", "tables/*/*", "momentum/*/*",
)  # fmt: skip


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[int(at * len(data))] ^= 1
    path.write_bytes(data)


def cut_off(path, at):
    path.write_bytes(path.read_bytes()[: int(at * path.stat().st_size)])


def remove(path, _at):
    path.unlink()


@pytest.mark.parametrize("damage", [flip, cut_off, remove])
@pytest.mark.parametrize("pattern", FILES)
@settings(max_examples=2, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(which=st.integers(0, 99), at=st.floats(0, 1, exclude_max=True))
@example(which=0, at=0.99)
def test_where_any_file_of_the_newest_is_damaged_the_one_before_comes_back(
    written, tmp_path_factory, pattern, damage, which, at
):
    folder = shutil.copytree(written, tmp_path_factory.mktemp("run") / "checkpoints")
    files = sorted((folder / "step-00000400").glob(pattern))
    damage(files[which % len(files)], at)
    state = State(9)
    written, told = resume(folder, state)
    assert state.is_as(BEFORE)
    assert written == [replace(BEFORE.progress, step=200)]
    assert told[0].startswith("checkpoint step-00000400 is damaged: ")
    assert told[1].startswith("the run goes on from step-00000200, the checkpoint before")
    assert names(folder) == ["step-00000200"], "a damaged one takes no sound one's place"


def test_where_both_are_damaged_each_is_named_and_both_stay(folder):
    for step in (200, 400):
        flip(folder / f"step-{step:08d}" / "adam.safetensors", 0.99)
    with pytest.raises(Corrupt) as refused:
        resume(folder, State(9))
    told = str(refused.value)
    assert f"no checkpoint in {folder} can be read" in told
    assert "checkpoint step-00000400 is damaged" in told
    assert "checkpoint step-00000200 is damaged" in told
    assert names(folder) == ["step-00000400", "step-00000200"]


def test_damage_to_the_one_before_is_nobodys_business(folder):
    flip(folder / "step-00000200" / "dense.safetensors", 0.9)
    state = State(9)
    assert resume(folder, state)[1] == []
    assert state.is_as(NEWEST)


def test_of_many_checkpoints_the_newest_stay(folder):
    save(folder, State(3), 600)
    assert names(folder) == ["step-00000600", "step-00000400"]
    assert len(names(folder)) == KEEP


def test_what_a_killed_worker_was_writing_is_written_again(folder):
    part = folder / ".step-00000600.part"
    part.mkdir()
    (part / "dense.safetensors").write_bytes(b"half")
    (part / "a file of another cut").touch()
    save(folder, State(3), 600)
    assert not part.exists()
    assert not (folder / "step-00000600" / "a file of another cut").exists()
    state = State(9)
    resume(folder, state)
    assert state.is_as(State(3))


def test_a_checkpoint_may_be_written_again_in_its_place(folder):
    """As a run does that went back to the one before, and replays the steps."""
    save(folder, State(3), 400)
    state = State(9)
    resume(folder, state)
    assert state.is_as(State(3))


def stepped(moments_first):
    """A parameter after a step of Adam, whose moments were asked for before it, or were not."""
    weight = nn.Parameter(torch.tensor([1.0, -2.0]))
    adam = torch.optim.Adam([weight], lr=0.1)
    if moments_first:
        found = optimizer_tensors(adam, {"w": weight})
        assert {name: tensor.tolist() for name, tensor in found.items()} == {
            "w.step": 0.0, "w.exp_avg": [0.0, 0.0], "w.exp_avg_sq": [0.0, 0.0],
        }  # fmt: skip
    weight.grad = torch.tensor([0.5, -0.25])
    adam.step()
    return weight.detach(), optimizer_tensors(adam, {"w": weight})


def test_an_adam_at_rest_has_moments_that_change_nothing():
    (one, moments), (other, same) = stepped(moments_first=True), stepped(moments_first=False)
    assert torch.equal(one, other)
    assert all(torch.equal(moments[name], tensor) for name, tensor in same.items())
    assert moments["w.step"] == 1.0


def test_the_tensors_of_an_adam_are_its_own():
    weight = nn.Parameter(torch.ones(2))
    adam = torch.optim.Adam([weight])
    optimizer_tensors(adam, {"w": weight})["w.exp_avg"].fill_(3.0)
    assert adam.state[weight]["exp_avg"].tolist() == [3.0, 3.0]
