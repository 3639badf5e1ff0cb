"""Start a process that has imported some modules, from which workers are forked in milliseconds.

A fresh process imports torch and torchrec for seconds. Nothing is imported here that takes time, so
that a command can start the server before its own imports and let both go on at once.
"""

import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext

WORKER_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "THP_MEM_ALLOC_ENABLE": "1"}
"""One thread for each worker, since workers share a machine's cores. Large tensors in huge pages:
on Linux the first touch of memory is several times faster, and random rows need fewer page
walks."""
_starting = threading.Lock()
"""Locked while children start, since the environment they inherit is the whole process's."""


def fork_server(modules: Sequence[str]) -> ForkServerContext:
    """Return a context whose processes are forked from one that has imported some modules.

    The server starts at the first call, which does not wait for its imports. It has a single
    thread, so that forking it is safe. It ends with this process.

    Args:
        modules: names of the modules. The first call decides, since a process has one server.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(modules))
    with environment_of_workers():
        forkserver.ensure_running()
    return context


@contextmanager
def environment_of_workers() -> Iterator[None]:
    """Give children that start in this block the workers' environment, and keep this process's."""
    with _starting:
        before = {name: os.environ.get(name) for name in WORKER_ENVIRONMENT}
        os.environ.update(WORKER_ENVIRONMENT)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
