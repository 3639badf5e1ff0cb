"""`iak check`: findings and profile together, as tables, JSON and a picture."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from iak.jobs import check, cli

CATALOG = """
[log]
name = "shop"
partition_keys = ["region", "dt"]
date_key = "dt"
[domain]
keys = ["region"]
[[features]]
kind = "categorical"
name = "item"
[[features]]
kind = "numeric"
name = "price"
[[tasks]]
label = "click"
kind = "click"
[splits.pretrain]
days = [0, 1]
[splits.gate]
days = [2, 2]
"""


@pytest.fixture
def shop(tmp_path):
    """A catalogue and its log: two regions, three days, five positives in the gate."""
    (tmp_path / "shop.toml").write_text(CATALOG)
    for region in ("north", "south"):
        for day in (1, 2, 3):
            positives = 3 if region == "north" else 2
            rows = pa.table(
                {
                    "item": np.arange(200) % 7,
                    "price": np.linspace(0, 9, 200),
                    "click": (np.arange(200) < (positives if day == 3 else 80)).astype(np.int8),
                }
            )
            path = tmp_path / "events" / f"region={region}" / f"dt=2026-10-0{day}" / "p.parquet"
            path.parent.mkdir(parents=True)
            pq.write_table(rows, path)
    return tmp_path


def run(shop, *words):
    return cli.run(["check", f"catalog={shop / 'shop.toml'}", f"data_root={shop}", *words])


def test_check_says_what_the_gate_can_decide(shop, capsys):
    assert run(shop) == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "about 5 positives: nothing can be decided here" in text
    assert "region=north" in text


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_json_and_picture_hold_the_profile(suffix, shop):
    out, picture = shop / "check.json", shop / "pictures" / f"shop.{suffix}"
    assert run(shop, f"json={out}", f"picture={picture}") == 0
    found = json.loads(out.read_text())
    assert found["splits"] == {"pretrain": 800, "gate": 400}
    gate = next(p for p in found["profile"]["splits"] if p["split"] == "gate")
    assert gate["labels"] == [{"task": "ctr", "rows": 400, "positives": 5}]
    assert picture.stat().st_size > 5_000


def test_a_log_that_cannot_be_read_has_findings_and_no_profile(shop, capsys):
    text = (shop / "shop.toml").read_text().replace('label = "click"', 'label = "klick"')
    (shop / "shop.toml").write_text(text)
    out = shop / "check.json"
    assert run(shop, f"json={out}") == 1
    assert json.loads(out.read_text())["profile"] is None
    assert "klick" in capsys.readouterr().out


def test_a_picture_of_no_profile_is_a_bad_request(shop, capsys):
    assert run(shop, "profile=false", f"picture={shop / 'x.png'}") == 2
    assert "profile=false" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("share", "said"), [(0.0, "-"), (0.0002, "under 0.1%"), (0.001, "0.1%"), (0.4, "40.0%")]
)
def test_a_share_is_said_where_rows_were_counted_and_never_rounded_to_none(share, said):
    assert check.share_text(share) == said


def test_ids_of_two_kinds_say_the_share_of_rows_in_the_fewer_files(shop, capsys):
    for path in (shop / "events").glob("*/dt=2026-10-03/p.parquet"):
        rows = pq.ParquetFile(path).read()
        pq.write_table(rows.set_column(0, "item", rows["item"].cast(pa.string())), path)
    assert run(shop, "profile=false") == 1
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "refuse 2 files 33.3% item" in text
