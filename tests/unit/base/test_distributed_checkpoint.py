"""A folder of torch.distributed.checkpoint is read whole, or refused by what is wrong."""

import itertools
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributed import checkpoint
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    MetadataIndex,
    TensorStorageMetadata,
)

from iak.pipeline.base.distributed_checkpoint import digest_of_checkpoint, load_checkpoint
from iak.pipeline.errors import BadRequest
from iak.schemas.given_base import ModuleBaseSpec
from tests import plain_dlrm

BASE = ModuleBaseSpec(
    kind="torch", factory="shop:build", names={"model.": ""}, ignore=("optim.", "epoch")
)


def saved(folder, **changes):
    """The checkpoint of a plain module, saved by one process."""
    torch.manual_seed(7)
    weights = plain_dlrm.Dlrm().state_dict()
    state = {f"model.{name}": tensor for name, tensor in weights.items()}
    state |= {"optim.step": torch.ones(3), "epoch": 8} | changes
    with pytest.warns(UserWarning, match="assuming the intent is to save in a single process"):
        checkpoint.save({k: v for k, v in state.items() if v is not None}, checkpoint_id=folder)
    return weights


def load(folder, base=BASE, own=None, *, is_trusted=True):
    own = plain_dlrm.Dlrm().state_dict() if own is None else own
    load_checkpoint(own, Path(folder), base, is_trusted=is_trusted)
    return own


def test_the_weights_of_a_folder_become_the_modules(tmp_path):
    weights = saved(tmp_path / "c")
    own = load(tmp_path / "c")
    assert all(torch.equal(own[name], weight) for name, weight in weights.items())


@st.composite
def cuts(draw):
    """A shape, and the bounds of its pieces in each dimension."""
    shape = draw(st.lists(st.integers(1, 9), min_size=1, max_size=3))
    bounds = [
        sorted({0, size, *draw(st.lists(st.integers(0, size), max_size=3))}) for size in shape
    ]
    return torch.Size(shape), bounds


def write_pieces(folder, tensor, bounds, leave_out=()):
    """Write a tensor in pieces, as ranks would that each have some of them."""
    spans = [[*itertools.pairwise(edges)] for edges in bounds]
    grid = torch.cartesian_prod(*[torch.arange(len(span)) for span in spans])
    cells = [
        [span[i] for span, i in zip(spans, cell, strict=True)]
        for cell in grid.reshape(-1, len(spans)).tolist()
    ]
    pieces = {
        f"piece{i}": tensor[*[slice(*s) for s in cell]].clone() for i, cell in enumerate(cells)
    }
    with pytest.warns(UserWarning, match="single process"):
        checkpoint.save(pieces, checkpoint_id=folder)
    metadata = checkpoint.FileSystemReader(folder).read_metadata()
    chunks, places = [], {}
    for number, cell in enumerate(cells):
        if number in leave_out:
            continue
        offsets = torch.Size([first for first, _ in cell])
        chunks.append(ChunkStorageMetadata(offsets, torch.Size([b - a for a, b in cell])))
        stored = {index.fqn: place for index, place in metadata.storage_data.items()}
        places[MetadataIndex("table", offsets)] = stored[f"piece{number}"]
    properties = metadata.state_dict_metadata["piece0"].properties
    metadata.state_dict_metadata = {
        "table": TensorStorageMetadata(properties, tensor.shape, chunks)
    }
    metadata.storage_data = places
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    return len(cells)


@given(cut=cuts())
def test_a_table_in_any_pieces_is_read_whole(tmp_path_factory, cut):
    shape, bounds = cut
    folder = tmp_path_factory.mktemp("pieces")
    table = torch.rand(shape)
    write_pieces(folder, table, bounds)
    plain = ModuleBaseSpec(kind="torch", factory="shop:build")
    own = load(folder, plain, {"table": torch.full(shape, torch.nan)})
    assert torch.equal(own["table"], table)


@given(cut=cuts(), missing=st.integers(0, 99))
def test_a_table_that_lacks_a_piece_is_refused(tmp_path_factory, cut, missing):
    shape, bounds = cut
    folder = tmp_path_factory.mktemp("pieces")
    count = len(bounds[0]) - 1
    for edges in bounds[1:]:
        count *= len(edges) - 1
    write_pieces(folder, torch.rand(shape), bounds, leave_out=[missing % count])
    plain = ModuleBaseSpec(kind="torch", factory="shop:build")
    with pytest.raises(BadRequest, match=r"the pieces of \['table'\] .* do not make up the whole"):
        load(folder, plain, {"table": torch.zeros(shape)})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model.top.0.bias": None}, r"missing: top\.0\.bias"),
        ({"model.extra": torch.zeros(2)}, "unexpected: extra"),
        ({"scheduler": torch.zeros(2)}, "unexpected: scheduler"),
        ({"iteration": 7}, r"entries \['iteration'\] .* are no tensors. Leave them out by base"),
        (
            {"model.users.weight": torch.zeros(9, 8)},
            r"of another shape: users\.weight \[9, 8\], the module has \[60, 8\]",
        ),
        (
            {"model.users.weight": torch.zeros(60, 8, dtype=torch.int8)},
            r"of another type: users\.weight torch\.int8, the module has torch\.float32",
        ),
    ],
)
def test_entries_that_are_not_the_modules_weights_are_named(tmp_path, changes, says):
    saved(tmp_path / "c", **changes)
    with pytest.raises(BadRequest, match=says):
        load(tmp_path / "c")


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_nothing_is_unpickled_without_trust(tmp_path):
    (tmp_path / ".metadata").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    with pytest.raises(BadRequest, match=r"can run any code as this user .* say trust=pickle"):
        load(tmp_path, is_trusted=False)
    assert not (tmp_path / "sprung").exists()
    with pytest.raises(BadRequest, match="cannot be read: AttributeError"):
        load(tmp_path)
    assert (tmp_path / "sprung").exists()


@pytest.mark.parametrize("place", ["registry:/r@champion", "s3://bucket/c"])
def test_nothing_is_read_from_a_registry_or_a_store(place):
    with pytest.raises(BadRequest, match="never read from a registry or an object store"):
        load(place)


def test_a_folder_without_metadata_or_with_damaged_files_is_refused(tmp_path):
    saved(tmp_path / "c")
    before = digest_of_checkpoint(tmp_path / "c")
    (data,) = (tmp_path / "c").glob("*.distcp")
    data.write_bytes(data.read_bytes()[:100])
    assert digest_of_checkpoint(tmp_path / "c") != before
    with pytest.raises(BadRequest, match="A file of it is missing or damaged"):
        load(tmp_path / "c")
    (tmp_path / "c" / ".metadata").unlink()
    with pytest.raises(BadRequest, match=r"cannot be read: .* Expected a folder with \.metadata"):
        load(tmp_path / "c")
