"""The process that workers are forked from: its environment and its imports."""

import os
import subprocess
import sys

from iak.pipeline.fork_server import WORKER_ENVIRONMENT, environment_of_workers


def test_the_environment_of_workers_is_lent_and_taken_back(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("THP_MEM_ALLOC_ENABLE", raising=False)
    before = dict(os.environ)
    with environment_of_workers():
        assert WORKER_ENVIRONMENT.items() <= os.environ.items()
    assert dict(os.environ) == before


def test_a_forked_process_finds_its_modules_imported_while_this_one_imports_none(tmp_path):
    """`colorsys` stands for torch: a module that nothing else here imports."""
    code = (
        "import sys\n"
        "from iak.pipeline.fork_server import fork_server\n"
        "server = fork_server(['colorsys'])\n"
        "print({'torch', 'ray', 'pyarrow', 'colorsys'} & {*sys.modules})\n"
        "ask = 'import sys; sys.exit(7 if \"colorsys\" in sys.modules else 8)'\n"
        "child = server.Process(target=exec, args=(ask,))\n"
        "child.start()\n"
        "child.join()\n"
        "print(child.exitcode)\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.split("\n")[:2] == ["set()", "7"]
