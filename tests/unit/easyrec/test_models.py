"""Every model that is built here answers as TorchEasyRec itself did, bit for bit."""

import numpy as np
import pytest
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from iak.pipeline.base.adopted_module import build_module
from iak.pipeline.base.module_weights import load_weights
from iak.pipeline.easyrec.models import build
from iak.pipeline.errors import BadRequest
from iak.pipeline.model.adopted import AdoptedModel
from tests.easyrec_models import (
    LISTS,
    MODELS,
    NUMBERS,
    ROWS,
    config_text,
    draw_rows,
    read_reference,
    tasks_of,
)


def batch_of(rows):
    """Rows as a module gets them: 0 for a null, and id + 2."""
    values, lengths = [], []
    for name in ROWS:
        for cell in rows[name].to_pylist():
            ids = (cell or []) if name in LISTS else [-2 if cell is None else cell]
            values += [id_ + 2 for id_ in ids]
            lengths.append(len(ids))
    ids = KeyedJaggedTensor(
        keys=list(ROWS), values=torch.tensor(values), lengths=torch.tensor(lengths)
    )
    return ids, torch.stack([torch.from_numpy(np.array(rows[name])) for name in NUMBERS], dim=1)


def build_small(tmp_path, name, text=None):
    path = tmp_path / "pipeline.config"
    path.write_text(text or config_text(name))
    return build(path).eval()


def loaded(tmp_path, name):
    """A model with the weights of the reference, and the reference's logits."""
    model = build_small(tmp_path, name)
    weights, logits = read_reference(name)
    tensors = {key: torch.from_numpy(np.array(weight)) for key, weight in weights.items()}
    load_weights(model.state_dict(), tensors, where="the reference")
    return model, torch.from_numpy(np.array(logits))


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_a_model_answers_as_torcheasyrec_did(tmp_path, name):
    model, logits_BT = loaded(tmp_path, name)
    h_BH = model.represent(*batch_of(draw_rows()))
    assert h_BH.shape == (480, model.units)
    # Not to the bit on every processor: the reference was computed on another one.
    torch.testing.assert_close(model.tail(h_BH), logits_BT, atol=1e-5, rtol=1e-5)
    adopted = AdoptedModel(model, tasks=len(tasks_of(name)))
    torch.testing.assert_close(adopted(*batch_of(draw_rows())), logits_BT, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_every_weight_matters(tmp_path, name):
    """So that the comparison above would find any weight in another's place."""
    model, logits_BT = loaded(tmp_path, name)
    batch = batch_of(draw_rows())
    for key, weight in model.state_dict().items():
        if not weight.is_floating_point():
            continue
        before = weight.clone()
        weight.add_(torch.linspace(0.1, 1, weight.numel()).reshape(weight.shape))
        changed = model.tail(model.represent(*batch))
        weight.copy_(before)
        assert not torch.allclose(changed, logits_BT, atol=1e-5, rtol=1e-5), key


@pytest.mark.parametrize("name", MODELS)
def test_a_gradient_reaches_h_through_the_tail(tmp_path, name):
    model, _ = loaded(tmp_path, name)
    h_BH = model.represent(*batch_of(draw_rows(20))).detach().requires_grad_()
    model.tail(h_BH).sum().backward()
    assert h_BH.grad is not None
    assert (h_BH.grad != 0).any(dim=0).sum() > model.units / 2


def test_the_source_of_a_model_is_that_of_its_config_too(tmp_path):
    path = tmp_path / "pipeline.config"
    factory = f"iak.pipeline.easyrec.models:build({path})"
    path.write_text(config_text("mmoe"))
    module, source = build_module(factory)
    assert module.units == 12
    path.write_text(config_text("mmoe") + "# changed")
    assert build_module(factory)[1] != source
    path.write_text(config_text("mmoe").replace("mmoe {", "ple {"))
    with pytest.raises(BadRequest, match=r"^base\.config=.* describes a model"):
        build_module(factory)


@pytest.mark.parametrize(
    ("name", "old", "new", "says"),
    [
        ("dlrm", "hidden_units: [5, 4]", "hidden_units: [5, 3]", "vectors of one width"),
        ("dlrm", "dense_mlp { hidden_units: [5, 4]  }", "", "needs dlrm.dense_mlp"),
        ("deepfm", 'group_name: "wide"', 'group_name: "broad"', "reads group 'wide'"),
        (
            "deepfm_final",
            'fm" feature_names: "user"',
            'fm" feature_names: "price"',
            "have one width",
        ),
        ("dbmtl", 'relation_tower_names: "ctr"', 'relation_tower_names: "buy"', "not before it"),
        (
            "mmoe",
            '"item_emb" hash_bucket_size: 20',
            '"item_emb" hash_bucket_size: 21',
            "share the t",
        ),
    ],
)
def test_sizes_that_do_not_agree_are_refused(tmp_path, name, old, new, says):
    text = config_text(name)
    assert old in text
    with pytest.raises(ValueError, match=says):
        build_small(tmp_path, name, text.replace(old, new))
