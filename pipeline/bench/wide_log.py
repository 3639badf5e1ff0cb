"""Write a wide log with planted preferences: 26 ids, two histories, four numbers, many domains.

    logit p(row) = level + taste(row) + preference(domain, category) + drift(day, domain, category)

`taste` is a sum of effects of the row's ids, histories and numbers and never changes; the base can
learn it. The domain is not a feature of the base, and drift is zero in the base's window. So only
tuning can learn these two. Ids follow a bounded Pareto law, scattered over their table, so that
frequent ids do not all lie on the first shard. Tables are read by `identity`: no vocabulary is
fitted, and a table has as many rows as the knobs say, touched or not.

The same knobs are written once, below a folder that carries their hash, whole or not at all.

Shapes: B rows of a block (one day), V values of B histories, K domains, C categories, F factors.
Source of the sizes: Zipf 1949; an exponent s makes the largest of K domains ((K + 1) / 2)^s times
the median.
"""

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.random import Generator
from numpy.typing import NDArray

from iak.pipeline.files import putting_folder, remove_parts
from iak.pipeline.lock import one_writer
from iak.schemas.feature import FIRST_ROW
from iak.schemas.log import Catalog

VERSION = 1
"""Version of the rows: raise it when the same knobs give other rows."""
CATEGORICAL = 26
HISTORIES = {"h00": "c02", "h01": "c04"}
"""History -> the id whose table it shares."""
NUMERIC = 4
FIRST_DAY = date(2026, 1, 1)
WINDOW_DAYS = 7
"""Days of tuning rows; the last day of the log is for the test."""
LARGEST_TO_MEDIAN = 100
MEAN_HISTORY, LONGEST_HISTORY = 20, 40
GROUP_ROWS = 32_768

_EFFECTS = 64
"""Distinct effects of a table's ids: an id's is that of its number modulo this."""
_CATEGORIES, _CATEGORY = 16, "c20"
_FACTORS = 3
_OWN = 0.5
"""Deviation, in logits, of each of a domain's own parts."""
_TAIL = 20
"""Chance of a rank beyond r falls as r^(-1 / 20): a Pareto law, nearly Zipf's."""
_SHRINK = 0.6
"""Each table has this share of the rows of the one before."""
_SMALLEST = 20

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class WideKnobs:
    """Settings of the log."""

    rows: int
    days: int
    table_rows: int
    """Rows of all tables together."""
    domains: tuple[int, ...]
    """A column `domain_K` each; the finest has preferences of its own, the others join its
    domains."""
    seed: int = 0

    @property
    def key(self) -> str:
        """Return a name of the rows that these knobs give."""
        document = json.dumps([VERSION, asdict(self)], sort_keys=True)
        return hashlib.sha256(document.encode()).hexdigest()[:16]


def table_sizes(table_rows: int) -> dict[str, int]:
    """Return the rows of each table, from the largest; together exactly `table_rows`.

    Raises:
        ValueError: so few rows do not make 26 tables.
    """
    names = [f"c{i:02d}" for i in range(CATEGORICAL)]
    shares = np.array([_SHRINK**i for i in range(CATEGORICAL)])
    sizes = np.maximum((shares / shares.sum() * table_rows).astype(int), _SMALLEST)
    sizes[0] += table_rows - sizes.sum()
    if sizes[0] < _SMALLEST:
        raise ValueError(
            f"{table_rows} rows do not make {CATEGORICAL} tables of {_SMALLEST} rows and more; "
            f"ask for at least {2 * CATEGORICAL * _SMALLEST}"
        )
    return dict(zip(names, sizes.tolist(), strict=True))


def wide_catalog(knobs: WideKnobs, *, domains: int, nights_ago: int = 0) -> Catalog:
    """Return the log's catalogue, with kernels for the values of `domain_<domains>`.

    Args:
        knobs: settings of the log.
        domains: number of domains, one of `knobs.domains`.
        nights_ago: days by which the tuning window is earlier, for an earlier night.
    """
    last = -2 - nights_ago
    window = [last - WINDOW_DAYS + 1, last]
    before = [0, -2 - WINDOW_DAYS - _NIGHTS]
    return Catalog.model_validate(
        {
            "log": {"name": "wide", "partition_keys": ["dt"], "date_key": "dt"},
            "domain": {"keys": [f"domain_{domains}"], "min_rows": 1},
            "features": _features(),
            "tables": {
                name: {"encoding": "identity", "rows": rows}
                for name, rows in table_sizes(knobs.table_rows).items()
            },
            "tasks": [
                {"label": "click", "kind": "click"},
                {"label": "order", "kind": "conversion"},
            ],
            "splits": {
                "pretrain": {"days": before, "slice": [0.0, 0.96]},
                "pretrain_valid": {"days": before, "slice": [0.96, 1.0]},
                "tune": {"days": window, "slice": [0.0, 0.8]},
                "valid": {"days": window, "slice": [0.8, 0.9]},
                "gate": {"days": window, "slice": [0.9, 1.0]},
                "test": {"days": [-1, -1]},
            },
        }
    )


_NIGHTS = 1
"""Earlier nights whose windows the base must not have seen."""


def first_drifting_day(days: int) -> int:
    """Return the first day after the base's window."""
    return days - WINDOW_DAYS - _NIGHTS - 1


def _features() -> list[dict[str, Any]]:
    ids = [{"kind": "categorical", "name": f"c{i:02d}"} for i in range(CATEGORICAL)]
    histories = [
        {"kind": "list", "name": name, "table": table, "last": LONGEST_HISTORY}
        for name, table in HISTORIES.items()
    ]
    numbers = [{"kind": "numeric", "name": f"n{i}"} for i in range(NUMERIC)]
    return [*ids, *histories, *numbers]


def domain_shares(count: int) -> NDArray[np.float64]:
    """Return each domain's share of the rows: Zipf, the largest 100 times the median."""
    if count == 1:
        return np.ones(1)
    exponent = math.log(LARGEST_TO_MEDIAN) / math.log((count + 1) / 2)
    weights = np.arange(1, count + 1, dtype=np.float64) ** -exponent
    shares: NDArray[np.float64] = weights / weights.sum()
    return shares


def joined_domains(fine: int, coarse: int) -> I64:
    """Return the coarse domain of each fine one, so that coarse sizes follow Zipf's law too.

    The largest that is left joins the domain that lacks most.
    """
    lacking = domain_shares(coarse).copy()
    joined = np.zeros(fine, np.int64)
    for domain, share in enumerate(domain_shares(fine)):
        joined[domain] = index = int(lacking.argmax())
        lacking[index] -= share
    return joined


def ensure_wide_log(knobs: WideKnobs, cache: Path) -> Path:
    """Return the `data_root` of these knobs' log; write it below `cache` if it is missing."""
    root = cache / f"wide-{knobs.key}"
    if root.exists():
        return root
    with one_writer(cache, waits=True):
        if root.exists():  # another process was first
            return root
        remove_parts(root)
        with putting_folder(root) as part:
            truth = Truth(knobs)
            ends = np.linspace(0, knobs.rows, knobs.days + 1).astype(np.int64)
            for day, count in enumerate(np.diff(ends).tolist()):
                folder = part / "events" / f"dt={FIRST_DAY + timedelta(days=day)}"
                folder.mkdir(parents=True)
                _write(truth.day(day, count), folder / "part-00000.parquet")
    return root


def _write(rows: pa.Table, path: Path) -> None:
    """Write one file without dictionaries, which do not make ids of large tables smaller."""
    names = [n for n in rows.schema.names if pa.types.is_dictionary(rows.schema.field(n).type)]
    pq.write_table(
        rows,
        path,
        row_group_size=GROUP_ROWS,
        compression="lz4",
        use_dictionary=names or False,
        write_page_checksum=True,
    )


class Truth:
    """The planted function, and rows drawn under it."""

    def __init__(self, knobs: WideKnobs) -> None:
        """Draw every effect once."""
        self.knobs, self.sizes = knobs, table_sizes(knobs.table_rows)
        draw = np.random.default_rng([knobs.seed, 0])
        self.fine = max(knobs.domains)
        self.joined = {k: joined_domains(self.fine, k) for k in knobs.domains}
        self.click = _Taste(draw, level=-1.3)
        self.order = _Taste(draw, level=-1.0)
        shape = (self.fine, _CATEGORIES)
        self.preference_KC = _low_rank(draw, shape)
        self.drift_C = (draw.standard_normal(_CATEGORIES) * _OWN).astype(np.float32)
        self.drift_KC = _low_rank(draw, shape)

    def day(self, day: int, count: int) -> pa.Table:
        """Draw one day's rows."""
        draw = np.random.default_rng([self.knobs.seed, 1, day])
        domain_B = draw.choice(self.fine, count, p=domain_shares(self.fine)).astype(np.int32)
        ids = {name: _ids(draw, count, rows) for name, rows in self.sizes.items()}
        histories = {
            name: _histories(draw, count, self.sizes[table]) for name, table in HISTORIES.items()
        }
        numbers = {f"n{i}": draw.standard_normal(count, dtype=np.float32) for i in range(NUMERIC)}
        own_B = self.own_part(day, domain_B, ids[_CATEGORY])
        click_B = _drawn(draw, self.click(ids, histories, numbers) + own_B)
        order_B = _drawn(draw, self.order(ids, histories, numbers) + 0.5 * own_B) & click_B
        columns: dict[str, pa.Array] = {
            f"domain_{k}": _names(joined[domain_B], k) for k, joined in self.joined.items()
        }
        columns |= {name: pa.array(values) for name, values in ids.items()}
        columns |= {
            name: pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))
            for name, (values, offsets) in histories.items()
        }
        columns |= {name: pa.array(values) for name, values in numbers.items()}
        columns["click"] = pa.array(click_B.astype(np.int8))
        columns["order"] = pa.array(order_B.astype(np.int8))
        return pa.table(columns)

    def own_part(self, day: int, domain_B: I32, category_B: I32) -> F32:
        """Return the part of the logit that a base without domains and later days cannot learn."""
        column_B = category_B % _CATEGORIES
        since = day - first_drifting_day(self.knobs.days) + 1
        share = np.float32(min(max(since, 0) / 3, 1))
        moved_KC = self.preference_KC + share * (self.drift_C + self.drift_KC)
        own_B: F32 = moved_KC[domain_B, column_B]
        return own_B


class _Taste:
    """Effects of ids, histories and numbers on one label."""

    def __init__(self, draw: Generator, *, level: float) -> None:
        self.level = np.float32(level)
        self.ids = {
            f"c{i:02d}": draw.standard_normal(_EFFECTS).astype(np.float32) * np.float32(0.2)
            for i in range(CATEGORICAL)
        }
        self.histories = {
            name: draw.standard_normal(_EFFECTS).astype(np.float32) * np.float32(1.5)
            for name in HISTORIES
        }
        self.numbers = draw.standard_normal(NUMERIC).astype(np.float32) * np.float32(0.2)

    def __call__(
        self, ids: dict[str, I32], histories: dict[str, tuple[I32, I32]], numbers: dict[str, F32]
    ) -> F32:
        """Return the logits of the rows."""
        logit_B = np.full(len(ids[_CATEGORY]), self.level, np.float32)
        for name, effects in self.ids.items():
            logit_B += effects[ids[name] & (_EFFECTS - 1)]
        for name, effects in self.histories.items():
            values, offsets = histories[name]
            sums_B = np.add.reduceat(effects[values & (_EFFECTS - 1)], offsets[:-1])
            logit_B += sums_B / np.diff(offsets).astype(np.float32)
        for index, weight in enumerate(self.numbers):
            logit_B += numbers[f"n{index}"] * weight
        return logit_B


def _low_rank(draw: Generator, shape: tuple[int, int]) -> F32:
    """Draw a matrix of a few factors, with entries of deviation _OWN."""
    left_KF = draw.standard_normal((shape[0], _FACTORS))
    right_FC = draw.standard_normal((_FACTORS, shape[1]))
    product: F32 = (left_KF @ right_FC * (_OWN / math.sqrt(_FACTORS))).astype(np.float32)
    return product


def _ids(draw: Generator, count: int, rows: int) -> I32:
    """Draw ids of a table of `rows` rows: rank by a bounded Pareto law, scattered one to one."""
    ids = rows - FIRST_ROW
    above = np.float32((ids + 1) ** (-1 / _TAIL) - 1)
    root_B = draw.random(count, dtype=np.float32) * above + np.float32(1)
    fifth_B = np.square(np.square(root_B)) * root_B
    rank_B = np.minimum((1 / np.square(np.square(fifth_B))).astype(np.int64), ids) - 1
    scattered_B: I32 = (rank_B * _coprime(ids) % ids).astype(np.int32)
    return scattered_B


def _coprime(ids: int) -> int:
    """Return a multiplier near the golden ratio of `ids` that shares no factor with it."""
    step = max(int(ids * 0.618), 1)
    while math.gcd(step, ids) != 1:
        step += 1
    return step


def _histories(draw: Generator, count: int, rows: int) -> tuple[I32, I32]:
    """Draw values and offsets of `count` lists, MEAN_HISTORY ids on average, none empty."""
    lengths_B = draw.poisson(MEAN_HISTORY, count).clip(1, LONGEST_HISTORY)
    offsets = np.concatenate([[0], lengths_B.cumsum()]).astype(np.int32)
    return _ids(draw, int(offsets[-1]), rows), offsets


def _drawn(draw: Generator, logit_B: F32) -> NDArray[np.bool_]:
    """Draw labels of these logits."""
    p_B = 1 / (1 + np.exp(-logit_B))
    happened: NDArray[np.bool_] = draw.random(len(p_B), dtype=np.float32) < p_B
    return happened


def _names(index_B: I64, count: int) -> pa.DictionaryArray:
    """Return domain names, as text."""
    names = pa.array([f"d{k:0{len(str(count - 1))}d}" for k in range(count)])
    return pa.DictionaryArray.from_arrays(pa.array(index_B.astype(np.int32)), names)
