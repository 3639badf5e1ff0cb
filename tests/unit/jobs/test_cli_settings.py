"""The command line wins over files; whatever a job ends in is an exit code."""

import json
import operator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from iak.jobs import cli
from iak.jobs.help_pages import EXIT_CODES
from iak.pipeline import errors
from iak.pipeline.errors import BadRequest, PipelineError

ASKED = ("catalog=planted", "data_root=/logs", "run_dir=r")
SHARE = st.floats(0, 0.9, allow_subnormal=False)
RATE = st.floats(1e-6, 1.0)
SETTINGS = {
    "workers": st.integers(1, 99),
    "seed": st.integers(0, 2**31 - 1),
    "device": st.sampled_from(["auto", "cpu", "cuda"]),
    "allow_skipped": st.booleans(),
    "max_skipped_share": SHARE,
    "batch_rows": st.integers(1, 10**8),
    "checkpoint_every_steps": st.integers(1, 10**6),
    "today": st.dates().map(str),
    "model.mlp": st.lists(st.integers(1, 65_536), min_size=1, max_size=3),
    "model.dropout": SHARE,
    "optim.table_lr": RATE,
    "optim.warmup_steps": st.integers(1, 10**6),
    "task_weights.ctr": RATE,
}


def spelled(value):
    """A value as TOML spells it; text stands without its quotes on the command line."""
    return value if isinstance(value, str) else json.dumps(value)


def as_pairs(chosen):
    return [f"{name}={spelled(value)}" for name, value in chosen.items()]


def as_joined_flags(chosen):
    return [f"--{name}={spelled(value)}" for name, value in chosen.items()]


def as_file(chosen, path):
    path.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in chosen.items()))
    return ["--config", str(path)]


def read(words):
    return cli.read_spec("pretrain", [*ASKED, *words])


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from([n for n in sorted(SETTINGS) if n not in ("allow_skipped", "model.mlp")]),
    data=st.data(),
)
def test_the_command_line_wins_over_a_file_and_a_later_file_over_an_earlier_one(
    tmp_path, name, data
):
    first, second, said = (data.draw(SETTINGS[name], label) for label in ("1", "2", "said"))
    files = [
        *as_file({name: first}, tmp_path / "1.toml"),
        *as_file({name: second}, tmp_path / "2.toml"),
    ]
    assert read(files) == read(as_pairs({name: second}))
    assert read([*files, *as_pairs({name: said})]) == read(as_pairs({name: said}))


@given(name=st.sampled_from(sorted(SETTINGS)), letter=st.sampled_from("qxz"), data=st.data())
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_misspelt_setting_is_refused_by_its_name_in_every_spelling(tmp_path, name, letter, data):
    """`task_weights` takes any name, so its misspelling is of the outer one."""
    at = data.draw(st.integers(1, len(name.partition(".")[0])))
    wrong = {name[:at] + letter + name[at:]: data.draw(SETTINGS[name])}
    (key,) = wrong
    for words in (
        as_pairs(wrong), as_joined_flags(wrong), as_file(wrong, tmp_path / "c.toml"),
    ):  # fmt: skip
        with pytest.raises(BadRequest) as refused:
            read(words)
        assert key in str(refused.value).replace("-", "_")


def kinds_of_error():
    found = [getattr(errors, name) for name in dir(errors)]
    return [e for e in found if isinstance(e, type) and issubclass(e, PipelineError)]


def ended(error, *, run_dir="r"):
    """The exit code of a verb whose job ends with an error."""

    def start(_verb, _spec):
        raise error

    return cli.run(["pretrain", *ASKED[:2], f"run_dir={run_dir}"], start=start)


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("code", [0, 4, 5, 6])
def test_what_a_job_returns_is_the_exit_code(code):
    given_ = []

    def start(verb, spec):
        given_.append((verb, spec.run_dir))
        return code

    assert cli.run(["pretrain", *ASKED], start=start) == code
    assert given_ == [("pretrain", Path("r"))]


@pytest.mark.parametrize("kind", kinds_of_error(), ids=operator.attrgetter("__name__"))
def test_an_error_that_is_meant_is_one_line_and_its_own_exit_code(kind, capsys):
    assert ended(kind("what was seen, and what to do")) == kind.exit_code
    said = capsys.readouterr()
    assert said.err == "error: what was seen, and what to do\n"
    assert said.out == ""


def test_exit_codes_are_those_that_the_help_shows():
    codes = {kind.__name__: kind.exit_code for kind in kinds_of_error()}
    assert {name for name, code in codes.items() if code == 2} == {
        "BadRequest", "WrongBase", "OtherFormat", "NotPermitted",
    }  # fmt: skip
    assert {name for name, code in codes.items() if code == 3} == {"DoesNotFit"}
    assert set(codes.values()) == {1, 2, 3}
    assert "1 failed, 2 bad request, 3 does not fit" in EXIT_CODES


def test_an_interruption_says_how_to_go_on(capsys):
    assert ended(KeyboardInterrupt()) == 130
    assert "run the same command again to resume" in capsys.readouterr().err


def test_a_password_in_an_error_is_not_said(capsys):
    ended(PipelineError("cannot read s3://KEY:hunter2@bucket/logs"))
    said = capsys.readouterr().err
    assert "s3://***@bucket/logs" in said
    assert "hunter2" not in said


def test_a_file_that_the_system_refuses_is_named_with_its_setting(tmp_path, capsys):
    error = OSError(28, "No space left on device", str(tmp_path / "runs" / "x"))
    assert ended(error, run_dir=tmp_path / "runs") == 1
    expected = f"error: iak pretrain: run_dir={tmp_path / 'runs'}: {tmp_path / 'runs' / 'x'}: No"
    assert capsys.readouterr().err.startswith(expected)


def test_a_bug_is_not_dressed_up_as_a_refusal():
    with pytest.raises(ZeroDivisionError):
        ended(ZeroDivisionError("a bug"))
    with pytest.raises(OSError, match="of no file"):
        ended(OSError("of no file"))


def test_help_starts_no_job(capsys):
    def start(*_):
        raise AssertionError("a job started")

    assert cli.run(["pretrain", "--help"], start=start) == 0
    assert "--run-dir" in capsys.readouterr().out
