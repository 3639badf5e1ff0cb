"""What `iak registry show` says of chains."""

import json
import re

import pytest

from iak.pipeline.publish.bundle import bundle_name
from iak.pipeline.publish.chain import log_evidence
from iak.pipeline.storage.folder_store import FolderStore
from tests.unit.jobs.test_registry import iak
from tests.unit.registry.nights import NAMES, ROME, night
from tests.unit.registry.test_chains import chain, promoted

KNOWN = {"needed": 3.69, "gain": 0.00123, "gain_low": 0.00045}


@pytest.fixture
def registry(tmp_path):
    """A registry of which Rome was held, with the chains of Rome and of the pooled kernel."""
    rome = chain(4, wealth=2.5).model_copy(update=KNOWN)
    pooled = chain(2, domain={}, wealth=4.0).model_copy(
        update={"proved_on": chain(2).last_night, "proved_by": "many nights"}
    )
    run = night(tmp_path / "n1", held=(ROME,))
    chains = {bundle_name(ROME): rome, "pooled": pooled}
    promoted(FolderStore(tmp_path / "registry"), run, chains=chains)
    return tmp_path / "registry"


def said(capsys):
    return re.sub(r"[\s│]+", " ", capsys.readouterr().out)


def test_the_evidence_of_every_domain_stands_below_the_history(registry, tmp_path, capsys):
    assert iak("show", f"registry={registry}", f"json={tmp_path / 'shown.json'}") == 0
    shown = said(capsys)
    assert "city=rome 3 +2.50 3.69 +0.00123 +0.00045 2.50 of 3.69 needed after 3 cou" in shown
    assert shown.index("city=rome 3") < shown.index("pooled 1 +4.00")
    assert "proved on 2 Oct 2026" in shown
    rows = json.loads((tmp_path / "shown.json").read_text())["chains"]
    assert {row["domain"] for row in rows} == {"city=rome", "pooled"}
    assert [row["log_evidence"] for row in rows if row["domain"] == "pooled"] == [
        pytest.approx(log_evidence(chain(2, wealth=4.0)))
    ]


def test_a_domain_that_was_never_promoted_has_evidence_to_show(registry, capsys):
    assert iak("show", f"registry={registry}", "domain=city=rome") == 0
    shown = said(capsys)
    assert "stands at: 2.50 of 3.69 needed after 3 counted nights" in shown
    assert "+0.00123 nats a row over the base, at least +0.00045" in shown
    assert "city=rome has no kernel of its own yet" in shown
    assert iak("show", f"registry={registry}", "domain=pooled") == 0
    assert "proved on 2 Oct 2026, by the evidence of many nights" in said(capsys)
    other = next(name for name in NAMES if name not in ("city=rome", "pooled"))
    assert iak("show", f"registry={registry}", f"domain={other}") == 0
    assert "evidence of" not in said(capsys)


def test_chains_of_older_registries_say_what_they_know(tmp_path, capsys):
    run = night(tmp_path / "n1")
    chains = {bundle_name(ROME): chain(1)}
    promoted(FolderStore(tmp_path / "registry"), run, chains=chains)
    assert iak("show", f"registry={tmp_path / 'registry'}") == 0
    assert "city=rome 0 +0.00 - - - 0.00 after 0 counted nights" in said(capsys)
