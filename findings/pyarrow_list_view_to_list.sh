#!/usr/bin/env bash
# A cast of a list view to a list makes an array that is one offset short (pyarrow 26.0.1).
#
# Readers and engines hand out lists as list views (histories of ids, for instance), and code that knows lists casts them.
# Guess: the cast gives the same lists, or is refused. Seen: it returns an array of n lists with n offsets, where a list array
# has n + 1. So where the last list ends is read from whatever memory follows the offsets: in our runs, the last history
# came back empty. Nothing warns, and only validate() tells. large_list_view to large_list does the same. What works:
# lists made of `flatten()` and the sums of the sizes.
#
# Exits with 0 while that is so, with 1 once the behaviour changes.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check pyarrow==26.0.1
"$place/venv/bin/python" - <<'PYTHON'
import itertools
import sys

import pyarrow as pa

print("version: pyarrow", pa.__version__)
HISTORIES = [[1, 2], [3], [], [4, 5, 6], [7]]


def outcome(view, plain, offset_bytes):
    """Return offsets of the cast, offsets that a list array needs, and what validate() says."""
    cast = pa.array(HISTORIES, view).cast(plain)
    try:
        cast.validate()
    except pa.ArrowInvalid:
        said = "invalid"
    else:
        said = "valid"
    return cast.buffers()[1].size // offset_bytes, len(cast) + 1, said


def made_of_sizes():
    """Make the lists of their values and the sums of their sizes."""
    views = pa.array(HISTORIES, pa.list_view(pa.int64()))
    ends = [0, *itertools.accumulate(views.sizes.to_pylist())]
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), views.flatten())


found = {
    "list_view to list": outcome(pa.list_view(pa.int64()), pa.list_(pa.int64()), 4),
    "large_list_view to large_list": outcome(
        pa.large_list_view(pa.int64()), pa.large_list(pa.int64()), 8
    ),
    "list to large_list": outcome(pa.list_(pa.int64()), pa.large_list(pa.int64()), 8),
}
for name, (offsets, needed, said) in found.items():
    print(f"{name}: {offsets} offsets, {needed} needed, {said}")
print("made of sizes:", made_of_sizes().to_pylist())
wanted = {
    "list_view to list": (5, 6, "invalid"),
    "large_list_view to large_list": (5, 6, "invalid"),
    "list to large_list": (6, 6, "valid"),
}
if found != wanted or made_of_sizes().to_pylist() != HISTORIES:
    sys.exit("the behaviour changed")
print("as described")
PYTHON
