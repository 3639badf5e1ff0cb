import pytest
import torch

from iak.pipeline.bench.limits import free_bytes, kib_of, one_torch_thread


@pytest.fixture
def info(tmp_path):
    path = tmp_path / "meminfo"
    path.write_text("MemTotal:  2048 kB\nMemAvailable:   512 kB\nMemAvailableNot: 9 kB\n")
    return path


def test_a_line_of_proc_is_bytes(info):
    assert kib_of(info, "MemAvailable") == 512 * 1024
    assert kib_of(info, "MemTotal") == 2048 * 1024


def test_a_missing_line_is_none_and_a_longer_name_is_another(info):
    assert kib_of(info, "Mem") is None
    assert kib_of(info, "SwapFree") is None


def test_free_memory_is_some_of_the_machine_s():
    free = free_bytes()
    assert free is None or 0 < free < 2**60


def test_torch_computes_on_one_thread_and_then_as_before():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with one_torch_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
        with pytest.raises(ZeroDivisionError), one_torch_thread():
            raise ZeroDivisionError
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
