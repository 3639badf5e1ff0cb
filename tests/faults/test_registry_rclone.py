"""A store of the S3 API that ignores conditions, as a test of the probe: `rclone serve s3`."""

import shutil
import socket
import subprocess
import time

import pytest

from iak.pipeline.errors import BadRequest
from iak.pipeline.registry.commits import read_head
from iak.pipeline.registry.verify import verify_registry
from iak.pipeline.storage.folder_store import FolderStore
from iak.pipeline.storage.store import open_store
from tests.ports import free_port
from tests.s3 import KEYS
from tests.unit.registry.nights import night, promote

RCLONE = shutil.which("rclone")


def serves_s3():
    """Whether there is an rclone of 1.65 or newer; Debian 12 has 1.60."""
    if RCLONE is None:
        return False
    done = subprocess.run([RCLONE, "serve", "s3", "--help"], capture_output=True, check=False)
    return done.returncode == 0 and b"--auth-key" in done.stdout + done.stderr


pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(not serves_s3(), reason="no rclone that has `serve s3` is installed"),
]


@pytest.fixture
def careless(tmp_path, monkeypatch):
    """Serve a folder over the S3 API, without conditional writes."""
    (tmp_path / "served" / "bucket").mkdir(parents=True)
    address = f"127.0.0.1:{free_port()}"
    keys = f"{KEYS['AWS_ACCESS_KEY_ID']},{KEYS['AWS_SECRET_ACCESS_KEY']}"
    server = subprocess.Popen(
        [
            *(RCLONE, "serve", "s3", "--addr", address, "--auth-key", keys),
            *("--dir-cache-time", "0s", str(tmp_path / "served")),
        ],
        stderr=subprocess.DEVNULL,
    )
    for name, value in (KEYS | {"AWS_ENDPOINT_URL": f"http://{address}"}).items():
        monkeypatch.setenv(name, value)
    host, port = address.split(":")
    for _ in range(2_000):
        with socket.socket() as knock:
            if knock.connect_ex((host, int(port))) == 0:
                break
        time.sleep(0.05)
    yield tmp_path / "served" / "bucket"
    server.terminate()
    server.wait()


def test_a_store_that_ignores_conditions_is_refused_for_promotion_and_read(careless, tmp_path):
    run = night(tmp_path / "n1")
    store = open_store("s3://bucket/registry")
    with pytest.raises(BadRequest, match="a second object replaced the first under the same key"):
        promote(store, run)
    promote(FolderStore(careless / "registry"), run)
    assert len(read_head(store).moves) == 3
    assert verify_registry(store).problems == ()
