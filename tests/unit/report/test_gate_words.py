import pytest

from iak.pipeline.report.gate_words import gate_word, served_word
from iak.schemas.prediction import EvaluationResult

GATE = {
    "region=a": {"publish": False, "holding": ["cvr"], "not_judged": {}},
    "region=b": {
        "publish": True,
        "holding": [],
        "not_judged": {"cvr": "5 positives, fewer than 30"},
    },
    "region=c": {"publish": False, "holding": [], "not_judged": {}},
}
SERVED = {"region=a": "pooled", "region=b": "region=b", "region=c": "base", "region=d": "country=x"}
RESULT = EvaluationResult(contract={}, digest="", unseen={}, gate=GATE, served=SERVED, split="test")


@pytest.mark.parametrize(
    ("domain", "task", "gate", "served"),
    [
        ("region=a", "cvr", "held by this task", "pooled"),
        ("region=a", "ctr", "held by cvr", "pooled"),
        ("region=b", "ctr", "published", "own"),
        ("region=b", "cvr", "published; cvr not judged: 5 positives, fewer than 30", "own"),
        ("region=c", "ctr", "held: gain within noise", "base"),
        ("region=d", "ctr", "no kernel", "parent: country=x"),
        ("all", "ctr", "-", "-"),
        ("pooled", "ctr", "-", "-"),
    ],
)
def test_the_table_says_what_the_gate_decided_and_which_kernel_serves(domain, task, gate, served):
    assert (gate_word(RESULT, domain, task), served_word(RESULT, domain)) == (gate, served)
