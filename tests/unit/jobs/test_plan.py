"""`iak plan` answers with a verdict, what would do instead, and files where they are asked for."""

import json
from pathlib import Path

import pytest

from iak.jobs import cli
from iak.jobs.clusters import load_cluster, shipped_clusters
from iak.jobs.plan import resolved
from iak.pipeline.errors import BadRequest
from iak.pipeline.runs.load import load_catalog
from iak.schemas.job import PlanSpec
from iak.schemas.plan import PlacementRuleSpec, PlanDocument
from tests.dlrm_log import CATALOG
from tests.unit.planning.plan_requests import SMALL


def run(*words):
    settings = [f"table_rows.{name}={rows}" for name, rows in SMALL.items()]
    return cli.run(["plan", "catalog=planted", *settings, *words])


def test_a_table_that_fits_nowhere_near_is_told_with_what_would_do(capsys):
    assert (
        run("table_rows.user_id=10000000000", "table_rows.item_id=1000000", "model.width=64") == 3
    )
    told = " ".join(capsys.readouterr().out.split())
    assert "does not fit: rank" in told
    assert "smallest change: cluster=" in told
    change = told.partition("smallest change: cluster=")[2].split()[0]
    again = run(
        "table_rows.user_id=10000000000", "table_rows.item_id=1000000", "model.width=64",
        f"cluster={change}",
    )  # fmt: skip
    assert again == 0


def test_a_table_that_fits_nowhere_says_so(capsys):
    assert (
        run("table_rows.user_id=100000000000", "table_rows.item_id=1000000", "model.width=512") == 3
    )
    told = " ".join(capsys.readouterr().out.split())
    assert "TorchRec's planner finds no plan" in told
    assert "no shipped cluster of up to 128 machines is enough; make tables smaller" in told


def test_a_vocabulary_that_is_large_is_told_with_what_hashing_costs(capsys):
    assert run("table_rows.user_id=40000002", "table_rows.item_id=1000000") == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "large vocabulary user_id: about 40,000,000 ids would get a row each, 2.4 GiB" in told
    assert "[tables.user_id]" in told
    assert "rows = 16,777,216: 91% or rows = 67,108,864: 45%" in told
    assert "large vocabulary item_id" not in told


def test_a_cluster_of_ones_own_is_advised_more_of_its_machines(tmp_path, capsys):
    shipped = shipped_clusters()["8xL40S"].read_text()
    path = tmp_path / "mine.toml"
    path.write_text(shipped.replace('"8xL40S"', '"mine"').replace("30.13", "0.01"))
    words = ("table_rows.user_id=2000000000", "table_rows.item_id=1000000", "model.width=64")
    assert run(*words, f"cluster={path}") == 3
    assert "cluster=mine with nodes=2 would fit" in " ".join(capsys.readouterr().out.split())


def test_frozen_tables_are_advised_a_lower_precision_first(capsys):
    words = ("table_rows.user_id=10000000000", "table_rows.item_id=1000000", "model.width=64")
    assert run(*words, "job=finetune", "cluster=8xH100") == 3
    assert "tables.precision=int4 would fit" in " ".join(capsys.readouterr().out.split())
    assert run(*words, "job=finetune", "cluster=8xH100", "tables.precision=int4") == 0


def test_a_sweep_finds_the_smallest_and_a_comparison_the_cheapest(capsys):
    words = ("table_rows.user_id=1000000000", "table_rows.item_id=1000000", "model.width=64")
    assert run(*words, "sweep=gpus=1,2,4,8,16") == 0
    told = capsys.readouterr().out
    smallest = told.partition("smallest that fits: ")[2].partition(";")[0]
    assert run(*words, f"cluster={smallest}") == 0
    devices = load_cluster(smallest).world
    assert devices > 1
    assert run(*words, f"sweep=gpus={devices // 2}", "compare=") == 3
    assert run(*words, "compare=8xA100-40,8xA100-80,8xH200") == 0
    assert "cheapest:" in capsys.readouterr().out
    assert run(*words[:2], "compare=8xA100-40,8xL40S", "model.width=512") == 3


def test_words_win_over_settings_and_settings_over_presets(tmp_path):
    catalog, file = load_catalog(Path("planted")), tmp_path / "job.toml"
    file.write_text('[tables]\nprecision = "fp16"\n[kernel]\nhidden = 7\n')
    asked = PlanSpec(catalog="planted", job="finetune", settings=file, tables={"precision": "int8"})
    done = resolved(asked, catalog, None)
    assert (done.tables.precision, done.kernel.hidden) == ("int8", 7)
    assert done.batch_rows == 8192
    preset = dict(catalog.presets["pretrain"])
    assert resolved(PlanSpec(catalog="planted"), catalog, None).batch_rows == preset["batch_rows"]
    file.write_text("[kernel]\nhidden = -7\n")
    with pytest.raises(BadRequest, match=r"kernel\.hidden"):
        resolved(asked, catalog, None)


def test_the_rule_of_the_jobs_file_is_taken_over_and_its_plan_is_not(tmp_path):
    file = tmp_path / "job.toml"
    file.write_text('[placement]\nplan = "old.json"\nsharding.item_id = "row_wise"\n')
    asked = PlanSpec(catalog="planted", settings=file, placement={"row_wise_from_rows": 7})
    done = resolved(asked, load_catalog(Path("planted")), None)
    assert done.placement == PlacementRuleSpec(
        sharding={"item_id": "row_wise"}, row_wise_from_rows=7
    )


def test_a_flat_setting_of_the_jobs_file_is_refused_by_its_new_name(tmp_path):
    file = tmp_path / "job.toml"
    file.write_text('plan = "old.json"\n')
    asked = PlanSpec(catalog="planted", settings=file)
    with pytest.raises(BadRequest, match=r"job\.toml: plan is now placement\.plan$"):
        resolved(asked, load_catalog(Path("planted")), None)


def test_time_and_money_have_a_say(capsys):
    tables = ("table_rows.user_id=1000000", "table_rows.item_id=10000")
    words = (*tables, "rows=100000000000", "cluster=2xA100-80")
    assert run(*words, "max_hours=0.001") == 3
    assert "max_hours is 0.001" in capsys.readouterr().out
    assert run(*words, "max_cost=0.01") == 3
    assert run(*words, "max_hours=1e9", "max_cost=1e12") == 0


def test_everything_is_written(tmp_path):
    files = {name: tmp_path / f"plan.{name}" for name in ("json", "png", "saved.json")}
    words = ("table_rows.user_id=1000000", "table_rows.item_id=10000")
    assert (
        run(
            *words,
            f"json={files['json']}",
            f"picture={files['png']}",
            f"save={files['saved.json']}",
        )
        == 0
    )
    held = json.loads(files["json"].read_text())["answers"][0]
    assert held["fits"]
    assert len(held["memory"]) == 8
    assert PlanDocument.model_validate_json(files["saved.json"].read_text()).world == 8
    assert files["png"].stat().st_size > 1000


BOTH = ("table_rows.user_id=9", "table_rows.item_id=9")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "rows of tables ['item_id', 'user_id'] are not known before a log is read"),
        (("table_rows.nobody=5",), "unknown tables ['nobody']"),
        ((*BOTH, "ids.nobody=5"), "unknown features"),
        ((*BOTH, "cluster=9xB1000"), "no cluster"),
        ((*BOTH, "sweep=8,16"), "expected gpus="),
        ((*BOTH, "sweep=gpus=12"), "take 8 or 16"),
        ((*BOTH, "constants.speed=2"), "speed"),
        ((*BOTH, "placement.sharding.x=row_wise"), "unknown tables"),
        (("base=/nowhere",), "base=/nowhere does not exist"),
        (("settings=/nowhere.toml",), "settings=/nowhere.toml does not exist"),
        ((*BOTH, "job=finetune", "tables.precisions.nobody=int4"), "unknown tables ['nobody']"),
        ((*BOTH, "job=finetune", "tables.mapped=true"), "tables.mapped is not planned for"),
        ((*BOTH, "job=finetune", "tables.precision=int4", "model.width=7"), "two by two"),
    ],
)  # fmt: skip
def test_nonsense_is_answered_with_what_to_write(words, says, capsys):
    assert run(*words) == 2
    assert says in capsys.readouterr().err


def test_the_rows_of_a_module_s_tables_are_not_asked_for(tmp_path, capsys):
    (tmp_path / "dlrm.toml").write_text(CATALOG)
    words = [f"catalog={tmp_path / 'dlrm.toml'}", "job=finetune", "table_rows.users=5"]
    assert cli.run(["plan", *words]) == 2
    assert "table_rows names ['users'], but the tables" in " ".join(capsys.readouterr().err.split())
