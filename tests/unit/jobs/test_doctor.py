"""The doctor's verdicts and its commands, on made-up versions; and the real environment."""

import subprocess
import sys

import pytest

from iak.jobs import doctor
from iak.jobs.doctor import Check, Probe, diagnose, judge_versions, run_probe

GOOD = {
    "python": "3.11.7",
    "torch": "2.13.0+cpu",
    "torchrec": "1.8.0",
    "fbgemm-gpu": "1.8.0+cpu",
    "fbgemm-gpu-cpu": "1.8.0",
    "ray": "2.60.0",
    "pyarrow": "26.0.1",
}
CUDA = GOOD | {"torch": "2.13.0+cu130", "fbgemm-gpu": "1.8.0", "fbgemm-gpu-cpu": None}
SHIM = (
    f"{sys.executable} -m pip uninstall -y fbgemm-gpu fbgemm-gpu-cpu && "
    f"{sys.executable} -m pip install --constraint infra/constraints.txt ./infra/cpu/fbgemm-gpu"
)
TORCHREC = (
    f"{sys.executable} -m pip install --constraint infra/constraints.txt torchrec==1.8.0 "
    "./infra/cpu/fbgemm-gpu"
)


def wrong(versions) -> dict[str, Check]:
    return {check.name: check for check in judge_versions(versions) if not check.is_ok}


@pytest.mark.parametrize(
    "versions",
    [
        GOOD,
        CUDA,
        GOOD | {"torch": "2.12.1", "torchrec": "1.7.0", "fbgemm-gpu-cpu": "1.7.0"},
        CUDA | {"torch": "2.11.0+cu130", "torchrec": "1.6.0", "fbgemm-gpu": "1.6.0"},
        GOOD | {"ray": "2.61.0"},
    ],
    ids=["cpu", "cuda", "2.12 family", "2.11 family on cuda", "newer ray"],
)
def test_families_belong_together(versions):
    assert wrong(versions) == {}


@pytest.mark.parametrize(
    ("changes", "name", "note", "remedy"),
    [
        pytest.param(
            {"fbgemm-gpu": "1.9.0"},
            "fbgemm",
            "installed into the same folder",
            SHIM,
            id="pip laid the CUDA build over the CPU build",
        ),
        pytest.param(
            {"fbgemm-gpu": "1.8.0", "fbgemm-gpu-cpu": None},
            "fbgemm",
            "does not load under a torch built for the CPU",
            SHIM,
            id="CUDA fbgemm, CPU torch",
        ),
        pytest.param(
            {"fbgemm-gpu": None, "fbgemm-gpu-cpu": None},
            "fbgemm",
            "needed by torchrec",
            SHIM,
            id="no fbgemm",
        ),
        pytest.param(
            {"fbgemm-gpu-cpu": "1.7.0"},
            "fbgemm",
            "torch 2.13 needs fbgemm 1.8",
            SHIM,
            id="old fbgemm",
        ),
        pytest.param(
            {"torchrec": "1.7.0"},
            "torchrec",
            "torch 2.13 needs torchrec 1.8",
            TORCHREC,
            id="old torchrec",
        ),
        pytest.param(
            {"torchrec": None},
            "torchrec",
            "torch 2.13 needs torchrec 1.8",
            TORCHREC,
            id="no torchrec",
        ),
        pytest.param(
            {"torch": "2.14.0+cpu"},
            "torch",
            "known to work here: 2.13, 2.12, 2.11",
            "rm -rf .venv && make install ACCELERATOR=cpu",
            id="torch from the future",
        ),
        pytest.param(
            {"torch": None},
            "torch",
            "needed",
            "rm -rf .venv && make install ACCELERATOR=cpu",
            id="no torch",
        ),
        pytest.param(
            {"python": "3.10.12"},
            "python",
            "3.11 or newer",
            "rm -rf .venv && make install ACCELERATOR=cpu",
            id="old python",
        ),
        pytest.param(
            {"ray": None},
            "ray",
            "tested with 2.60.0",
            f"{sys.executable} -m pip install --constraint infra/constraints.txt "
            "'ray[default,train]==2.60.0'",
            id="no ray",
        ),
    ],
)
def test_what_does_not_belong_is_named_with_the_command_that_repairs_it(
    changes, name, note, remedy
):
    found = wrong(GOOD | changes)
    assert list(found) == [name]
    assert note in found[name].note
    assert found[name].remedy == remedy


def test_an_older_torch_beside_newer_libraries_needs_a_new_environment():
    found = wrong(GOOD | {"torch": "2.12.0"})
    assert set(found) == {"torchrec", "fbgemm"}
    assert {check.remedy for check in found.values()} == {
        "rm -rf .venv && make install ACCELERATOR=cpu"
    }


def test_cuda_is_mended_with_cuda():
    both = wrong(CUDA | {"fbgemm-gpu-cpu": "1.8.0"})
    assert both["fbgemm"].remedy.endswith("--constraint infra/constraints.txt fbgemm-gpu==1.8.0")
    old = wrong(CUDA | {"torch": "2.10.0+cu128"})
    assert old["torch"].remedy == "rm -rf .venv && make install ACCELERATOR=cuda"


def test_a_library_that_aborts_is_a_row(monkeypatch):
    monkeypatch.setitem(doctor.PROBES, "torchrec", "import os; os.abort()")
    ended = run_probe("torchrec")
    assert ended.status < 0
    well = Probe(status=0, output="")
    checks = diagnose(GOOD, probe=lambda name: ended if name == "torchrec" else well)
    bad = [check for check in checks if not check.is_ok]
    assert [check.name for check in bad] == ["try torchrec"]
    assert bad[0].found.startswith("died of SIGABRT")
    assert bad[0].remedy == (
        f"{sys.executable} -m pip install --force-reinstall --no-deps torchrec==1.8.0"
    )


def test_the_error_of_a_failing_trial_is_shown(monkeypatch):
    monkeypatch.setitem(doctor.PROBES, "ray", "raise OSError('libray.so is missing')")
    assert run_probe("ray") == Probe(status=1, output="OSError: libray.so is missing")


@pytest.mark.parametrize(("status", "code"), [(0, 0), (1, 1)], ids=["well", "ill"])
def test_the_exit_code_and_the_commands_are_printed(monkeypatch, capsys, status, code):
    checks = diagnose(GOOD, probe=lambda _: Probe(status=status, output="x"))
    monkeypatch.setattr(doctor, "diagnose", lambda: checks)
    assert doctor.doctor() == code
    shown = capsys.readouterr().out
    assert (SHIM in shown) is bool(code)


def test_the_doctor_itself_imports_nothing_heavy():
    script = (
        "import sys, jobs.doctor; print({'torch', 'ray', 'pyarrow', 'rich'} & set(sys.modules))"
    )
    said = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert said.stdout.strip() == "set()"


@pytest.mark.slow
def test_this_environment_is_well():
    assert [check for check in diagnose() if not check.is_ok] == []
