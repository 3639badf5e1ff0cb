"""Promotions and rollbacks: what moves, what does not, and who is told."""

import json
from contextlib import nullcontext
from datetime import UTC, datetime

import pytest

from iak.pipeline.errors import BadRequest, Corrupt, Overtaken
from iak.pipeline.fresh.state import STATISTICS, read_state
from iak.pipeline.publish.bundle import (
    MANIFEST,
    WEIGHTS,
    StatisticsFile,
    bundle_name,
    read_manifest,
)
from iak.pipeline.registry.commits import (
    COMMITS,
    domain_name,
    pointer_of,
    read_commit,
    read_head,
    read_history,
)
from iak.pipeline.registry.promote import promote_alias, promote_run
from iak.pipeline.registry.resolve import resolve
from iak.pipeline.registry.retention import remove_unneeded
from iak.pipeline.registry.rollback import roll_back
from iak.pipeline.registry.stored_bundles import (
    STORED,
    read_entry,
    stored_bundles,
    stored_key,
    verify_stored,
)
from iak.pipeline.registry.verify import verify_registry
from iak.pipeline.sealed import seal, spelled
from iak.pipeline.storage.folder_store import FolderStore
from iak.schemas.job import KernelSpec
from iak.schemas.manifest import BundleSettings, StatisticsEntry
from iak.schemas.registry import bundle_digest
from iak.schemas.shadow import Exceeded, ShadowDocument
from tests.unit.fresh.small import dated_catalog, drawn, state_of
from tests.unit.publish.test_bundle import BASE, write
from tests.unit.registry.nights import (
    DOMAINS,
    HELD,
    NAMES,
    OSLO,
    POOLED,
    ROME,
    night,
    promote,
    served,
    stored,
)


@pytest.fixture
def root(tmp_path):
    return FolderStore(tmp_path / "registry")


def digest_in(run, domain):
    return bundle_digest(read_manifest(run.bundles / bundle_name(domain)))


def test_a_night_is_stored_and_serves_in_one_commit(root, tmp_path):
    run = night(tmp_path / "n1")
    done = promote(root, run)
    head = read_head(root)
    assert done.moved == ("city=oslo%2Fa b", "city=rome", "pooled")
    assert done.commit == head
    assert head.generation == 1
    assert served(head) == {
        name: digest_in(run, domain) for name, domain in zip(NAMES, DOMAINS, strict=True)
    }
    for name in stored(head).values():
        entry = verify_stored(root, name)
        for file in (MANIFEST, WEIGHTS):
            found = root.read(stored_key(name, entry.folder, file))
            assert found == (run.bundles / entry.folder / file).read_bytes()


def test_lineage_says_run_base_window_code_and_parent(root, tmp_path):
    first = night(tmp_path / "n1")
    promote(root, first)
    parent = digest_in(first, ROME)
    second = night(tmp_path / "n2", seed=1, parents={"city=rome": parent})
    promote(root, second)
    lineage = read_entry(root, stored(read_head(root))["city=rome"]).lineage
    assert lineage.parent == parent
    assert (lineage.run, lineage.code, lineage.record_sha256) == (
        str(tmp_path / "n2"),
        "abc",
        "e" * 64,
    )
    window = lineage.data_window.model_dump(mode="json")
    assert window == {"days": ["2026-11-01", "2026-11-19"], "rows": 1000}
    assert lineage.base_fingerprint == "b" * 64
    assert lineage.tuned_at == datetime(2026, 11, 20, 3, tzinfo=UTC)


def test_the_digest_is_of_what_a_bundle_means_not_of_how_it_is_spelled(tmp_path):
    one = read_manifest(write(tmp_path / "a", domain=ROME))
    later = datetime(2027, 1, 1, tzinfo=UTC)
    again = read_manifest(write(tmp_path / "b", domain=ROME, created_at=later))
    respelled = again.model_copy(update={"weights_sha256": "f" * 64})
    assert bundle_digest(one) == bundle_digest(again) == bundle_digest(respelled)
    others = (
        write(tmp_path / "c", domain=ROME, seed=1),
        write(tmp_path / "d", domain=OSLO),
        write(tmp_path / "e", domain=ROME, verdict=HELD),
        write(tmp_path / "f", domain=ROME, base_fingerprint="d" * 64),
        write(tmp_path / "g", domain=ROME, data_window={"rows": 1}),
    )
    digests = {bundle_digest(read_manifest(folder)) for folder in others}
    assert len(digests | {bundle_digest(one)}) == 6


def test_promoting_again_moves_nothing(root, tmp_path):
    run = night(tmp_path / "n1")
    promote(root, run)
    again = promote(root, run)
    assert again.commit is None
    assert set(again.unchanged) == set(NAMES)
    assert read_head(root).generation == 1


def test_only_the_named_domains_move(root, tmp_path):
    promote(root, night(tmp_path / "n1"))
    before = read_head(root)
    done = promote(root, night(tmp_path / "n2", seed=1), domains=["city=rome"])
    after = read_head(root)
    assert done.moved == ("city=rome",)
    for domain in (POOLED, OSLO):
        folder = bundle_name(domain)
        assert pointer_of(after, "champion", folder) == pointer_of(before, "champion", folder)
    with pytest.raises(
        BadRequest, match=r"domains=city=paris: there is no such bundle in .*It has"
    ):
        promote(root, night(tmp_path / "n3", seed=2), domains=["city=paris"])


def test_what_the_gate_held_is_left_and_said_or_forced_and_said(root, tmp_path):
    run = night(tmp_path / "n1", held=(ROME,))
    done = promote(root, run)
    assert done.held == {"city=rome": "ctr: AUC falls"}
    assert "city=rome" not in served(read_head(root))
    with pytest.raises(BadRequest, match=r"the gate held city=rome: ctr: AUC falls.*force=true"):
        promote(root, run, domains=["city=rome"])
    forced = promote(root, run, domains=["city=rome"], force=True)
    assert forced.forced == ("city=rome",)
    assert "promoted by force" in read_head(root).moves[0].reason


def test_a_night_of_which_all_is_held_makes_no_registry(root, tmp_path):
    done = promote(root, night(tmp_path / "n1", domains=(ROME,), held=(ROME,)))
    assert done.commit is None
    assert not root.root.exists()


def test_a_candidate_becomes_champion(root, tmp_path):
    promote(root, night(tmp_path / "n1"))
    promote(root, night(tmp_path / "n2", seed=1), "candidate")
    before = read_head(root)
    assert served(before) != served(before, "candidate")
    done = promote_alias(root, "candidate", "champion", domains=["city=rome"], force=False)
    assert done.moved == ("city=rome",)
    after = read_head(root)
    assert served(after)["city=rome"] == served(after, "candidate")["city=rome"]
    assert served(after)["pooled"] == served(before)["pooled"]


def test_rollbacks_undo_promotions_one_by_one_and_touch_nothing_else(root, tmp_path):
    seen = []
    for seed in range(3):
        promote(root, night(tmp_path / f"n{seed}", seed=seed))
        seen.append(served(read_head(root)))
    others = {k: v for k, v in read_head(root).pointers["champion"].items() if k != "city=rome"}
    for expected in (seen[1], seen[0]):
        done = roll_back(root, "champion", ["city=rome"])
        assert done.domains[0].entry.digest == expected["city=rome"]
        head = read_head(root)
        assert served(head)["city=rome"] == expected["city=rome"]
        assert {k: v for k, v in head.pointers["champion"].items() if k != "city=rome"} == others
    done = roll_back(root, "champion", ["city=rome"])
    assert done.domains[0].entry is None
    assert "city=rome" not in served(read_head(root))
    with pytest.raises(BadRequest, match=r"domain=city=rome has no champion in .*pooled"):
        roll_back(root, "champion", ["city=rome"])


def test_a_promotion_after_a_rollback_returns_to_what_the_rollback_left(root, tmp_path):
    runs = [night(tmp_path / f"n{seed}", seed=seed, domains=(ROME,)) for seed in range(3)]
    promote(root, runs[0])
    promote(root, runs[1])
    roll_back(root, "champion", ["city=rome"])
    promote(root, runs[2])
    roll_back(root, "champion", ["city=rome"])
    assert served(read_head(root)) == {"city=rome": digest_in(runs[0], ROME)}


def test_a_rollback_to_a_damaged_bundle_is_refused_by_its_file(root, tmp_path):
    promote(root, night(tmp_path / "n1", domains=(ROME,)))
    serving_first = stored(read_head(root))["city=rome"]
    promote(root, night(tmp_path / "n2", seed=1, domains=(ROME,)))
    path = root.root / stored_key(serving_first, "city=rome", WEIGHTS)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    before = read_head(root)
    with pytest.raises(Corrupt, match=f"{WEIGHTS} is not what was stored: it has SHA-256"):
        roll_back(root, "champion", ["city=rome"])
    assert read_head(root) == before


def test_bundles_of_two_forms_never_serve_together(root, tmp_path):
    other = BundleSettings(kernel=KernelSpec(hidden=16), seed=0)
    promote(root, night(tmp_path / "n1"))
    wider = night(tmp_path / "n2", seed=1, spec=other)
    with pytest.raises(BadRequest, match=r"would be a bundle of other kernel\.\* settings"):
        promote(root, wider, domains=["city=rome"])
    promote(root, wider)
    with pytest.raises(BadRequest, match=r"would be a bundle of other kernel\.\* settings"):
        roll_back(root, "champion", ["city=rome"])
    roll_back(root, "champion", NAMES)
    assert read_head(root).generation == 3


def test_the_statistics_of_a_kernel_are_stored_with_it_and_given_back(root, tmp_path):
    state = state_of([drawn(60)], dated_catalog())
    state.write(tmp_path / "state")
    entry = StatisticsEntry(definition=state.definition, state=state.id)
    file = StatisticsFile(path=tmp_path / "state", entry=entry)
    promote(root, night(tmp_path / "n1", statistics=file))
    resolve(root, "champion", tmp_path / "resolved", base_fingerprint=BASE)
    for folder in ("pooled", "city=rome"):
        path = tmp_path / "resolved" / folder / STATISTICS
        assert read_state(path, definition=state.definition, id=state.id).id == state.id
    without = night(tmp_path / "n2", seed=1)
    with pytest.raises(BadRequest, match=r"would be a bundle of other kernel\.\* settings"):
        promote(root, without, domains=["city=rome"])


def test_a_kernel_whose_statistics_are_gone_is_not_promoted(root, tmp_path):
    state = state_of([drawn(60)], dated_catalog())
    state.write(tmp_path / "state")
    entry = StatisticsEntry(definition=state.definition, state=state.id)
    run = night(tmp_path / "n1", statistics=StatisticsFile(path=tmp_path / "state", entry=entry))
    (tmp_path / "n1" / "bundles" / "pooled" / STATISTICS).unlink()
    with pytest.raises(Corrupt, match="never taken as zero"):
        promote(root, run)


def test_a_bundle_that_changed_since_its_run_is_refused(root, tmp_path):
    run = night(tmp_path / "n1")
    night(tmp_path / "n1", seed=5)
    with pytest.raises(Corrupt, match="the run's record says"):
        promote(root, run)
    assert not root.root.exists()


def test_a_damaged_stored_bundle_is_healed_by_promoting_its_run_again(root, tmp_path):
    run = night(tmp_path / "n1")
    promote(root, run)
    before = stored(read_head(root))
    (root.root / stored_key(before["city=rome"], "city=rome", WEIGHTS)).write_bytes(b"")
    with pytest.raises(Corrupt):
        verify_stored(root, before["city=rome"])
    assert promote(root, run).moved == ("city=rome",)
    head = read_head(root)
    verify_stored(root, stored(head)["city=rome"])
    assert served(head)["city=rome"] == digest_in(run, ROME)
    assert "its copy was damaged" in head.moves[0].reason


def test_a_folder_with_other_things_is_no_registry(root, tmp_path):
    root.root.mkdir()
    (root.root / "notes.txt").touch()
    with pytest.raises(BadRequest, match=r"is not a registry and has other content: notes.txt"):
        promote(root, night(tmp_path / "n1"))
    with pytest.raises(BadRequest, match=r"is not a registry: it has no registry\.json"):
        read_head(root)


def test_of_two_promoters_one_wins_and_the_other_is_told(root, tmp_path, monkeypatch):
    """The second read the pointers before the first moved them."""
    promote(root, night(tmp_path / "n0"))
    stale = read_head(root)
    winner = promote(root, night(tmp_path / "n1", seed=1))
    loser = night(tmp_path / "n2", seed=2)
    real, answers = read_head, [stale]
    monkeypatch.setattr(
        "iak.pipeline.registry.promote.read_head",
        lambda place: answers.pop() if answers else real(place),
    )
    with pytest.raises(Overtaken, match=r"it was at generation 1 .* and is at generation 2 now"):
        promote(root, loser)
    assert read_head(root) == winner.commit


def test_promoters_of_different_domains_do_not_disturb_each_other(root, tmp_path, monkeypatch):
    promote(root, night(tmp_path / "n0"))
    stale = read_head(root)
    promote(root, night(tmp_path / "n1", seed=1), domains=["city=rome"])
    real, answers = read_head, [stale]
    monkeypatch.setattr(
        "iak.pipeline.registry.promote.read_head",
        lambda place: answers.pop() if answers else real(place),
    )
    one, other = night(tmp_path / "n1", seed=1), night(tmp_path / "n2", seed=2)
    promote(root, other, domains=["pooled"])
    now = served(real(root))
    assert now["city=rome"] == digest_in(one, ROME)
    assert now["pooled"] == digest_in(other, POOLED)


def test_a_writer_that_stalls_before_its_commit_cannot_overwrite_a_newer_one(
    root, tmp_path, monkeypatch
):
    """Locks do not hold here: another writer commits while this one sleeps before its write."""
    promote(root, night(tmp_path / "n0"))
    fast, slow = night(tmp_path / "n1", seed=1), night(tmp_path / "n2", seed=2)
    stall_once(monkeypatch, lambda: promote(root, fast, domains=["city=rome"]))
    with pytest.raises(
        Overtaken, match=r"another writer \(.*UTC\) moved the champion of city=rome"
    ):
        promote(root, slow)
    assert served(read_head(root))["city=rome"] == digest_in(fast, ROME)
    assert len(list(read_history(root))) == 2


def test_a_writer_whose_number_is_taken_by_others_domains_goes_on_after_them(
    root, tmp_path, monkeypatch
):
    promote(root, night(tmp_path / "n0"))
    fast, slow = night(tmp_path / "n1", seed=1), night(tmp_path / "n2", seed=2)
    stall_once(monkeypatch, lambda: promote(root, fast, domains=["city=rome"]))
    promote(root, slow, domains=["pooled"])
    now = served(read_head(root))
    assert (now["city=rome"], now["pooled"]) == (digest_in(fast, ROME), digest_in(slow, POOLED))
    assert read_head(root).generation == 3


def test_what_a_gc_gave_up_meanwhile_is_stored_again(root, tmp_path, monkeypatch):
    """The gc takes the bundles of a promotion under way for those of a killed one."""
    promote(root, night(tmp_path / "n0"))
    slow, taken = night(tmp_path / "n1", seed=1), []

    def gc():
        taken.extend(remove_unneeded(root, keep=0, dry_run=False).removed)

    stall_once(monkeypatch, gc)
    promote(root, slow)
    head = read_head(root)
    assert [name[:64] for name in taken] == sorted(name[:64] for name in stored(head).values())
    assert not set(taken) & set(stored(head).values())
    for name in stored(head).values():
        verify_stored(root, name)


def stall_once(monkeypatch, meanwhile):
    """Let another writer do something, without a lock, before the next commit is written."""
    create, waiting = FolderStore.create, [meanwhile]
    monkeypatch.setattr(FolderStore, "one_writer", lambda _: nullcontext())

    def stalls(store, key, content):
        if key.startswith(COMMITS) and waiting:
            waiting.pop()()
        create(store, key, content)

    monkeypatch.setattr(FolderStore, "create", stalls)


def test_history_is_a_chain_and_a_gap_is_refused_by_name(root, tmp_path):
    for seed in range(3):
        promote(root, night(tmp_path / f"n{seed}", seed=seed))
    assert [commit.generation for commit in read_history(root)] == [1, 2, 3]
    with pytest.raises(BadRequest, match="has no commit 9"):
        read_commit(root, 9)
    second = root.root / COMMITS / "0000000002.json"
    second.rename(tmp_path / "taken")
    with pytest.raises(Corrupt, match="lacks commit 2, but has commit 3"):
        read_head(root)
    (root.root / COMMITS / "0000000001.json").rename(second)
    (tmp_path / "taken").rename(root.root / COMMITS / "0000000001.json")
    with pytest.raises(Corrupt, match="is commit 2 under another name"):
        list(read_history(root))


def test_a_file_system_without_hard_links_is_refused_for_promotion(root, tmp_path, monkeypatch):
    def no_links(_, target):
        raise PermissionError(1, "Operation not permitted", str(target))

    monkeypatch.setattr("os.link", no_links)
    with pytest.raises(BadRequest, match="makes no hard links"):
        promote(root, night(tmp_path / "n1"))
    assert not [path for path in root.root.iterdir() if not path.name.startswith(".")]


def test_bundles_that_two_nights_share_are_stored_once(root, tmp_path):
    promote(root, night(tmp_path / "n1"))
    promote(root, night(tmp_path / "n2"), "candidate")
    assert len(stored_bundles(root)) == 3
    assert len(list((root.root / STORED).iterdir())) == 3


def test_a_registry_of_before_bundles_had_names_of_their_own_is_read_and_goes_on(root, tmp_path):
    """Format 2 of a commit, format 1 of an entry: a bundle lay under its digest alone."""
    promote(root, night(tmp_path / "n1"))
    for folder in (root.root / STORED).iterdir():
        entry = json.loads((folder / "entry.json").read_bytes())
        del entry["stored"], entry["lineage"]["base"]
        (folder / "entry.json").write_bytes(spelled(seal(entry | {"format": 1})))
        folder.rename(folder.with_name(entry["digest"]))
    path = root.root / COMMITS / "0000000001.json"
    commit = json.loads(path.read_bytes())
    del commit["token"]
    for pointer in commit["pointers"]["champion"].values():
        del pointer["stored"], pointer["reach"]
    path.write_bytes(spelled(seal(commit | {"format": 2})))
    assert verify_registry(root).problems == ()
    assert set(stored(read_head(root)).values()) == stored_bundles(root)
    before = served(read_head(root))
    promote(root, night(tmp_path / "n2", seed=1))
    roll_back(root, "champion", NAMES)
    assert served(read_head(root)) == before
    remove_unneeded(root, keep=0, dry_run=False)
    assert verify_registry(root).problems == ()


def replay_of(run, *, exceeded=(), **limits):
    """What `iak shadow` writes of a night's bundles."""
    manifests = [read_manifest(run.bundles / folder.name) for folder in run.bundles.iterdir()
                 if folder.is_dir()]  # fmt: skip
    names = {domain_name([(k, m.domain[k]) for k in m.level]): m for m in manifests}
    return ShadowDocument(
        base_fingerprint=BASE, live="base", candidate=run.name, rows=9, not_predicted=0,
        other_kernel=0, latency=1.0, changes=(), moved=(), exceeded=exceeded, limits=limits,
        kernels={name: bundle_digest(manifest) for name, manifest in names.items()},
    )  # fmt: skip


def test_what_passed_its_replay_is_promoted_and_nothing_else(root, tmp_path):
    first, second = night(tmp_path / "R1", seed=1), night(tmp_path / "R2", seed=2)
    passed = replay_of(first, mean_change=0.1)
    over = Exceeded(limit="mean_change", domain="city=rome", task="ctr", seen=0.2, allowed=0.1)
    how = {"domains": None, "force": True}
    for run, replay, words in (
        (first, replay_of(first), "looked at no limit"),
        (first, replay_of(first, min_rows=5), "looked at no limit"),
        (first, replay_of(first, exceeded=(over, over), mean_change=0.1),
         r"allows 0.1, and 0.2 was seen by ctr of city=rome, and 1 more"),
        (second, passed, "had other bundles of city=oslo%2Fa b, city=rome, pooled or none"),
    ):  # fmt: skip
        with pytest.raises(BadRequest, match=words):
            promote_run(root, run, "candidate", replay=replay, **how)
    moved = promote_run(root, first, "candidate", replay=passed, **how).moved
    assert set(moved) == set(NAMES)
    with pytest.raises(BadRequest, match="had other bundles"):
        promote_alias(root, "candidate", "champion", replay=replay_of(second, latency=2), **how)
    assert promote_alias(root, "candidate", "champion", replay=passed, **how).moved == moved
