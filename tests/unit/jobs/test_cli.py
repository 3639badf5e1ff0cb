import json
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from iak.jobs import cli
from iak.jobs.verbs import GROUPS, VERBS
from iak.pipeline.errors import BadRequest
from iak.schemas.job import DemoSpec, FinetuneSpec, PretrainSpec
from iak.schemas.synth import SynthSpec

ROOT = Path(__file__).parents[3]
ASKED = ["catalog=planted", "data_root=/logs", "run_dir=r"]


def spec(words, verb="pretrain"):
    return cli.read_spec(verb, words)


def test_a_file_a_pair_and_a_flag_say_the_same_thing(tmp_path):
    config = tmp_path / "c.toml"
    config.write_text(
        "batch_rows = 4096\n[optim]\ntable_lr = 0.07\n[placement.sharding]\nitem_id = 'row_wise'\n"
    )
    by_file = spec([*ASKED, "--config", str(config)])
    pairs = ["batch_rows=4096", "optim.table_lr=0.07", "placement.sharding.item_id=row_wise"]
    by_pair = spec([*ASKED, *pairs])
    flags = ["--batch-rows", "4096", "--optim.table-lr", "0.07"]
    flags += ["--placement.sharding.item_id", "row_wise"]
    assert by_file == by_pair == spec([*ASKED, *flags])
    assert by_file.optim.table_lr == 0.07


def test_the_command_line_wins_over_the_file_the_file_over_presets_those_over_defaults(tmp_path):
    config = tmp_path / "c.toml"
    config.write_text("[optim]\ntable_lr = 0.07\ndense_lr = 0.5\n")
    told = spec([*ASKED, f"--config={config}", "optim.dense_lr=0.25"])
    assert told.optim.dense_lr == 0.25
    assert told.optim.table_lr == 0.07
    assert told.batch_rows == 1024 != PretrainSpec.model_fields["batch_rows"].default
    assert told.epochs == 1


def test_one_field_of_a_stage_leaves_the_others_at_their_defaults():
    told = spec([*ASKED, "base=b", "domain.min_batch=16"], verb="finetune")
    untouched = FinetuneSpec(catalog="planted", data_root="/logs", run_dir="r", base="b").domain
    assert told.domain.min_batch == 16
    assert told.domain.max_epochs == untouched.max_epochs


@pytest.mark.parametrize(
    ("words", "told"),
    [
        pytest.param([*ASKED, "optim.table_lr=-1"], "optim.table_lr", id="out of bounds"),
        pytest.param([*ASKED, "optim.tabel_lr=1"], "tabel", id="a misspelt field"),
        pytest.param(["data_root=/logs", "run_dir=r"], "catalog", id="a required field is missing"),
        pytest.param(["catalog=nope", *ASKED[1:]], "planted", id="an unknown catalogue"),
        pytest.param([*ASKED, "--config", "/nope.toml"], "nope.toml", id="a missing file"),
    ],
)
def test_a_bad_request_names_the_setting(words, told):
    with pytest.raises(BadRequest) as refusal:
        spec(words)
    assert told in str(refusal.value)
    assert cli.run(["pretrain", *words]) == 2


@pytest.mark.parametrize(
    ("verb", "word", "near"),
    [
        ("pretrain", "optim.tabel_lr=1", "optim.table_lr"),
        ("pretrain", "table_lr=1", "optim.table_lr"),
        ("pretrain", "--optim.table-lrr=1", "optim.table_lr"),
        ("finetune", "max_epoch=3", "pooled.max_epochs"),
        ("evaluate", "bundle=x", "bundles"),
        ("check", "data_rot=x", "data_root"),
    ],
)
def test_an_unknown_setting_lists_near_names(verb, word, near):
    asked = [
        *ASKED[: 2 if verb == "check" else 3],
        *(["base=b"] * (verb in ("finetune", "evaluate"))),
    ]
    with pytest.raises(BadRequest) as refusal:
        spec([*asked, word], verb=verb)
    assert near in str(refusal.value)
    assert word.removeprefix("--").partition("=")[0] in str(refusal.value)


def test_an_unknown_setting_of_a_file_lists_near_names_too(tmp_path):
    config = tmp_path / "c.toml"
    config.write_text("[optim]\ntable_lrr = 0.1\n")
    with pytest.raises(BadRequest, match=r"optim\.table_lrr.*optim\.table_lr"):
        spec([*ASKED, "--config", str(config)])


@pytest.mark.parametrize(("word", "near"), [("pretrian", "pretrain"), ("zork", "finetune")])
def test_an_unknown_verb_lists_near_names(word, near, capsys):
    assert cli.run([word]) == 2
    told = capsys.readouterr().err
    assert near in told
    assert word in told


@pytest.mark.parametrize("verb", [v for v in VERBS if v != "doctor"])
def test_every_verb_s_help_shows_one_command_that_the_verb_takes(verb, capsys):
    assert cli.run([*verb.split(), "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    example = VERBS[verb].example
    assert example in shown
    words = shlex.split(example.replace("shop.toml", "frappe"))[1 + len(verb.split()) :]
    assert spec(words, verb=verb) is not None


@pytest.mark.parametrize(
    ("verb", "usage"),
    [
        ("init", "iak init LOG [SETTINGS]"),
        ("show", "iak show PATH [SETTINGS]"),
        ("compare", "iak compare FIRST SECOND [SPLIT] [SETTINGS]"),
        ("check", "iak check catalog=CATALOG data_root=DATA_ROOT [SETTINGS]"),
    ],
)
def test_the_usage_shows_what_needs_no_name(verb, usage, capsys):
    assert cli.run([verb, "--help"]) == 0
    assert usage in " ".join(capsys.readouterr().out.split())


def test_the_first_setting_of_init_and_show_needs_no_name():
    assert spec(["/data/shop", "out=x.toml"], verb="init").log == "/data/shop"
    assert spec(["R1"], verb="show") == spec(["path=R1"], verb="show")


def test_a_verb_whose_settings_all_have_defaults_needs_no_word():
    assert spec([], verb="demo") == DemoSpec()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["pretrain", *ASKED[:2]], "one thing to fix: run_dir: it is required, and missing"),
        (["finetune", *ASKED[:2]], "2 things to fix: run_dir: it is required"),
        (["compare", "R1"], "one thing to fix: second: it is required"),
    ],
)
def test_what_is_to_be_mended_is_said_in_words_of_settings_not_of_classes(words, told, capsys):
    assert cli.run(words) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert told in error
    assert "Spec" not in error


def test_an_unknown_verb_is_a_bad_request():
    assert cli.run(["zork"]) == 2


@pytest.mark.parametrize("verb", [v for v in VERBS if v != "doctor"])
def test_every_verb_teaches_its_settings(verb, capsys):
    assert cli.run([verb, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--config FILE.toml" in shown
    assert "Exit codes" in shown


IMPORTED_BY_HELP = """
import sys
import iak.jobs.cli
iak.jobs.cli.run(["--help"])
print(*sys.modules, file=sys.stderr)
"""


def test_help_imports_nothing_that_takes_long():
    told = subprocess.run(
        [sys.executable, "-c", IMPORTED_BY_HELP], check=True, cwd=ROOT, capture_output=True
    )
    imported = set(told.stderr.decode().split())
    slow = {"torch", "torchrec", "ray", "pyarrow", "numpy", "scipy", "matplotlib", "pydantic"}
    assert not imported & (slow | {"iak.pipeline", "iak.schemas"})
    assert "cyclopts" in imported


WITHOUT_TORCH = (
    "check", "compare", "doctor", "infra", "init", "nightly", "registry", "report", "show", "synth",
)  # fmt: skip
"""Verbs that read documents and rows, and compute nothing with a model before they start."""


def test_verbs_that_compute_with_no_model_do_not_import_torch():
    code = (
        "import importlib, sys\n"
        f"for verb in {WITHOUT_TORCH}: importlib.import_module('iak.jobs.' + verb)\n"
        "print({'torch', 'torchrec', 'fbgemm_gpu', 'ray'} & {*sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "set()"


def test_a_base_is_opened_without_torchrec():
    """Its documents are read by commands that compute nothing with it, such as a night's plan."""
    code = (
        "import sys, iak.pipeline.registry.bases\n"
        "print({'torchrec', 'fbgemm_gpu'} & {*sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "set()"


def test_the_shipped_demo_knobs_load():
    knobs = tomllib.loads((ROOT / "jobs/configs/demo/synth.toml").read_text())
    assert SynthSpec.model_validate(knobs).rows > 1_000_000


@pytest.mark.parametrize(
    "path", sorted((ROOT / "schemas/catalog").glob("*.toml")), ids=lambda p: p.stem
)
def test_the_presets_of_every_shipped_catalogue_are_settings(path):
    for verb in ("pretrain", "finetune"):
        words = [f"catalog={path.stem}", "data_root=/logs", "run_dir=r"]
        assert spec([*words, *(["base=b"] if verb == "finetune" else [])], verb=verb)


def test_the_value_of_a_flag_may_hold_an_equals_sign():
    asked = ["catalog=planted", "--sweep", "gpus=8,16", "rows=7"]
    told = spec(asked, verb="plan")
    assert (told.sweep, told.rows) == ("gpus=8,16", 7)
    assert spec(["catalog=planted", "sweep=gpus=8,16"], verb="plan").sweep == "gpus=8,16"


@pytest.mark.parametrize(
    "words",
    [
        ["model.mlp=[256, 128]"], ["--model.mlp=[256,128]"], ["--model.mlp", "[256, 1_28]"],
        ["model.mlp=256", "model.mlp=128"], ["--workers", "2", "model.mlp=[256,128]"],
    ],
)  # fmt: skip
def test_a_list_is_said_as_in_toml_or_one_by_one(words):
    assert spec([*ASKED, *words]).model.mlp == (256, 128)


def test_a_list_of_words_may_be_long_or_empty():
    kinds = ["table:a:grown", "dense:b:changed"]
    asked = spec([*ASKED, "from=b", f"allow={json.dumps(kinds)}"])
    assert asked.allow == tuple(kinds)
    assert spec([*ASKED, "allow=[]"]).allow == ()
    with pytest.raises(BadRequest, match=r"model\.mlp"):
        spec([*ASKED, "model.mlp=[1, x"])


def test_a_uri_with_a_password_is_refused_and_the_password_is_not_said(tmp_path, capsys):
    words = ["catalog=planted", "data_root=s3://KEY:hunter2@bucket/logs", f"run_dir={tmp_path}"]
    assert cli.run(["pretrain", *words]) == 2
    said = capsys.readouterr().err
    assert "data_root" in said
    assert "AWS_SECRET_ACCESS_KEY" in said
    assert "hunter2" not in said
    assert "KEY:" not in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [["plan=p.json"], ["--plan", "p.json"], ["--plan=p.json"], ["--config", "{config}"]],
    ids=["pair", "flag", "flag with =", "file"],
)
def test_a_flat_setting_of_an_older_version_is_refused_by_its_new_name(tmp_path, words):
    config = tmp_path / "job.toml"
    config.write_text('plan = "p.json"\n')
    with pytest.raises(BadRequest) as refused:
        spec([*ASKED, *(word.replace("{config}", str(config)) for word in words)])
    assert str(refused.value) == "iak pretrain: plan is now placement.plan"


def test_a_benchmark_that_moved_is_refused_with_its_new_command(capsys):
    for name in ("data", "faults", "finetune", "tables"):
        assert cli.run(["bench", name, "--smoke"]) == 2
        assert f"is now `python -m infra.benchmarks {name}`" in capsys.readouterr().err


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_alone_lists_its_verbs_and_another_word_is_refused(group, capsys):
    assert cli.run([group]) == 0
    shown = capsys.readouterr().out
    own = [verb for verb in VERBS if verb.startswith(f"{group} ")]
    assert own
    assert all(VERBS[verb].example in " ".join(shown.split()) for verb in own)
    assert cli.run([group, "zork"]) == 2


def test_a_catalogue_of_another_type_in_a_settings_file_is_refused_by_name(tmp_path, capsys):
    (tmp_path / "settings.toml").write_text("catalog = { a = 1 }")
    assert cli.run(["pretrain", "--config", str(tmp_path / "settings.toml")]) == 2
    assert "catalog" in capsys.readouterr().err
