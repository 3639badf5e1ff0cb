"""What a command costs counts all its processes, and two checkouts are compared by medians."""

import subprocess
import sys
import textwrap

import psutil
import pytest

from infra.benchmarks.two_builds import Cost, command_of, commit_of, cost_of, table

MIB = 2**20
HOLDS = "import time; held = bytearray(b'1' * {mib} * 2**20); time.sleep(3)"


def python(code):
    return [sys.executable, "-c", textwrap.dedent(code)]


def test_memory_is_that_of_all_processes_and_orphans_are_waited_for():
    orphan = HOLDS.format(mib=80)
    code = f"""
        import subprocess, sys
        subprocess.Popen([sys.executable, "-c", {orphan!r}], start_new_session=True)
        {HOLDS.format(mib=60)}
    """
    with subprocess.Popen(python("import time; time.sleep(60)")) as other:
        cost = cost_of(python(code))
        assert other.poll() is None, "it is not of the command"
        other.terminate()
    assert cost.peak_mib >= 140
    left = psutil.Process().children(recursive=True)
    assert not [process for process in left if "bytearray" in " ".join(process.cmdline())]


def test_cpu_counts_processes_that_the_command_waited_for():
    burns = "sum(range(2 * 10**8))"
    alone = cost_of(python(burns))
    code = f"""
        import subprocess, sys
        subprocess.run([sys.executable, "-c", {burns!r}], check=True)
    """
    assert cost_of(python(code)).cpu_s >= 0.5 * alone.cpu_s > 0


def test_kernels_that_the_gate_holds_are_no_failure_and_another_end_is():
    assert cost_of(python("raise SystemExit(4)")).seconds > 0
    with pytest.raises(RuntimeError, match=r"ended with 3: no such thing"):
        cost_of(python("print('no such thing'); raise SystemExit(3)"))


@pytest.mark.parametrize(
    ("package", "jobs"),
    [("iak.jobs.cli", "infra/package/iak/jobs"), ("jobs.cli", "jobs")],
    ids=["a package of its own", "before it had one"],
)
def test_a_checkout_runs_its_own_code(tmp_path, package, jobs):
    folder = tmp_path / jobs
    folder.mkdir(parents=True)
    for parent in (folder, folder.parent) if "iak" in package else (folder,):
        (parent / "__init__.py").write_text("")
    (folder / "cli.py").write_text("import sys\ndef main(): print(__file__, sys.argv[1:])")
    command = command_of(tmp_path, ["demo"])
    assert f"from {package} import main" in " ".join(command)
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    assert said.stdout.split() == [str(folder / "cli.py"), "['demo']"]


def test_the_commit_is_that_of_the_checkout(tmp_path):
    git = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=n@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert head.stdout.startswith(commit_of(tmp_path))
    assert len(commit_of(tmp_path)) == 12


def test_the_table_has_medians_and_the_ratio_of_the_later_build():
    def costs(*seconds):
        return [Cost(seconds=s, cpu_s=2 * s, peak_mib=100 * s) for s in seconds]

    text = table({"iak demo": {"before": costs(10, 90, 20), "after": costs(5, 5, 99)}})
    line = text.splitlines()[2]
    assert line == (
        "| `iak demo` | 20.0 → 5.0 | 0.25 | 40.0 → 10.0 | 0.25 | 2,000.0 → 500.0 | 0.25 |"
    )
