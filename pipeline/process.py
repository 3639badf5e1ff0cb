"""One worker process: who it is, and the process group it lives in.

The only reader of the environment. Ray starts its own process groups (jobs/_ray.py); the ones
here are for plain torch: tests, torchrun, and a single process that shards over itself.
"""

import multiprocessing
import os
import pickle
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Concatenate, Literal, ParamSpec, TypeVar

import torch
from torch import distributed as dist

Backend = Literal["gloo", "nccl"]
P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Worker:
    """One process of a run: `rank` of `world`, computing on `device`."""

    rank: int
    world: int
    device: torch.device


def current_worker() -> Worker:
    """This process: its place in the process group, or a world of one without a group."""
    if not dist.is_initialized():
        return Worker(rank=0, world=1, device=_own_device(rank=0))
    rank, world = dist.get_rank(), dist.get_world_size()
    on_cuda = "nccl" in dist.get_backend()
    device = torch.device("cuda", torch.cuda.current_device()) if on_cuda else torch.device("cpu")
    return Worker(rank=rank, world=world, device=device)


def backend_for(device: torch.device) -> Backend:
    """The collective library for tensors on `device`."""
    return "nccl" if device.type == "cuda" else "gloo"


def ranks_per_host(world: int) -> int:
    """How many ranks of `world` live on one host, as torchrun or Ray says; else all of them."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", world))


def torchrun_place() -> tuple[int, int]:
    """(rank, world) as torchrun set them; (0, 1) where it did not."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def process_group(
    rank: int,
    world: int,
    *,
    init_method: str | None = None,
    backend: Backend | None = None,
    threads: int | None = None,
) -> Iterator[Worker]:
    """Join a process group for the length of the block.

    Args:
        rank: this process, 0 <= rank < world.
        world: number of processes.
        init_method: where the ranks meet, `file://...`, `tcp://...` or `env://` (torchrun);
            without it a world of one meets itself in a fresh temporary file.
        backend: gloo or nccl; by default nccl where there is CUDA.
        threads: torch threads of this process; 1 where workers share cores.

    Yields:
        The worker. A clean exit waits for the other ranks before leaving: without that barrier a
        rank that leaves first can abort the rest.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    device = torch.device("cpu") if backend == "gloo" else _own_device(rank)
    with tempfile.TemporaryDirectory(prefix="iak-group-") as meeting:
        if init_method is None and world > 1:
            raise ValueError(f"{world} ranks need an init_method to meet at; none was given")
        dist.init_process_group(
            backend or backend_for(device),
            init_method=init_method or f"file://{meeting}/store",
            rank=rank,
            world_size=world,
        )
        try:
            yield Worker(rank=rank, world=world, device=device)
            _barrier(device)
        finally:
            dist.destroy_process_group()


def run_on_workers(
    fn: Callable[Concatenate[Worker, P], R], world: int, *args: P.args, **kwargs: P.kwargs
) -> list[R]:
    """Run `fn(worker, *args, **kwargs)` in `world` fresh gloo processes on this machine.

    Args:
        fn: a function that pickles by name (module level), as must its arguments and result.
        world: number of processes.
        args: handed to every worker.
        kwargs: handed to every worker.

    Returns:
        What each rank returned, by rank.

    Raises:
        Exception: the first error of a worker, its traceback attached as a note; the others are
            stopped, since they may wait for it in a collective.
    """
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="iak-workers-") as meeting:
        init_method = f"file://{meeting}/store"
        pipes = [context.Pipe(duplex=False) for _ in range(world)]
        processes = [
            context.Process(
                target=_work, args=(rank, world, init_method, pipes[rank][1], fn, args, kwargs)
            )
            for rank in range(world)
        ]
        with _one_thread_in_children():
            for process in processes:
                process.start()
        for _, sender in pipes:
            sender.close()  # the child holds the other copy, so its death reads as end of file
        try:
            return _collect([receiver for receiver, _ in pipes])
        finally:
            for process in processes:
                process.join(timeout=5)
                if process.is_alive():
                    process.kill()
                    process.join()


def _collect(receivers: list[Connection]) -> list[R]:
    """Every rank's result, or the first error any of them sent."""
    results: dict[int, R] = {}
    waiting = {id(receiver): rank for rank, receiver in enumerate(receivers)}
    while waiting:
        for ready in wait([r for r in receivers if id(r) in waiting]):
            assert isinstance(ready, Connection)
            rank = waiting.pop(id(ready))
            try:
                error, result = pickle.loads(ready.recv_bytes())
            except EOFError:
                raise RuntimeError(f"worker {rank} died without a word (killed?)") from None
            if error is not None:
                raise error
            results[rank] = result
    return [results[rank] for rank in range(len(receivers))]


def _work(
    rank: int,
    world: int,
    init_method: str,
    sender: Connection,
    fn: Callable[..., object],
    args: tuple[object, ...],
    kwargs: dict[str, object],
) -> None:
    """A child's whole life: join, run, send what came of it."""
    try:
        with process_group(
            rank, world, init_method=init_method, backend="gloo", threads=1
        ) as worker:
            # Plain pickle: a pipe's own would lend a tensor's memory, which dies with this process.
            sender.send_bytes(pickle.dumps((None, fn(worker, *args, **kwargs))))
    except BaseException as error:  # noqa: BLE001 - handed to the parent, which raises it
        story = f"in worker {rank} of {world}:\n{traceback.format_exc()}"
        with suppress(BrokenPipeError):
            _send_error(sender, error, story)


def _send_error(sender: Connection, error: BaseException, story: str) -> None:
    """Send `error` with its story, or the story alone when the error does not pickle."""
    error.add_note(story)
    try:
        message = pickle.dumps((error, None))
        pickle.loads(message)
    except Exception:  # noqa: BLE001 - whatever an error's own pickling raises
        message = pickle.dumps((RuntimeError(story), None))
    sender.send_bytes(message)


@contextmanager
def _one_thread_in_children() -> Iterator[None]:
    """Children started inside read OMP_NUM_THREADS=1: they share this machine's cores."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


def _own_device(rank: int) -> torch.device:
    """The CUDA device this rank owns on its host, or the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    place = int(os.environ.get("LOCAL_RANK", rank % torch.cuda.device_count()))
    device = torch.device("cuda", place)
    torch.cuda.set_device(device)
    return device


def _barrier(device: torch.device) -> None:
    """Wait for every rank; NCCL must be told which card, or it guesses."""
    if device.type == "cuda":
        dist.barrier(device_ids=[device.index])
    else:
        dist.barrier()
