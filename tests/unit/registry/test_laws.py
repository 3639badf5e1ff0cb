"""Laws of a registry: whatever is done to it and wherever it is killed, two things hold.

Every pointer means a bundle that is there, whole. The history only grows. They are tried on a
folder and on a bucket.
"""

import contextlib
import shutil
import tempfile
from pathlib import Path

import obstore
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from obstore.store import MemoryStore

from iak.pipeline.errors import BadRequest
from iak.pipeline.publish.bundle import bundle_name, read_manifest
from iak.pipeline.registry.commits import (
    earlier_pointers,
    folder_of,
    pointer_of,
    read_head,
    read_history,
)
from iak.pipeline.registry.promote import promote_alias
from iak.pipeline.registry.retention import remove_unneeded
from iak.pipeline.registry.rollback import roll_back
from iak.pipeline.registry.stored_bundles import verify_stored
from iak.pipeline.registry.verify import verify_registry
from iak.pipeline.storage import bucket_store
from iak.pipeline.storage.bucket_store import BucketStore
from iak.pipeline.storage.download_cache import DownloadCache
from iak.pipeline.storage.folder_store import FolderStore
from iak.schemas.registry import ALIASES, bundle_digest
from tests.unit.registry.nights import DOMAINS, NAMES, killed_at, night, promote, served, stored

NIGHTS, MAX_WRITES, MAX_PUTS = 3, 70, 12
CRASH = st.one_of(st.none(), st.integers(0, MAX_WRITES))
ALIAS = st.sampled_from(ALIASES)


class Registry(RuleBasedStateMachine):
    """A registry beside a plain model of it: a stack of bundles for each alias and domain."""

    def __init__(self):
        super().__init__()
        self.place = Path(tempfile.mkdtemp())
        self.root = self.new_store()

    def new_store(self):
        return FolderStore(self.place / "registry")

    def is_killed_at(self, action, number):
        """Do an action that dies at a write; return whether it came that far."""
        return killed_at(action, number)

    @initialize()
    def begin(self):
        self.nights = [night(self.place / f"n{seed}", seed=seed) for seed in range(NIGHTS)]
        self.digests = [
            {
                name: bundle_digest(read_manifest(run.bundles / bundle_name(domain)))
                for name, domain in zip(NAMES, DOMAINS, strict=True)
            }
            for run in self.nights
        ]
        promote(self.root, self.nights[0])
        self.stacks = {("champion", name): [self.digests[0][name]] for name in NAMES}
        self.history = list(read_history(self.root))

    def teardown(self):
        shutil.rmtree(self.place)

    def tops(self):
        found = {alias: {} for alias in ALIASES}
        for (alias, name), stack in self.stacks.items():
            if stack:
                found[alias][name] = stack[-1]
        return found

    def done(self, action, stacks, crash):
        """Do an action, or be killed in it; the model follows what a reader sees then."""
        if crash is None or not self.is_killed_at(action, crash):
            if crash is None:
                action()
            self.stacks = stacks
            return
        head = read_head(self.root)
        if head.generation > self.history[-1].generation:
            self.stacks = stacks

    def returns(self, alias, name):
        """How many rollbacks a domain has before it."""
        head = read_head(self.root)
        folder = folder_of(self.root, head, alias, name)
        pointer = pointer_of(head, alias, folder)
        return sum(1 for _ in earlier_pointers(self.root, alias, folder, pointer))

    def pushed(self, alias, bundles):
        stacks = {key: list(stack) for key, stack in self.stacks.items()}
        for name, digest in bundles.items():
            stack = stacks.setdefault((alias, name), [])
            if not stack or stack[-1] != digest:
                stack.append(digest)
        return stacks

    @rule(
        which=st.integers(0, NIGHTS - 1),
        alias=ALIAS,
        names=st.one_of(st.none(), st.sets(st.sampled_from(NAMES), min_size=1)),
        crash=CRASH,
    )
    def promote_a_night(self, which, alias, names, crash):
        chosen = {name: self.digests[which][name] for name in names or NAMES}
        domains = sorted(names) if names else None
        self.done(
            lambda: promote(self.root, self.nights[which], alias, domains=domains),
            self.pushed(alias, chosen),
            crash,
        )

    @rule(crash=CRASH)
    def promote_the_candidate(self, crash):
        self.done(
            lambda: promote_alias(self.root, "candidate", "champion", domains=None, force=False),
            self.pushed("champion", self.tops()["candidate"]),
            crash,
        )

    @rule(alias=ALIAS, name=st.sampled_from(NAMES), crash=CRASH)
    def roll_back_a_domain(self, alias, name, crash):
        stack = self.stacks.get((alias, name), [])
        if not stack or (len(stack) > 1 and not self.returns(alias, name)):
            try:
                roll_back(self.root, alias, [name])
            except BadRequest:
                return
            raise AssertionError("it must be refused")
        stacks = {key: list(kept) for key, kept in self.stacks.items()}
        stacks[alias, name].pop()
        self.done(lambda: roll_back(self.root, alias, [name]), stacks, crash)

    @rule(keep=st.integers(0, 2), crash=CRASH)
    def collect(self, keep, crash):
        before = {key: self.returns(*key) for key, stack in self.stacks.items() if stack}
        self.done(lambda: remove_unneeded(self.root, keep=keep, dry_run=False), self.stacks, crash)
        for key, count in before.items():
            assert min(keep, count) <= self.returns(*key) <= count

    @invariant()
    def every_pointer_is_what_the_model_says_and_its_bundle_is_whole(self):
        if not hasattr(self, "stacks"):
            return
        head = read_head(self.root)
        for alias in ALIASES:
            assert served(head, alias) == self.tops()[alias]
            for name in stored(head, alias).values():
                verify_stored(self.root, name)

    @invariant()
    def the_history_only_grows(self):
        if not hasattr(self, "history"):
            return
        now = list(read_history(self.root))
        assert now[: len(self.history)] == self.history
        self.history = now
        assert verify_registry(self.root).problems == ()


TestLaws = Registry.TestCase
TestLaws.settings = settings(max_examples=12, stateful_step_count=12, deadline=None)


class Killed(BaseException):
    """The end of a process that writes to a bucket. No `except Exception` catches it."""


class DyingObstore:
    """obstore, until a put or a delete of this number; from then on nothing is written."""

    def __init__(self, number):
        self.left = number
        self.came_that_far = False

    def __getattr__(self, name):
        function = getattr(obstore, name)
        if name not in ("put", "delete"):
            return function

        def call(*given, **named):
            # Threads write at once; after the first that dies, all are dead.
            self.left -= 1
            if self.left < 0:
                self.came_that_far = True
                raise Killed
            return function(*given, **named)

        return call


class BucketRegistry(Registry):
    """The same in a bucket, whose memory outlives the process that is killed."""

    def new_store(self):
        return BucketStore(
            uri="s3://bucket/registry",
            client=MemoryStore(),
            cache=DownloadCache(self.place / "cache"),
        )

    def is_killed_at(self, action, number):
        # Far fewer writes than in a folder: three objects a bundle, a probe and a commit.
        dying = DyingObstore(number % MAX_PUTS)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(bucket_store, "obstore", dying)
            with contextlib.suppress(Killed):
                action()
        return dying.came_that_far


TestLawsOfABucket = BucketRegistry.TestCase
TestLawsOfABucket.settings = settings(max_examples=8, stateful_step_count=12, deadline=None)
