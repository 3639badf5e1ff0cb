"""When workers are processes of this machine, and what is imported before their server starts."""

import subprocess
import sys
from importlib.util import find_spec

import pytest
import ray

from iak.jobs import worker_server
from iak.jobs.worker_server import is_under_ray, prepare_workers
from iak.schemas.job import WorkersSpec


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.fixture
def started(monkeypatch):
    """What the fork server was asked to import, at each call."""
    asked = []
    monkeypatch.setattr(worker_server, "fork_server", asked.append)
    return asked


def test_without_a_cluster_the_server_starts_with_modules_that_exist(started):
    prepare_workers(WorkersSpec())
    ((*modules,),) = started
    assert modules
    assert all(find_spec(name) for name in modules)


def test_on_a_cluster_of_the_environment_ray_starts_the_workers(monkeypatch, started):
    monkeypatch.setenv("RAY_ADDRESS", "elsewhere:6379")
    prepare_workers(WorkersSpec())
    assert started == []


def test_ray_starts_workers_whose_number_may_change_and_those_of_a_process_that_joined_it(
    monkeypatch,
):
    assert is_under_ray(WorkersSpec(workers=2, min_workers=1))
    assert not is_under_ray(WorkersSpec(workers=2))
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    assert is_under_ray(WorkersSpec(workers=2))


def test_the_server_starts_before_anything_large_is_imported():
    code = "import sys, iak.jobs.worker_server; print({'torch', 'ray', 'pyarrow'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_server_has_imported_what_a_worker_s_first_array_imports(started):
    prepare_workers(WorkersSpec())
    ((*modules,),) = started
    others = [name for name in modules if not name.startswith("iak.")]
    code = (
        "import importlib, sys, pyarrow\n"
        f"for name in {others}: importlib.import_module(name)\n"
        "before = {*sys.modules}\n"
        "pyarrow.array([1])\n"
        "print({name.partition('.')[0] for name in {*sys.modules} - before} - {'pyarrow'})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_server_has_imported_what_a_command_leaves_to_workers(started):
    prepare_workers(WorkersSpec())
    ((*modules,),) = started
    late = {"torchrec", "iak.pipeline.base.frozen_model", "iak.pipeline.base.pretrain"}
    code = (
        "import importlib, sys\n"
        f"for name in {modules}: importlib.import_module(name)\n"
        f"print({late} - {{*sys.modules}})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_verbs_on_this_machine_import_no_ray_no_torchrec_and_no_large_part_of_scipy():
    """`iak demo` has pretrain, finetune and evaluate in it."""
    code = (
        "import sys, iak.jobs.demo, iak.jobs.predict, iak.pipeline.runs.nightly\n"
        "print({'ray', 'torchrec', 'fbgemm_gpu', 'scipy.stats'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
