"""Define a worker, one process of a run, and start process groups of workers.

Of the library, only this module, fork_server.py and data/stores.py read environment variables. Ray
starts its own process groups (jobs/ray_launcher.py). All other groups start here: of tests, of
torchrun, of processes on this machine, and of a single worker.
"""

import ctypes
import logging
import os
import pickle
import re
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Concatenate, Literal, ParamSpec, TypeVar

import torch
from torch import distributed as dist

from iak.pipeline.errors import PipelineError
from iak.pipeline.fork_server import WORKER_ENVIRONMENT, fork_server
from iak.pipeline.run_files import SHARED_DISK, RunFiles

Backend = Literal["gloo", "nccl"]
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""glibc's names of two settings of `mallopt` (malloc.h)."""
_LARGEST_INT = 2**31 - 1
_LAST_CHARACTERS = 4000
GLOO_ERROR = re.compile(r"^(RuntimeError: )?\[[^\]]*/gloo/")
"""First words of the error that gloo raises when another worker has ended (torch 2.13)."""
OWN_ERROR_WITHIN_S = 10.0
"""Seconds to wait for the first failing worker's own error, after a peer lost its connection."""
LIBRARIES = ("torch", "torchrec", "pyarrow.parquet", "pandas", "scipy.linalg")
"""What workers share instead of importing it for seconds each."""
_log = logging.getLogger(__name__)
P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Worker:
    """One process of a run: `rank` of `world`, computing on `device`."""

    rank: int
    world: int
    device: torch.device
    files: RunFiles = SHARED_DISK
    """The run's files, on a shared disk or reached through the driver's machine."""

    @property
    def is_first_here(self) -> bool:
        """Return whether this worker acts for all workers that share its disk."""
        return self.rank == 0 or self.files.is_first


def current_worker() -> Worker:
    """Return this process: its rank in the process group, or a world of one without a group."""
    if not dist.is_initialized():
        return Worker(rank=0, world=1, device=_own_device(rank=0))
    rank, world = dist.get_rank(), dist.get_world_size()
    on_cuda = "nccl" in dist.get_backend()
    device = torch.device("cuda", torch.cuda.current_device()) if on_cuda else torch.device("cpu")
    return Worker(rank=rank, world=world, device=device)


def backend_for(device: torch.device) -> Backend:
    """Return the collective library for tensors on `device`."""
    return "nccl" if device.type == "cuda" else "gloo"


def ranks_per_host(world: int) -> int:
    """Return the number of ranks on one host, from torchrun or Ray; `world` without them."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", world))


def torchrun_rank() -> tuple[int, int]:
    """Return (rank, world) from torchrun's environment; (0, 1) without it."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def keep_freed_memory() -> bool:
    """Let this process keep the memory it frees, for the next step to use again.

    By default glibc maps new pages for each large buffer and returns it to the system when it is
    freed. So every step pays for the same pages again, for PyTorch's and NumPy's buffers alike. The
    cost of this setting is that the process's memory stays at its peak.

    Returns:
        True where it worked; False where the C library has no `mallopt` (musl, macOS).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError) as error:
        _log.debug("freed memory goes back to the system, and large buffers cost more: %s", error)
        return False
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, _LARGEST_INT))


def seed_device(seed: int, device: torch.device) -> None:
    """Seed the generator from which a device draws, with the numbers of `torch.manual_seed`.

    That seeds the generators of all kinds of devices. For each kind that this process has not used
    it formats the stack of calls, which took a fortieth of a step of training on CPUs.
    """
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


@contextmanager
def process_group(
    rank: int,
    world: int,
    *,
    init_method: str | None = None,
    backend: Backend | None = None,
    threads: int | None = None,
    timeout_s: int | None = None,
) -> Iterator[Worker]:
    """Join a process group for the length of the block.

    Args:
        rank: this process, 0 <= rank < world.
        world: number of processes.
        init_method: address at which ranks meet, `file://...`, `tcp://...` or `env://` (torchrun).
            A world of one may leave it out, and gets a temporary file.
        backend: gloo or nccl; by default nccl where there is CUDA.
        threads: torch threads of this process; 1 where workers share cores.
        timeout_s: seconds after which a collective that a rank does not join fails; by default
            torch's own.

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
            timeout=None if timeout_s is None else timedelta(seconds=timeout_s),
        )
        try:
            yield Worker(rank=rank, world=world, device=device)
            wait_for_all(device)
        finally:
            dist.destroy_process_group()


def is_lost_peer(error: BaseException) -> bool:
    """Return whether an error says that another worker is gone.

    torch names its own network errors `DistError`; gloo raises a plain RuntimeError that begins
    with the path of its source (torch 2.13).
    """
    return isinstance(error, dist.DistError) or GLOO_ERROR.search(str(error)) is not None


def run_on_workers(
    fn: Callable[Concatenate[Worker, P], R], world: int, *args: P.args, **kwargs: P.kwargs
) -> list[R]:
    """Run `fn(worker, *args, **kwargs)` in `world` fresh gloo processes on this machine.

    They are forked from one process that has imported `LIBRARIES`, at the first call.

    Args:
        fn: a function of a module, since it is pickled by name. Its arguments and its result must
            be picklable too.
        world: number of processes.
        args: further arguments, the same for every worker.
        kwargs: further arguments by name, the same for every worker.

    Returns:
        The result of each rank, in order of rank.

    Raises:
        Exception: the first error of a worker, its traceback attached as a note. The other workers
            are stopped, since they may wait for it in a collective call.
    """
    context = fork_server(LIBRARIES)
    # The server has the environment of its start. Settings of this call may be newer.
    environment = {**os.environ, **WORKER_ENVIRONMENT}
    with tempfile.TemporaryDirectory(prefix="iak-workers-") as meeting:
        init_method = f"file://{meeting}/store"
        pipes = [context.Pipe(duplex=False) for _ in range(world)]
        processes = [
            context.Process(
                target=_work,
                args=(rank, world, init_method, pipes[rank][1], environment, fn, args, kwargs),
            )
            for rank in range(world)
        ]
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


def run_with_torchrun(module: str, words: Sequence[str], world: int) -> None:
    """Run `python -m module WORDS` in `world` processes that torchrun starts on this machine.

    They read their rank with `torchrun_rank` and meet in a file. Torchrun's own store, and the one
    of `env://`, would listen on every interface of the machine.

    Args:
        module: module of this project.
        words: arguments of the module.
        world: number of processes.

    Raises:
        PipelineError: a process failed; the message ends with the last lines of its output.
    """
    with tempfile.TemporaryDirectory(prefix="iak-torchrun-") as meeting:
        command = [
            *(sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={world}"),
            *("--nnodes=1", "--max-restarts=0", "--rdzv-backend=c10d", "--local-addr=127.0.0.1"),
            *(f"--rdzv-endpoint={meeting}/agents", "--rdzv-conf=store_type=file"),
            *("--rdzv-id=iak", "-m", module, *words),
        ]
        printed = Path(meeting) / "printed"
        with printed.open("wb") as file:
            agent = subprocess.Popen(
                command, env=_torchrun_environment(), stdout=file, stderr=subprocess.STDOUT
            )
            try:
                code = agent.wait()
            finally:
                agent.terminate()  # it ends its workers
                agent.wait()
        if code != 0:
            lines = printed.read_text(errors="replace")[-_LAST_CHARACTERS:]
            raise PipelineError(f"torchrun ended with {code}:\n{lines}")


def _torchrun_environment() -> dict[str, str]:
    """Return this process's environment, with one thread per worker, and only on loopback."""
    root = str(Path(__file__).parents[2])  # the folder that holds the package `iak`
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    loopback = {"GLOO_SOCKET_IFNAME": "lo"} if Path("/sys/class/net/lo").exists() else {}
    return {
        **os.environ,
        **loopback,
        "PYTHONPATH": os.pathsep.join(paths),
        **WORKER_ENVIRONMENT,
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    }


def _collect(receivers: list[Connection]) -> list[R]:
    """Return every rank's result, or raise the first error that is a worker's own.

    A worker that fails leaves its peers with a lost connection, and their errors may arrive before
    its own. So such an error is raised only when no other follows within some seconds.
    """
    results: dict[int, R] = {}
    lost_peer: Exception | None = None
    waiting = {id(receiver): rank for rank, receiver in enumerate(receivers)}
    while waiting:
        timeout = None if lost_peer is None else OWN_ERROR_WITHIN_S
        arrived = wait([r for r in receivers if id(r) in waiting], timeout)
        if lost_peer is not None and not arrived:
            break
        for ready in arrived:
            assert isinstance(ready, Connection)
            rank = waiting.pop(id(ready))
            try:
                error, result = pickle.loads(ready.recv_bytes())
            except EOFError:
                raise RuntimeError(f"worker {rank} died without an error (killed?)") from None
            if error is None:
                results[rank] = result
            elif not is_lost_peer(error):
                raise error
            else:
                lost_peer = lost_peer or error
    if lost_peer is not None:
        raise lost_peer
    return [results[rank] for rank in range(len(receivers))]


def _work(
    rank: int,
    world: int,
    init_method: str,
    sender: Connection,
    environment: Mapping[str, str],
    fn: Callable[..., object],
    args: tuple[object, ...],
    kwargs: dict[str, object],
) -> None:
    """Run one child process: join the group, call the function, send its result or error."""
    os.environ.clear()
    os.environ.update(environment)
    keep_freed_memory()
    try:
        with process_group(
            rank, world, init_method=init_method, backend="gloo", threads=1
        ) as worker:
            # Plain pickle: the pipe's own pickler would share a tensor's memory, which ends with
            # this process.
            sender.send_bytes(pickle.dumps((None, fn(worker, *args, **kwargs))))
    except BaseException as error:  # noqa: BLE001 - handed to the parent, which raises it
        story = f"in worker {rank} of {world}:\n{traceback.format_exc()}"
        with suppress(BrokenPipeError):
            _send_error(sender, error, story)


def _send_error(sender: Connection, error: BaseException, story: str) -> None:
    """Send `error` with its traceback, or the traceback alone when the error does not pickle."""
    error.add_note(story)
    try:
        message = pickle.dumps((error, None))
        pickle.loads(message)
    except Exception:  # noqa: BLE001 - whatever an error's own pickling raises
        message = pickle.dumps((RuntimeError(story), None))
    sender.send_bytes(message)


def _own_device(rank: int) -> torch.device:
    """Return the CUDA device that this rank owns on its host, or the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    index = int(os.environ.get("LOCAL_RANK", rank % torch.cuda.device_count()))
    device = torch.device("cuda", index)
    torch.cuda.set_device(device)
    return device


def wait_for_all(device: torch.device) -> None:
    """Wait for every rank. NCCL chooses a device by rank unless it is given one."""
    if device.type == "cuda":
        dist.barrier(device_ids=[device.index])
    else:
        dist.barrier()
