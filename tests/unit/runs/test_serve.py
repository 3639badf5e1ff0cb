"""A service of this process: what it opens, and what it follows."""

from pathlib import Path

import pytest

from iak.pipeline.publish.bundle_index import read_index
from iak.pipeline.registry.promote import Run
from iak.pipeline.runs.serve import serving
from iak.pipeline.serving.activation_writer import kernel_of
from iak.pipeline.storage.folder_store import FolderStore
from iak.schemas.serving import ServeSpec
from tests.unit.registry.nights import promote
from tests.unit.serving.shop import KERNEL, shop_catalog, write_base, write_bundles, write_shop


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    base = write_base(folder / "base")
    write_bundles(folder / "bundles", base)
    return folder


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    table = write_shop(tmp_path_factory.mktemp("log"))
    return table.slice(0, 30).combine_chunks().to_batches()[0]


def answered(place, rows, bundles=None):
    """The kernels that answer some rows, and whether a registry is followed."""
    spec = ServeSpec(catalog="shop", base=place / "base", bundles=bundles)
    with serving(spec, shop_catalog()) as work:
        answer = work.service.submit(rows).result()
        return {name for name in answer["kernel"].to_pylist() if name}, work.follower is not None


def test_without_bundles_the_base_answers_alone(place, rows):
    assert answered(place, rows) == ({"base"}, False)


def test_bundles_of_a_folder_answer_and_nothing_is_followed(place, rows):
    kernels, is_followed = answered(place, rows, place / "bundles")
    assert "pooled" in kernels or any(name.startswith("region=") for name in kernels)
    assert not is_followed


def test_the_bundles_of_a_registry_are_followed(place, rows, tmp_path):
    store = FolderStore(tmp_path / "registry")
    index = read_index(place / "bundles")
    run = Run(
        name="R", bundles=place / "bundles", base=None, index_sha256=index.sha256,
        record_sha256="e" * 64, code="abc", parents={},
    )  # fmt: skip
    promote(store, run)
    kernels, is_followed = answered(place, rows, Path(f"registry:{tmp_path / 'registry'}@champion"))
    assert is_followed
    assert kernels == answered(place, rows, place / "bundles")[0]


def test_kernels_of_a_folder_say_how_they_were_tuned(place):
    assert kernel_of(place / "bundles") == KERNEL
