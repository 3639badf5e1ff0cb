"""Prometheus's text of a night, read back by its own parser."""

from datetime import UTC, datetime

from prometheus_client.parser import text_string_to_metric_families

from iak.pipeline.report.metrics import LABELLED_METRICS, NIGHT_METRICS, metrics_text, write_metrics
from iak.schemas.night import NightRecord
from tests.nights import a_night

HOSTILE = 'a"b\\c\nd'


def samples(record):
    families = text_string_to_metric_families(metrics_text(record).decode())
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def test_every_metric_has_a_line_and_says_what_it_is():
    text = metrics_text(a_night()).decode()
    for name in (*NIGHT_METRICS, *LABELLED_METRICS):
        assert f"\n{name}{{" in text
        assert f"# HELP {name} " in text
        assert f"# TYPE {name} gauge" in text


def test_values_are_those_of_the_record():
    record = a_night()
    got = samples(record)
    service = ("service", "shop")
    assert got["iak_night_exit_code", service] == record.exit_code
    assert got["iak_night_kernels", ("outcome", "failed"), service] == record.counts["failed"]
    assert got["iak_night_unseen_share", service, ("table", "item_id")] == record.unseen["item_id"]
    way = ("way", "to_stores")
    assert got["iak_night_carried_bytes", service, way] == record.traffic.to_stores.bytes
    midnight = got["iak_night_date_timestamp_seconds", service]
    assert datetime.fromtimestamp(midnight, UTC).date() == record.night
    gain = record.domains[1].verdict.gain
    assert got["iak_domain_gain_nats", ("domain", "city=shanghai"), service] == gain


def test_a_hostile_name_is_one_label():
    record = a_night(domains=1)
    decision = record.domains[1].decision.model_copy(update={"domain": [("city", HOSTILE)]})
    domain = record.domains[1].model_copy(update={"decision": decision})
    got = samples(record.model_copy(update={"domains": [domain]}))
    key = ("iak_domain_worker_seconds", ("domain", f"city={HOSTILE}"), ("service", "shop"))
    assert got[key] == domain.worker_seconds


def test_a_number_that_there_is_not_has_no_line():
    done = a_night(domains=1)
    record = NightRecord.model_validate(
        done.model_dump() | {"ended_at": None, "exit_code": None, "status": "running"}
    )
    text = metrics_text(record).decode()
    assert "iak_night_ended_timestamp_seconds{" not in text
    assert "iak_night_exit_code{" not in text
    assert 'iak_night_finished{service="shop"} 0.0' in text


def test_the_collector_finds_one_file_that_is_whole(tmp_path):
    path = write_metrics(a_night(), tmp_path / "textfile")
    write_metrics(a_night(), tmp_path / "textfile")
    assert [each.name for each in path.parent.iterdir()] == ["iak_shop.prom"]
    assert path.read_bytes() == metrics_text(a_night())
