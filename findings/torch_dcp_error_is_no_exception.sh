#!/usr/bin/env bash
# torch.distributed.checkpoint raises a CheckpointException, which is no Exception (torch 2.13.0).
#
# A trainer that resumes asks for its newest checkpoint, and starts from nothing where there is none;
# one that adopts another's weights wants to say which of them is missing. Guess: what load() raises
# can be caught by `except Exception`, as what torch.load and safetensors raise can. Seen: every
# failure of a load comes as CheckpointException, whose base is BaseException. So it passes
# `except Exception` and contextlib.suppress(Exception) like Ctrl-C, and ends the process. Naming
# CheckpointException catches it; the cause of each rank is in its `failures`.
#
# Exits with 0 while that is so, with 1 once the behaviour changes.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
"$place/venv/bin/python" - "$place" <<'PYTHON'
import logging
import sys
import warnings
from pathlib import Path

import torch
from torch.distributed import checkpoint

logging.disable()
warnings.simplefilter("ignore")
print("version: torch", torch.__version__)
place = Path(sys.argv[1])
checkpoint.save({"w": torch.ones(3)}, checkpoint_id=place / "saved", no_dist=True)


def caught(state, folder):
    """Return which clause of a resuming trainer catches what a load raises."""
    try:
        checkpoint.load(state, checkpoint_id=folder, no_dist=True)
    except Exception:
        return "except Exception"
    except checkpoint.CheckpointException as error:
        (cause,) = {type(cause).__name__ for cause, _ in error.failures.values()}
        return f"except CheckpointException, cause {cause}"
    return "nothing was raised"


found = {
    "the same weights": caught({"w": torch.zeros(3)}, place / "saved"),
    "one weight more": caught({"w": torch.zeros(3), "v": torch.zeros(3)}, place / "saved"),
    "no checkpoint yet": caught({"w": torch.zeros(3)}, place / "first start"),
}
for what, clause in found.items():
    print(f"{what}: {clause}")
expected = {
    "the same weights": "nothing was raised",
    "one weight more": "except CheckpointException, cause RuntimeError",
    "no checkpoint yet": "except CheckpointException, cause AssertionError",
}
if found != expected:
    sys.exit(f"the behaviour changed: {found}")
print("as described")
PYTHON
