"""Nights on an adopted module by commands alone: adopted, tuned, promoted, and judged by alias."""

import json
import os
import subprocess
import sys

import pytest

from iak.pipeline.errors import OK, SOME_HELD, BadRequest
from iak.pipeline.registry.commits import read_head
from iak.pipeline.runs.nightly_records import read_nights
from iak.pipeline.storage.folder_store import FolderStore
from tests.dlrm_log import REGIONS, write_dlrm_log
from tests.integration.test_nightly import ROOT

pytestmark = [pytest.mark.night, pytest.mark.slow, pytest.mark.timeout(1200)]

NIGHTLY = """
name = "dlrm"
catalog = "{root}/dlrm.toml"
data_root = "{root}"
base = "{root}/base"
registry = "{root}/registry"
nights = "{root}/nights"
workers = {{ workers = 1, device = "cpu" }}
window = {{ days = 2, valid = 0.2, gate = 0.2 }}
ready = {{ needs_marker = true }}
scratch_every = 0

[finetune]
pooled = {{ lr = 1e-2, max_epochs = 6, min_batch = 32 }}
domain = {{ lr = 1e-2, max_epochs = 6, min_batch = 32 }}

[finetune.gate.chain]
alpha = 0.99
at_once = 1.0
at_once_margin = 0
canary_hours = 0
"""


def iak(root, *words, catalog="dlrm.toml"):
    """Run a command; return its exit code and what it wrote."""
    if words[0] not in ("nightly", "registry"):
        words = (*words, f"catalog={root / catalog}", f"data_root={root}")
    command = "import sys; from iak.jobs.cli import run; sys.exit(run(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", command, *words],
        cwd=root,
        env=os.environ | {"PYTHONPATH": f"{ROOT / 'infra/package'}:{ROOT}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = write_dlrm_log(tmp_path_factory.mktemp("module"))
    for partition in root.glob("events/*/*"):
        (partition / "_SUCCESS").touch()
    (root / "nightly.toml").write_text(NIGHTLY.format(root=root))
    adopt = ["adopt", f"weights={root / 'model.safetensors'}", "scores.ctr=score"]
    night = ["nightly", "run", "nightly.toml", "--date"]
    for words, codes in (
        ([*adopt, f"run_dir={root / 'base'}"], (OK,)),
        (["nightly", "check", "nightly.toml"], (OK,)),
        # The pooled kernel is no better than the base: the regions want opposite corrections.
        ([*night, "2026-10-02"], (OK, SOME_HELD)),
        ([*night, "2026-10-03"], (OK, SOME_HELD)),
    ):
        code, shown = iak(root, *words)
        assert code in codes, shown[-4000:]
    return root


def test_the_nights_promote_kernels_of_every_region(root):
    first, second = sorted(read_nights(root / "nights").records, key=lambda record: record.night)
    assert (first.status, second.status) == ("finished", "finished")
    serving = read_head(FolderStore(root / "registry")).pointers["champion"]
    assert {pointer.name for pointer in serving.values()} >= {f"region={r}" for r in REGIONS}
    assert second.registry_before == first.registry_after


def test_base_and_kernels_are_judged_by_the_alias_alone(root):
    alias = f"registry:{root / 'registry'}@champion"
    judge = ["evaluate", f"base={alias}", f"bundles={alias}", "workers=1", f"run_dir={root / 'E'}"]
    code, shown = iak(root, *judge)
    assert code == OK, shown[-4000:]
    rows = json.loads((root / "E" / "metrics.json").read_bytes())
    gains = [
        row for row in rows if row["method"] == "iak" and row["domain"] in ("region=a", "region=b")
    ]
    assert len(gains) == len(REGIONS)
    assert all(row["delta_auc_low"] > 0.02 for row in gains)


def test_another_catalogue_imports_no_factory(root):
    """The registry's base is opened only under the catalogue that names its code."""
    text = (root / "dlrm.toml").read_text().replace("plain_dlrm:build", "plain_dlrm:build_another")
    (root / "other.toml").write_text(text)
    alias = f"registry:{root / 'registry'}@champion"
    words = ["evaluate", f"base={alias}", f"bundles={alias}", "workers=1", f"run_dir={root / 'F'}"]
    code, shown = iak(root, *words, catalog="other.toml")
    assert code == BadRequest.exit_code
    assert "the catalogue's base differ from those of the base" in " ".join(shown.split())
