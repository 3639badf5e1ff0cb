"""Where all machines see a run's files, nothing is sent and a call is a plain call."""

import torch

from iak.pipeline.process import Worker
from iak.pipeline.run_files import SHARED_DISK, SharedDisk


def test_nothing_is_sent_on_a_shared_disk(tmp_path):
    (tmp_path / "file").write_text("text")
    for act in (SHARED_DISK.fetch, SHARED_DISK.send, SHARED_DISK.merge):
        act(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    seen = []
    SHARED_DISK.call_on_driver(seen.append, tmp_path)
    assert seen == [tmp_path]


def test_one_worker_of_each_disk_acts_for_all_of_it():
    def worker(rank, files=SHARED_DISK):
        return Worker(rank=rank, world=3, device=torch.device("cpu"), files=files)

    assert worker(0).is_first_here
    assert not worker(1).is_first_here
    assert worker(2, SharedDisk(is_first=True)).is_first_here
