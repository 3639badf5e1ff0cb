"""Clients that ask servers under load, and a shop with two nights whose kernels are served.

The clients compare every answer with what `iak predict` writes.
"""

import io
import threading
import time

import pyarrow as pa
import urllib3

from iak.pipeline.serving.requests import ARROW
from iak.pipeline.storage.folder_store import FolderStore
from tests.unit.base.test_published_base import ALONE
from tests.unit.registry.nights import promote
from tests.unit.serving.shop import (
    read_all,
    run_of,
    score,
    score_work,
    shop_toml,
    write_base,
    write_bundles,
    write_shop,
)

NIGHTS = 0, 50


def write_place(root):
    """Write log, base, the bundles and predictions of two nights, and a registry with the first."""
    write_shop(root)
    base = write_base(root / "R1" / "base")
    for seed in NIGHTS:
        folder = write_bundles(root / f"night-{seed}" / "bundles", base, seed=seed)
        score(ALONE, score_work(root, base, folder, root / f"scores-{seed}"))
    (root / "shop.toml").write_text(shop_toml())
    promote_night(root, 0)
    return root


def promote_night(root, seed):
    """Let the kernels of a night serve."""
    promote(FolderStore(root / "registry"), run_of(root / f"night-{seed}"))


def predictions(root):
    """Return the predictions of both nights' kernels, as answers are compared with them."""
    return [compared(read_all(root / f"scores-{seed}")) for seed in NIGHTS]


def ask(url, token=None):
    """Return the status of an answer; None where there is none."""
    headers = {"authorization": f"Bearer {token}"} if token else {}
    try:
        return urllib3.request("GET", url, headers=headers, retries=False).status
    except urllib3.exceptions.HTTPError:
        return None


def wait_until(is_so):
    """Wait until something is so; the test's own limit ends it where it never is."""
    while not is_so():
        time.sleep(0.1)


def arrow_of(rows):
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    return sink.getvalue()


def asked(pool, body, token=None):
    """Return the answer of one request, sent once; None where there is none."""
    headers = {"content-type": ARROW} | ({"authorization": f"Bearer {token}"} if token else {})
    try:
        answer = pool.urlopen("POST", "/predict", body, headers, retries=False)
    except urllib3.exceptions.HTTPError:
        return None
    return answer.data if answer.status == 200 else None


def compared(scores):
    """Predictions without reasons: a registry has no kernel that the gate held."""
    return scores.drop_columns(["reason"]).to_pylist()


class Load:
    """Clients that ask again and again, and compare every answer with the nights' predictions.

    A request that a server does not answer is sent once more, to the next server if there is one.
    """

    def __init__(self, addresses, rows, nights, token=None):
        self.addresses, self.rows, self.nights, self.token = addresses, rows, nights, token
        self.answered, self.retried, self.failed, self.seen = 0, 0, [], set()
        self.is_over, self.count = threading.Event(), threading.Lock()
        self.clients = [threading.Thread(target=self.run, args=(n,)) for n in range(3)]
        for client in self.clients:
            client.start()

    def run(self, number):
        pools = [urllib3.connection_from_url(address) for address in self.addresses]
        while not self.is_over.is_set():
            first, number = 31 * number % 450, number + 3
            body = arrow_of(self.rows.slice(first, 40))
            tried = [pools[(number + attempt) % len(pools)] for attempt in range(2)]
            answer = asked(tried[0], body, self.token)
            if answer is None:
                with self.count:
                    self.retried += 1
                answer = asked(tried[1], body, self.token)
            self.note(first, answer)

    def note(self, first, answer):
        with self.count:
            if answer is None:
                self.failed.append(first)
                return
            scores = compared(pa.ipc.open_stream(answer).read_all())
            is_of = [scores == night[first : first + 40] for night in self.nights]
            self.answered += any(is_of)
            self.seen |= {is_of.index(True)} if any(is_of) else {"a mixture"}

    def end(self):
        self.is_over.set()
        for client in self.clients:
            client.join()
