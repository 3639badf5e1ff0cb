"""What `import iak` offers: every example runs, and importing takes no time."""

import doctest
import subprocess
import sys
from pathlib import Path

import pytest

import iak
from iak.pipeline import api
from iak.schemas.log import Catalog
from tests.integration.small_log import write_log

ROOT = Path(__file__).parents[2]
ORDER = ("check_log", "pretrain", "tune_night", "evaluate", "open_base", "read_bundles")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.broadcast_buffers. is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:Grad strides do not match:UserWarning")
def test_every_example_runs(tmp_path):
    runs = tmp_path / "runs"
    log = write_log(tmp_path / "log", rows=12_000, days=14)
    finder = doctest.DocTestFinder(recurse=False)
    runner = doctest.DocTestRunner(verbose=False)
    for name in ORDER:
        (example,) = finder.find(getattr(api, name), name, globs={"log": log, "runs": runs})
        said = []
        result = runner.run(example, out=said.append)
        assert result.attempted > 0
        assert result.failed == 0, "".join(said)


def test_the_public_names_are_those_that_exist():
    assert {*ORDER, "Catalog"} == {*iak.__all__}
    assert all(hasattr(iak, name) for name in iak.__all__)
    assert iak.Catalog is Catalog
    assert {*iak.__all__} <= {*dir(iak)}
    with pytest.raises(AttributeError, match="it has Catalog, check_log"):
        iak.train  # noqa: B018 - the access is what is tried


def test_import_iak_imports_nothing_that_takes_long():
    command = "import sys, iak; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", command], check=True, cwd=ROOT, capture_output=True, text=True
    )
    imported = {*done.stdout.split()}
    assert not imported & {"torch", "pyarrow", "numpy", "pydantic", "iak.pipeline", "iak.schemas"}


def test_an_unknown_setting_is_refused_by_its_name(tmp_path):
    from iak.pipeline.errors import BadRequest

    with pytest.raises(BadRequest, match="batch_row"):
        iak.pretrain("planted", tmp_path, run_dir=tmp_path / "run", batch_row=3)
