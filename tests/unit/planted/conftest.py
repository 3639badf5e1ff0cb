import pytest

from tests.unit.planted.planted_log import Log, read, small, write


@pytest.fixture(scope="session")
def log(tmp_path_factory) -> Log:
    out = tmp_path_factory.mktemp("synth") / "log"
    knobs = small(rows=40_000, warm_clicks=0, fresh_share=0.2)
    result = write(out, knobs)
    return Log(out, knobs, result, read(out, "events"), read(out, "truth"))
