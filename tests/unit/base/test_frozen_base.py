"""A published base through its front door: it answers as it did, and nothing in it moves."""

import logging

import pytest
import torch

from iak.pipeline.base.frozen_base import FrozenBase
from iak.pipeline.errors import BadRequest, Corrupt
from iak.schemas.job import FrozenTablesSpec
from iak.schemas.plan import ResolvedPlacement
from tests.unit.base.test_published_base import ALONE, SECOND, logits_of, published

FP32 = FrozenTablesSpec(precision="fp32")


def answer_of(base):
    opened = base.published
    return logits_of(base.model, opened.catalog, opened.encoding, SECOND)


@pytest.mark.parametrize("is_mapped", [False, True], ids=["stored", "mapped"])
def test_a_loaded_base_answers_as_it_was_published(tmp_path, is_mapped):
    opened, expected = published(tmp_path / "run" / "base", "crosses")
    tables = FP32.model_copy(update={"mapped": is_mapped})
    base = FrozenBase.load(opened, tables, ResolvedPlacement(), ALONE)
    # A bag's sum is rounded in the order of its kernel, which differs from CPU to CPU.
    torch.testing.assert_close(answer_of(base), expected, atol=1e-6, rtol=0)
    assert base.digest().by_name == opened.manifest.digest
    assert (tmp_path / "run" / "mapped").is_dir() == is_mapped
    assert base.tables.precisions == dict.fromkeys(base.model.table_sizes, "fp32")


def test_nothing_of_it_learns(tmp_path):
    opened, _ = published(tmp_path, "mlp")
    base = FrozenBase.load(opened, FP32, ResolvedPlacement(), ALONE)
    assert not base.model.training
    assert not any(parameter.requires_grad for parameter in base.model.parameters())
    assert not answer_of(base).requires_grad
    assert base.heads is base.model.heads


def test_a_weight_that_changed_changes_the_digest(tmp_path):
    opened, _ = published(tmp_path, "mlp")
    base = FrozenBase.load(opened, FP32, ResolvedPlacement(), ALONE)
    before = base.digest()
    assert base.digest() == before
    base.tables.local_rows[0].bytes_RN[0, 0] ^= 1
    assert base.digest() != before


def test_mapped_tables_lie_where_they_are_wanted(tmp_path):
    opened, expected = published(tmp_path / "run" / "base", "mlp")
    tables = FP32.model_copy(update={"mapped": True})
    folder = tmp_path / "elsewhere"
    base = FrozenBase.load(opened, tables, ResolvedPlacement(), ALONE, map_folder=folder)
    assert [path.name for path in folder.iterdir()] == [opened.manifest.fingerprint[:16]]
    assert not (tmp_path / "run" / "mapped").exists()
    torch.testing.assert_close(answer_of(base), expected, atol=1e-6, rtol=0)


def test_a_precision_that_nobody_measured_is_refused_unless_any_cost_is_taken(tmp_path, caplog):
    opened, expected = published(tmp_path, "mlp")
    with pytest.raises(BadRequest, match="nobody measured what int8 costs"):
        FrozenBase.load(opened, FrozenTablesSpec(), ResolvedPlacement(), ALONE)
    with caplog.at_level(logging.WARNING):
        base = FrozenBase.load(opened, FrozenTablesSpec(tolerance=1.0), ResolvedPlacement(), ALONE)
    assert caplog.records == []
    assert set(base.tables.precisions.values()) == {"int8"}
    assert not torch.equal(answer_of(base), expected)
    assert torch.allclose(answer_of(base), expected, atol=0.05)


def test_a_placement_of_an_unknown_table_is_refused(tmp_path):
    opened, _ = published(tmp_path, "mlp")
    placement = ResolvedPlacement(sharding={"nobody": "row_wise"})
    with pytest.raises(BadRequest, match=r"unknown tables ..nobody.."):
        FrozenBase.load(opened, FP32, placement, ALONE)


def test_a_file_that_is_not_what_was_published_is_refused(tmp_path):
    opened, _ = published(tmp_path, "mlp")
    file = next((tmp_path / "tables").rglob("*.safetensors"))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(Corrupt, match="is not the file that was published"):
        FrozenBase.load(opened, FP32, ResolvedPlacement(), ALONE)
