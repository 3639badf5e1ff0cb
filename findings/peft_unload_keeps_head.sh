#!/usr/bin/env bash
# PEFT's unload() gives back the base with the tuned head (peft 0.21.2, torch 2.13.0).
#
# A base is tuned with LoRA for one domain, its head as a whole (`modules_to_save`), and unload() is called to get the
# base back, for the next domain. It "removes all the PEFT modules" and returns "the base model". Guess: it scores as
# before. Seen: the LoRA of other layers is gone, and the head is the tuned one. The model is neither the base nor the
# tuned one, and scores are off from both. With two adapters it is the head of the active one. `disable_adapter()` gives
# the base's scores. Nothing warns, and what is tuned next starts from another domain's head. What avoids it: the base's
# state dict, loaded again, or a second adapter on the same model.
#
# Exits with 0 while that is so, with 1 once the behaviour changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check peft==0.21.2 torch==2.13.0 numpy==2.4.6 transformers==5.24.0 accelerate==1.15.0
"$folder/venv/bin/python" -W ignore - "$folder" <<'PYTHON'
import sys
from importlib.metadata import version

import torch
from peft import LoraConfig, get_peft_model
from torch import nn

print("version: peft", version("peft"), "torch", torch.__version__)
ROWS = torch.linspace(-1, 1, 12).view(3, 4)


class Ranker(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk = nn.Linear(4, 4)
        self.head = nn.Linear(4, 1)

    def forward(self, rows):
        return self.head(torch.tanh(self.trunk(rows)))


def tuned(model):
    """Stand for a training: fill all weights that are trained."""
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.fill_(0.5)
    return model


def scores(model):
    with torch.no_grad():
        return model(ROWS).flatten()


def compared(**settings):
    """Return whether scores are the base's, of the tuned model, of it disabled and after unload()."""
    torch.manual_seed(0)
    base = Ranker()
    before = scores(base)
    trunk, head = (layer.weight.detach().clone() for layer in (base.trunk, base.head))
    model = tuned(get_peft_model(base, LoraConfig(r=2, target_modules=["trunk"], **settings)))
    after = scores(model)
    with model.disable_adapter():
        disabled = scores(model)
    unloaded = model.unload()
    return {
        "tuned": torch.equal(after, before),
        "disabled": torch.equal(disabled, before),
        "unloaded": torch.equal(scores(unloaded), before),
        "unloaded is the tuned": torch.equal(scores(unloaded), after),
        "trunk": torch.equal(unloaded.trunk.weight, trunk),
        "head": torch.equal(unloaded.head.weight, head),
    }


found = {
    "LoRA alone": compared(),
    "LoRA and a head in modules_to_save": compared(modules_to_save=["head"]),
}
for case, same in found.items():
    print(f"{case}: same as the base {same}")
wanted = {
    "LoRA alone": {
        "tuned": False, "disabled": True, "unloaded": True, "unloaded is the tuned": False,
        "trunk": True, "head": True,
    },
    "LoRA and a head in modules_to_save": {
        "tuned": False, "disabled": True, "unloaded": False, "unloaded is the tuned": False,
        "trunk": True, "head": False,
    },
}
if found != wanted:
    sys.exit("the behaviour changed")
print("as described")
PYTHON
