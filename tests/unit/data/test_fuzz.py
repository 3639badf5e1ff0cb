"""Whatever a catalogue or a file holds, `iak check` ends in findings or in a deliberate error."""

import copy
import tempfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from iak.pipeline.data.check import Report, check_log
from iak.pipeline.errors import PipelineError
from iak.schemas.log import Catalog
from tests.builders import catalog_document, draw_rows, partition, small_catalog, write_file

DOCUMENT = catalog_document(
    domain={"keys": ["region", "scene"], "parent": ["region"]},
    splits={
        "pretrain": {"days": [0, -2], "slice": [0.0, 0.7]},
        "pretrain_valid": {"days": [0, -2], "slice": [0.7, 1.0]},
        "tune": {"days": [-1, -1], "slice": [0.0, 0.5]},
        "test": {"days": [-1, -1], "slice": [0.5, 1.0]},
    },
    tasks=[
        {"label": "click", "kind": "click"},
        {"label": "order", "kind": "conversion", "matures_after": "P1D"},
    ],
)
ROWS = {"2026-10-01": draw_rows(14), "2026-10-02": draw_rows(10, first=14)}
COLUMNS = [*ROWS["2026-10-01"].schema.names, "region", "dt", "nope"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("fuzz")
    for day, rows in ROWS.items():
        write_file(root / "events" / partition("ningbo", day) / "a.parquet", rows)
    return root


def check(catalog: Catalog, root: Path) -> Report | str:
    """What the check says; its deliberate errors are an answer too."""
    try:
        return check_log(catalog, str(root), sample_rows=1_000)
    except PipelineError as error:
        return str(error)


scalars = (
    st.sampled_from(COLUMNS)
    | st.sampled_from(["click", "conversion", "list", "numeric", "hash", "identity", "", "P1D"])
    | st.sampled_from([0, 1, -1, 2, 3, 10**9, 0.5, 1e300, float("nan"), True, False])
    | st.sampled_from(["2026-10-01", "Asia/Shanghai", "Nowhere/City"])
)
values = (
    scalars | st.lists(scalars, max_size=3) | st.dictionaries(st.sampled_from(COLUMNS), scalars)
)
NEW = ("optional", "padding", "column", "table", "log", "buckets", "boundaries", "values", "user")
MORE = ("slice_by", "leak_columns", "truth", "negatives_kept", "where", "dates", "weight", "width")


def like(value: Any) -> st.SearchStrategy[Any]:
    """Values that may stand where this one stands, and so get past the catalogue's types."""
    if isinstance(value, str) and value in COLUMNS:
        return st.sampled_from(COLUMNS)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return values
    return st.sampled_from([0, 1, -1, 2, 3, 5, 0.25, 0.5, 1.0])


def mutate(tree: Any, data: st.DataObject) -> None:
    """Change one entry somewhere in the tree: another value, none, or one more."""
    node = tree
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            break
        key = data.draw(st.sampled_from(keys))
        inner = node[key]
        if isinstance(inner, dict | list) and inner and data.draw(st.integers(0, 4)):
            node = inner
            continue
        kind = data.draw(st.sampled_from(["like", "like", "like", "replace", "remove", "add"]))
        if kind in ("like", "replace"):
            node[key] = data.draw(like(inner) if kind == "like" else values)
        elif kind == "remove":
            del node[key]
        elif isinstance(node, dict):
            node[data.draw(st.sampled_from([*NEW, *MORE]))] = data.draw(values)
        else:
            node.append(copy.deepcopy(node[key]))
        return


@settings(max_examples=150)
@given(data=st.data(), changes=st.integers(1, 3))
def test_a_changed_catalogue_is_refused_or_checked(root, data, changes):
    document = copy.deepcopy(DOCUMENT)
    for _ in range(changes):
        mutate(document, data)
    try:
        catalog = Catalog.model_validate(document)
    except ValidationError:
        return
    check(catalog, root)


COLUMN_TYPES: tuple[tuple[pa.DataType, Any], ...] = (
    (pa.int64(), 7),
    (pa.uint64(), 2**64 - 1),
    (pa.int8(), -1),
    (pa.bool_(), True),
    (pa.float32(), 0.5),
    (pa.float64(), 1.797e308),
    (pa.float16(), 1.0),
    (pa.string(), "w"),
    (pa.string_view(), "w"),
    (pa.large_string(), ""),
    (pa.binary(), b"\xff"),
    (pa.binary(2), b"ab"),
    (pa.decimal128(20, 0), Decimal(3)),
    (pa.decimal128(9, 3), Decimal("0.125")),
    (pa.decimal256(70, 0), Decimal(10**60)),
    (pa.decimal32(5, 0), Decimal(1)),
    (pa.timestamp("ms"), 5),
    (pa.timestamp("ns", "UTC"), 5),
    (pa.date32(), 5),
    (pa.time64("us"), 5),
    (pa.duration("s"), 5),
    (pa.null(), None),
    (pa.list_(pa.int64()), [1, None]),
    (pa.list_(pa.string()), ["w"]),
    (pa.list_(pa.float64()), [0.5]),
    (pa.list_(pa.int64(), 2), [1, 2]),
    (pa.list_view(pa.int32()), [1, 2, 3]),
    (pa.list_(pa.list_(pa.int64())), [[1]]),
    (pa.list_(pa.struct({"a": pa.int64()})), [{"a": 1}]),
    (pa.struct({"a": pa.int64()}), {"a": 1}),
    (pa.map_(pa.string(), pa.int64()), [("k", 1)]),
    (pa.dictionary(pa.int8(), pa.string()), "w"),
)


@st.composite
def changed_tables(draw: Any) -> pa.Table:
    """The small log's rows with some columns dropped, doubled, renamed or of another type."""
    table = draw_rows(draw(st.sampled_from([0, 1, 12])), first=40)
    for _ in range(draw(st.integers(0, 3))):
        index = draw(st.integers(0, table.num_columns - 1))
        kind = draw(st.sampled_from(["drop", "rename", "double", "retype", "retype", "retype"]))
        if kind == "drop" and table.num_columns > 1:
            table = table.remove_column(index)
        elif kind == "rename":
            names = list(table.schema.names)
            names[index] = draw(st.sampled_from(COLUMNS))
            table = table.rename_columns(names)
        elif kind == "double":
            table = table.append_column(table.schema.field(index), table.column(index))
        else:
            arrow, value = draw(st.sampled_from(COLUMN_TYPES))
            nulls = draw(st.integers(0, 3))
            values = [None if nulls and row % nulls == 0 else value for row in range(len(table))]
            table = table.set_column(index, table.schema.names[index], pa.array(values, arrow))
    return table


@settings(max_examples=80)
@given(table=changed_tables(), is_beside=st.booleans(), optional=st.booleans())
def test_a_file_with_other_columns_is_skipped_refused_or_checked(table, is_beside, optional):
    document = copy.deepcopy(DOCUMENT)
    for feature in document["features"]:
        feature["optional"] = optional
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for day, rows in ROWS.items() if is_beside else ():
            write_file(root / "events" / partition("ningbo", day) / "a.parquet", rows)
        write_file(root / "events" / partition("hangzhou", "2026-10-01") / "b.parquet", table)
        check(Catalog.model_validate(document), root)


WHOLE = draw_rows(200)


@settings(max_examples=100)
@given(data=st.data(), codec=st.sampled_from(["none", "snappy", "zstd"]), checked=st.booleans())
def test_damaged_pages_and_cut_files_are_told_of(data, codec, checked):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        path = root / "events" / partition("ningbo", "2026-10-01") / "a.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(WHOLE, path, compression=codec, write_page_checksum=checked)
        content = bytearray(path.read_bytes())
        end = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(st.integers(4, end - 1))] ^= 1 << data.draw(st.integers(0, 7))
        if data.draw(st.integers(0, 4)) == 0:
            content = content[: data.draw(st.integers(0, len(content)))]
        path.write_bytes(content)
        check(small_catalog(), root)
