#!/usr/bin/env bash
# safetensors 0.8.0 says of a file that may not be read that it does not exist.
#
# A cache of activations or a folder of weights that several users share holds files that some of
# them may not read. Guess: safe_open raises PermissionError for such a file, as open() does, so a
# reader can tell "not mine" from "not there" and from "damaged". Seen: FileNotFoundError, "No such
# file or directory", without errno and strerror, while the file is there. Code that takes it for
# absent computes and writes the file again. Opening the file first, in Python, tells the truth.
#
# Exits with 0 while that is so, with 1 once the behaviour changes. Run as root, it reads as another
# user, since root may read everything.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check safetensors==0.8.0 numpy==2.4.6
chmod 0755 "$place"
"$place/venv/bin/python" - "$place/weights.safetensors" <<'PYTHON'
import os
import sys

import numpy as np
import safetensors
from safetensors import safe_open
from safetensors.numpy import save_file

path = sys.argv[1]
print("version: safetensors", safetensors.__version__)
save_file({"a": np.zeros(3, np.float32)}, path)
with safe_open(path, framework="np") as file:
    print("its owner reads:", list(file.keys()))
os.chmod(path, 0)
if os.geteuid() == 0:
    os.seteuid(65534)
print("the file is there:", os.path.exists(path))
found = {}
for name, read in {"open": lambda: open(path, "rb"), "safe_open": lambda: safe_open(path, "np")}.items():
    try:
        read()
        found[name] = "read it"
    except OSError as error:
        found[name] = f"{type(error).__name__}, errno {error.errno}"
        print(f"{name}: {found[name]}: {str(error).replace(path, 'PATH')}")
if os.geteuid() == 65534:
    os.seteuid(0)
expected = {"open": "PermissionError, errno 13", "safe_open": "FileNotFoundError, errno None"}
if found != expected:
    sys.exit(f"the behaviour changed: {found}")
print("as described")
PYTHON
