"""The files of predictions appear together, when each is whole, and a killed run is resumed."""

import json

import pytest

from iak.pipeline.errors import BadRequest, Corrupt
from iak.pipeline.launcher import ProcessLauncher
from iak.pipeline.runs import predict as use_case
from iak.pipeline.runs.predict import predict
from iak.pipeline.runs.record import AlreadyFinished, read_record
from iak.schemas.log import Catalog
from iak.schemas.scoring import PredictSpec
from tests.unit.serving.shop import read_all, shop_document, write_base, write_bundles, write_shop


class Killed(BaseException):
    """A process that ends without a word."""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("place")
    write_shop(root)
    write_bundles(root / "bundles", write_base(root / "R1" / "base"))
    return root


@pytest.fixture(scope="module")
def whole(place):
    return predict(spec_of(place, "whole"), catalog(), ProcessLauncher())


def catalog(**changes):
    return Catalog.model_validate(shop_document(**changes))


def spec_of(place, run_dir, **changes):
    fields = {
        "catalog": "shop", "data_root": str(place), "run_dir": place / run_dir, "workers": 1,
        "device": "cpu", "base": place / "R1", "bundles": place / "bundles", "part_rows": 100,
    }  # fmt: skip
    return PredictSpec.model_validate(fields | changes)


def test_a_run_counts_its_rows_by_kernel_and_by_reason(place, whole):
    scores = read_all(whole.predictions)
    assert whole.scoring.rows == len(scores) == 508
    assert whole.scoring.parts == len(list(whole.predictions.iterdir())) == 4
    assert (
        sum(whole.scoring.kernels.values()) == scores.column("kernel").is_valid().to_numpy().sum()
    )
    assert (
        sum(whole.scoring.reasons.values()) == scores.column("reason").is_valid().to_numpy().sum()
    )
    record = read_record(place / "whole")
    assert record.result == json.loads(whole.scoring.model_dump_json())
    assert list(record.outputs) == [f"predictions/part-{n:05d}.parquet" for n in range(4)]
    assert not (place / "whole" / "parts").exists()


def test_a_finished_run_is_left_alone_and_a_damaged_file_is_named(place):
    spec = spec_of(place, "finished")
    predict(spec, catalog(), ProcessLauncher())
    with pytest.raises(AlreadyFinished):
        predict(spec, catalog(), ProcessLauncher())
    part = place / "finished" / "predictions" / "part-00002.parquet"
    part.write_bytes(part.read_bytes()[:-9])
    with pytest.raises(Corrupt, match=r"part-00002\.parquet was changed"):
        predict(spec, catalog(), ProcessLauncher())


@pytest.mark.parametrize("at", ["first", "middle", "before publishing", "after publishing"])
def test_a_killed_run_leaves_nothing_published_or_all_and_is_resumed(place, whole, monkeypatch, at):
    run_dir = place / at
    spec = spec_of(place, at, if_busy="wait")
    killed_at(monkeypatch, at)
    with pytest.raises(Killed):
        predict(spec, catalog(), ProcessLauncher())
    assert (run_dir / "predictions").exists() == (at == "after publishing")
    monkeypatch.undo()
    resumed = predict(spec, catalog(), ProcessLauncher())
    assert resumed.scoring == whole.scoring
    for path in whole.predictions.iterdir():
        assert (run_dir / "predictions" / path.name).read_bytes() == path.read_bytes()


def killed_at(monkeypatch, moment):
    """Kill the run when it writes its first or third file, or around the publication."""
    from iak.pipeline.serving import parts

    whole, put_folder = parts.ScoresDocument, use_case.put_folder

    def die(*args, **fields):
        if moment == "after publishing":
            put_folder(*args)
        if fields.get("part", 2) == {"first": 0}.get(moment, 2):
            raise Killed
        return whole(**fields)

    if "publishing" in moment:
        monkeypatch.setattr(use_case, "put_folder", die)
    else:
        monkeypatch.setattr(parts, "ScoresDocument", die)


def test_another_number_of_workers_resumes_a_run_and_other_settings_do_not(
    place, whole, monkeypatch
):
    killed_at(monkeypatch, "middle")
    with pytest.raises(Killed):
        predict(spec_of(place, "moved"), catalog(), ProcessLauncher())
    monkeypatch.undo()
    with pytest.raises(BadRequest, match="its settings differ: part_rows was 100, is 7"):
        predict(spec_of(place, "moved", part_rows=7), catalog(), ProcessLauncher())
    resumed = predict(spec_of(place, "moved", max_failures=9), catalog(), ProcessLauncher())
    assert resumed.scoring == whole.scoring


def test_dates_of_a_log_without_dates_are_refused(place):
    spec = spec_of(place, "undated", dates=("2026-10-01", "2026-10-02"))
    undated = catalog(log__partition_keys=["region"], log__date_key=None, log__event_time=None)
    with pytest.raises(BadRequest, match="names no date_key and no event_time"):
        predict(spec, undated, ProcessLauncher())


def test_rows_that_no_folder_has_are_refused(place):
    with pytest.raises(Exception, match="there is no file at all"):
        predict(spec_of(place, "nowhere", where=["region=rome"]), catalog(), ProcessLauncher())
