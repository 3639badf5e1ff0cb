"""A command leaves to its workers what only they need, from the log to predictions."""

import json
import subprocess
import sys

import pytest

from tests.faults.test_kill import FINETUNE, PRETRAIN, write_catalog
from tests.integration.small_log import write_log

pytestmark = pytest.mark.slow

COMMANDS = """
import json, sys
from iak.jobs.cli import run
for words in json.loads(sys.argv[1]):
    assert run(words) in (0, 4), words
print("imported:", sorted({"torchrec", "fbgemm_gpu", "ray"} & {*sys.modules}))
"""


def test_commands_of_several_workers_import_neither_torchrec_nor_ray(tmp_path):
    write_log(tmp_path / "log", rows=4_000)
    write_catalog(tmp_path / "catalog.toml")
    common = [f"catalog={tmp_path / 'catalog.toml'}", "workers=2", "device=cpu"]
    log, base, tuned = (tmp_path / name for name in ("log", "R1", "R2"))
    commands = [
        ["pretrain", f"data_root={log}", *common, *PRETRAIN, f"run_dir={base}"],
        ["finetune", f"data_root={log}", *common, *FINETUNE, f"base={base}", f"run_dir={tuned}"],
        *(
            [
                *(verb, f"data_root={log}", *common, f"base={base}"),
                *(f"bundles={tuned}/bundles", f"run_dir={tmp_path / verb}"),
            ]
            for verb in ("evaluate", "predict")
        ),
    ]
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, json.dumps(commands)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == "imported: []"
