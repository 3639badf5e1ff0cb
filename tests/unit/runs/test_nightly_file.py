import re
import tomllib
from datetime import date, time, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iak.pipeline.errors import BadRequest
from iak.pipeline.runs.load import load_nightly
from iak.pipeline.runs.nightly_file import commented, toml_value
from iak.schemas.nightly import NightlySpec
from tests.unit.nightly.test_identity import spec

NEEDED = {
    "name": "shop", "catalog": "shop.toml", "data_root": "s3://logs", "base": "R1",
    "registry": "registry", "nights": "nights",
}  # fmt: skip


def test_a_written_file_says_what_it_was_given_and_nothing_else(tmp_path):
    path = tmp_path / "nightly.toml"
    path.write_text(commented(NEEDED))
    assert load_nightly(path) == NightlySpec.model_validate(NEEDED)


def test_every_setting_stands_there_with_its_meaning():
    text = commented(NEEDED)
    for name, field in NightlySpec.model_fields.items():
        assert f"{name} = " in text or f"[{name}]" in text, name
        assert (field.description or "")[:40] in text.replace("\n# ", " ")
    assert max(map(len, text.splitlines())) <= 100


def test_a_default_that_is_uncommented_changes_nothing(tmp_path):
    opened = re.sub(
        r"^# (\w+ = (?!\.\.\.)|\[refresh|\[shadow)", r"\1", commented(NEEDED), flags=re.MULTILINE
    )
    assert opened.count("\n#") < commented(NEEDED).count("\n#") - 40
    path = tmp_path / "nightly.toml"
    path.write_text(opened)
    found = load_nightly(path)
    closed = found.model_copy(update={"refresh": None, "shadow": None})
    assert closed == NightlySpec.model_validate(NEEDED)


TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]))


@given(
    st.recursive(
        TEXT
        | st.integers(-(10**9), 10**9)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.booleans()
        | st.dates(min_value=date(1900, 1, 1))
        | st.times(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.text(st.characters(exclude_categories=["Cs", "Cc"])), inner, max_size=3
            )
        ),
        max_leaves=6,
    )
)
def test_a_value_is_read_back_as_it_was_written(value):
    assert tomllib.loads(f"value = {toml_value(value)}")["value"] == value


def test_a_duration_is_written_as_pydantic_reads_it():
    assert toml_value(timedelta(hours=2)) == '"PT2H"'
    assert toml_value(time(5, 30)) == "05:30:00"


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("name = ", "not TOML"),
        ("name = 'shop'", "catalog"),
        ("[window]\ndays = 0\n", "window.days"),
        ("[window]\ndayz = 3\n", "dayz"),
    ],
)
def test_a_wrong_file_is_refused_by_what_is_wrong(tmp_path, content, named):
    path = tmp_path / "nightly.toml"
    path.write_text(content)
    with pytest.raises(BadRequest, match=named):
        load_nightly(path)


def test_the_shipped_file_is_whole():
    from importlib import resources
    from pathlib import Path

    shipped = Path(str(resources.files("iak.jobs") / "configs" / "nightly" / "planted.toml"))
    assert load_nightly(shipped).catalog == spec().catalog


def test_a_setting_of_a_section_has_its_value():
    text = commented(NEEDED | {"ready": {"quiet_for": timedelta(0)}})
    assert tomllib.loads(text)["ready"] == {"quiet_for": "PT0S"}
