"""`iak plan`: does a job fit a cluster, how long would it take, what would it cost."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from iak.jobs._clusters import load_cluster, shipped_clusters, with_constants, with_devices
from iak.jobs._progress import console, print_event
from iak.jobs._tables import show_facts, show_table
from iak.pipeline.base import published_base
from iak.pipeline.base.defaults import batch_rows_for
from iak.pipeline.base.published_base import PublishedBase
from iak.pipeline.errors import BadRequest
from iak.pipeline.files import put_file
from iak.pipeline.planning.answer import Answer, Frozen, Question, answer, smallest_change
from iak.pipeline.planning.estimate import Asked, Estimate, Level, as_rows
from iak.pipeline.planning.workload import Workload, workload
from iak.pipeline.runs.documents import read_toml
from iak.pipeline.runs.explain import explain
from iak.pipeline.runs.load import load_catalog, merged, nested
from iak.pipeline.sharding.placement_search import GIB, Wanted
from iak.pipeline.sharding.quantised import check_width
from iak.schemas.cluster import ClusterSpec
from iak.schemas.job import FinetuneSpec, PlanSpec
from iak.schemas.log import Catalog

FITS, DOES_NOT_FIT = 0, 3
_TAKEN = (
    "model", "kernel", "pooled", "domain", "tables", "cache", "batch_rows", "bf16", "epochs",
    "row_wise_from_rows",
)  # fmt: skip
"""Settings of a job that a plan is made of."""


def main(spec: PlanSpec) -> int:
    """Answer for one cluster, or a line for each of several; 0 when it fits, 3 when it does not."""
    catalog = load_catalog(spec.catalog)
    opened = published_base.open_base(spec.base) if spec.base else None
    rows = _counted(catalog, opened) | spec.table_rows
    spec = _resolved(spec, catalog, opened)
    clusters = _clusters(spec)
    question = _question(spec, catalog, rows)
    found = []
    for place, cluster in enumerate(clusters):
        if len(clusters) > 1:
            print_event("plan", {"event": cluster.name, "of": len(clusters), "number": place + 1})
        found.append(answer(question, cluster))
    _write(spec, question.work, found)
    if len(found) > 1:
        return _show_many(spec, found)
    _show(question, found[0])
    if found[0].fits:
        return FITS
    others = [with_constants(load_cluster(n), spec.constants) for n in shipped_clusters()]
    kinds = [kind for kind in others if kind.name != found[0].cluster.name]
    change = smallest_change(question, clusters[0], kinds, _machines)
    console.print(f"[bold]smallest change:[/bold] {change}", highlight=False)
    return DOES_NOT_FIT


def _counted(catalog: Catalog, opened: PublishedBase | None) -> dict[str, int]:
    """Rows of the catalogue's tables that a base has counted."""
    if opened is None:
        return {}
    found = opened.encoding.table_rows(opened.catalog)
    return {name: rows for name, rows in found.items() if name in catalog.table_specs}


def _resolved(spec: PlanSpec, catalog: Catalog, opened: PublishedBase | None) -> PlanSpec:
    """Merge the plan's settings over the job's file, the catalogue's presets, the base's size."""
    held: dict[str, Any] = {
        "batch_rows": FinetuneSpec.model_fields["step_rows"].default
        if spec.job == "finetune"
        else batch_rows_for(spec.rows)
    }
    for settings in (dict(catalog.presets.get(spec.job, {})), _job_settings(spec.settings)):
        flat = {k: v for k, v in settings.items() if k.partition(".")[0] in (*_TAKEN, "sharding")}
        held = merged(held, nested(flat))
        if spec.job == "finetune" and "step_rows" in settings:
            held["batch_rows"] = settings["step_rows"]
        if settings.get("activations") == "recompute":
            raise BadRequest("activations=recompute is not planned for; plan with the cache")
    if opened:
        held = merged(held, {"model": opened.model.model_dump()})
    asked = spec.model_dump(exclude_unset=True)
    if spec.job == "finetune" and spec.step_rows:
        asked["batch_rows"] = spec.step_rows
    try:
        return PlanSpec.model_validate(merged(held, asked))
    except ValidationError as error:
        raise BadRequest(f"settings of iak {spec.job}: {explain(error)}") from error


def _job_settings(path: Path | None) -> dict[str, Any]:
    return {} if path is None else read_toml(path, setting="settings")


def _question(spec: PlanSpec, catalog: Catalog, rows: dict[str, int]) -> Question:
    work = workload(catalog, spec.model, spec.kernel, rows=rows, ids=spec.ids, domains=spec.domains)
    names = [shape.name for shape in work.shapes]
    unknown = sorted(set(spec.sharding) - set(names))
    if unknown:
        raise BadRequest(f"sharding names unknown tables {unknown}; there are {sorted(names)}")
    is_tuning = spec.job == "finetune"
    return Question(
        work=work,
        asked=Asked(
            batch_rows=spec.batch_rows,
            rows=spec.rows,
            passes=spec.epochs,
            levels=_levels(spec, catalog),
            bf16=spec.tables.products == "bf16" if is_tuning else spec.bf16,
            kept_bytes=2 if spec.cache.precision == "bf16" else 4,
            cache_gib=spec.cache.memory_gib,
        ),
        wanted=Wanted(
            shapes=work.shapes,
            ids=work.ids,
            sharding=spec.sharding,
            batch_rows=spec.batch_rows,
        ),
        frozen=_frozen(spec, work) if is_tuning else None,
        row_wise_from_rows=spec.row_wise_from_rows,
        max_hours=spec.max_hours,
        max_cost=spec.max_cost,
    )


def _levels(spec: PlanSpec, catalog: Catalog) -> tuple[Level, ...]:
    """Return the levels: the pooled kernel, parents where the catalogue has them, domains."""
    parents = [Level(name="parents", kernels=spec.parents, stage=spec.domain)]
    return (
        Level(name="pooled", kernels=1, stage=spec.pooled),
        *(parents if len(catalog.domain.levels) > len(("pooled", "domains")) else []),
        Level(name="domains", kernels=spec.domains, stage=spec.domain),
    )


def _frozen(spec: PlanSpec, work: Workload) -> Frozen:
    """How tables are held while kernels are tuned, as the job itself would check it."""
    names = [shape.name for shape in work.shapes]
    if unknown := sorted(set(spec.tables.precisions) - set(names)):
        raise BadRequest(f"tables.precisions names unknown tables {unknown}; there are {names}")
    if spec.tables.mapped:
        raise BadRequest("tables.mapped is not planned for; leave it out")
    frozen = Frozen(precision=spec.tables.precision, precisions=spec.tables.precisions)
    for shape in work.shapes:
        check_width(shape.name, frozen.of(shape.name), shape.width)
    return frozen


def _clusters(spec: PlanSpec) -> list[ClusterSpec]:
    """Return the clusters asked about: one, several, or one kind in several sizes."""
    if spec.compare and spec.sweep:
        raise BadRequest("give compare= or sweep=, not both")
    if spec.compare:
        found = [load_cluster(name.strip()) for name in spec.compare.split(",") if name.strip()]
    elif spec.sweep:
        kind = with_constants(load_cluster(spec.cluster), spec.constants)
        return [with_devices(kind, devices) for devices in _devices(spec.sweep)]
    else:
        found = [load_cluster(spec.cluster)]
    return [with_constants(cluster, spec.constants) for cluster in found]


def _devices(sweep: str) -> list[int]:
    key, _, numbers = sweep.partition("=")
    words = numbers.split(",")
    if key != "gpus" or not all(word.strip().isdecimal() and int(word) > 0 for word in words):
        raise BadRequest(f"sweep={sweep!r}; expected gpus= and numbers, as sweep=gpus=8,16,32")
    return sorted({int(word) for word in words})


def _machines(cluster: ClusterSpec, nodes: int) -> ClusterSpec:
    """So many machines of the same kind."""
    return with_devices(cluster, nodes * cluster.devices_per_node)


def _show(question: Question, found: Answer) -> None:
    """Everything about one cluster."""
    told, cluster = found.estimate, found.cluster
    verdict = "fits" if found.fits else "does not fit"
    work, job = question.work, told.document.job
    gib = sum(s.num_bytes for s in work.shapes) / GIB
    show_facts(
        f"{job} on {cluster.name} ({cluster.world} x {cluster.accelerator}): {verdict}",
        {
            "tables": f"{len(work.shapes)}, {sum(s.rows for s in work.shapes):,} rows, "
            f"{gib:,.1f} GiB in fp32; {work.ids_a_row:g} ids a row",
            "trunk and towers": f"{work.dense.parameters:,} weights, "
            f"{work.dense.flops / 1e6:.2f} MFLOP a row",
            "fullest rank": f"{told.most_bytes / GIB:.1f} GiB of the {told.usable_bytes / GIB:.1f} "
            f"that are planned into ({cluster.device_memory_gib:g} in all)",
            "host memory": f"{told.host_bytes / GIB:.1f} GiB a machine of "
            f"{cluster.host_memory_gib:g}",
            "estimated": f"{told.rows_per_s:,.0f} rows/s, {told.hours:.2f} hours, "
            f"{told.money:,.2f} {cluster.currency}",
            "TorchRec's planner": f"{told.planner_ms:.2f} ms a step in tables, by its own constants"
            if told.planner_ms
            else "found no plan; what follows is the rule's",
        },
    )
    _show_tables(told)
    _show_memory(told)
    _show_phases(told)
    constants = cluster.constants.model_dump(exclude={"measured"}, exclude_none=True)
    source = cluster.constants.measured or "assumptions, not yet measured on this cluster"
    console.print(f"[dim]constants ({source}): {constants}[/dim]", highlight=False)
    if cluster.note:
        console.print(f"[dim]{cluster.name}: {cluster.note}[/dim]", highlight=False)
    for problem in found.problems:
        console.print(f"[bold]does not fit:[/bold] {problem}", highlight=False)


def _show_tables(told: Estimate) -> None:
    """Show the largest tables one by one, and the rest together."""
    lines = sorted(told.document.tables, key=lambda t: -t.rows * t.width)
    rows: list[tuple[str, ...]] = [
        (
            t.table,
            f"{t.rows:,}",
            str(t.width),
            t.precision,
            _ranks([s.rank for s in t.shards if s.rows]),
            t.type,
        )
        for t in lines[:20]
    ]
    if len(lines) > len(rows):
        rest = lines[len(rows) :]
        rows.append((f"and {len(rest)} more", f"{sum(t.rows for t in rest):,}", "", "", "", ""))
    show_table("where tables lie", ("table", "rows", "width", "held in", "ranks", "type"), rows)


def _ranks(ranks: Sequence[int]) -> str:
    distinct = sorted(set(ranks))
    if len(distinct) > 2 and distinct == list(range(distinct[0], distinct[-1] + 1)):
        return f"{distinct[0]}-{distinct[-1]}"
    return ", ".join(map(str, distinct))


def _show_memory(told: Estimate) -> None:
    """Kinds on the fullest and the emptiest rank."""
    held = sorted(told.memory, key=lambda m: sum(m.values()))
    rows = [
        (kind, f"{held[-1][kind] / GIB:,.2f}", f"{held[0][kind] / GIB:,.2f}") for kind in held[-1]
    ]
    total = tuple(f"{sum(m.values()) / GIB:,.2f}" for m in (held[-1], held[0]))
    show_table("GiB of a rank", ("kind", "fullest", "emptiest"), [*rows, ("together", *total)])


def _show_phases(told: Estimate) -> None:
    for line in as_rows(told):
        facts: Any = line
        show_facts(
            f"{facts['phase']}: {facts['rows']:,} rows, {facts['rows_a_step']:,} a step, "
            f"{facts['step_ms']:g} ms each (estimate); {facts['binds']} binds",
            {"ms": facts["ms"], "MiB sent by a rank": facts["sent_mib_a_rank"]},
        )


def _show_many(spec: PlanSpec, found: Sequence[Answer]) -> int:
    """Show a line for each cluster; return 0 when one of them fits."""
    rows = [
        (
            a.cluster.name,
            str(a.cluster.world),
            f"{a.estimate.most_bytes / GIB:.1f}",
            f"{a.estimate.usable_bytes / GIB:.1f}",
            f"{a.estimate.rows_per_s:,.0f}",
            f"{a.estimate.hours:.2f}",
            f"{a.estimate.money:,.2f}",
            "fits" if a.fits else a.problems[0],
        )
        for a in found
    ]
    heads = ("cluster", "ranks", "GiB", "of", "rows/s", "hours", "cost", "")
    show_table(f"{spec.job}: estimates", heads, rows)
    fitting = [a for a in found if a.fits]
    if not fitting:
        console.print("none of them fits")
        return DOES_NOT_FIT
    smallest = min(fitting, key=lambda a: a.cluster.world)
    cheapest = min(fitting, key=lambda a: a.estimate.money)
    console.print(
        f"smallest that fits: {smallest.cluster.name}; cheapest: {cheapest.cluster.name}",
        highlight=False,
    )
    return FITS


def _write(spec: PlanSpec, work: Workload, found: Sequence[Answer]) -> None:
    """Write the files that are asked for; a plan and a picture are of one cluster."""
    if (spec.save or spec.picture) and len(found) > 1:
        raise BadRequest("save= and picture= are for one cluster; leave compare= and sweep= out")
    if spec.save:
        _to_file(spec.save, found[0].estimate.document.model_dump_json(indent=1))
    if spec.json_out:
        document = {
            "spec": spec.model_dump(mode="json"),
            "tables": [{"table": s.name, "rows": s.rows, "width": s.width} for s in work.shapes],
            "answers": [_as_json(a) for a in found],
        }
        _to_file(spec.json_out, json.dumps(document, indent=1))
    if spec.picture:
        from iak.jobs._figures import draw_plan

        draw_plan(found[0].estimate, spec.picture)
        console.print(f"picture: {spec.picture}", highlight=False)


def _to_file(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    put_file(path, text + "\n")
    console.print(f"written: {path}", highlight=False)


def _as_json(found: Answer) -> dict[str, Any]:
    told = found.estimate
    return {
        "cluster": found.cluster.model_dump(mode="json"),
        "fits": found.fits,
        "problems": list(found.problems),
        "usable_bytes": told.usable_bytes,
        "memory": [dict(held) for held in told.memory],
        "host_bytes": told.host_bytes,
        "phases": list(as_rows(told)),
        "hours": told.hours,
        "cost": told.money,
        "rows_per_s": told.rows_per_s,
        "planner_ms": told.planner_ms,
        "plan": told.document.model_dump(mode="json"),
    }
