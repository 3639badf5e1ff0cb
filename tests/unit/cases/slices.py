"""Small slices of the public logs, with columns renamed and types changed."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

REPOSITORY = Path(__file__).parents[3]
DATA = REPOSITORY.parent / "shared" / "data"
LOGS = {
    "frappe": ("label_click", "label_conversion"),
    "ipinyou_2997_sample": ("label_click",),
    "movielens_100k": ("label_click", "label_conversion"),
    "open_bandit_zozotown": ("label_click",),
    "retailrocket_funnel": ("label_click", "label_cart", "label_conversion"),
    "uci_local_coupons": ("label_click",),
    "xmrec_markets": ("label_click", "label_conversion"),
}
"""Log -> its labels, the click first."""
Change = Callable[[pa.Table], pa.Table]


def write_slice(
    name: str,
    target: Path,
    change: Change,
    *,
    rows: int = 3_000,
    keys: Callable[[str], str] = str,
) -> None:
    """Write evenly spread runs of every file of a log, changed, into folders of renamed keys."""
    source = DATA / name / "events"
    for path in sorted(source.rglob("*.parquet")):
        table = pq.ParquetFile(path).read()
        stride = max(len(table) // rows, 1)
        positions = [at for at in range(len(table)) if at // 60 % stride == 0]
        parts = path.relative_to(source).parts
        renamed = [
            f"{keys(p.partition('=')[0])}={p.partition('=')[2]}" if "=" in p else p for p in parts
        ]
        out = target.joinpath(*renamed)
        out.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(change(table.take(positions)), out)


def anonymous(table: pa.Table) -> pa.Table:
    """Name columns col_1, col_2, ... in their order."""
    return table.rename_columns([f"col_{at + 1}" for at in range(table.num_columns)])


def retyped(table: pa.Table) -> pa.Table:
    """Write whole-number ids as text, labels as booleans or floats, Unix times as timestamps."""
    columns = {}
    for at, name in enumerate(table.column_names):
        column = table.column(name)
        if name.startswith("label_"):
            column = column.cast(pa.bool_() if at % 2 else pa.float64())
        elif name == "event_time":
            column = column.cast(pa.timestamp("ms", "UTC"))
        elif name.endswith("_id") and pa.types.is_integer(column.type):
            column = pc.binary_join_element_wise("e", column.cast(pa.string()), "-")
        elif pa.types.is_int8(column.type) or pa.types.is_int16(column.type):
            column = column.cast(pa.int32())
        elif pa.types.is_string(column.type) and at % 2:
            column = column.dictionary_encode()
        columns[name] = column
    return pa.table(columns)
