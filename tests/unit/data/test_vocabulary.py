"""What encoding learns from a window, and that its identity covers all that gives ids meaning."""

import itertools
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.data import hashing, table_sum, vocabulary
from iak.pipeline.data.features import Encoding
from iak.pipeline.data.moments import Moments
from iak.pipeline.errors import BadRequest, NotPermitted, OtherFormat, WrongBase
from iak.schemas.log import Catalog
from tests.builders import FEATURES, batch_of, draw_rows, encoding_after, encoding_of, small_catalog

ROWS = batch_of(draw_rows(90).append_column("region", pa.array(["ningbo"] * 90)))


def one_table(**table: Any) -> Catalog:
    return small_catalog(features=[{"kind": "categorical", "name": "c"}], tables={"c": table})


def fit_words(words: list[str | None], catalog: Catalog) -> Encoding:
    return encoding_of(batch_of({"c": pa.array(words, pa.string())}), catalog)


def cut(words: list[str], size: int) -> list[list[str]]:
    return [words[start : start + size] for start in range(0, len(words), size)]


def key(word: str) -> int:
    return int(hashing.key_of_text(word))


@given(st.lists(st.sampled_from(["a", "b", "c", "d", None]), min_size=1), st.integers(1, 4))
def test_ids_counted_often_enough_get_a_row_each(words, min_count):
    catalog = one_table(min_count=min_count)
    expected = {key(w) for w in {*words} - {None} if words.count(w) >= min_count}
    encoding = fit_words(words, catalog)
    assert encoding.vocabularies["c"].tolist() == sorted(expected)
    assert encoding.table_rows(catalog) == {"c": len(expected) + 2}


def test_a_full_vocabulary_keeps_its_most_frequent_ids():
    words = ["a"] * 5 + ["b"] * 4 + ["c"] * 3 + ["d"] * 2
    encoding = fit_words(words, one_table(rows=4, min_count=1))
    assert encoding.vocabularies["c"].tolist() == sorted([key("a"), key("b")])


@given(
    words=st.lists(st.sampled_from("abcdefghij"), min_size=1, max_size=60),
    batch=st.integers(1, 20),
    fit=st.integers(1, 8),
    rows=st.integers(3, 12),
    min_count=st.integers(1, 3),
)
def test_a_vocabulary_is_the_same_however_little_fits_into_memory(
    words, batch, fit, rows, min_count
):
    counts = {word: words.count(word) for word in words if words.count(word) >= min_count}
    most = sorted(counts, key=lambda word: (-counts[word], key(word)))[: rows - 2]
    parts = [batch_of({"c": pa.array(part)}) for part in cut(words, batch)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table_sum, "MAX_ENTRIES", fit)
        catalog = one_table(rows=rows, min_count=min_count)
        fitted = vocabulary.fit([(part, np.zeros(len(part), np.uint64)) for part in parts], catalog)
    assert fitted.vocabularies["c"].tolist() == sorted(map(key, most))


@given(st.lists(st.integers(0, 90), max_size=5))
def test_what_is_learned_does_not_depend_on_how_rows_are_batched(cuts):
    catalog = small_catalog()
    whole = encoding_of(ROWS, catalog)
    ends = sorted({0, 90, *cuts})
    parts = [ROWS.slice(a, b - a) for a, b in itertools.pairwise(ends)]
    other = vocabulary.fit([(part, np.zeros(len(part), np.uint64)) for part in parts], catalog)
    assert {k: v.tolist() for k, v in other.vocabularies.items()} == {
        k: v.tolist() for k, v in whole.vocabularies.items()
    }
    assert {k: v.tolist() for k, v in other.boundaries.items()} == {
        k: v.tolist() for k, v in whole.boundaries.items()
    }
    for name, statistics in whole.statistics.items():
        assert other.statistics[name] == pytest.approx(statistics, rel=1e-12)


def numbers(values: np.ndarray, parts: int) -> Encoding:
    catalog = small_catalog(features=[{"kind": "numeric", "name": "c", "buckets": 2}], tables={})
    rows = [batch_of({"c": pa.array(part)}) for part in np.array_split(values, parts)]
    return vocabulary.fit([(part, np.zeros(len(part), np.uint64)) for part in rows], catalog)


def test_the_deviation_survives_a_mean_far_from_zero():
    values = 1e12 + np.random.default_rng(0).normal(size=10_000)
    mean, deviation = numbers(values, parts=7).statistics["c"]
    assert mean == pytest.approx(values.mean(), rel=1e-12)
    assert deviation == pytest.approx(values.std(), rel=1e-3)


def test_a_number_that_never_varies_has_deviation_1():
    assert numbers(np.full(1_000, 0.1), parts=3).statistics["c"] == (pytest.approx(0.1), 1.0)


PRICES = np.random.default_rng(3).lognormal(2.0, 0.7, 20_000)


def with_wild(values: np.ndarray, wild: list[float]) -> np.ndarray:
    """The values with some of them, spread evenly, replaced."""
    changed = values.copy()
    changed[:: len(values) // len(wild)][: len(wild)] = wild
    return changed


@pytest.mark.parametrize(
    "wild",
    [
        pytest.param([1.797e308], id="the largest double"),
        pytest.param([3.4028235e38, -3.4028235e38], id="the largest float"),
        pytest.param([1e300, -1e300, float("inf"), float("nan")], id="many kinds"),
        pytest.param([1e30], id="one far beyond all"),
        pytest.param([999_999_999.0] * 20, id="a sentinel"),
        pytest.param([-999_999.0] * 150, id="a sentinel in less than a hundredth"),
    ],
)
@pytest.mark.parametrize("parts", [1, 7])
def test_a_few_wild_values_do_not_flatten_a_number(wild, parts):
    mean, deviation = numbers(with_wild(PRICES, wild), parts).statistics["c"]
    assert mean == pytest.approx(PRICES.mean(), rel=0.05)
    assert deviation == pytest.approx(PRICES.std(), rel=0.05)


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(PRICES, id="prices"),
        pytest.param(np.random.default_rng(1).lognormal(0, 2.0, 50_000), id="a heavy tail"),
        pytest.param((np.arange(20_000) % 200 == 0).astype(float), id="a rare flag"),
        pytest.param(np.random.default_rng(2).geometric(0.01, 20_000) * 1.0, id="counts"),
        pytest.param((np.arange(20_000) == 77) * 1.0, id="one row of its own"),
    ],
)
def test_the_moments_of_a_number_without_wild_values_are_those_of_all_its_values(values):
    mean, deviation = numbers(values, parts=1).statistics["c"]
    assert mean == values.mean()
    assert deviation == np.sqrt(np.square(values - values.mean()).sum() / len(values))


def test_wild_values_are_counted_and_others_are_not():
    for values, wild in ((PRICES, 0), (with_wild(PRICES, [1e12] * 3), 3)):
        moments = Moments()
        moments.add(values)
        assert moments.wild() == wild


def test_an_encoding_keeps_the_kind_of_its_ids(tmp_path):
    encoding = encoding_of(ROWS, small_catalog())
    assert encoding.kinds == {
        "user_id": "text",
        "item": "whole numbers",
        "slot": "whole numbers",
        "region": "text",
        "user_scene": "text x text",
    }
    vocabulary.save(encoding, tmp_path)
    assert vocabulary.load(tmp_path).kinds == encoding.kinds


def test_an_encoding_from_before_kinds_is_read_and_a_newer_one_refused(tmp_path):
    vocabulary.save(encoding_of(ROWS, small_catalog()), tmp_path)
    path = tmp_path / "encoding.json"
    document = json.loads(path.read_text())
    old = {"statistics": document["statistics"]}
    path.write_text(json.dumps(old))
    assert vocabulary.load(tmp_path).kinds == {}
    path.write_text(json.dumps({**document, "format": document["format"] + 1}))
    with pytest.raises(OtherFormat, match="newer version"):
        vocabulary.load(tmp_path)


def test_a_window_of_another_kind_of_ids_does_not_continue_an_encoding():
    catalog = one_table()
    kept = encoding_of(batch_of({"c": pa.array([7, 7])}), catalog)
    rows = batch_of({"c": pa.array(["7", "7"])})
    with pytest.raises(WrongBase, match="table c: the log has text, the base learned whole"):
        encoding_after(kept, rows, catalog, grown=["c"])
    nothing = batch_of({"c": pa.array([None, None], pa.string())})
    same = encoding_after(kept, nothing, catalog)
    assert same.kinds == kept.kinds


def test_an_optional_feature_and_an_undeclared_padding_change_no_meaning():
    plain = small_catalog()
    encoding = encoding_of(ROWS, plain)
    features = [dict(f) for f in FEATURES]
    features[0]["optional"] = True
    optional = small_catalog(features=features)
    assert vocabulary.schema_hash(optional, encoding) == vocabulary.schema_hash(plain, encoding)
    features[4]["padding"] = 0
    padded = small_catalog(features=features)
    assert vocabulary.schema_hash(padded, encoding) != vocabulary.schema_hash(plain, encoding)


def test_quantiles_look_at_the_whole_window_and_not_at_its_start():
    window = np.concatenate([np.zeros(250_000), np.ones(250_001)])
    (cut,) = numbers(window, parts=9).boundaries["c"]
    assert cut == 1.0
    rising = numbers(np.arange(500_000.0), parts=11).boundaries["c"]
    assert rising == pytest.approx([250_000], rel=1e-4)


def test_an_encoding_survives_the_disk(tmp_path):
    catalog = small_catalog()
    encoding = encoding_of(ROWS, catalog)
    empty = replace(
        encoding, vocabularies={**encoding.vocabularies, "none": np.zeros(0, np.uint64)}
    )
    for each in (encoding, empty):
        vocabulary.save(each, tmp_path)
        back = vocabulary.load(tmp_path)
        assert vocabulary.schema_hash(catalog, back) == vocabulary.schema_hash(catalog, each)
        assert back.statistics == each.statistics
        assert back.vocabularies.keys() == each.vocabularies.keys()
        assert all((back.vocabularies[k] == v).all() for k, v in each.vocabularies.items())


@pytest.mark.parametrize("damage", ["missing", "cut", "no json", "no statistics"])
def test_an_encoding_that_cannot_be_read_is_refused_by_its_folder(tmp_path, damage):
    vocabulary.save(encoding_of(ROWS, small_catalog()), tmp_path)
    weights, document = tmp_path / "encoding.safetensors", tmp_path / "encoding.json"
    if damage == "missing":
        weights.unlink()
    elif damage == "cut":
        weights.write_bytes(weights.read_bytes()[:40])
    else:
        document.write_text("{" if damage == "no json" else "{}")
    with pytest.raises(BadRequest, match="no encoding at"):
        vocabulary.load(tmp_path)


@pytest.mark.parametrize("name", ["encoding.safetensors", "encoding.json"])
def test_an_encoding_that_may_not_be_read_is_no_missing_one(tmp_path, monkeypatch, name):
    vocabulary.save(encoding_of(ROWS, small_catalog()), tmp_path)
    modes = {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert len(modes) == 1, "all files follow the umask"
    real = type(tmp_path).open

    def denied(path, *args, **how):
        if path.name == name:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *args, **how)

    monkeypatch.setattr(type(tmp_path), "open", denied)
    with pytest.raises(NotPermitted, match=r"Permission denied. It belongs to user"):
        vocabulary.load(tmp_path)


def changed_table(catalog: Catalog) -> Catalog:
    tables = {**catalog.model_dump()["tables"], "user_id": {"min_count": 3}}
    return Catalog.model_validate({**catalog.model_dump(), "tables": tables})


def test_the_schema_hash_changes_with_all_that_gives_ids_and_numbers_meaning():
    catalog = small_catalog()
    encoding = encoding_of(ROWS, catalog)
    fewer = catalog.model_dump()
    fewer["features"] = fewer["features"][:-1]
    renamed = catalog.model_dump()
    renamed["tasks"][0]["name"] = "tap"
    changed = [
        (changed_table(catalog), encoding),
        (Catalog.model_validate(fewer), encoding),
        (Catalog.model_validate(renamed), encoding),
        (
            catalog,
            replace(
                encoding, vocabularies={**encoding.vocabularies, "item": np.array([3], np.uint64)}
            ),
        ),
        (catalog, replace(encoding, statistics={**encoding.statistics, "price": (0.0, 1.0)})),
        (catalog, replace(encoding, boundaries={"age": np.array([1.0, 2.0])})),
    ]
    hashes = {vocabulary.schema_hash(c, e) for c, e in [(catalog, encoding), *changed]}
    assert len(hashes) == 1 + len(changed)
    again = Catalog.model_validate(catalog.model_dump())
    assert vocabulary.schema_hash(again, encoding) == vocabulary.schema_hash(catalog, encoding)


def test_the_schema_hash_does_not_change_with_domains_or_splits():
    catalog = small_catalog()
    encoding = encoding_of(ROWS, catalog)
    other = small_catalog(domain__keys=["scene"], splits={"tune": {}})
    assert vocabulary.schema_hash(other, encoding) == vocabulary.schema_hash(catalog, encoding)
