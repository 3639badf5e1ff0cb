"""Labels that are stated again, and rows in other files: read again, never computed again."""

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from iak.pipeline.process import run_on_workers
from iak.pipeline.tuning.finetune import finetune
from tests.integration.small_log import publish_base, write_log
from tests.integration.test_tuning import cache_config, finetune_work, silent

pytestmark = pytest.mark.slow


def restate(log):
    """Turn every tenth row's click round, in files that keep their rows and row groups."""
    for path in log.rglob("*.parquet"):
        file = pq.ParquetFile(path)
        groups = [file.read_row_group(group) for group in range(file.num_row_groups)]
        with pq.ParquetWriter(path, file.schema_arrow) as writer:
            for rows in groups:
                writer.write_table(_turned(rows))


def _turned(rows):
    is_turned = pa.array([row % 10 == 0 for row in range(len(rows))])
    click, order = rows.column("label_click"), rows.column("label_order")
    turned = pc.subtract(pa.scalar(1, click.type), click)
    rows = rows.set_column(
        rows.schema.get_field_index("label_click"),
        "label_click",
        pc.if_else(is_turned, turned, click),
    )
    none = pa.scalar(0, order.type)
    place = rows.schema.get_field_index("label_order")
    return rows.set_column(place, "label_order", pc.if_else(is_turned, none, order))


def lay_out_again(log):
    """Write each partition's rows backwards into two files of small row groups."""
    for path in list(log.rglob("*.parquet")):
        rows = pq.ParquetFile(path).read()
        backwards = rows.take(pa.array(range(len(rows))[::-1]))
        half = len(rows) // 2
        path.unlink()
        for name, part in (("a", backwards.slice(0, half)), ("b", backwards.slice(half))):
            pq.write_table(part, path.with_name(f"{name}.parquet"), row_group_size=37)


def night(worker, place, name, cache):
    folder = {"kind": "cache", "folder": place / cache}
    work = finetune_work(place, place / name, cache=cache_config(place, **folder))
    return finetune(work, worker=worker, report=silent)


def nights(worker, place):
    """A night, the same rows with other labels, and those in other files."""
    write_log(place / "log")
    publish_base(worker, place / "log", place)
    first = night(worker, place, "first", "cache")
    restate(place / "log" / "events")
    second = night(worker, place, "second", "cache")
    fresh = night(worker, place, "fresh", "another cache")
    lay_out_again(place / "log" / "events")
    moved = night(worker, place, "moved", "cache")
    return {"first": first, "second": second, "fresh": fresh, "moved": moved}


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    (answers,) = run_on_workers(nights, 1, tmp_path_factory.mktemp("restated"))
    return answers


def kernels(done):
    return [level.tuned.bank.flat_KN for level in done.levels]


def test_restated_labels_are_learned_from_what_is_kept(ended):
    first, second, fresh = (ended[name] for name in ("first", "second", "fresh"))
    assert second.cache.rows_computed == 0
    assert second.cache.rows_read == first.cache.rows_computed > 0
    assert second.labels != first.labels
    assert all((a == b).all() for a, b in zip(kernels(second), kernels(fresh), strict=True))
    assert any((a != b).any() for a, b in zip(kernels(first), kernels(second), strict=True))


def test_rows_in_other_files_and_row_groups_are_found(ended):
    moved = ended["moved"]
    assert moved.cache.rows_computed == 0
    assert moved.cache.rows_read == ended["first"].cache.rows_computed
    assert moved.cache.rows_moved > 0
    assert moved.labels == ended["second"].labels


def test_the_standardisation_says_where_it_comes_from(ended):
    assert ended["first"].standard_from == "this run's rows"
    assert ended["second"].standard_from == "the cache"
