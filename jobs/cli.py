"""`iak <verb>`: one grammar for every setting.

Every setting is a field of the verb's spec. `--config FILE.toml`, `key=value` (nested by dots) and
`--key value` say the same thing; the command line wins over the file, the file over the catalogue's
presets, those over the defaults.
"""

from __future__ import annotations

import difflib
import importlib
import re
import sys
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, CycloptsError, Parameter
from cyclopts.config import Dict

if TYPE_CHECKING:
    from pydantic import BaseModel

    Start = Callable[[str, BaseModel], int]

VERBS: dict[str, tuple[str, str]] = {
    "demo": ("DemoSpec", "Make a planted log, pre-train, tune, evaluate, publish: the whole way"),
    "synth": ("SynthJobSpec", "Write a planted delivery-platform log whose truth is known"),
    "init": ("InitSpec", "Look at a Parquet folder and write a commented starting catalogue"),
    "check": (
        "CheckSpec",
        "Check and profile a log by its catalogue before anything is trained",
    ),
    "plan": (
        "PlanSpec",
        "Estimate what a job needs of a cluster: memory, time, money and where tables lie",
    ),
    "pretrain": (
        "PretrainSpec",
        "Pre-train a base on the catalogue's `pretrain` split and publish it",
    ),
    "finetune": (
        "FinetuneSpec",
        "Tune every domain's kernel on a frozen base and write the bundles",
    ),
    "evaluate": (
        "EvaluateSpec",
        "Evaluate base and kernels on the same later rows, with intervals",
    ),
    "compare": (
        "CompareSpec",
        "Compare two evaluations on the same rows, with intervals: iak compare RUN RUN [SPLIT]",
    ),
    "bench scaling": (
        "BenchScalingSpec",
        "Measure how speed grows with workers, strong and weak, and simulate larger clusters",
    ),
    "bench sharding": (
        "BenchShardingSpec",
        "Measure each layout of embedding tables, beside the estimate of TorchRec's planner",
    ),
    "registry list": ("RegistryListSpec", "List the bundle that serves each domain"),
    "registry show": (
        "RegistryShowSpec",
        "Show the history of a registry, or what a domain had and where it comes from",
    ),
    "registry diff": ("RegistryDiffSpec", "Compare two sets of pointers, domain by domain"),
    "registry promote": (
        "RegistryPromoteSpec",
        "Store what the gate published in a run and let it serve, all in one step",
    ),
    "registry rollback": (
        "RegistryRollbackSpec",
        "Return domains to the bundles they had before; nothing else moves",
    ),
    "registry verify": ("RegistryVerifySpec", "Read every byte and name what is damaged"),
    "registry gc": (
        "RegistryGcSpec",
        "Remove bundles that neither a pointer nor a rollback needs",
    ),
    "infra render": (
        "RenderSpec",
        "Write what runs the nights on Kubernetes, by Airflow or by systemd",
    ),
    "show": ("ShowSpec", "Show what a run, a published base or a folder of bundles holds"),
    "submit": ("SubmitSpec", "Run a verb on a Ray cluster, follow it and fetch its record"),
    "doctor": ("", "Check that torch, torchrec, fbgemm, CUDA, ray and pyarrow belong together"),
}
POSITIONAL: dict[str, tuple[str, ...]] = {
    "init": ("log",),
    "show": ("path",),
    "compare": ("first", "second", "split"),
    "infra render": ("file",),
}
"""Settings that a verb takes without their names, in this order, before all others."""
EXAMPLES = {
    "demo": "iak demo",
    "synth": "iak synth out=/data/planted rows=1000000",
    "init": "iak init /data/shop/events out=shop.toml",
    "check": "iak check catalog=shop.toml data_root=/data/shop picture=shop.png",
    "plan": "iak plan catalog=planted cluster=8xH100 rows=1000000000",
    "pretrain": "iak pretrain catalog=shop.toml data_root=/data/shop --run-dir R1",
    "finetune": "iak finetune catalog=shop.toml data_root=/data/shop base=R1 --run-dir R2",
    "evaluate": "iak evaluate catalog=shop.toml data_root=/data/shop base=R1 "
    "bundles=R2/bundles --run-dir R3",
    "bench scaling": "iak bench scaling --smoke",
    "bench sharding": "iak bench sharding --smoke",
    "registry list": "iak registry list registry=/registries/shop",
    "registry show": "iak registry show registry=/registries/shop domain=pooled",
    "registry diff": "iak registry diff registry=/registries/shop second=champion:12",
    "registry promote": "iak registry promote run=R2 registry=/registries/shop",
    "registry rollback": "iak registry rollback domain=city=rome registry=/registries/shop",
    "registry verify": "iak registry verify registry=/registries/shop",
    "registry gc": "iak registry gc registry=/registries/shop keep=3",
    "infra render": "iak infra render nightly.toml out=deploy",
    "show": "iak show R2",
    "compare": "iak compare R3 R4",
    "submit": 'iak submit command="pretrain catalog=planted data_root=/logs --run-dir /runs/R1"',
}
"""Verb -> the example that its help shows."""
GROUPS = {
    "infra": "Write what runs the nights elsewhere",
    "bench": "Measure this system on this machine; records and pictures are written",
    "registry": "Keep what every night published, and say which of it serves each domain",
}
MOVED = {
    f"bench {name}": f"python -m infra.benchmarks {name}"
    for name in ("data", "faults", "finetune", "tables")
}
"""Commands of older versions, and what took their place."""
EPILOGUE = """
Every setting is a field of the verb's spec, and can be given in three ways that mean the same:
  --config FILE.toml      batch_rows = 4096, or [optim] table_lr = 0.05
  key=value               batch_rows=4096 optim.table_lr=0.05 model.mlp=[256,128]
  --key value             --batch-rows 4096 --optim.table-lr 0.05
Exit codes: 0 ok, 1 failed, 2 bad request, 3 does not fit, 4 some held, 5 some failed,
6 nothing to do, 130 interrupted.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command whose settings are the fields of a spec."""

    name: str
    """The command as a user types it: `iak bench sharding`."""
    kind: type[BaseModel]
    """The spec."""
    help: str
    """A line that says what it does, without a full stop."""
    example: str = ""
    positional: tuple[str, ...] = ()
    """Settings that may be given without their names, in this order, before all others."""
    files: tuple[Path, ...] = ()
    """Settings that come with it, as TOML; a later file wins."""
    smoke_files: tuple[Path, ...] = ()
    """Further ones for `--smoke`."""
    presets: str = ""
    """Section of a catalogue's presets that it reads; none where empty."""


def main() -> None:
    """Run the command line's command, and exit with its code."""
    sys.exit(run(sys.argv[1:]))


def run(words: Sequence[str], *, start: Start | None = None) -> int:
    """Run one command, and return its exit code.

    Args:
        words: the words after `iak`.
        start: called with the verb and its spec, in the place of the verb's job.
    """
    try:
        named = 2 if words and words[0] in GROUPS else 1
        verb = " ".join(words[:named])
        if verb in MOVED:
            print(
                f"error: iak {verb} is now `{MOVED[verb]}`, run in a checkout of the project: it "
                "measures the project itself, so it is not part of the installed package",
                file=sys.stderr,
            )
            return 2
        if verb not in VERBS or verb == "doctor":
            if words and words[0] not in (*VERBS, *GROUPS) and not words[0].startswith("-"):
                print(f"error: {_unknown_verb(words[0])}", file=sys.stderr)
                return 2
            return _top(list(words))
        begin = start or _start
        return run_command(_command(verb), words[named:], lambda spec: begin(verb, spec))
    except KeyboardInterrupt:
        print("interrupted; run the same command again to resume", file=sys.stderr)
        return 130


def _unknown_verb(word: str) -> str:
    """Return an error message for a word that is not a verb."""
    names = [*VERBS, *GROUPS]
    near = difflib.get_close_matches(word, names, n=3, cutoff=0.5)
    told = f"did you mean {' or '.join(near)}?" if near else f"the verbs are {', '.join(names)}"
    return f"'{word}' is not a verb of iak; {told} See iak --help"


def _top(words: list[str]) -> int:
    """Answer `--help`, `--version`, `doctor` and the names of groups; return the exit code."""
    app = App(
        name="iak",
        help="Kernels that adapt a frozen recommender every night.",
        help_epilogue=EPILOGUE,
        help_format="plaintext",
        result_action="return_value",
    )
    groups = {
        name: App(name=name, help=told, help_format="plaintext", help_epilogue=EPILOGUE)
        for name, told in GROUPS.items()
    }
    for verb, (_, told) in VERBS.items():
        group, _, name = verb.rpartition(" ")
        place = groups[group] if group else app
        place.command(_doctor if verb == "doctor" else _listed(told), name=name)
    for group_app in groups.values():
        app.command(group_app)
    try:
        code = app(words, exit_on_error=False)
    except CycloptsError:
        return 2
    return code if isinstance(code, int) else 0


def _listed(told: str) -> Callable[[], None]:
    """Return a command for the list of verbs. `read_command` makes the verb's own help."""

    def verb() -> None:
        return

    verb.__doc__ = told
    return verb


def _doctor() -> int:
    """Check that torch, torchrec, fbgemm, CUDA, ray and pyarrow belong together."""
    code: int = importlib.import_module("iak.jobs.doctor").doctor()
    return code


def run_command(command: Command, words: Sequence[str], start: Callable[[BaseModel], int]) -> int:
    """Read a command's spec from its words, then start it.

    Args:
        command: the command to run.
        words: the words after its name.
        start: called with the spec; returns the exit code.

    Returns:
        The exit code; an error is printed, not raised.
    """
    from iak.jobs.path_settings import check_paths, setting_of
    from iak.pipeline.errors import DoesNotFit, PipelineError
    from iak.schemas.base import redacted

    spec: BaseModel | None = None
    try:
        spec = read_command(command, list(words))
        if spec is None:
            return 0
        check_paths(spec)
        return start(spec)
    except PipelineError as error:
        print(f"error: {redacted(str(error))}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        if error.filename is None:
            raise
        told = f"{setting_of(spec, error.filename)}{error.filename}: {error.strerror or error}"
        print(f"error: {command.name}: {redacted(told)}", file=sys.stderr)
        return PipelineError.exit_code
    except MemoryError as error:
        print(f"error: {command.name} ran out of memory: {error or 'no more'}", file=sys.stderr)
        return DoesNotFit.exit_code


def _start(verb: str, spec: BaseModel) -> int:
    """Call a verb's job."""
    from iak.jobs._progress import announce

    with announce("loading libraries", after_s=2.0):  # torch and ray, from a cold disk
        job = importlib.import_module(f"iak.jobs.{verb.partition(' ')[0]}")
    return int(job.main(spec))


def _command(verb: str) -> Command:
    """Return the command of a verb: its spec, help and files of settings."""
    group, _, name = verb.rpartition(" ")
    folder = Path(__file__).parent / "configs" / group
    return Command(
        name=f"iak {verb}",
        kind=spec_class(verb),
        help=VERBS[verb][1],
        example=EXAMPLES.get(verb, ""),
        positional=POSITIONAL.get(verb, ()),
        files=(folder / f"{name}.toml",) if group else (),
        smoke_files=(folder / "smoke" / f"{name}.toml",) if group else (),
        presets="" if verb == "check" else verb,
    )


def _usage(command: Command) -> str | None:
    """Return a usage line with the positional settings; None where there are none."""
    if not command.positional:
        return None
    names = [
        name.upper() if command.kind.model_fields[name].is_required() else f"[{name.upper()}]"
        for name in command.positional
    ]
    return f"Usage: {command.name} {' '.join(names)} [OPTIONS]"


def read_spec(verb: str, words: list[str]) -> BaseModel | None:
    """Return a verb's frozen spec; None when help was asked for and given.

    Raises:
        BadRequest: naming the setting, what was seen and what was expected.
    """
    return read_command(_command(verb), words)


def read_command(command: Command, words: list[str]) -> BaseModel | None:
    """Return a command's frozen spec; None when help was asked for and given.

    Raises:
        BadRequest: naming the setting, what was seen and what was expected.
    """
    from pydantic import ValidationError

    from iak.jobs import _spec
    from iak.pipeline.errors import BadRequest
    from iak.pipeline.runs import load
    from iak.pipeline.runs.documents import read_toml
    from iak.pipeline.runs.explain import explain

    kind, name = command.kind, command.name
    words, files = _without_config(_as_flags(_named(command, words), kind))
    settings: dict[str, Any] = {}
    for file in [*_shipped(command, words), *files]:
        settings = load.merged(settings, read_toml(file, setting="--config"))
    app = App(
        name=name,
        help=command.help + ".",
        usage=_usage(command),
        help_epilogue=f"\nExample: {command.example}\n{EPILOGUE}" if command.example else EPILOGUE,
        help_format="plaintext",
        version_flags=(),
        result_action="return_value",
    )
    wanted: list[BaseModel] = []

    def take(*, spec: BaseModel) -> None:
        wanted.append(spec)

    take.__annotations__["spec"] = Annotated[kind, Parameter(name="*")]
    if not any(field.is_required() for field in kind.model_fields.values()):
        take.__kwdefaults__ = {"spec": kind()}
    app.default(take)
    _spec.refuse_other_than_text(kind, settings, command=name)
    below = load.merged(_presets(command, words, settings), settings)
    app.config = Dict(below, source="--config", use_commands_as_keys=False)
    if not {"--help", "-h"} & {*words}:
        _spec.refuse_unknown(kind, _asked(words, below), command=name)
        _spec.refuse_other_than_text(kind, below, command=name)
    try:
        app(words, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        cause = error.__cause__ or error.__context__
        told = explain(cause) if isinstance(cause, ValidationError) else _dotted(str(error))
        raise BadRequest(f"{name}: {told}\nSee {name} --help") from error
    return wanted[0] if wanted else None


def _dotted(message: str) -> str:
    """Return a message that calls a setting of a file by its dotted name."""
    return re.sub(
        r"((?:\[[^\[\]]+\])+)(?= from --config)",
        lambda found: found[1].strip("[]").replace("][", "."),
        message,
    )


def _asked(words: Sequence[str], below: dict[str, Any]) -> list[str]:
    """Return dotted names of every setting that is asked for, by flag, file or preset."""
    from iak.jobs import _spec

    flags = [w.partition("=")[0].removeprefix("--") for w in words if w.startswith("--")]
    return [*flags, *_spec.dotted(below)]


def spec_class(verb: str) -> type[BaseModel]:
    """Return the class of a verb's spec."""
    module = {
        "synth": "iak.schemas.synth",
        "bench": "iak.schemas.bench",
        "infra": "iak.schemas.deploy",
        "registry": "iak.schemas.registry_job",
    }.get(verb.partition(" ")[0])
    found: type[BaseModel] = getattr(
        importlib.import_module(module or "iak.schemas.job"), VERBS[verb][0]
    )
    return found


def _shipped(command: Command, words: list[str]) -> list[Path]:
    """Return the settings that come with a command, and the small ones where they are asked for."""
    is_smoke = any(w in ("--smoke", "--smoke=true", "--smoke=1") for w in words)
    files = [*command.files, *(command.smoke_files if is_smoke else ())]
    return [file for file in files if file.is_file()]


def _named(command: Command, words: list[str]) -> list[str]:
    """Return the words with a name for each leading one that has none."""
    named: list[str] = []
    for name, word in zip(command.positional, words, strict=False):
        if word.startswith("-") or "=" in word:
            break
        named.append(f"--{name}={word}")
    return [*named, *words[len(named) :]]


def _as_flags(words: Sequence[str], kind: type[BaseModel]) -> list[str]:
    """Every `key=value` as `--key=value`, but where it is the value of the flag before it."""
    flags: list[str] = []
    for word in words:
        before = flags[-1].removeprefix("--").replace("-", "_") if flags else ""
        field = kind.model_fields.get(before)
        is_value = bool(flags) and flags[-1][:2] == "--" and "=" not in flags[-1]
        is_value &= word[:1] == "[" or (field is not None and field.annotation is not bool)
        flags.append(f"{flags.pop()}={word}" if is_value else _as_flag(word))
    return [one for flag in flags for one in _one_by_one(flag)]


def _one_by_one(flag: str) -> list[str]:
    """`--key=[1, 2]`, a list as TOML spells it, as `--key=1 --key=2`."""
    key, _, value = flag.partition("=")
    if not (key.startswith("--") and value.startswith("[") and value.endswith("]")):
        return [flag]
    try:
        items = tomllib.loads(f"items = {value}")["items"]
    except tomllib.TOMLDecodeError:
        return [flag]
    outer, dot, last = key.removeprefix("--").rpartition(".")
    return [f"{key}={item}" for item in items] or [f"--{outer}{dot}empty-{last}"]


def _as_flag(word: str) -> str:
    """`key=value` as `--key=value`."""
    key, is_setting, _ = word.partition("=")
    plain = key.replace("_", "").replace(".", "").replace("-", "")
    return f"--{word}" if is_setting and plain.isalnum() and not word.startswith("-") else word


def _without_config(words: list[str]) -> tuple[list[str], list[Path]]:
    """Return the words without `--config FILE`, and the files."""
    kept: list[str] = []
    files: list[Path] = []
    rest = iter(words)
    for word in rest:
        if word == "--config":
            files.append(Path(next(rest, "")))
        elif word.startswith("--config="):
            files.append(Path(word.removeprefix("--config=")))
        else:
            kept.append(word)
    return kept, files


def _presets(command: Command, words: list[str], settings: dict[str, Any]) -> dict[str, Any]:
    """Return what the catalogue that is named suggests for this command."""
    from iak.pipeline.runs import load

    named = settings.get("catalog")
    for word, following in zip(words, [*words[1:], ""], strict=False):
        if word == "--catalog":
            named = following
        elif word.startswith("--catalog="):
            named = word.removeprefix("--catalog=")
    if not named or not command.presets:
        return {}
    return load.nested(dict(load.load_catalog(Path(named)).presets.get(command.presets, {})))
