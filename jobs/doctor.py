"""`iak doctor`: check that the installed libraries fit together and work, and say how to repair.

torch, torchrec and fbgemm are built against each other, and torchrec requires fbgemm without a
version. Most broken installations come from these two facts. Each library is tried in a process of
its own, so that an abort is one row of the table and not the end of the command.
"""

import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

Versions = Mapping[str, str | None]
"""Distribution (or "python") -> version; None where it is not installed."""

FAMILIES: tuple[tuple[str, str, str], ...] = (
    ("2.13", "1.8", "1.8"),
    ("2.12", "1.7", "1.7"),
    ("2.11", "1.6", "1.6"),
)
"""Versions of torch, torchrec and fbgemm that were built for each other. The first line is the
project's own."""

DISTRIBUTIONS = ("torch", "torchrec", "fbgemm-gpu", "fbgemm-gpu-cpu", "ray", "pyarrow")
TIMEOUT_S = 180
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One row of the table; `remedy` is the command that repairs what is wrong, run in ROOT."""

    name: str
    found: str
    is_ok: bool
    note: str = ""
    remedy: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """Result of one library's trial: its output, and its exit status (negative: a signal)."""

    status: int
    output: str


PROBES: dict[str, str] = {
    "torch": """
import torch
on = "cuda" if torch.cuda.is_available() else "cpu"
a = torch.arange(4.0, device=on).view(2, 2)
assert (a @ a).tolist() == [[2.0, 3.0], [6.0, 11.0]]
where = f"CUDA {torch.version.cuda}, {torch.cuda.get_device_name()}" if on == "cuda" else "no GPU"
print(f"matmul; {where}, built for CUDA {torch.version.cuda}")
""",
    "gloo": """
import tempfile, torch
from torch import distributed as dist
with tempfile.TemporaryDirectory() as folder:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
    a = torch.ones(2)
    dist.all_reduce(a)
    dist.barrier()
    dist.destroy_process_group()
assert a.tolist() == [1.0, 1.0]
print("all-reduce in a group of 1")
""",
    "fbgemm": """
from importlib import metadata
import torch, fbgemm_gpu
names = {d.name.lower().replace("_", "-") for d in metadata.distributions()}
on = "cuda" if torch.cuda.is_available() and "fbgemm-gpu-cpu" not in names else "cpu"
lengths = torch.tensor([1, 2, 3], device=on)
assert torch.ops.fbgemm.asynchronous_complete_cumsum(lengths).tolist() == [0, 1, 3, 6]
print(f"cumsum on {on}")
""",
    "torchrec": """
import torch, torchrec
config = torchrec.EmbeddingBagConfig(
    name="t", embedding_dim=4, num_embeddings=8, feature_names=["f"]
)
tables = torchrec.EmbeddingBagCollection(tables=[config])
ids = torchrec.KeyedJaggedTensor.from_lengths_sync(
    keys=["f"], values=torch.tensor([1, 2, 3]), lengths=torch.tensor([2, 1])
)
weight = tables.embedding_bags["t"].weight
assert torch.allclose(tables(ids)["f"][0], weight[1] + weight[2])
print("lookup in an EmbeddingBagCollection")
""",
    "pyarrow": """
import io
import pyarrow as pa, pyarrow.parquet as pq
table, file = pa.table({"a": [1, 2, None]}), io.BytesIO()
pq.write_table(table, file, compression="zstd")
# Without threads: their pool may abort a process that ends at once (apache/arrow#34314).
assert pq.read_table(pa.BufferReader(file.getvalue()), use_threads=False).equals(table)
print("Parquet round trip")
""",
    "ray": """
import ray, ray.train
print("import")
""",
}
"""Library -> a script that tries one thing and prints what it tried."""

_PINS = "--constraint infra/constraints.txt"
_OWNER = {"gloo": "torch", "fbgemm": "fbgemm"}


def installed_versions() -> dict[str, str | None]:
    """Return the versions of this environment from its metadata, without an import."""
    versions: dict[str, str | None] = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in DISTRIBUTIONS:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def run_probe(name: str) -> Probe:
    """Try one library in a process of its own."""
    command = [sys.executable, "-W", "ignore", "-c", PROBES[name]]
    try:
        ended = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return Probe(status=1, output=f"no answer in {TIMEOUT_S} s")
    lines = (ended.stdout if ended.returncode == 0 else ended.stderr).strip().splitlines()
    return Probe(status=ended.returncode, output=lines[-1] if lines else "")


def diagnose(
    versions: Versions | None = None, *, probe: Callable[[str], Probe] = run_probe
) -> list[Check]:
    """Return a check for each version and each trial.

    Args:
        versions: installed versions; this environment's when absent.
        probe: tries one library of `PROBES`.
    """
    installed = installed_versions() if versions is None else versions
    with ThreadPoolExecutor(max_workers=2) as pool:
        probes = list(pool.map(probe, PROBES))
    trials = [_trial(name, ended, installed) for name, ended in zip(PROBES, probes, strict=True)]
    return [*judge_versions(installed), *trials]


def judge_versions(versions: Versions) -> list[Check]:
    """Return a check of each version, from the versions alone."""
    return [
        _python(versions),
        _torch(versions),
        _torchrec(versions),
        _fbgemm(versions),
        _pinned(versions, "ray", "ray[default,train]==2.60.0"),
        _pinned(versions, "pyarrow", "pyarrow==26.0.1"),
    ]


def doctor() -> int:
    """Print the table and the commands that repair it; return 0 when all is well, else 1."""
    from rich.console import Console
    from rich.table import Table

    checks = diagnose()
    table = Table(title="iak doctor")
    for column in ("", "what", "found", "note"):
        table.add_column(column)
    for check in checks:
        mark = "[green]ok[/]" if check.is_ok else "[red]wrong[/]"
        table.add_row(mark, check.name, check.found, check.note)
    console = Console()
    console.print(table)
    wrong = [check for check in checks if not check.is_ok]
    if not wrong:
        console.print("All libraries belong together and work.")
        return 0
    console.print(f"{len(wrong)} wrong. To repair it, in {ROOT}:", soft_wrap=True)
    for remedy in dict.fromkeys(check.remedy for check in wrong if check.remedy):
        console.print(f"  {remedy}", soft_wrap=True, markup=False, highlight=False)
    return 1


# ---------------------------------------------------------------- one check each


def _python(versions: Versions) -> Check:
    found = versions["python"] or "absent"
    is_ok = _numbers(found) >= (3, 11)
    note = "" if is_ok else "3.11 or newer is needed; install it, then a new environment"
    return Check(
        name="python", found=found, is_ok=is_ok, note=note, remedy=_new_environment(versions)
    )


def _torch(versions: Versions) -> Check:
    found = versions.get("torch")
    if found is None:
        return Check(
            name="torch",
            found="absent",
            is_ok=False,
            note="needed",
            remedy=_new_environment(versions),
        )
    is_ok = _minor(found) in {family[0] for family in FAMILIES}
    known = ", ".join(family[0] for family in FAMILIES)
    note = "" if is_ok else f"known to work here: {known}"
    return Check(
        name="torch", found=found, is_ok=is_ok, note=note, remedy=_new_environment(versions)
    )


def _torchrec(versions: Versions) -> Check:
    found, family = versions.get("torchrec"), _family(versions)
    expected = family[1]
    is_ok = found is not None and _minor(found) == expected
    note = "" if is_ok else f"torch {_minor(versions.get('torch'))} needs torchrec {expected}"
    remedy = _new_environment(versions)
    if family is FAMILIES[0]:
        # Named beside its fbgemm: alone, it would bring one of pip's choosing.
        remedy = _pip(f"{_PINS} torchrec=={expected}.0 {_fbgemm_build(versions)}")
    return Check(name="torchrec", found=found or "absent", is_ok=is_ok, note=note, remedy=remedy)


def _fbgemm(versions: Versions) -> Check:
    kind, found = _fbgemm_kind(versions)
    torch, expected = versions.get("torch"), _family(versions)[2]
    note = ""
    if kind == "absent":
        note = "needed by torchrec"
    elif kind == "both":
        note = "the CPU and the CUDA build are installed into the same folder"
    elif kind == "gpu" and _is_cpu(torch):
        note = "the CUDA build does not load under a torch built for the CPU"
    elif _minor(found) != expected:
        note = f"torch {_minor(torch)} needs fbgemm {expected}"
    is_ok = not note
    if is_ok and kind == "cpu" and versions.get("fbgemm-gpu") is None:
        note = (
            f"the next pip install may overwrite it by the CUDA build: {_fbgemm_remedy(versions)}"
        )
    elif is_ok and kind == "cpu" and not _is_cpu(torch):
        note = "built for the CPU: tables will not use a GPU"
    shown = f"{found} ({kind})" if kind in {"cpu", "gpu"} else found
    return Check(
        name="fbgemm", found=shown, is_ok=is_ok, note=note, remedy=_fbgemm_remedy(versions)
    )


def _pinned(versions: Versions, name: str, requirement: str) -> Check:
    found, tested = versions.get(name), requirement.split("==")[1]
    note = "" if found == tested else f"tested with {tested}"
    return Check(
        name=name,
        found=found or "absent",
        is_ok=found is not None,
        note=note,
        remedy=_pip(f"{_PINS} '{requirement}'"),
    )


def _trial(name: str, ended: Probe, versions: Versions) -> Check:
    """Return the row of one library's trial."""
    found = ended.output
    if ended.status < 0:
        found = f"died of {_signal(-ended.status)}. {ended.output}".strip()
    return Check(
        name=f"try {name}",
        found=found,
        is_ok=ended.status == 0,
        note="" if ended.status == 0 else "if the versions above are right, its files are damaged",
        remedy=_reinstall(_OWNER.get(name, name), versions),
    )


# ---------------------------------------------------------------- commands and versions


def _family(versions: Versions) -> tuple[str, str, str]:
    """Return the family of the installed torch; the project's own where torch is unknown."""
    torch = _minor(versions.get("torch"))
    return next((family for family in FAMILIES if family[0] == torch), FAMILIES[0])


def _fbgemm_kind(versions: Versions) -> tuple[Literal["absent", "cpu", "gpu", "both"], str]:
    """Return the installed build and its version. The shim `fbgemm-gpu +cpu` is not a build."""
    cpu, gpu = versions.get("fbgemm-gpu-cpu"), versions.get("fbgemm-gpu")
    real_gpu = gpu if gpu is not None and not gpu.endswith("+cpu") else None
    if cpu and real_gpu:
        return "both", f"{cpu} (cpu) and {real_gpu} (gpu)"
    if cpu:
        return "cpu", cpu
    return ("gpu", real_gpu) if real_gpu else ("absent", "absent")


def _fbgemm_remedy(versions: Versions) -> str:
    """Return the command that leaves one fbgemm: the right build in the project's version."""
    if _family(versions) is not FAMILIES[0]:
        return _new_environment(versions)
    remove = f"{sys.executable} -m pip uninstall -y fbgemm-gpu fbgemm-gpu-cpu"
    return f"{remove} && {_pip(f'{_PINS} {_fbgemm_build(versions)}')}"


def _fbgemm_build(versions: Versions) -> str:
    """Return pip's requirement for fbgemm: the shim with the CPU build, or the CUDA build."""
    return "./infra/cpu/fbgemm-gpu" if _is_cpu(versions.get("torch")) else "fbgemm-gpu==1.8.0"


def _reinstall(owner: str, versions: Versions) -> str:
    """Return the command that writes a library's files again, at the version that is there."""
    if owner == "fbgemm":
        return _fbgemm_remedy(versions)
    found = versions.get(owner)
    if owner == "torch" or found is None:
        return _new_environment(versions)
    return _pip(f"--force-reinstall --no-deps {owner}=={found}")


def _new_environment(versions: Versions) -> str:
    """Return the command that installs a new environment, for the same accelerator."""
    is_cpu = _is_cpu(versions.get("torch")) or _fbgemm_kind(versions)[0] == "cpu"
    kind = "cpu" if is_cpu else "cuda"
    return f"rm -rf .venv && make install ACCELERATOR={kind}"


def _pip(what: str) -> str:
    return f"{sys.executable} -m pip install {what}"


def _is_cpu(torch: str | None) -> bool:
    """Return whether torch was built for the CPU, or is absent. No suffix: it may use a GPU."""
    return torch is None or torch.endswith("+cpu")


def _numbers(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version: "2.13.0+cpu" -> (2, 13, 0)."""
    parts = version.split("+")[0].split(".")
    return tuple(int(part) for part in parts if part.isdigit())


def _minor(version: str | None) -> str:
    return "absent" if version is None else ".".join(map(str, _numbers(version)[:2]))


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
