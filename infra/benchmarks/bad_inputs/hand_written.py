"""Bad inputs that no schema gives: words that are not settings, and contradictions."""

from collections.abc import Iterator

from infra.benchmarks.bad_inputs.items import BadInput
from infra.benchmarks.bad_inputs.settings import HUGE, materials, words_of

Case = tuple[str, tuple[str, ...], str]
"""Description of what is bad, the words after `iak`, and the name that the refusal must contain."""


def hand_written() -> Iterator[BadInput]:
    """Yield the inputs, verb by verb."""
    for name, words, must_name in (
        *_words_of_no_setting(),
        *_trainings(),
        *_planted_logs(),
        *_incomplete(),
        *_plans(),
        *_submissions(),
    ):
        yield BadInput(
            kind="settings",
            name=name,
            words=words,
            must_name=(must_name,),
            make=materials,
            reaches_job=words[0] in ("plan", "submit"),
        )


def _words_of_no_setting() -> tuple[Case, ...]:
    """Return words that are not settings, and settings that are given wrongly."""
    check, pretrain = words_of("check"), words_of("pretrain")
    return (
        ("an unknown verb", ("pretrian",), "pretrian"),
        ("an unknown bench", ("bench", "nope"), "nope"),
        ("a word that is not a setting", (*check, "fast"), "fast"),
        ("a flag that does not exist", (*check, "--fast"), "fast"),
        ("an equals sign alone", (*check, "="), "="),
        ("a setting without a name", (*check, "=5"), "=5"),
        ("--config without a file", (*check, "--config"), "--config"),
        ("--config twice, one missing", (*check, "--config={folder}/a.toml"), "{folder}/a.toml"),
        ("a setting twice", (*pretrain, "seed=1", "seed=2"), "seed"),
        ("a group as a value", (*pretrain, "model=5"), "model"),
        ("a group twice as deep", (*pretrain, "model.width.x=5"), "model.width.x"),
        ("a password in a URI", (*check, "data_root=s3://a:b@c/d"), "data_root"),
        ("a day before it was asked", (*check, "as_of=0000-01-01"), "as_of"),
    )


def _trainings() -> tuple[Case, ...]:
    """Return values that `pretrain` and `finetune` refuse."""
    pretrain, finetune = words_of("pretrain"), words_of("finetune")
    return (
        ("allow without from", (*pretrain, "allow=table:x:grown"), "allow"),
        ("an allowance of nothing", (*pretrain, "from={folder}/folder", "allow=x"), "allow"),
        ("a task without a name", (*pretrain, "task_weights.=1"), "task_weights"),
        ("a precision of a table", (*finetune, "tables.precisions.x=int7"), "tables.precisions.x"),
        ("a negative weight", (*pretrain, "task_weights.ctr=-1"), "task_weights.ctr"),
        ("a weight that is not a number", (*pretrain, "task_weights.ctr=nan"), "task_weights.ctr"),
        (
            "a way to cut a table",
            (*pretrain, "placement.sharding.x=diagonal"),
            "placement.sharding.x",
        ),
    )


def _planted_logs() -> tuple[Case, ...]:
    """Return logs that `synth` cannot write."""
    synth = words_of("synth")
    return (
        ("regions twice", (*synth, "regions=[a, a]"), "regions"),
        ("regions without a name", (*synth, 'regions=["A b"]'), "regions"),
        ("no regions", (*synth, "regions=0"), "regions"),
        ("a billion regions", (*synth, "regions=1000000000"), "regions"),
        ("fewer rows than days", (*synth, "rows=10"), "rows"),
        ("fewer items than shops", (*synth, "items=5", "shops=50"), "items"),
        ("days beyond the calendar", (*synth, "start_date=9999-12-30"), "days"),
    )


def _incomplete() -> tuple[Case, ...]:
    """Return commands that lack a word, or have one that names nothing."""
    return (
        ("workers that fall", ("bench", "scaling", "workers=[2, 1]"), "workers"),
        ("a table without a size", ("bench", "sharding", 'tables=["12"]'), "tables"),
        ("a name that is none", (*words_of("init"), "name=9 lives"), "name"),
        ("a log without a name", ("init",), "log"),
        ("a run without a name", ("show",), "path"),
        ("one run to compare", ("compare", "{folder}/folder"), "second"),
        ("a split that nobody judges", (*words_of("compare"), "split=../x"), "split"),
    )


def _plans() -> tuple[Case, ...]:
    """Return questions that `plan` cannot answer."""
    plan = words_of("plan")
    return (
        ("a cluster that nobody ships", (*plan, "cluster=8xZ900"), "8xZ900"),
        ("a cluster of no machines", (*plan, "cluster=0x8xH100"), "0x8xH100"),
        ("more machines than exist", (*plan, f"cluster={HUGE}x8xH100"), "cluster"),
        ("a sweep without gpus", (*plan, "sweep=8,16"), "sweep"),
        ("a sweep of more than exist", (*plan, f"sweep=gpus={HUGE}"), "sweep"),
        ("compare and sweep", (*plan, "compare=8xH100", "sweep=gpus=8"), "compare"),
        ("an unknown constant", (*plan, "constants.magic=1"), "constants"),
        (
            "a constant that is not a number",
            (*plan, "constants.step_ms=nan"),
            "constants",
        ),
        ("rows of an unknown table", (*plan, "table_rows.nope=5"), "table_rows"),
    )


def _submissions() -> tuple[Case, ...]:
    """Return commands that cannot be sent to a cluster, and addresses that are none."""
    submit = words_of("submit")
    return (
        ("no command", ("submit", "command="), "command"),
        ("an address without a scheme", (*submit, "address=host:8265"), "address"),
        ("an address of another scheme", (*submit, "address=ftp://host"), "address"),
        ("an address with a password", (*submit, "address=http://a:b@h"), "address"),
        ("half a quotation", ("submit", "command=check 'a"), "command"),
        ("a verb that cannot be sent", ("submit", "command=doctor"), "command"),
        ("a program that is not a verb", ("submit", "command=rm -rf x"), "command"),
        (
            "a folder that is not a checkout",
            (*submit, "project={folder}/folder"),
            "project",
        ),
    )
