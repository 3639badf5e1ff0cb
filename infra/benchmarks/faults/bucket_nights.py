"""Inject faults in a platform's night whose registry is a bucket of the S3 API.

The bucket begins with what the folder of the first night's registry holds. So the second night must
come to what it comes to with the folder, whatever the store does meanwhile.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from itertools import count
from pathlib import Path
from random import Random

import obstore

from infra.benchmarks.faults.child import Request
from infra.benchmarks.faults.nights import NIGHT
from infra.benchmarks.faults.outcome import Fault, Judgement, judge
from infra.benchmarks.faults.registry import Stage, register, unnamed_fault
from infra.benchmarks.faults.workspace import REQUESTS
from infra.benchmarks.s3_server import (
    CUT,
    KEYS,
    Proxy,
    bucket_of,
    make_bucket,
    moto_server,
    objects_of,
)
from infra.benchmarks.s3_server import Fault as Answers

WHERE = "platform's night, registry on S3"
_LATE_S = 0.3
_numbers = count()


@dataclass(frozen=True, slots=True)
class _Environment:
    """Sets the variables by which a night finds its store."""

    endpoint: str

    def __call__(self, workspace: Path) -> None:
        """Set them in the attempt's process."""
        downloads = {"XDG_CACHE_HOME": str(workspace / "downloads")}
        os.environ.update(KEYS | downloads | {"AWS_ENDPOINT_URL": self.endpoint})  # noqa: TID251


@cache
def _server() -> str:
    """Return the endpoint of a server that lives as long as this process."""
    return moto_server()[1]


def _bucket(stage: Stage) -> str:
    """Make a bucket with the files of the workspace's registry, and return its name."""
    name = f"bucket-{next(_numbers)}"
    make_bucket(_server(), name)
    folder = stage.workspace / "registry"
    for path in folder.rglob("*"):
        if path.is_file() and not path.name.startswith("."):
            obstore.put(bucket_of(_server(), name), str(path.relative_to(folder)), path)
    return name


@dataclass(frozen=True, slots=True)
class StoreFails:
    """A night whose store fails now and then; where it ends with an error, the night again."""

    what: str
    answers: Callable[[Random], Answers]
    """Returns what the store does to each request."""
    must_end: bool = True
    """Whether the night must survive it by itself; else it may end with the registry's name."""

    def __call__(self, stage: Stage) -> Judgement:
        """Play it once."""
        bucket = _bucket(stage)
        before = objects_of(_server(), bucket)
        proxy = Proxy(_server())
        proxy.fault = self.answers(stage.random)
        try:
            answer = stage.setup.ask(stage.workspace, _request(bucket, proxy.endpoint))
            failing = Fault(what=self.what, names=() if self.must_end else (f"s3://{bucket}",))
        finally:
            proxy.stop()
        if answer.ending != "ended" and not self.must_end:
            if not any(name in answer.message for name in failing.names):
                return judge(answer, failing, honest=[], has_published=False)
            answer = stage.setup.ask(stage.workspace, _request(bucket, _server()))
            failing = unnamed_fault(self.what)
        after = objects_of(_server(), bucket)
        return judge(
            answer,
            failing,
            honest=[stage.undamaged(NIGHT)],
            has_published=False,
            lost=[key for key, content in before.items() if after.get(key) != content],
        )


def _request(bucket: str, endpoint: str) -> Request:
    night = REQUESTS[NIGHT]
    settings = {**night.settings, "registry": f"s3://{bucket}"}
    return replace(night, settings=settings, before=_Environment(endpoint))


def _busy(random: Random) -> Answers:
    """Refuse a third of all requests with 503, and do nothing for them."""
    return lambda *_: (503, False) if random.random() < 1 / 3 else None


def _forgetful(random: Random) -> Answers:
    """Do what a write asks, and answer a third of them with 500."""

    def answers(method: str, _path: str, _number: int) -> tuple[int, bool] | None:
        return (500, True) if method == "PUT" and random.random() < 1 / 3 else None

    return answers


def _slow(_random: Random) -> Answers:
    """Let every answer wait."""

    def answers(*_: object) -> None:
        time.sleep(_LATE_S)

    return answers


def _torn(random: Random) -> Answers:
    """Close the connection in every second upload, before the object is there."""

    def answers(method: str, _path: str, _number: int) -> tuple[int, bool] | None:
        return (CUT, False) if method == "PUT" and random.random() < 1 / 2 else None

    return answers


def _gone(random: Random) -> Answers:
    """Answer nothing but 503 from some write on."""
    left = random.randrange(6)

    def answers(method: str, _path: str, _number: int) -> tuple[int, bool] | None:
        nonlocal left
        left -= method == "PUT"
        return (503, False) if left < 0 else None

    return answers


register("a third of the answers is 503", WHERE, StoreFails("503s", _busy))
register("answers to writes are lost", WHERE, StoreFails("answers lost", _forgetful))
register("slow store", WHERE, StoreFails(f"each answer {_LATE_S} s late", _slow))
register("torn uploads", WHERE, StoreFails("uploads cut off", _torn))
register("store gone, then run again", WHERE, StoreFails("store gone", _gone, must_end=False))
