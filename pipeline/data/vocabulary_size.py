"""Say how many ids a vocabulary would have, and what hashing them would cost."""

import math

from iak.pipeline.data.table_sum import TableSum, key_ranges, merged_ranges

LARGE = 20_000_000
"""Ids from which a vocabulary is worth a warning: its table has a row for each of them."""
_GIB = 2**30
_FP32 = 4


def estimate_ids(sampled: TableSum, share: float, min_count: int) -> int:
    """Return about how many ids of a log get a row, from those of a part of its rows.

    Of all rows it is the exact number. Of a sample it is Chao's estimate (1984) from the ids that
    occur once and twice, but at most as many as if each further row brought new ids as often as the
    sample's last ones did (Good, Toulmin 1956).

    Args:
        sampled: occurrences of each id in the sampled rows.
        share: share of the rows that were sampled, above 0.
        min_count: occurrences that an id needs to get a row. Of a sample every id counts.
    """
    ids, frequent, once, twice = 0, 0, 0, 0
    for entries in merged_ranges(sampled, key_ranges(sampled)):
        counts = entries.counts_nC[:, 0]
        ids += len(counts)
        frequent += int((counts >= min_count).sum())
        once += int((counts == 1).sum())
        twice += int((counts == 2).sum())
    if share >= 1:
        return frequent
    most = once * (1 / share - 1)
    return ids + round(min(once**2 / (2 * twice), most) if twice else most)


def sharing(ids: int, rows: int) -> float:
    """Return the share of ids that share their row with another one, if they are hashed.

    Args:
        ids: number of ids, at least 1.
        rows: rows that ids are hashed into, at least 2.
    """
    return -math.expm1((ids - 1) * math.log1p(-1 / rows))


def size_message(ids: int, width: int) -> str:
    """Return what a vocabulary of so many ids takes.

    Args:
        ids: about how many ids it has.
        width: entries of a row.
    """
    gib = ids * width * _FP32 / _GIB
    return f"about {ids:,} ids would get a row each, {gib:.1f} GiB in fp32 at width {width}"


def hashing_advice(name: str, ids: int) -> str:
    """Return the ways to a smaller table, with the collisions that hashing brings.

    Args:
        name: name of the table.
        ids: about how many ids it has.
    """
    half = 1 << (max(ids // 2, 2)).bit_length() - 1
    sizes = " or ".join(f"rows = {rows:,}: {sharing(ids, rows):.0%}" for rows in (half, 4 * half))
    return (
        f"Bound it by rows = N in [tables.{name}], which keeps the most frequent ids, raise "
        f'min_count, or hash: encoding = "hash" needs no count and has rows for ids to come. Of '
        f"{ids:,} ids these then share a row with another ({sizes})"
    )
