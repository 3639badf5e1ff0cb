"""Results of a finished run are verified before it is called finished; what is wrong is named."""

import re
import shutil

import pytest

from iak.pipeline.errors import BadRequest, Corrupt
from iak.pipeline.publish.bundle import WEIGHTS
from iak.pipeline.publish.bundle_index import write_index
from iak.pipeline.runs import outputs as run_outputs
from iak.pipeline.runs.outputs import base_output, bundles_output, file_output, verify_outputs
from tests.unit.base.test_published_base import published
from tests.unit.publish.test_bundle import write


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run folder with a result of every kind, and what its record says of them."""
    run_dir = tmp_path_factory.mktemp("run")
    published(run_dir / "base", "crosses")
    for seed, domain in enumerate((None, {"region": "a"})):
        write(run_dir / "bundles", seed=seed, domain=domain)
    write_index(run_dir / "bundles")
    (run_dir / "metrics.json").write_text("[1, 2]")
    outputs = {
        "base": base_output(run_dir / "base"),
        "bundles": bundles_output(run_dir / "bundles"),
        "metrics.json": file_output(run_dir / "metrics.json"),
    }
    return run_dir, outputs


@pytest.fixture
def run(whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "run")
    return tmp_path / "run", whole[1]


def remove(path):
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def empty(path):
    path.write_bytes(b"")


def flip(path):
    """Change one byte, and not the size."""
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def keep_nothing(folder):
    for inside in folder.iterdir():
        remove(inside)


def swap(folder):
    """Put a table's file in the place of another's."""
    one, *_, other = sorted(folder.glob("tables/*/*.safetensors"))
    shutil.copy(one, other)


def publish_again(folder):
    write(folder, seed=7)
    write_index(folder)


BROKEN = {
    "no base": ("base", remove, "base is missing"),
    "an emptied base": ("base", keep_nothing, "base is empty"),
    "no manifest": ("base/manifest.json", remove, "no published base at"),
    "a changed manifest": ("base/manifest.json", flip, r"manifest\.json"),
    "no encoding": ("base/encoding", remove, "no encoding at"),
    "a changed dense part": ("base/dense.safetensors", flip, r"dense\.safetensors is not the file"),
    "a cut dense part": ("base/dense.safetensors", cut, r"dense\.safetensors has .* bytes, its"),
    "a swapped table file": ("base", swap, r"\.safetensors (is not the file|has .* bytes)"),
    "no bundles": ("bundles", remove, "bundles is missing"),
    "emptied bundles": ("bundles", keep_nothing, "bundles is empty"),
    "a bundle less": ("bundles/pooled", remove, "lacks bundles that its index.json names: pooled"),
    "another bundle": ("bundles", publish_again, "bundles was changed"),
    "changed weights": (f"bundles/pooled/{WEIGHTS}", flip, rf"pooled/{WEIGHTS} is not what was"),
    "emptied weights": (f"bundles/pooled/{WEIGHTS}", empty, rf"pooled/{WEIGHTS} is not what was"),
    "no weights": (f"bundles/pooled/{WEIGHTS}", remove, rf"pooled/{WEIGHTS} is not what was"),
    "no metrics": ("metrics.json", remove, r"metrics\.json is missing"),
    "emptied metrics": ("metrics.json", empty, r"metrics\.json was changed.*\(0 bytes\) is there"),
    "changed metrics": ("metrics.json", flip, r"metrics\.json was changed"),
}


def test_results_that_are_there_are_believed(run):
    verify_outputs(*run)


@pytest.mark.parametrize(("name", "fault", "told"), BROKEN.values(), ids=BROKEN)
def test_a_result_that_is_not_what_was_written_is_refused_by_name(run, name, fault, told):
    run_dir, outputs = run
    fault(run_dir / name)
    with pytest.raises(Corrupt, match=r"recorded as finished") as refused:
        verify_outputs(run_dir, outputs)
    assert re.search(told, str(refused.value))
    assert f"Restore them from a copy, or remove {run_dir}" in str(refused.value)


def test_all_that_is_wrong_is_named_at_once(run):
    run_dir, outputs = run
    remove(run_dir / "base")
    flip(run_dir / "metrics.json")
    with pytest.raises(Corrupt, match=r"(?s)base is missing.*metrics\.json was changed"):
        verify_outputs(run_dir, outputs)


def test_other_files_may_lie_beside_the_results(run):
    run_dir, outputs = run
    (run_dir / "base" / "mapped").mkdir()
    (run_dir / "worker-0.error.json").write_text("{}")
    verify_outputs(run_dir, outputs)


def test_of_a_large_base_all_sizes_and_some_tables_are_read(run, monkeypatch):
    run_dir, outputs = run
    monkeypatch.setattr(run_outputs, "TABLE_BYTES", 1)
    first, *_, last = sorted((run_dir / "base").glob("tables/*/*.safetensors"))
    flip(last)
    verify_outputs(run_dir, outputs)
    cut(last)
    with pytest.raises(Corrupt, match=f"{last.name} has"):
        verify_outputs(run_dir, outputs)
    remove(last)
    flip(first)
    with pytest.raises(Corrupt, match=rf"(?s){last.parent.name}/{last.name} is missing") as told:
        verify_outputs(run_dir, outputs)
    assert f"{first.parent.name}/{first.name} is not the file" in str(told.value)


def test_a_folder_without_bundles_has_no_digest(tmp_path):
    with pytest.raises(BadRequest, match="no bundle below"):
        bundles_output(tmp_path / "bundles")
