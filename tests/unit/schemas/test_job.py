import pytest
from pydantic import ValidationError

from iak.jobs.cli import read_spec
from iak.schemas.job import EvaluatedTablesSpec, ModelSpec, PretrainSpec

ASKED = {"catalog": "planted", "data_root": "/logs", "run_dir": "/runs/r"}
WORDS = (
    "table:item:grown",
    "table:new_feature:missing",
    "table:a-b.c:changed",
    "dense:trunk.mlp.0.weight:grown",
    "dense:trunk.cross.kernels.0:relaid",
    "dense:heads.b2_T:dtype",
)


def test_an_allowance_is_part_name_and_kind():
    spec = PretrainSpec.model_validate(ASKED | {"from": "/runs/base", "allow": WORDS})
    assert spec.allow == WORDS


@pytest.mark.parametrize(
    "word",
    [
        "item",
        "table:item",
        "table:item:larger",
        "table:item:relaid",
        "tower:item:grown",
        "table::grown",
    ],
)
def test_other_words_are_no_allowance(word):
    with pytest.raises(ValidationError, match="should match pattern"):
        PretrainSpec.model_validate(ASKED | {"from": "/runs/base", "allow": [word]})


def test_an_allowance_needs_a_base():
    with pytest.raises(ValidationError, match="`from` names none"):
        PretrainSpec.model_validate(ASKED | {"allow": WORDS[:1]})


def test_the_command_line_takes_one_allowance_a_word():
    words = ["catalog=planted", "data_root=/logs", "run_dir=/r", "from=/base"]
    spec = read_spec("pretrain", [*words, f"allow={WORDS[0]}", f"allow={WORDS[3]}"])
    assert spec.allow == (WORDS[0], WORDS[3])


@pytest.mark.parametrize(
    ("verb", "words", "precision"),
    [
        ("evaluate", [], "fp32"),
        ("evaluate", ["tables.tolerance=0.01"], "fp32"),
        ("evaluate", ["tables.precision=int8"], "int8"),
        ("finetune", ["tables.tolerance=0.01"], "int8"),
    ],
)
def test_evaluation_looks_tables_up_in_fp32_unless_told_otherwise(verb, words, precision):
    asked = ["catalog=planted", "data_root=/logs", "run_dir=/r", "base=/base"]
    assert read_spec(verb, [*asked, *words]).tables.precision == precision


def test_the_gates_floors_and_margins_have_one_default():
    gate = read_spec(
        "finetune", ["catalog=planted", "data_root=/l", "run_dir=/r", "base=/b", "gate.z=2"]
    ).gate
    assert gate.model_dump() == {
        "z": 2.0, "min_positives": 30, "min_negatives": 30, "auc_margin": 0.002,
        "logloss_margin": 0.005, "calibration_margin": 0.05,
        "chain": {
            "alpha": 0.05, "at_once": 0.5, "at_once_margin": 0.003, "floor": 0.02,
            "canary_hours": 24.0,
        },
    }  # fmt: skip


TABLES = {
    "tolerance": "0.01",
    "products": "bf16",
    "mapped": "true",
    "verify_mapped": "true",
    "mapped_days": "3",
    "precisions.item_id": "int8",
}


@pytest.mark.parametrize("way", ["key=value", "--key value", "--config"])
@pytest.mark.parametrize("key", TABLES)
def test_no_key_of_tables_turns_an_evaluation_into_low_precision(key, way, tmp_path):
    assert {name.partition(".")[0] for name in TABLES} | {"precision"} == set(
        EvaluatedTablesSpec.model_fields
    )
    value = TABLES[key]
    text = value if value in ("true", "0.01", "3") else f'"{value}"'
    config = tmp_path / "c.toml"
    config.write_text(f"[tables]\n{key} = {text}\n")
    words = {
        "key=value": [f"tables.{key}={value}"],
        "--key value": [f"--tables.{key}", value] if value != "true" else [f"--tables.{key}"],
        "--config": ["--config", str(config)],
    }[way]
    asked = ["catalog=planted", "data_root=/logs", "run_dir=/r", "base=/base"]
    tables = read_spec("evaluate", [*asked, *words]).tables
    assert tables.precision == "fp32"
    assert tables != EvaluatedTablesSpec(), "the key itself was heard"
    assert read_spec("finetune", [*asked, *words]).tables.precision == "int8"


def test_later_settings_change_no_document_of_another_model():
    """A run that was begun before they existed is still the same run."""
    later = {"levels", "shared_experts", "history", "positions", "attention_units", "blocks"}
    later |= {"filter_heights", "filters", "vertical_filters"}
    assert not later & set(ModelSpec().model_dump())
    other = ModelSpec(
        trunk="ple",
        levels=3,
        shared_experts=1,
        history="din",
        positions=7,
        attention_units=5,
        blocks=3,
        filter_heights=(5,),
        filters=7,
        vertical_filters=9,
    )
    assert ModelSpec.model_validate(other.model_dump(mode="json")) == other
