"""A config is read, or refused by every field that has no counterpart."""

import pytest

from iak.pipeline.easyrec.config import read_config
from iak.pipeline.errors import BadRequest
from tests.easyrec_models import MODELS, NUMBERS, ROWS, config_text, tasks_of


def read(tmp_path, text):
    path = tmp_path / "pipeline.config"
    path.write_text(text)
    return read_config(path)


def changed(name, old, new):
    text = config_text(name)
    assert old in text, old
    return text.replace(old, new)


@pytest.mark.parametrize("name", MODELS)
def test_features_and_towers_of_a_model_are_read(tmp_path, name):
    config = read(tmp_path, config_text(name))
    assert name.startswith(config.kind)
    assert config.numbers in (NUMBERS, ())
    read_here = {name: feature.rows for name, feature in config.features.items() if feature.rows}
    assert read_here.items() <= ROWS.items()
    assert tuple(t.tower_name for t in config.towers) == (tasks_of(name) if config.towers else ())


CHANGES = {
    "of pyfg": ("fg_mode: FG_NONE", "fg_mode: FG_DAG", "data_config.fg_mode: ids are made"),
    "of pyfg, as older configs say it": ("fg_mode: FG_NONE", "fg_encoded: false", "fg_encoded: id"),
    "of a sampler": ("batch_size: 64", "negative_sampler {}", "negatives are sampled"),
    "in 16 bits": ("num_epochs: 1", 'mixed_precision: "BF16"', "the model computed in 16 bits"),
    "of averages": ("adam_optimizer {", "ema {} adam_optimizer {", "averages in dense_ema"),
    "of remapped ids": ("num_buckets: 30", "zch { zch_size: 30 }", "feature user.zch: the checkp"),
    "of a vocabulary elsewhere": (
        "num_buckets: 30",
        'vocab_file: "ids"',
        "feature user.vocab_file: not read here; say num_buckets:",
    ),
    "of weighted ids": ("num_buckets: 30", "num_buckets: 30 weighted: true", "ids with weights"),
    "of half tables": ("num_buckets: 30", 'num_buckets: 30 data_type: "FP16"', "FP32 alone"),
    "of masks alone": ("num_buckets: 30", "num_buckets: 30 use_mask: true", "use_mask needs"),
    "without rows": ("num_buckets: 30", "", "expected hash_bucket_size, num_buckets or vocab_l"),
    "without a width": ("embedding_dim: 4 } }", "} }", "embedding_dim is missing"),
    "of many numbers": ("value_dim: 1", "value_dim: 3", "a number of several values"),
    "of embedded numbers": ("value_dim: 1", "autodis {}", "numbers with an embedding of their"),
    "of an unknown pooling": ('pooling: "mean"', 'pooling: "max"', "expected sum or mean"),
    "of an unknown feature": ('feature_name: "age"', 'feature_name: "old"', "feature age of group"),
    "of another kind of feature": (
        "expr_feature {",
        "lookup_feature {",
        "feature ratio: a lookup_feature has no counterpart here",
    ),
    "of sequences": ("group_type: DEEP", "group_type: SEQUENCE", "expected DEEP or WIDE"),
    "of an encoder": ("group_type: DEEP", "group_type: DEEP sequence_groups {}", "sequences have"),
    "of many classes": ("num_expert: 3", "num_expert: 3 num_class: 2", "num_class: a task has one"),
    "of another loss": ("binary_cross_entropy {}", "jrc_loss {}", "answer with a logit"),
    "of an unknown activation": (
        "num_expert: 3",
        'num_expert: 3 gate_mlp { hidden_units: 2 activation: "Dice" }',
        "gate_mlp stands there 2 times",
    ),
    "of another model": ("mmoe {", "ple {", "model_config.ple: it has no counterpart here"),
    "with another part": ("num_expert: 3", "mask_net {}", "model_config.mmoe.mask_net: not built"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_model_is_refused_by_the_field_in_the_way(tmp_path, what):
    old, new, says = CHANGES[what]
    with pytest.raises(BadRequest, match="describes a model that is not built here") as caught:
        read(tmp_path, changed("mmoe", old, new))
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("name", "old", "new", "says"),
    [
        ("dlrm", "hidden_units: [5, 4]", 'hidden_units: 4 activation: "Dice"', "is not built here"),
        ("dlrm", "hidden_units: [5, 4]", "hidden_units: 4 use_bn: 1 use_ln: 1", "exclude each"),
        ("dlrm", "losses { binary_cross_entropy {} }", "", "model_config.losses: missing"),
        ("deepfm", '"item" group_type: WIDE', '"item" group_type: WIDE } x {', "model_config.x"),
        ("multi_tower", 'group_name: "item"', 'group_name: "user"', "['user'] are named twice"),
        ("dlrm", '"item:price"', '"item:price" fg_encoded_default_value: "1.5"', "a null reads as"),
        ("dlrm", 'value: "3"', 'value: "12"', "12 is no row of its table"),
        ("dlrm", 'value: "3"', 'value: "3\\x034"', "expected one value"),
        (
            "wide_and_deep",
            '"user" feature_names: "item" group',
            '"price" group',
            "in the wide grou",
        ),
    ],
)
def test_a_model_that_contradicts_itself_is_refused(tmp_path, name, old, new, says):
    with pytest.raises(BadRequest, match="describes a model that is not built here") as caught:
        read(tmp_path, changed(name, old, new))
    assert says in str(caught.value)


def test_all_problems_of_the_model_are_named_at_once_and_then_those_of_its_features(tmp_path):
    text = changed("mmoe", "fg_mode: FG_NONE", "fg_mode: FG_DAG")
    with pytest.raises(BadRequest) as caught:
        read(tmp_path, text.replace("num_expert: 3", "mask_net {}"))
    assert str(caught.value).count("\n  ") == 2
    text = changed("mmoe", "num_buckets: 30", "dynamicemb {}")
    with pytest.raises(BadRequest) as caught:
        read(tmp_path, text.replace("value_dim: 1", "value_dim: 3").replace('"mean"', '"max"'))
    assert str(caught.value).count("\n  ") == 3


def test_a_feature_that_no_group_names_is_not_looked_at(tmp_path):
    more = 'feature_configs { tokenize_feature { feature_name: "title" vocab_file: "v" } }'
    assert "title" not in read(tmp_path, config_text("mmoe") + more).features


def test_a_file_that_is_no_config_is_refused(tmp_path):
    with pytest.raises(BadRequest, match="cannot be read: it is not protobuf's text format"):
        read(tmp_path, "a { ")
    with pytest.raises(BadRequest, match="No such file"):
        read_config(tmp_path / "nowhere")
