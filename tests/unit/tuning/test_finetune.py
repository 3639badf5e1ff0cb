"""One worker's part of a night: every level of kernels, with the rows that a gate needs."""

from dataclasses import replace

import pytest

from iak.pipeline.base.frozen_base import FrozenBase
from iak.pipeline.errors import PipelineError
from iak.pipeline.events import silent
from iak.pipeline.tuning.finetune import finetune


def test_a_night_has_every_level_with_its_rows_and_leaves_the_base_as_it_was(work, alone):
    done = finetune(work, worker=alone, report=silent)
    pooled, regions, crosses = done.levels
    assert [level.keys for level in done.levels] == [(), ("region",), ("region", "daypart")]
    assert pooled.rows == {"pooled": work.view.selections["tune"].rows}
    assert set(pooled.gate_rows) == {"pooled"}
    assert set(regions.rows) == {"region=a", "region=b"}
    assert all(rows >= 60 for level in (regions, crosses) for rows in level.rows.values())
    assert all(rows < 60 for rows in done.below_floor.values())
    assert sum((crosses.rows | done.below_floor).values()) == pooled.rows["pooled"]
    assert done.digest == done.digest_before
    assert done.labels["known ctr"] == pooled.rows["pooled"]
    assert done.not_reached == ()


def test_only_the_named_domains_are_tuned_beside_the_pooled_kernel(work, alone):
    done = finetune(replace(work, domains=("region=a",)), worker=alone, report=silent)
    assert [level.tuned.bank.names for level in done.levels] == [("pooled",), ("region=a",), ()]


def test_a_base_that_changed_while_kernels_were_tuned_is_named(work, alone, monkeypatch):
    real, asked = FrozenBase.digest, []

    def digest(self):
        asked.append(real(self))
        return replace(asked[-1], combined="another") if len(asked) > 1 else asked[-1]

    monkeypatch.setattr(FrozenBase, "digest", digest)
    with pytest.raises(PipelineError, match=r"changed while kernels were tuned.*another after"):
        finetune(work, worker=alone, report=silent)
