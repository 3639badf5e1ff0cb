"""Define every verb of `iak`: its settings, its help and one example.

Every command reads this list, so it imports no schema: a verb names the module of its spec.
"""

import difflib
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import BaseModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Verb:
    """One verb."""

    help: str
    """What it does, in a line, without a full stop."""
    spec: str = ""
    """Module and class of its settings; empty where it has none."""
    example: str = ""
    """One command, as its help shows it."""
    positional: tuple[str, ...] = ()
    """Settings that may be given without their names, in this order."""


VERBS: dict[str, Verb] = {
    "demo": Verb(
        help="Make a planted log, pre-train, tune, evaluate, publish: the whole way",
        spec="iak.schemas.job:DemoSpec",
        example="iak demo",
    ),
    "synth": Verb(
        help="Write a planted delivery-platform log whose truth is known",
        spec="iak.schemas.synth:SynthJobSpec",
        example="iak synth out=/data/planted rows=1000000",
    ),
    "init": Verb(
        help="Look at a Parquet folder and write a commented starting catalogue",
        spec="iak.schemas.job:InitSpec",
        example="iak init /data/shop/events out=shop.toml",
        positional=("log",),
    ),
    "check": Verb(
        help="Check and profile a log by its catalogue before anything is trained",
        spec="iak.schemas.job:CheckSpec",
        example="iak check catalog=shop.toml data_root=/data/shop picture=shop.png",
    ),
    "plan": Verb(
        help="Estimate what a job needs of a cluster: memory, time, money and where tables lie",
        spec="iak.schemas.job:PlanSpec",
        example="iak plan catalog=planted cluster=8xH100 rows=1000000000",
    ),
    "pretrain": Verb(
        help="Pre-train a base on the catalogue's `pretrain` split and publish it",
        spec="iak.schemas.job:PretrainSpec",
        example="iak pretrain catalog=shop.toml data_root=/data/shop --run-dir R1",
    ),
    "adopt": Verb(
        help="Publish a recommender that was made elsewhere as a base: its columns, or a module",
        spec="iak.schemas.job:AdoptSpec",
        example="iak adopt catalog=shop.toml data_root=/data/shop --run-dir R1",
    ),
    "finetune": Verb(
        help="Tune every domain's kernel on a frozen base and write the bundles",
        spec="iak.schemas.job:FinetuneSpec",
        example="iak finetune catalog=shop.toml data_root=/data/shop base=R1 --run-dir R2",
    ),
    "evaluate": Verb(
        help="Evaluate base and kernels on the same later rows, with intervals",
        spec="iak.schemas.job:EvaluateSpec",
        example="iak evaluate catalog=shop.toml data_root=/data/shop base=R1 "
        "bundles=R2/bundles --run-dir R3",
    ),
    "predict": Verb(
        help="Predict every task of each row by the kernel of its domain; labels are not needed",
        spec="iak.schemas.scoring:PredictSpec",
        example="iak predict /data/shop catalog=shop.toml base=R1 bundles=R2/bundles --run-dir R4",
        positional=("data_root",),
    ),
    "explain": Verb(
        help="Show what the kernel adds to the base's logit of given rows, and who serves them",
        spec="iak.schemas.explaining:ExplainSpec",
        example="iak explain /data/shop catalog=shop.toml base=R1 bundles=R2/bundles rows=5",
        positional=("data_root",),
    ),
    "shadow": Verb(
        help="Replay a day of the log through live and candidate kernels, and compare the answers",
        spec="iak.schemas.shadow:ShadowSpec",
        example="iak shadow /data/shop catalog=shop.toml base=R1 live=R2 candidate=R3",
        positional=("data_root",),
    ),
    "serve": Verb(
        help="Answer requests for predictions over HTTP, and follow the registry's promotions",
        spec="iak.schemas.serving:ServeSpec",
        example="iak serve catalog=shop.toml base=R1 bundles=registry:/registries/shop@champion",
    ),
    "export": Verb(
        help="Write base and kernels as a folder that torch and NumPy alone can predict with",
        spec="iak.schemas.export:ExportSpec",
        example="iak export catalog=shop.toml base=R1 bundles=R2/bundles out=E1",
    ),
    "compare": Verb(
        help="Compare two evaluations on the same rows, with intervals",
        spec="iak.schemas.job:CompareSpec",
        example="iak compare R3 R4",
        positional=("first", "second", "split"),
    ),
    "bench scaling": Verb(
        help="Measure how speed grows with workers, strong and weak, and simulate larger clusters",
        spec="iak.schemas.bench:BenchScalingSpec",
        example="iak bench scaling --smoke",
    ),
    "bench sharding": Verb(
        help="Measure each layout of embedding tables, beside the estimate of TorchRec's planner",
        spec="iak.schemas.bench:BenchShardingSpec",
        example="iak bench sharding --smoke",
    ),
    "nightly run": Verb(
        help="Run one night by its file: decide, tune, judge, promote, write the page",
        spec="iak.schemas.nightly_job:NightlyRunSpec",
        example="iak nightly run nightly.toml",
        positional=("file",),
    ),
    "nightly backfill": Verb(
        help="Run the nights of a range of dates, oldest first",
        spec="iak.schemas.nightly_job:NightlyBackfillSpec",
        example="iak nightly backfill nightly.toml 2026-10-20..2026-10-28",
        positional=("file", "nights"),
    ),
    "nightly watch": Verb(
        help="Keep the schedule on this machine: run every night when it is due",
        spec="iak.schemas.nightly_job:NightlyWatchSpec",
        example="iak nightly watch nightly.toml",
        positional=("file",),
    ),
    "nightly status": Verb(
        help="Show the last nights, the live kernels and their age, and what is held",
        spec="iak.schemas.nightly_job:NightlyStatusSpec",
        example="iak nightly status nightly.toml",
        positional=("file",),
    ),
    "nightly check": Verb(
        help="Find what is wrong with a nightly.toml, its registry, data and cluster",
        spec="iak.schemas.nightly_job:NightlyCheckSpec",
        example="iak nightly check nightly.toml",
        positional=("file",),
    ),
    "nightly init": Verb(
        help="Write a commented nightly.toml from a catalogue and a base",
        spec="iak.schemas.nightly_job:NightlyInitSpec",
        example="iak nightly init catalog=shop.toml base=R1",
    ),
    "registry list": Verb(
        help="List the bundle that serves each domain",
        spec="iak.schemas.registry_job:RegistryListSpec",
        example="iak registry list registry=/registries/shop",
    ),
    "registry show": Verb(
        help="Show the history of a registry, or what a domain had and where it comes from",
        spec="iak.schemas.registry_job:RegistryShowSpec",
        example="iak registry show registry=/registries/shop domain=pooled",
    ),
    "registry diff": Verb(
        help="Compare two sets of pointers, domain by domain",
        spec="iak.schemas.registry_job:RegistryDiffSpec",
        example="iak registry diff registry=/registries/shop second=champion:12",
    ),
    "registry promote": Verb(
        help="Store what the gate published in a run and let it serve, all in one step",
        spec="iak.schemas.registry_job:RegistryPromoteSpec",
        example="iak registry promote run=R2 registry=/registries/shop",
    ),
    "registry rollback": Verb(
        help="Return domains to the bundles they had before; nothing else moves",
        spec="iak.schemas.registry_job:RegistryRollbackSpec",
        example="iak registry rollback domain=city=rome registry=/registries/shop",
    ),
    "registry verify": Verb(
        help="Read every byte and name what is damaged",
        spec="iak.schemas.registry_job:RegistryVerifySpec",
        example="iak registry verify registry=/registries/shop",
    ),
    "registry forget": Verb(
        help="Find what a request to delete users' data touches",
        spec="iak.schemas.registry_job:RegistryForgetSpec",
        example="iak registry forget registry=/registries/shop rows_of=users.txt",
    ),
    "registry gc": Verb(
        help="Remove bundles that neither a pointer nor a rollback needs",
        spec="iak.schemas.registry_job:RegistryGcSpec",
        example="iak registry gc registry=/registries/shop keep=3",
    ),
    "jobs list": Verb(
        help="List the jobs that were submitted to a Ray cluster",
        spec="iak.schemas.job_server:JobsListSpec",
        example="iak jobs list address=http://127.0.0.1:8265",
    ),
    "jobs logs": Verb(
        help="Show what a submitted job printed, or follow it",
        spec="iak.schemas.job_server:JobsLogsSpec",
        example="iak jobs logs iak-finetune-0a1b follow=true",
        positional=("job",),
    ),
    "jobs stop": Verb(
        help="Ask a submitted job to stop",
        spec="iak.schemas.job_server:JobsStopSpec",
        example="iak jobs stop iak-finetune-0a1b",
        positional=("job",),
    ),
    "infra render": Verb(
        help="Write the files that run the nights on Kubernetes, by Airflow or by systemd",
        spec="iak.schemas.deploy:RenderSpec",
        example="iak infra render nightly.toml out=deploy",
        positional=("file",),
    ),
    "report": Verb(
        help="Make the page of an evaluation, or the page of a night again",
        spec="iak.schemas.job:ReportSpec",
        example="iak report R3 out=evaluation.html",
        positional=("path",),
    ),
    "show": Verb(
        help="Show what a run, a published base or a folder of bundles holds",
        spec="iak.schemas.job:ShowSpec",
        example="iak show R2",
        positional=("path",),
    ),
    "submit": Verb(
        help="Run a verb on a Ray cluster, follow it and fetch its record",
        spec="iak.schemas.job:SubmitSpec",
        example='iak submit command="pretrain catalog=planted data_root=/logs --run-dir /runs/R1"',
    ),
    "doctor": Verb(
        help="Check that torch, torchrec, fbgemm, CUDA, ray and pyarrow belong together",
    ),
}
GROUPS = {
    "jobs": "See and stop what was submitted to a Ray cluster",
    "infra": "Write files that run the nights on other machines",
    "bench": "Measure this system on this machine; records and pictures are written",
    "nightly": "Run every night by one file: tune, judge, promote, and write the morning page",
    "registry": "Store what every night published, and point at the bundle that serves each domain",
}
"""First words of the verbs that have two."""
MOVED = {
    f"bench {name}": f"python -m infra.benchmarks {name}"
    for name in ("data", "faults", "finetune", "tables")
}
"""Commands of older versions, and what took their place."""


def split_verb(words: Sequence[str]) -> tuple[str, list[str]]:
    """Return the verb that words begin with, known or not, and the words after it."""
    named = 2 if words and words[0] in GROUPS else 1
    return " ".join(words[:named]), list(words[named:])


def spec_class(verb: str) -> "type[BaseModel]":
    """Return the class of a verb's spec."""
    module, _, name = VERBS[verb].spec.partition(":")
    kind: type[BaseModel] = getattr(importlib.import_module(module), name)
    return kind


def unknown_verb(word: str) -> str:
    """Return the message for a word that is not a verb."""
    names = [*VERBS, *GROUPS]
    near = difflib.get_close_matches(word, names, n=3, cutoff=0.5)
    advice = f"did you mean {' or '.join(near)}?" if near else f"the verbs are {', '.join(names)}"
    return f"'{word}' is not a verb of iak; {advice} See iak --help"
