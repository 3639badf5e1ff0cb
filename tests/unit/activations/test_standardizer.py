"""What kernels read of a row: standardised over tuning rows, and narrowed where that is asked."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.activations import represent as represent_module
from iak.pipeline.activations import standardizer
from iak.pipeline.activations.cache import ActivationCache, key_of
from iak.pipeline.activations.standardizer import Standardizer, fit_standardizer
from iak.pipeline.model.representation import Representation
from tests.unit.iak.small import ALONE, normal

ROWS, H, X = 400, 3, 6


def rows(seed=0):
    """x with a unit that follows its first one closely, and a constant unit."""
    x = normal(ROWS, 4, seed=seed) * torch.tensor([1.0, 3.0, 0.2, 5.0]) + 2
    x = torch.cat([x, x[:, :1] + 0.1 * normal(ROWS, 1, seed=seed + 1), torch.ones(ROWS, 1)], dim=1)
    return normal(ROWS, H, seed=seed + 2).abs(), x


class Sample:
    """Rows as `fit_standardizer` reads them, some at a time."""

    def __init__(self, h, x):
        self.h, self.x = h, x

    def __len__(self):
        return len(self.h)

    def slice(self, start, count):
        return Sample(self.h[start : start + count], self.x[start : start + count])


@pytest.fixture
def fitted(monkeypatch):
    def represented(_model, sample, _catalog, **_settings):
        """Return h and x with one more row, as a batch that is filled up has."""
        return Representation(*(torch.cat([part, part[:1]]) for part in (sample.h, sample.x)))

    monkeypatch.setattr(standardizer, "represent_rows", represented)
    monkeypatch.setattr(standardizer, "LOOK_UP_ROWS", 128)

    def fit(reads_x=True, narrow=0):
        return fit_standardizer(
            None, Sample(*rows()), None, reads_x=reads_x, narrow=narrow, worker=ALONE
        )

    return fit


@pytest.mark.parametrize("reads_x", [True, False])
def test_standardised_inputs_have_mean_zero_and_deviation_one(fitted, reads_x):
    standard = fitted(reads_x=reads_x)
    a_BA = standard.of(*rows())
    assert a_BA.shape[1] == standard.width == (H + X if reads_x else H)
    torch.testing.assert_close(a_BA.mean(0), torch.zeros(standard.width), atol=1e-5, rtol=0)
    expected = torch.ones(standard.width)
    if reads_x:
        expected[-1] = 0.0  # a constant input stays finite
    torch.testing.assert_close(a_BA.std(0, correction=0), expected)


def test_narrowed_inputs_are_the_principal_components_each_of_unit_variance(fitted):
    standard = fitted(narrow=4)
    a_BA = standard.of(*rows())
    assert a_BA.shape[1] == standard.width == H + 4
    torch.testing.assert_close(a_BA[:, :H], fitted().of(*rows())[:, :H])
    covariance = torch.cov(a_BA[:, H:].T, correction=0)
    torch.testing.assert_close(covariance, torch.eye(4), atol=1e-4, rtol=0)
    x_BX = fitted().of(*rows())[:, H:].double()
    _, _, vectors = torch.linalg.svd(x_BX, full_matrices=False)
    result, _ = torch.linalg.qr(standard.narrow_XN.double())
    overlap = torch.linalg.svdvals(result.T @ vectors[:4].T)
    torch.testing.assert_close(overlap, torch.ones(4).double(), atol=1e-4, rtol=0)


def test_components_without_variance_are_zero_and_as_many_as_x_has_change_nothing(fitted):
    standard = fitted(narrow=5)
    assert torch.isfinite(standard.narrow_XN).all()
    assert fitted(narrow=X).narrow_XN is None
    assert fitted(reads_x=False, narrow=2).narrow_XN is None


@given(seed=st.integers(0, 99), narrow=st.sampled_from([0, 2]))
def test_h_comes_back_from_what_is_kept_and_the_standard_from_its_file(seed, narrow):
    standard = Standardizer(
        mean_A=normal(H + X, seed=seed), scale_A=1 + normal(H + X, seed=seed).abs(), reads_x=True,
        narrow_XN=normal(X, narrow, seed=seed) if narrow else None,
    )  # fmt: skip
    h_BH, x_BX = normal(7, H, seed=seed), normal(7, X, seed=seed + 1)
    read = standard.read(standard.of(h_BH, x_BX), H)
    torch.testing.assert_close(read.h_BH, h_BH, atol=1e-5, rtol=1e-5)
    again = Standardizer.from_tensors(standard.tensors(), reads_x=True)
    assert torch.equal(again.of(h_BH, x_BX), read.a_BA)


def test_a_narrowed_row_is_rounded_alike_in_few_rows_and_in_many():
    inputs, components, rows = 1796, 256, 2048  # as the shipped kernels narrow a wide base's x
    standard = Standardizer(
        mean_A=normal(4 + inputs), scale_A=1 + normal(4 + inputs).abs(), reads_x=True,
        narrow_XN=normal(inputs, components),
    )  # fmt: skip
    h_BH, x_BX = normal(rows, 4), normal(rows, inputs, seed=1)
    together_BA = standard.of(h_BH, x_BX)
    for first, count in ((0, 32), (64, 96), (1024, 544), (600, 1424)):
        some = slice(first, first + count)
        assert torch.equal(standard.of(h_BH[some], x_BX[some]), together_BA[some])


@torch.no_grad()
@pytest.mark.parametrize("components", [1, 8, 12])
def test_a_narrowed_row_is_rounded_alike_wherever_it_lies_in_a_batch(components):
    """With 50 inputs a row begins at a multiple of 8 bytes; an AMD EPYC rounds by that."""
    inputs, rows = 50, 480
    standard = Standardizer(
        mean_A=normal(4 + inputs), scale_A=1 + normal(4 + inputs).abs(), reads_x=True,
        narrow_XN=normal(inputs, components),
    )  # fmt: skip
    h_BH, x_BX = normal(rows, 4), normal(rows, inputs, seed=1)
    together_BA = standard.of(h_BH, x_BX)
    for first in range(1, 4):
        some = slice(first, first + 96)
        assert torch.equal(standard.of(h_BH[some].clone(), x_BX[some].clone()), together_BA[some])


def test_a_narrowed_row_is_the_map_of_its_standardised_inputs():
    standard = Standardizer(
        mean_A=normal(9), scale_A=0.1 + normal(9, seed=1).abs(), reads_x=True,
        narrow_XN=normal(5, 3, seed=2),
    )  # fmt: skip
    h_BH, x_BX = normal(40, 4, seed=3), normal(40, 5, seed=4)
    a_BA = (torch.cat([h_BH, x_BX], dim=1) - standard.mean_A) / standard.scale_A
    expected_BA = torch.cat([a_BA[:, :4], a_BA[:, 4:] @ standard.narrow_XN], dim=1)
    torch.testing.assert_close(standard.of(h_BH, x_BX), expected_BA, atol=1e-4, rtol=1e-5)


class Linear(torch.nn.Module):
    """x as it is, and h as a product of it."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(X, H)

    def represent(self, _, x_BX):
        return Representation(h_BH=self.layer(x_BX), x_BX=x_BX)


def test_products_in_bf16_change_h_a_little_and_x_not_at_all(monkeypatch):
    monkeypatch.setattr(represent_module, "unwrap_frozen", lambda model: model)
    model, x_BX = Linear().requires_grad_(False), rows()[1]
    batch = SimpleNamespace(ids=None, numeric_BN=x_BX)
    full, lower = (
        represent_module.represent(model, batch, dtype) for dtype in (torch.float32, torch.bfloat16)
    )
    assert torch.equal(full.h_BH, model.layer(x_BX))
    assert torch.equal(lower.x_BX, x_BX)
    assert lower.h_BH.dtype == torch.float32
    assert not torch.equal(lower.h_BH, full.h_BH)
    torch.testing.assert_close(lower.h_BH, full.h_BH, atol=0.1, rtol=0.02)


def test_a_narrowed_standard_is_kept_in_the_cache_and_read_back(fitted, tmp_path):
    """One worker broadcasts nothing, so its components come straight from LAPACK, by columns."""
    standard = fitted(narrow=2)
    store = ActivationCache(tmp_path)
    store.write_standard(key_of(what="standard"), standard.tensors())
    store.close()
    assert store.usage.stopped == ""
    result = ActivationCache(tmp_path).read_standard(key_of(what="standard"))
    assert result.keys() == standard.tensors().keys()
    for name, tensor in standard.tensors().items():
        assert tensor.is_contiguous()
        assert torch.equal(result[name], tensor)


def test_tensors_that_lie_by_columns_are_kept_all_the_same(tmp_path):
    by_columns = torch.arange(6.0).reshape(2, 3).T
    store = ActivationCache(tmp_path)
    store.write_standard(key_of(what="standard"), {"narrow": by_columns})
    store.close()
    result = ActivationCache(tmp_path).read_standard(key_of(what="standard"))
    assert torch.equal(result["narrow"], by_columns)
