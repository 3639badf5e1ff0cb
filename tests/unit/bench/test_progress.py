import torch

from iak.pipeline.bench.progress import followed, writer
from iak.pipeline.process import Worker


def worker(rank):
    return Worker(rank=rank, world=2, device=torch.device("cpu"))


def test_every_line_of_worker_0_is_reported_in_order_and_none_of_the_others(tmp_path):
    heard, path = [], tmp_path / "deep" / "progress.jsonl"
    with followed(path, heard.append):
        for step in range(50):
            writer(path, worker(0))({"event": "step", "step": step, "of": path})
            writer(path, worker(1))({"event": "step", "step": -1})
    assert [event["step"] for event in heard] == list(range(50))


def test_what_an_earlier_run_left_is_not_reported(tmp_path):
    heard, path = [], tmp_path / "progress.jsonl"
    path.write_text('{"event": "old"}\n')
    with followed(path, heard.append):
        writer(path, worker(0))({"event": "new"})
    assert heard == [{"event": "new"}]
