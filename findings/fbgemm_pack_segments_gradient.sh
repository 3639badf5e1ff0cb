#!/usr/bin/env bash
# On a CPU, pack_segments gives rows the gradients of other rows (fbgemm-gpu-cpu 1.8.0, torch 2.13.0).
#
# Histories are cut to `max_length` and padded by torch.ops.fbgemm.pack_segments, before attention or a GRU. Guess: the
# gradient of a row is that of its place, and 0 for a row that was cut off. Seen: the forward pass is right. The backward
# pass counts no row that was cut off, so that each later row gets the gradient of a row further on. Of the last rows
# no gradient is written at all: they have what was in memory before. One history that is longer than max_length is
# enough, and nothing warns. Without such a history the gradient is right. jagged_to_padded_dense computes the same, and
# its gradient is right in any case.
#
# Exits with 0 while that is so, with 1 once the behaviour changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip=("$folder/venv/bin/pip" install --quiet --disable-pip-version-check)
"${pip[@]}" torch==2.13.0 numpy==2.4.6 setuptools
# An underscore or a dash in a name is the same to pip.
"${pip[@]}" fbgemm_gpu_cpu==1.8.0
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import logging
import sys
from importlib.metadata import version

import fbgemm_gpu  # noqa: F401 - registers the operators
import torch

logging.disable(logging.WARNING)
print("version: fbgemm-gpu-cpu", version("fbgemm-gpu-cpu"), "torch", torch.__version__)
LENGTHS, MOST = [3, 2, 2], 2  # the third row of the first history is cut off
ROWS = torch.arange(1.0, 8.0)[:, None]


def by_pack(rows, lengths):
    """Pad by pack_segments."""
    return torch.ops.fbgemm.pack_segments(rows, torch.tensor(lengths), MOST)


def by_jagged(rows, lengths):
    """Pad by jagged_to_padded_dense."""
    ends = torch.tensor([0, *lengths]).cumsum(0)
    return torch.ops.fbgemm.jagged_to_padded_dense(rows, [ends], [MOST], 0.0)


def by_torch(rows, lengths):
    """Pad by plain tensors."""
    cut = [history[:MOST] for history in rows.split(lengths)]
    return torch.nn.utils.rnn.pad_sequence(cut, batch_first=True)


def padded(pad, lengths):
    """Return the padded histories and the gradient of each row, where place k has gradient 10 k."""
    rows = ROWS[: sum(lengths)].clone().requires_grad_()
    places = pad(rows, lengths)
    (places * torch.arange(10.0, 10.0 * places.numel() + 1, 10.0).view_as(places)).sum().backward()
    return places.flatten().tolist(), rows.grad.flatten().tolist()


found = {pad.__name__: padded(pad, LENGTHS) for pad in (by_pack, by_jagged, by_torch)}
for name, (places, gradients) in found.items():
    shown = gradients[:-1] + ["not written"] if name == "by_pack" else gradients
    print(f"{name}: places {places}, gradients of the rows {shown}")
short = [padded(pad, [2, 1, 2]) for pad in (by_pack, by_torch)]
print("without a long history, gradients agree:", short[0] == short[1])
(places, packed), jagged, plain = found.values()
if (
    not jagged == plain == ([1.0, 2.0, 4.0, 5.0, 6.0, 7.0], [10.0, 20.0, 0.0, 30.0, 40.0, 50.0, 60.0])
    or places != plain[0]
    or packed[:6] != [10.0, 20.0, 30.0, 40.0, 50.0, 60.0]
    or short[0] != short[1]
):
    sys.exit("the behaviour changed")
print("as described")
PYTHON
