"""Every verb's settings mean the same in three spellings, and what is wrong is refused by name."""

import functools
import json

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from iak.jobs.cli import read_spec
from iak.jobs.verbs import VERBS, spec_class
from iak.pipeline.errors import BadRequest
from iak.pipeline.runs.load import merged, nested
from tests.unit.jobs.random_specs import chosen, leaves, required

WITH_SETTINGS = sorted(verb for verb in VERBS if verb != "doctor")
ALSO = {
    "registry promote": {"run": "r"},
    "registry rollback": {"domain": ["pooled"]},
    "nightly backfill": {"nights": "2026-10-20..2026-10-28"},
}
"""Settings that a verb needs together, and those that hardly any text is."""


def fixed(verb):
    """What is not drawn: a catalogue has to exist, since its presets are read."""
    has_catalog = "catalog" in spec_class(verb).model_fields
    return ALSO.get(verb, {}) | ({"catalog": "planted"} if has_catalog else {})


@functools.cache
def settings_of(verb):
    return chosen(spec_class(verb), fixed(verb))


def spelled(value):
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def as_pairs(asked):
    return [f"{name}={spelled(value)}" for name, value in asked.items()]


def as_flags(asked):
    """`--key value`, joined by = where the value looks like an option."""
    words = []
    for name, value in asked.items():
        flag = f"--{name.replace('_', '-')}" if "." not in name else f"--{name}"
        text = spelled(value)
        words += [f"{flag}={text}"] if text.startswith("-") else [flag, text]
    return words


def as_file(asked, path):
    lines = [f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in asked.items()]
    path.write_text("".join(lines))
    return ["--config", str(path)]


def with_defaults(verb, asked):
    """What is asked for over the defaults of the verb, of its files and of the catalogue."""
    names = {*required(spec_class(verb)), *fixed(verb)}
    least = read_spec(verb, as_pairs({n: v for n, v in asked.items() if n in names}))
    tree = merged(least.model_dump(by_alias=True), nested(asked))
    return spec_class(verb).model_validate(tree)


@pytest.mark.parametrize("verb", WITH_SETTINGS)
@settings(
    max_examples=5,
    deadline=None,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much, HealthCheck.too_slow,
    ],
)  # fmt: skip
@given(data=st.data())
def test_any_spec_of_any_verb_is_the_same_in_three_spellings(tmp_path, verb, data):
    asked = data.draw(settings_of(verb), label="asked")
    assume("smoke" not in asked)  # it brings settings of its own
    try:
        wanted = with_defaults(verb, asked)
    except ValidationError:
        assume(False)  # settings that contradict each other
    assert read_spec(verb, as_pairs(asked)) == wanted
    assert read_spec(verb, as_flags(asked)) == wanted
    assert read_spec(verb, [f"--{pair}" for pair in as_pairs(asked)]) == wanted
    assert read_spec(verb, as_file(asked, tmp_path / "c.toml")) == wanted


@given(mlp=st.lists(st.integers(1, 65_536), min_size=2, max_size=5))
def test_a_list_of_numbers_needs_no_brackets(mlp):
    bare, bracketed = ",".join(map(str, mlp)), json.dumps(mlp)
    specs = [read_spec("pretrain", [*ASKED, f"model.mlp={text}"]) for text in (bare, bracketed)]
    assert specs[0] == specs[1]
    assert list(specs[0].model.mlp) == mlp


def test_a_comma_in_free_text_is_kept():
    spec = read_spec("registry rollback", ["registry=r", "domain=region=a,daypart=b"])
    assert spec.domain == ("region=a,daypart=b",)


@pytest.mark.parametrize("text", ["256,", ",256", "256,many"])
def test_a_list_without_brackets_that_has_no_numbers_is_refused_by_its_name(text):
    with pytest.raises(BadRequest, match=r"model\.mlp\.\d: expected whole number"):
        read_spec("pretrain", [*ASKED, f"model.mlp={text}"])


def test_settings_of_every_kind_are_drawn():
    """The law above is about lists, tables, dates, flags and paths only if specs have them."""
    names = {name for verb in WITH_SETTINGS for name, _ in leaves(spec_class(verb))}
    assert {"model.mlp", "task_weights", "today", "bf16", "placement.plan"} <= names


ASKED = ("catalog=planted", "data_root=/logs", "run_dir=r")
NEAR = "Did you mean optim.table_lr or optim.table_eps or optim.table_penalty?"
GROUP = "optim is a group of settings and takes no value; write optim.NAME=VALUE"
REFUSED = {
    "unknown key, pair": (["optim.tabel_lr=1"], f"there is no setting 'optim.tabel_lr'. {NEAR}"),
    "unknown key, flag": (
        ["--optim.tabel_lr", "1"], f"there is no setting 'optim.tabel_lr'. {NEAR}",
    ),
    "unknown key, file": ("optim.tabel_lr = 1", f"there is no setting 'optim.tabel_lr'. {NEAR}"),
    "like no key": (["zork=1"], "there is no setting 'zork'. iak pretrain --help lists them all"),
    "wrong type, pair": (
        ["workers=many"], "one thing to fix:\n  workers: expected whole number, seen 'many'",
    ),
    "wrong type, flag": (
        ["--workers", "many"], "one thing to fix:\n  workers: expected whole number, seen 'many'",
    ),
    "wrong type, file": (
        'workers = "many"', "one thing to fix:\n  workers: expected whole number, seen 'many'",
    ),
    "neither true nor false, pair": (
        ["bf16=maybe"], "one thing to fix:\n  bf16: expected true or false, seen 'maybe'",
    ),
    "neither true nor false, flag": (
        ["--bf16=maybe"], "bf16: expected true or false, seen 'maybe'",
    ),
    "a number for a path": ("run_dir = 1", "run_dir: expected text in quotes, seen 1"),
    "a list for a number": ("workers = [1, 2]", "workers: expected whole number, seen '[1, 2]'"),
    "missing value": (
        ["--workers"], "workers: the value is missing; write workers=VALUE or --workers VALUE",
    ),
    "missing value before a flag": (
        ["--workers", "--seed", "3"],
        "workers: the value is missing; write workers=VALUE or --workers VALUE",
    ),
    "missing file": (
        ["--config"], "config: the value is missing; write config=VALUE or --config VALUE",
    ),
    "repeated pair": (["workers=1", "workers=2"], "workers is given twice; give it once"),
    "repeated flag": (["--workers", "1", "--workers=2"], "workers is given twice; give it once"),
    "pair and flag": (["--workers", "1", "workers=2"], "workers is given twice; give it once"),
    "on and off": (["--bf16", "--no-bf16"], "bf16 is given twice; give it once"),
    "repeated entry": (
        ["task_weights.ctr=1", "task_weights.ctr=2"],
        "task_weights.ctr is given twice; give it once",
    ),
    "value for a group, pair": (["optim=3"], GROUP),
    "value for a group, flag": (["--optim", "3"], GROUP),
    "value for a group, file": ("optim = 3", GROUP),
    "below a number, pair": (
        ["workers.x=3"], "there is no setting 'workers.x'. Did you mean workers or min_workers?",
    ),
    "below a number, file": (
        "workers.x = 3", "there is no setting 'workers.x'. Did you mean workers or min_workers?",
    ),
    "old flat spelling, pair": (["plan=p.json"], "plan is now placement.plan"),
    "old flat spelling, flag": (["--plan", "p.json"], "plan is now placement.plan"),
    "old flat spelling, file": (
        "[sharding]\nitem_id = 'row_wise'", "sharding.item_id is now placement.sharding.item_id",
    ),
    "a word": (["fast"], "'fast' is no setting; write key=value, or --key value"),
    "a value for --no": (["no-bf16=true"], "no-bf16 takes no value; write it as --no-bf16"),
}  # fmt: skip
"""What is wrong -> words after what `iak pretrain` needs, or a file's content; the message."""


@pytest.mark.parametrize(("words", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_wrong_is_refused_by_name(tmp_path, words, message):
    if isinstance(words, str):
        (tmp_path / "c.toml").write_text(words + "\n")
        words = ["--config", str(tmp_path / "c.toml")]
    asked = [word for word in ASKED if "run_dir" not in str(words) or "run_dir" not in word]
    with pytest.raises(BadRequest) as refused:
        read_spec("pretrain", [*asked, *words])
    said = str(refused.value).removesuffix("\nSee iak pretrain --help")
    assert said == f"iak pretrain: {message}"


@pytest.mark.parametrize(
    ("words", "is_on"),
    [
        (["--bf16"], True),
        (["--no-bf16"], False),
        (["--bf16", "true"], True),
        (["--bf16", "false"], False),
        (["--bf16=false"], False),
        (["bf16=true"], True),
        (["bf16=false"], False),
        (["--bf16", "workers=3"], True),
        (["--bf16", "--workers", "3"], True),
    ],
)
def test_what_is_true_or_false_is_said_in_any_usual_way(words, is_on):
    assert read_spec("pretrain", [*ASKED, *words]).bf16 is is_on


def test_words_without_names_may_stand_anywhere_and_are_taken_in_order():
    spec = read_spec("compare", ["R1", "json=x.json", "R2", "--common", "valid"])
    assert (str(spec.first), str(spec.second), spec.split) == ("R1", "R2", "valid")
    with pytest.raises(BadRequest, match="'more' is no setting"):
        read_spec("compare", ["R1", "R2", "valid", "more"])
