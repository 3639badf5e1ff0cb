"""Every kind of difference between a base and a model is refused, and passes when it is named."""

import re
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from iak.pipeline.data.growth import RowOrigin
from iak.pipeline.errors import BadRequest
from iak.pipeline.model.embedding_bags import build_tables
from iak.pipeline.model.inputs import Input, input_origin
from iak.pipeline.model.tables import TableShape
from iak.pipeline.process import Worker
from iak.pipeline.sharding import growth as growing
from iak.pipeline.sharding import rectangles
from iak.pipeline.sharding.base_weights import audit_base, read_base_weights, write_base_weights
from iak.pipeline.sharding.growth import Growth
from iak.pipeline.sharding.rectangles import save_tensors
from iak.pipeline.sharding.shard import dense_state, digest_model
from tests.unit.model.small import NUMERIC, SHAPES, small_model

ALONE = Worker(rank=0, world=1, device=torch.device("cpu"))
LAYOUT = [Input("hour", 8), Input("user", 8), Input("shop", 16), Input("friends", 8)]
LAYOUT += [Input(f"n{i}", 1) for i in range(NUMERIC)]


@pytest.fixture
def base(tmp_path):
    return tmp_path, write_base_weights(small_model(), tmp_path, ALONE, max_file_bytes=900)


def shaped(model, *shapes):
    """The model with tables of these shapes."""
    model.tables = build_tables(shapes, init_scale=0.3, device=torch.device("cpu"), seed=7)
    model.table_sizes = {s.name: (s.rows, s.width) for s in shapes}
    return model


def resized(**sizes):
    def change(model, _directory, entries):
        shapes = [
            TableShape(
                name=s.name,
                rows=sizes.get(s.name, (s.rows, s.width))[0],
                width=sizes.get(s.name, (s.rows, s.width))[1],
                features=s.features,
            )
            for s in SHAPES
        ]
        return shaped(model, *shapes), entries, Growth()

    return change


def one_table_more(model, _directory, entries):
    new = TableShape(name="new", rows=9, width=4, features=("new",))
    return shaped(model, *SHAPES, new), entries, Growth()


def one_table_less(model, _directory, entries):
    return shaped(model, *SHAPES[:-1]), entries, Growth()


def longer_with_a_rule(model, directory, entries):
    model, entries, _ = resized(hour=(20, 8))(model, directory, entries)
    rule = RowOrigin(rows_before=7, of=lambda rows_R: rows_R % 7)
    return model, entries, Growth(rows={"hour": rule})


def longer_without_a_rule(model, directory, entries):
    model, entries, _ = resized(hour=(20, 8))(model, directory, entries)
    return model, entries, Growth(rows={"hour": "20 is no multiple"})


def other_tensors(change):
    """The dense part is changed where it lies, by a function of its tensors."""

    def rewrite(model, directory, entries):
        tensors = load_file(directory / "dense.safetensors")
        change(tensors)
        dense = save_tensors(tensors, directory, "dense.safetensors")
        return model, [e if e.table else dense for e in entries], Growth()

    return rewrite


def half_tables(model, directory, entries):
    half = directory / "half"
    for number, entry in enumerate(entries):
        if entry.table == "hour":
            path = directory / entry.path
            entries[number] = replace(entry, **rectangles_entry(path, half), dtype="float16")
            (half / "x").replace(path)
    return model, entries, Growth()


def rectangles_entry(path, folder):
    """The same rectangle in fp16, in `folder`; what its entry says of its bytes."""
    found = save_tensors({"weight": load_file(path)["weight"].half()}, folder, "x")
    return {"sha256": found.sha256, "bytes": found.bytes}


def wider_x(model, _directory, entries):
    trunk = model.trunk
    wide = type(trunk)(width=40 + NUMERIC + 5, cross_layers=2, mlp=[16], experts=3,
                       expert_width=8, tasks=3)  # fmt: skip
    model.trunk = wide
    now = [LAYOUT[0], Input("new", 5), *LAYOUT[1:]]
    return model, entries, Growth(inputs=input_origin(LAYOUT, now))


def other_order(model, _directory, entries):
    return model, entries, Growth(inputs=input_origin(LAYOUT, LAYOUT[::-1]))


def other_gate(model, _directory, entries):
    model.trunk.gate = nn.Linear(7, 9)
    return model, entries, Growth()


ALONG_X = [
    *(f"dense:trunk.cross.{kind}.{layer}" for kind in ("bias", "kernels") for layer in (0, 1)),
    "dense:trunk.expert.weight", "dense:trunk.gate.weight", "dense:trunk.mlp.0.weight",
]  # fmt: skip
CASES = {
    "a table missing": (one_table_more, ["table:new:missing"]),
    "a table unexpected": (one_table_less, ["table:shop:unexpected"]),
    "a table wider": (resized(shop=(50, 20)), ["table:shop:changed"]),
    "a table shorter": (resized(shop=(40, 16)), ["table:shop:changed"]),
    "a table longer, with a rule": (longer_with_a_rule, ["table:hour:grown"]),
    "a table longer, without one": (longer_without_a_rule, ["table:hour:changed"]),
    "a table of another type": (half_tables, ["table:hour:dtype"]),
    "a tensor missing": (
        other_tensors(lambda tensors: tensors.pop("heads.b2_T")), ["dense:heads.b2_T:missing"],
    ),
    "a tensor unexpected": (
        other_tensors(lambda tensors: tensors.update(extra=torch.ones(2))),
        ["dense:extra:unexpected"],
    ),
    "a tensor of another type": (
        other_tensors(lambda t: t.update({"heads.b2_T": t["heads.b2_T"].double()})),
        ["dense:heads.b2_T:dtype"],
    ),
    "a tensor of another shape": (
        other_gate, ["dense:trunk.gate.bias:changed", "dense:trunk.gate.weight:changed"][1:],
    ),
    "more inputs": (wider_x, [f"{name}:grown" for name in ALONG_X]),
    "inputs in another order": (other_order, [f"{name}:relaid" for name in ALONG_X]),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_each_difference_is_refused_by_name_and_nothing_is_loaded(base, case):
    change, allowances = CASES[case]
    model, entries, growth = change(small_model(seed=1), *base)
    before = digest_model(model, ALONE)
    for left_out in allowances:
        allow = [word for word in allowances if word != left_out]
        with pytest.raises(BadRequest) as refused:
            read_base_weights(model, base[0], entries, ALONE, allow=allow, growth=growth)
        assert re.findall(r"allow=(\S+)", str(refused.value)) == [left_out]
        assert digest_model(model, ALONE) == before


@pytest.mark.parametrize("case", CASES)
def test_each_difference_passes_when_it_is_named(base, case):
    change, allowances = CASES[case]
    model, entries, growth = change(small_model(seed=1), *base)
    before = digest_model(model, ALONE).by_name
    expected = audit_base(model, base[0], entries, allow=allowances, growth=growth)
    told = read_base_weights(model, base[0], entries, ALONE, allow=allowances, growth=growth)
    assert told == expected
    assert [line.partition(": ")[0] for line in told] == allowances
    found = digest_model(model, ALONE).by_name
    whole = digest_model(small_model(), ALONE).by_name
    named = {word.split(":")[1] for word in allowances}
    for name, value in found.items():
        if name not in named or allowances[0].endswith("dtype"):
            is_same = name in whole and value == whole[name]
            assert is_same or allowances == ["table:hour:dtype"], name
        elif "cross.bias" not in name:  # starts at zero, and so was published
            is_fresh = allowances[0].endswith((":missing", ":changed"))
            assert (value == before[name]) == is_fresh, name


def test_half_a_table_is_converted(base):
    model, entries, _ = half_tables(small_model(seed=1), *base)
    read_base_weights(model, base[0], entries, ALONE, allow=["table:hour:dtype"])
    whole = small_model().tables.embedding_bags["hour"].weight
    assert torch.equal(model.tables.embedding_bags["hour"].weight, whole.half().float())


@pytest.mark.parametrize("buffer_bytes", [1, 100, 2**20])
def test_a_grown_table_follows_its_rule(base, monkeypatch, buffer_bytes):
    monkeypatch.setattr(growing, "BUFFER_BYTES", buffer_bytes)
    model, entries, growth = longer_with_a_rule(small_model(seed=1), *base)
    read_base_weights(model, base[0], entries, ALONE, allow=["table:hour:grown"], growth=growth)
    before = small_model().tables.embedding_bags["hour"].weight
    assert torch.equal(model.tables.embedding_bags["hour"].weight, before[torch.arange(20) % 7])


def test_a_relaid_tensor_follows_its_inputs(base):
    model, entries, growth = other_order(small_model(seed=1), *base)
    allow = [f"{name}:relaid" for name in ALONG_X]
    read_base_weights(model, base[0], entries, ALONE, allow=allow, growth=growth)
    before = small_model().trunk.mlp[0].weight
    shop = model.trunk.mlp[0].weight[:, NUMERIC + 8 : NUMERIC + 8 + 16]
    assert torch.equal(shop, before[:, 16:32])


def test_all_differences_are_told_at_once(base):
    model, entries, _ = one_table_more(small_model(), *base)
    model, _, _ = other_gate(model, *base)
    with pytest.raises(BadRequest) as refused:
        read_base_weights(model, base[0], entries, ALONE)
    assert "table:new:missing: published nothing, model 9 x 4 float32" in str(refused.value)
    assert "dense:trunk.gate.weight:changed: published 9 x 59 float32" in str(refused.value)


@pytest.mark.parametrize("word", ["table:nothing:missing", "dense:user:changed", "table:user"])
def test_an_allowance_about_nothing_is_refused(base, word):
    with pytest.raises(BadRequest, match="neither the base nor the model has that"):
        read_base_weights(small_model(), *base, ALONE, allow=[word])


def test_an_allowance_that_is_not_met_is_told(base):
    told = read_base_weights(small_model(), *base, ALONE, allow=["table:user:grown"])
    assert told == ["table:user:grown: allowed, but there is no such difference"]


def test_why_a_table_cannot_grow_is_told(base):
    model, entries, growth = longer_without_a_rule(small_model(), *base)
    with pytest.raises(BadRequest, match=r"model 20 x 8 float32 \(20 is no multiple\)"):
        read_base_weights(model, base[0], entries, ALONE, growth=growth)


def test_files_of_two_types_make_no_table(base):
    entries = [
        replace(entry, dtype="float16") if entry.path.endswith("user/r0-c0.safetensors") else entry
        for entry in base[1]
    ]
    with pytest.raises(BadRequest, match="other files of the table"):
        read_base_weights(small_model(), base[0], entries, ALONE, allow=["table:user:dtype"])


def test_a_dense_part_elsewhere_is_refused(base):
    entries = [e if e.table else replace(e, path="other.safetensors") for e in base[1]]
    with pytest.raises(BadRequest, match=r"expected 1, dense\.safetensors"):
        read_base_weights(small_model(), base[0], entries, ALONE)


def test_every_type_of_safetensors_has_torch_s_name(tmp_path):
    for name in rectangles.TORCH_TYPES.values():
        tensor = torch.zeros(2, dtype=getattr(torch, name))
        save_tensors({"t": tensor}, tmp_path, "t.safetensors")
        with rectangles.opened(tmp_path / "t.safetensors") as file:
            named = rectangles.type_named(file.get_slice("t").get_dtype())
        assert named == name == rectangles.dtype_of(tensor)


def test_dense_tensors_are_all_of_the_model(base):
    assert set(load_file(base[0] / "dense.safetensors")) == set(dense_state(small_model()))
