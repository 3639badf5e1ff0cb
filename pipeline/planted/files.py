"""Write a planted log: for each region and day a file of events and a file of true probabilities.

The log is written region by region, day by day, in blocks of at most `rows.BLOCK_ROWS` rows. So
memory does not grow with the number of rows. The same settings give the same bytes.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from iak.pipeline.errors import BadRequest
from iak.pipeline.files import put_file, putting_folder, sha256_of_file
from iak.pipeline.formats import first_format
from iak.pipeline.planted import rows
from iak.pipeline.planted.population import (
    AGE_GROUPS,
    CATEGORIES,
    CITY_TIERS,
    DAYPARTS,
    I8,
    SCENES,
    SEGMENTS,
    Knobs,
    build_knobs,
)
from iak.pipeline.planted.rows import Block, Histories, Labels, Levels, Truth
from iak.pipeline.planted.world import Region, World, build_world
from iak.schemas.synth import SynthManifest, SynthPart, SynthSpec

VERSION = 2
"""Version of the rows: raise it when the same knobs give other rows."""
TRUTH_COLUMNS = ("p_click", "p_order", "p_click_global", "p_order_global")
EVENT_SCHEMA = pa.schema(
    [
        ("event_id", pa.int64()),
        ("event_time", pa.int64()),
        ("user_id", pa.int64()),
        ("item_id", pa.int64()),
        ("shop_id", pa.int64()),
        ("category", pa.string()),
        ("price", pa.float32()),
        ("distance_km", pa.float32()),
        ("daypart", pa.string()),
        ("scene", pa.string()),
        ("weekday", pa.int8()),
        ("age_group", pa.string()),
        ("user_segment", pa.string()),
        ("city_tier", pa.string()),
        ("hist_item_ids", pa.list_(pa.int64())),
        ("hist_categories", pa.list_(pa.string())),
        ("label_click", pa.int8()),
        ("label_order", pa.int8()),
    ]
)
TRUTH_SCHEMA = pa.schema([(name, pa.float64()) for name in TRUTH_COLUMNS])


@dataclass(frozen=True, kw_only=True, slots=True)
class SynthResult:
    """A planted log, written now or before."""

    out: Path
    rows: int
    clicks: int
    orders: int
    digest: str
    """SHA-256 over the digests of all files."""
    was_there: bool
    """Whether an earlier call wrote it."""


def generate(knobs: Knobs, out: Path, progress: Callable[[int], None]) -> SynthResult:
    """Write the planted log that the settings describe.

    Memory holds the population, one (users, H) table of histories and at most two blocks of rows,
    however many rows are asked for.

    Args:
        knobs: plain values of a valid `SynthSpec`; the same values give the same bytes.
        out: a folder that is absent, empty, or already holds this very log.
        progress: called after each row group with the rows that it added.

    Raises:
        BadRequest: `out` holds anything else.
    """
    finished = _finished(knobs, out)
    if finished is not None:
        return _result(finished, out, was_there=True)
    with putting_folder(out) as partial:
        manifest = _write_log(build_world(knobs), partial, progress)
        put_file(partial / "manifest.json", manifest.model_dump_json(indent=1) + "\n")
    return _result(manifest, out, was_there=False)


def repeat_last_days(
    knobs: Knobs, out: Path, progress: Callable[[int], None], *, days: int, times: int
) -> None:
    """Write the last days of a planted log again, each time as a log of its own, `out`/1 and so on.

    Users, items and probabilities are those of the log. Each time, histories begin as they were
    before these days, and users, items and labels are drawn anew. So a test can have as many rows
    as its question needs, on a log whose other days stay as they are.

    Args:
        knobs: settings of the log; see `generate`.
        out: a folder that is absent.
        progress: called after each row group with the rows that it added.
        days: days that are drawn again, at the end of the log.
        times: how often.
    """
    world = build_world(knobs)
    levels = rows.fit_levels(world)
    first, next_id = knobs.days - days, knobs.rows
    with putting_folder(out) as partial:
        for region in world.regions:
            before = rows.first_histories(world, region)
            for day in range(first):
                for _ in rows.day_blocks(world, levels, region, before, day=day):
                    pass  # the clicks of each block join the histories
            for repetition in range(1, times + 1):
                histories, folder = before.copy(), partial / str(repetition)
                for day in range(first, knobs.days):
                    part = _write_part(
                        world, levels, region, histories, folder, progress, day=day,
                        id_from=next_id, repetition=repetition,
                    )  # fmt: skip
                    next_id += part.rows


def _finished(knobs: Knobs, out: Path) -> SynthManifest | None:
    """Return the manifest of this very log in `out`, None where the folder is absent or empty.

    Raises:
        BadRequest: `out` holds anything else.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    refusal = BadRequest(
        f"{out} is not empty and is not the log asked for (same knobs, seed and version "
        f"{VERSION}, every file whole).\n  Name another folder, or remove this one."
    )
    try:
        manifest = _manifest_of(out / "manifest.json")
    except (OSError, ValueError):
        raise refusal from None
    same = manifest.version == VERSION and build_knobs(manifest.spec) == knobs
    if not (same and all(_is_whole(part, out) for part in manifest.parts)):
        raise refusal
    return manifest


def _manifest_of(path: Path) -> SynthManifest:
    """Return the manifest of a planted log, in the current format."""
    return first_format(
        SynthManifest,
        json.loads(path.read_bytes()),
        kind="planted log's manifest",
        where=path,
        remedy="Remove the log, and run `iak synth` again",
    )


def _is_whole(part: SynthPart, out: Path) -> bool:
    """Return whether both files of a region's day exist with their sizes."""
    sizes = {"events": part.events_bytes, "truth": part.truth_bytes}
    paths = {kind: _part_path(out, kind, part.region, part.dt) for kind in sizes}
    return all(
        path.is_file() and path.stat().st_size == sizes[kind] for kind, path in paths.items()
    )


def _result(manifest: SynthManifest, out: Path, *, was_there: bool) -> SynthResult:
    return SynthResult(
        out=out,
        rows=manifest.rows,
        clicks=manifest.clicks,
        orders=manifest.orders,
        digest=manifest.digest,
        was_there=was_there,
    )


def _write_log(world: World, folder: Path, progress: Callable[[int], None]) -> SynthManifest:
    """Write every partition, and return the finished manifest."""
    levels = rows.fit_levels(world)
    first_id = np.r_[0, np.cumsum(world.rows_RD)]
    parts = []
    for region in world.regions:
        histories = rows.first_histories(world, region)
        for day in range(world.knobs.days):
            id_from = int(first_id[region.number * world.knobs.days + day])
            parts.append(
                _write_part(
                    world, levels, region, histories, folder, progress, day=day, id_from=id_from
                )
            )
    digests = "".join(part.events_sha256 + part.truth_sha256 for part in parts)
    return SynthManifest(
        version=VERSION,
        spec=SynthSpec.model_validate(asdict(world.knobs)),
        base_days=world.knobs.base_days,
        rows=sum(part.rows for part in parts),
        clicks=sum(part.clicks for part in parts),
        orders=sum(part.orders for part in parts),
        digest=hashlib.sha256(digests.encode()).hexdigest(),
        parts=tuple(parts),
    )


def _part_path(folder: Path, kind: str, region: str, dt: date) -> Path:
    return folder / kind / f"region={region}" / f"dt={dt}" / "part-00000.parquet"


def _write_part(
    world: World,
    levels: Levels,
    region: Region,
    histories: Histories,
    folder: Path,
    progress: Callable[[int], None],
    *,
    day: int,
    id_from: int,
    repetition: int = 0,
) -> SynthPart:
    """Write one region's day, events and truth with the same row groups.

    Args:
        world: world that was drawn once.
        levels: intercepts of `rows.fit_levels`.
        region: region whose day it is.
        histories: the region's histories after the day before; the day's clicks are added.
        folder: folder of the log.
        progress: called after each row group with the rows that it added.
        day: index of the day in the log.
        id_from: `event_id` of the first row.
        repetition: see `rows.day_blocks`.
    """
    dt = world.knobs.start_date + timedelta(days=day)
    paths = [_part_path(folder, kind, region.name, dt) for kind in ("events", "truth")]
    clicks = orders = 0
    with PairedFiles(events=paths[0], truth=paths[1], progress=progress) as files:
        drawn = rows.day_blocks(world, levels, region, histories, day=day, repetition=repetition)
        for block, truth, labels in drawn:
            events = _event_table(
                world, region, block, labels, weekday=dt.weekday(), id_from=id_from + files.rows
            )
            files.add(events, _truth_table(truth))
            clicks += int(events["label_click"].to_numpy().sum())
            orders += int(events["label_order"].to_numpy().sum())
    return SynthPart(
        region=region.name,
        dt=dt,
        rows=files.rows,
        clicks=clicks,
        orders=orders,
        events_bytes=paths[0].stat().st_size,
        truth_bytes=paths[1].stat().st_size,
        events_sha256=sha256_of_file(paths[0]),
        truth_sha256=sha256_of_file(paths[1]),
    )


class PairedFiles:
    """An event file and its truth file, written together, row group by row group.

    A row group holds `BLOCK_ROWS` to 2 x `BLOCK_ROWS` rows; only the last may hold fewer. No more
    rows than that wait in memory.
    """

    def __init__(self, *, events: Path, truth: Path, progress: Callable[[int], None]) -> None:
        """Create both files and their folders.

        Args:
            events: path of the event file.
            truth: path of the truth file.
            progress: called after each row group with the rows that it added.
        """
        for path in (events, truth):
            path.parent.mkdir(parents=True)
        self.rows = 0
        self._progress = progress
        self._waiting: list[tuple[pa.Table, pa.Table]] = []
        self._events = _writer(events, _STORED_SCHEMA, dictionary=_DICTIONARY)
        self._truth = _writer(truth, TRUTH_SCHEMA, dictionary=[])

    def __enter__(self) -> "PairedFiles":
        return self

    def __exit__(self, failure: object, *_: object) -> None:
        if failure is None:
            self._flush()
        self._events.close()
        self._truth.close()

    def add(self, events: pa.Table, truth: pa.Table) -> None:
        """Add one block of at most `BLOCK_ROWS` rows to both files."""
        self._waiting.append((events, truth))
        self.rows += events.num_rows
        if sum(table.num_rows for table, _ in self._waiting) >= rows.BLOCK_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            events, truth = (pa.concat_tables(kind) for kind in zip(*self._waiting, strict=True))
            self._events.write_table(events, row_group_size=2 * rows.BLOCK_ROWS)
            self._truth.write_table(truth, row_group_size=2 * rows.BLOCK_ROWS)
            self._progress(events.num_rows)
            self._waiting.clear()


_CODED = pa.dictionary(pa.int8(), pa.string())
_CODED_AS = {pa.string(): _CODED, pa.list_(pa.string()): pa.list_(_CODED)}
_STORED_SCHEMA = pa.schema([(f.name, _CODED_AS.get(f.type, f.type)) for f in EVENT_SCHEMA])
_DICTIONARY = [
    "user_id",
    "item_id",
    "shop_id",
    "category",
    "daypart",
    "scene",
    "weekday",
    "age_group",
    "user_segment",
    "city_tier",
    "hist_item_ids.list.element",
    "hist_categories.list.element",
]


def _writer(path: Path, schema: pa.Schema, *, dictionary: list[str]) -> pq.ParquetWriter:
    """Open a Parquet file for writing, compressed by zstd.

    Args:
        path: path of the file; its folder exists.
        schema: columns and types.
        dictionary: columns that are stored as dictionaries; none for a file of numbers.
    """
    return pq.ParquetWriter(
        path,
        schema,
        compression="zstd",
        use_dictionary=dictionary,
        write_statistics=["event_id", "event_time"] if dictionary else False,
        # Arrow would store its own types beside Parquet's. Without them, text that is written as
        # codes is read back as text.
        store_schema=False,
        write_page_checksum=True,
    )


def _event_table(
    world: World,
    region: Region,
    block: Block,
    labels: Labels,
    *,
    weekday: int,
    id_from: int,
) -> pa.Table:
    """Return a block as a table with the columns of `EVENT_SCHEMA`, text as codes.

    Args:
        world: world whose users and items the block names.
        region: region of the block.
        block: its rows.
        labels: their labels.
        weekday: weekday of the block's day, 0 for Monday.
        id_from: `event_id` of the first row.
    """
    population, count = world.population, len(block.time)
    known = block.history_BH >= 0
    ends = np.r_[0, np.cumsum(known.sum(axis=1))].astype(np.int32)
    past = block.history_BH[known]
    columns = {
        "event_id": np.arange(id_from, id_from + count),
        "event_time": block.time,
        "user_id": block.user + 1,
        "item_id": block.item + 1,
        "shop_id": population.item_shop[block.item].astype(np.int64) + 1,
        "category": _coded(population.item_category[block.item], CATEGORIES),
        "price": block.price,
        "distance_km": block.distance_km,
        "daypart": _coded(np.full(count, block.daypart, dtype=np.int8), DAYPARTS),
        "scene": _coded(block.scene.astype(np.int8), SCENES),
        "weekday": np.full(count, weekday, dtype=np.int8),
        "age_group": _coded(population.user_age[block.user], AGE_GROUPS),
        "user_segment": _coded(population.user_segment[block.user], SEGMENTS),
        "city_tier": _coded(np.full(count, region.city_tier, dtype=np.int8), CITY_TIERS),
        "hist_item_ids": pa.ListArray.from_arrays(ends, past.astype(np.int64) + 1),
        "hist_categories": pa.ListArray.from_arrays(
            ends, _coded(population.item_category[past], CATEGORIES)
        ),
        "label_click": labels.clicked.astype(np.int8),
        "label_order": (labels.clicked & labels.ordered).astype(np.int8),
    }
    return pa.table(columns, schema=_STORED_SCHEMA)


def _coded(codes: I8, names: tuple[str, ...]) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(codes, pa.array(names, pa.string()))


def _truth_table(truth: Truth) -> pa.Table:
    return pa.table({name: getattr(truth, name) for name in TRUTH_COLUMNS}, schema=TRUTH_SCHEMA)
