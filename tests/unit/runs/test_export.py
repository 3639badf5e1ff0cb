"""`iak export`: the folder that it writes, and a process that has nothing of this package."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from iak.pipeline.errors import BadRequest
from iak.pipeline.runs.export import export
from iak.pipeline.serving import runtime
from iak.schemas.export import BankDocument, ExportDocument, ExportSpec, PeftDocument
from tests.unit.serving.shop import shop_catalog, write_base, write_bundles

PAGE = (Path(__file__).parents[3] / "pipeline" / "serving" / "README.md").read_text()
ABSENT = ("iak", "torchrec", "fbgemm_gpu", "ray", "pyarrow", "pydantic")
EXAMPLE = PAGE.partition("```python\n")[2].partition("```")[0]
PROCESS = f"""
import json, sys
sys.modules |= dict.fromkeys({ABSENT!r})  # an import of any of them fails
{EXAMPLE}
shown = [{{name: list(values) for name, values in part.items()}} for part in (answers, later)]
print(json.dumps(shown))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    base = write_base(folder / "base")
    write_bundles(folder / "R2" / "bundles", base)
    write_bundles(folder / "R3" / "bundles", base, seed=50)
    exported(folder, "E1", bundles=folder / "R2")
    exported(folder, "B2", bundles=folder / "R3" / "bundles", only="bank")
    return folder


def exported(place, out, **settings):
    spec = ExportSpec(catalog="shop", base=place / "base", out=place / out, **settings)
    return export(spec, shop_catalog())


def run(place, source):
    return subprocess.run(
        [sys.executable, "-c", source], cwd=place, capture_output=True, text=True, check=False,
        env={"PATH": "/usr/bin:/bin"},
    )  # fmt: skip


def test_the_pages_example_runs_without_the_package(place):
    assert "iak_runtime.load" in EXAMPLE
    done = run(place, PROCESS)
    assert done.returncode == 0, done.stderr
    first, later = json.loads(done.stdout)
    assert first["kernel"][0] == later["kernel"][0] == "region=hangzhou/scene=feed"
    assert first["p.ctr"][0] != later["p.ctr"][0]
    assert first["version"][0] != later["version"][0]


def test_what_the_process_lacks_cannot_be_imported_there(place):
    done = run(place, PROCESS.replace("import iak_runtime", "import pyarrow"))
    assert done.returncode == 1
    assert "ModuleNotFoundError: import of pyarrow halted" in done.stderr


def test_the_folder_has_what_its_document_names(place):
    document = ExportDocument.model_validate_json((place / "E1" / "export.json").read_bytes())
    for name in document.files:
        assert (place / "E1" / name).is_file()
    assert (place / "E1" / "iak_runtime.py").read_bytes() == Path(runtime.__file__).read_bytes()
    bank = BankDocument.model_validate_json((place / "B2" / "bank.json").read_bytes())
    assert bank.base_fingerprint == document.base_fingerprint
    assert {path.name for path in (place / "B2").iterdir()} == {"bank.json", "bank.safetensors"}


def test_who_may_read_one_file_of_an_export_may_read_all(place):
    modes = {path.stat().st_mode for path in (place / "E1").rglob("*") if path.is_file()}
    assert len(modes) == 1  # safetensors 0.8 alone would make files that only their owner reads


def test_the_result_counts_published_kernels_and_bytes(place):
    result = exported(place, "E2", bundles=place / "R2")
    assert result.kernels == 4
    files = [path for path in (place / "E2").rglob("*") if path.is_file()]
    assert result.bytes == sum(path.stat().st_size for path in files)
    assert exported(place, "E2").kernels == 0
    assert not (place / "E2" / "bank").exists()


def test_a_folder_that_is_no_export_is_not_replaced(place):
    other = place / "other"
    other.mkdir()
    (other / "note.txt").write_text("keep")
    with pytest.raises(BadRequest, match="is no export, so it is not replaced"):
        exported(place, "other")
    assert (other / "note.txt").read_text() == "keep"


def test_a_bank_needs_bundles(place):
    with pytest.raises(ValidationError, match="only=bank writes kernels, and no bundles are given"):
        exported(place, "B3", only="bank")


def test_what_cannot_be_expressed_leaves_no_folder(place):
    with pytest.raises(BadRequest, match="computes in fp32 alone"):
        exported(place, "E3", tables={"products": "bf16"})
    assert not (place / "E3").exists()


def test_adapters_are_written_for_each_published_kernel_and_nothing_else(place):
    result = exported(place, "P1", bundles=place / "R2", to="peft")
    document = PeftDocument.model_validate_json((place / "P1" / "peft.json").read_bytes())
    assert [kernel.domain for kernel in document.kernels] == [
        "pooled", "region=hangzhou", "region=hangzhou/scene=feed", "region=ningbo/scene=search",
    ]  # fmt: skip
    assert (result.kernels, result.left_out) == (4, document.left_out)
    folders = {kernel.folder for kernel in document.kernels}
    assert {path.name for path in (place / "P1").iterdir()} == {"peft.json", *folders}
    assert exported(place, "P1", bundles=place / "R2", to="peft") == result


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        pytest.param({}, "to=peft writes adapters, and no bundles are given", id="no bundles"),
        pytest.param({"bundles": "R2", "only": "bank"}, "a part of to=runtime", id="a bank"),
    ],
)
def test_adapters_need_bundles_and_are_no_bank(place, settings, says):
    with pytest.raises(ValidationError, match=says):
        exported(place, "P2", to="peft", **settings)
