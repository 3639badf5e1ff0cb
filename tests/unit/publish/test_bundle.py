"""Bundles: what comes back is what went in, and anything else is refused."""

from contextlib import suppress
from datetime import UTC, datetime

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from iak.pipeline import files
from iak.pipeline.errors import BadRequest, Corrupt, NotPermitted, OtherFormat, WrongBase
from iak.pipeline.publish.bundle import (
    MANIFEST,
    MAX_NAME,
    WEIGHTS,
    bundle_name,
    list_bundles,
    read_bundle,
    weights_digest,
    write_bundle,
)
from iak.schemas.job import KernelSpec
from iak.schemas.manifest import BundleSettings
from iak.schemas.verdict import Comparison, TaskVerdict, Verdict

BASE, SCHEMA = "b" * 64, "c" * 64
VERDICT = Verdict(
    publish=True, reason="gain", gain=0.1, gain_low=0.05, rows=900,
    tasks=(
        TaskVerdict(
            task="ctr", rows=900, positives=90, negatives=810, cluster="user", clusters=300,
            se_ratio=1.4, auc=Comparison(kernel=0.71, base=0.7, delta=0.01, low=0.0, high=0.02),
            judged=True, holds=False, reason="",
        ),
    ),
)  # fmt: skip


def tensors(seed=0):
    random = torch.Generator().manual_seed(seed)
    return {
        "encoder.weight": torch.randn(5, 3, generator=random),
        "half": torch.randn(4, generator=random).to(torch.bfloat16),
        "turned": torch.randn(3, 5, generator=random).T,
        "prior.scale": torch.tensor(-0.0),
        "count": torch.tensor([1, 2**40]),
    }


def write(root, *, seed=0, domain=None, **changes):
    fields = {
        "base_fingerprint": BASE,
        "schema_hash": SCHEMA,
        "data_window": {"days": ["2026-11-01", "2026-11-19"], "rows": 1000},
        "spec": BundleSettings(kernel=KernelSpec(beta=1e-05)),
        "verdict": VERDICT,
        "versions": {"torch": "2.13.0", "note": "ü"},
        "created_at": datetime(2026, 11, 20, 3, tzinfo=UTC),
    } | changes
    return write_bundle(root, tensors(seed), domain=domain, **fields)


def read(folder, *, base_fingerprint=BASE, schema_hash=SCHEMA):
    return read_bundle(folder, base_fingerprint=base_fingerprint, schema_hash=schema_hash)


def same(one, other):
    return one.keys() == other.keys() and all(
        one[k].dtype == other[k].dtype
        and one[k].shape == other[k].shape
        and one[k]
        .reshape(-1)
        .contiguous()
        .view(torch.uint8)
        .equal(other[k].reshape(-1).contiguous().view(torch.uint8))
        for k in one
    )


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return write(tmp_path_factory.mktemp("bundles"), domain={"region": "a"})


def test_a_bundle_comes_back_bit_for_bit(published):
    result = read(published)
    assert same(result.tensors, tensors())
    assert result.manifest.name == "region=a" == published.name
    assert (result.manifest.level, result.manifest.domain) == (["region"], {"region": "a"})
    assert result.manifest.shapes["turned"] == [5, 3]
    assert result.manifest.weights_digest == weights_digest(tensors()) != weights_digest(tensors(1))
    assert result.manifest.verdict == VERDICT


def test_equal_contents_make_equal_bytes(tmp_path):
    one, other = write(tmp_path / "1"), write(tmp_path / "2")
    assert (one / MANIFEST).read_bytes() == (other / MANIFEST).read_bytes()
    assert (one / WEIGHTS).read_bytes() == (other / WEIGHTS).read_bytes()


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from([WEIGHTS, MANIFEST]),
    share=st.floats(0, 1, exclude_max=True),
    flip=st.integers(1, 255),
)
@example(name=MANIFEST, share=0.0, flip=1)
@example(name=MANIFEST, share=0.999999, flip=ord("\n") ^ ord(" "))
def test_any_flipped_byte_is_refused(published, tmp_path, name, share, flip):
    copy = tmp_path / published.name
    copy.mkdir(exist_ok=True)
    for file in (WEIGHTS, MANIFEST):
        (copy / file).write_bytes((published / file).read_bytes())
    data = bytearray((copy / name).read_bytes())
    data[int(share * len(data))] ^= flip
    (copy / name).write_bytes(data)
    with pytest.raises((Corrupt, BadRequest)):
        read(copy)


@pytest.mark.slow
def test_no_byte_of_the_manifest_may_become_any_other_digit_or_blank(published, tmp_path):
    data = (published / MANIFEST).read_bytes()
    copy = tmp_path / published.name
    copy.mkdir()
    (copy / WEIGHTS).write_bytes((published / WEIGHTS).read_bytes())
    for index in range(len(data)):
        for byte in b' \n0195-"e{':
            if data[index] == byte:
                continue
            changed = data[:index] + bytes([byte]) + data[index + 1 :]
            (copy / MANIFEST).write_bytes(changed)
            with pytest.raises((Corrupt, BadRequest)):
                read(copy)


@pytest.mark.parametrize("name", [WEIGHTS, MANIFEST])
@pytest.mark.parametrize(
    "change",
    [lambda data: data[:-1], lambda data: data + b" ", lambda _: b"", lambda data: b"\xef" + data],
    ids=["cut", "longer", "empty", "byte order mark"],
)
def test_a_file_of_another_length_is_refused(tmp_path, name, change):
    folder = write(tmp_path)
    (folder / name).write_bytes(change((folder / name).read_bytes()))
    with pytest.raises(Corrupt, match="is not what was published"):
        read(folder)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("[]", Corrupt),
        ("null", Corrupt),
        ('{"kind": "iak-bundle", "format": 2, "x": NaN}', Corrupt),
        ('{"kind": "iak-bundle", "format": 2, "x": 1e999}', Corrupt),
        ("[" * 100_000, Corrupt),
        ('{"kind": "iak-base", "format": 1}', BadRequest),
        ('{"kind": "iak-bundle", "format": 1}', OtherFormat),
        ('{"kind": "iak-bundle", "format": 3}', OtherFormat),
        ("{}", BadRequest),
    ],
    ids=["list", "null", "nan", "infinity", "deep", "base", "before verdicts", "future", "empty"],
)
def test_another_document_is_refused_in_words(tmp_path, text, error):
    folder = write(tmp_path)
    (folder / MANIFEST).write_text(text)
    with pytest.raises(error):
        read(folder)


def test_a_missing_bundle_or_file_is_refused_in_words(tmp_path):
    with pytest.raises(BadRequest, match="holds no bundle"):
        read(tmp_path / "region=z")
    folder = write(tmp_path)
    (folder / WEIGHTS).unlink()
    with pytest.raises(Corrupt, match="cannot be read"):
        read(folder)


def test_a_bundle_in_a_folder_of_another_domain_is_refused(tmp_path):
    folder = write(tmp_path, domain={"region": "a"})
    moved = folder.rename(folder.with_name("region=b"))
    with pytest.raises(Corrupt, match="manifest of domain region=a, in a folder named region=b"):
        read(moved)


@pytest.mark.parametrize("name", [MANIFEST, WEIGHTS])
def test_a_permission_error_is_no_damage(tmp_path, monkeypatch, name):
    folder = write(tmp_path)
    real = type(tmp_path).read_bytes

    def denied(path):
        if path.name == name:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(type(tmp_path), "read_bytes", denied)
    with pytest.raises(NotPermitted, match=f"{name}: Permission denied"):
        read(folder)


def test_another_base_is_refused_with_both_names(published):
    with pytest.raises(WrongBase, match=f"base {BASE}.*base here is {'d' * 64}"):
        read(published, base_fingerprint="d" * 64)
    with pytest.raises(WrongBase, match=f"schema {SCHEMA}.*have schema other"):
        read(published, schema_hash="other")


def test_publishing_again_replaces_the_bundle_and_leaves_nothing_behind(tmp_path):
    write(tmp_path, seed=1, domain={"region": "a"})
    folder = write(tmp_path, seed=2, domain={"region": "a"})
    assert same(read(folder).tensors, tensors(2))
    assert names_in(tmp_path) == ["region=a"]


@pytest.mark.parametrize("step", ["sync_file", "sync_folder", "put_folder", "_exchange"])
@pytest.mark.parametrize("call", [1, 2])
def test_a_write_that_dies_leaves_one_whole_bundle(tmp_path, monkeypatch, step, call):
    folder = write(tmp_path, seed=1)
    calls = []
    real = getattr(files, step)

    def dies(*args, **settings):
        calls.append(args)
        if len(calls) == call:
            raise KeyboardInterrupt
        return real(*args, **settings)

    monkeypatch.setattr(files, step, dies)
    with suppress(KeyboardInterrupt):
        write(tmp_path, seed=2)
    monkeypatch.undo()
    result = read(folder).tensors
    assert same(result, tensors(1)) or same(result, tensors(2))
    assert list_bundles(tmp_path) == [folder]
    assert names_in(tmp_path) == ["pooled"]


def test_without_exchange_the_folder_is_still_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_exchange", lambda _one, _other: False)
    write(tmp_path, seed=1)
    folder = write(tmp_path, seed=2)
    assert same(read(folder).tensors, tensors(2))
    assert names_in(tmp_path) == ["pooled"]


def test_bundles_are_listed_by_name_and_half_written_ones_are_not(tmp_path):
    assert list_bundles(tmp_path / "none") == []
    for domain in (None, {"region": "b"}, {"region": "a"}):
        write(tmp_path, domain=domain)
    (tmp_path / ".region=c.1234").mkdir()
    (tmp_path / ".region=c.1234" / MANIFEST).write_text("{}")
    (tmp_path / "notes.txt").write_text("")
    assert [p.name for p in list_bundles(tmp_path)] == ["pooled", "region=a", "region=b"]


@pytest.mark.parametrize(
    ("domain", "name"),
    [
        (None, "pooled"),
        ({"region": "pooled"}, "region=pooled"),
        ({"region": "a"}, "region=a"),
        ({"region": "a", "daypart": "b"}, "region=a,daypart=b"),
        ({"region": "a,daypart=b"}, "region=a%2cdaypart%3db"),
        ({"region": "../../etc"}, "region=%2e%2e%2f%2e%2e%2fetc"),
        ({"region": "A b"}, "region=%41%20b"),
        ({"region": "杭州"}, "region=%e6%9d%ad%e5%b7%9e"),
        ({"region": "a%2fb"}, "region=a%252fb"),
        ({"region": ""}, "region="),
        ({"..": "\0"}, "%2e%2e=%00"),
    ],
)
def test_names_of_domains(domain, name):
    assert bundle_name(domain) == name


def test_a_domain_without_keys_is_refused():
    with pytest.raises(ValueError, match="at least one key"):
        bundle_name({})


domains = st.dictionaries(
    st.text(min_size=1, max_size=8), st.text(max_size=80), min_size=1, max_size=3
)


@given(domains, domains)
def test_different_domains_have_different_safe_names(one, other):
    names = [bundle_name(one), bundle_name(other)]
    for name in names:
        assert 1 <= len(name) <= MAX_NAME
        assert name == name.lower()
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-=,%~")
    assert (names[0] == names[1]) == (list(one.items()) == list(other.items()))


@given(st.text(alphabet="aA./\\=,%~ \u0301é", max_size=6))
def test_a_hostile_value_stays_in_its_folder(value):
    name = bundle_name({"region": value})
    assert name.startswith("region=")
    assert bundle_name({"region": value + "x"}) != name


def test_long_names_that_begin_alike_differ():
    one, other = ({"region": "x" * 500 + end} for end in "ab")
    assert bundle_name(one) != bundle_name(other)
    assert len(bundle_name(one)) == MAX_NAME


@pytest.mark.parametrize("value", ["../../x", "a/b", "Ä B", "x" * 500])
def test_hostile_names_round_trip(tmp_path, value):
    folder = write(tmp_path, domain={"region": value, "daypart": "no"})
    assert folder.parent == tmp_path
    assert read(folder).manifest.domain == {"region": value, "daypart": "no"}
    assert [p.name for p in list_bundles(tmp_path)] == [folder.name]
