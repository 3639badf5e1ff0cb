"""`iak plan`: estimate whether a job fits a cluster, how long it takes and what it costs."""

import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError
from rich.markup import escape

from iak.jobs.clusters import load_cluster, shipped_clusters, with_constants, with_devices
from iak.jobs.progress import console, print_event
from iak.jobs.tables import show_facts, show_table
from iak.pipeline.base.defaults import batch_rows_for
from iak.pipeline.base.published_base import PublishedBase, shapes_of
from iak.pipeline.data.vocabulary_size import LARGE, hashing_advice, size_message
from iak.pipeline.errors import OK, BadRequest, DoesNotFit
from iak.pipeline.files import put_output
from iak.pipeline.model.tables import TableShape
from iak.pipeline.planning.assess import (
    Assessment,
    FrozenPrecisions,
    PlanRequest,
    assess,
    smallest_change,
)
from iak.pipeline.planning.estimate import Estimate, JobSettings, Level, phase_lines
from iak.pipeline.planning.workload import Workload, workload
from iak.pipeline.registry.bases import open_base
from iak.pipeline.runs.documents import read_toml
from iak.pipeline.runs.explain import explain
from iak.pipeline.runs.load import SPECS, load_catalog, merged, moved_setting, nested
from iak.pipeline.sharding.placement_search import GIB, Wanted
from iak.pipeline.sharding.row_format import check_width
from iak.schemas.base import JsonObject, Settings
from iak.schemas.cluster import ClusterSpec
from iak.schemas.feature import FIRST_ROW
from iak.schemas.given_base import ModuleBaseSpec
from iak.schemas.job import FinetuneSpec, PlanSpec
from iak.schemas.log import Catalog

_PLANNED = (
    "model", "kernel", "pooled", "domain", "tables", "cache", "batch_rows", "bf16", "epochs",
    "placement",
)  # fmt: skip
"""Settings of a job that change its plan."""


def main(spec: PlanSpec) -> int:
    """Show the plan of one cluster, or a line for each of several; return 0 where the job fits."""
    catalog = load_catalog(spec.catalog)
    if catalog.base is not None and spec.job != "finetune":
        raise BadRequest(
            f"catalog {spec.catalog} has a [base] that runs elsewhere, so that there is nothing to "
            "pre-train; plan its tuning by job=finetune"
        )
    if isinstance(catalog.base, ModuleBaseSpec) and spec.table_rows:
        raise BadRequest(
            f"table_rows names {sorted(spec.table_rows)}, but the tables of a base of kind torch "
            "are layers of its module, with the rows that its factory gives them. Leave it out"
        )
    opened = open_base(spec.base) if spec.base else None
    rows = _counted(catalog, opened) | spec.table_rows
    spec = resolved(spec, catalog, opened)
    clusters = _clusters(spec)
    tables = None if opened is None else shapes_of(opened.manifest.tables)
    request = _request(spec, catalog, rows, tables)
    answers = []
    for number, cluster in enumerate(clusters, 1):
        if len(clusters) > 1:
            print_event("plan", {"event": cluster.name, "of": len(clusters), "number": number})
        answers.append(assess(request, cluster))
    _write(spec, request.work, answers)
    _show_large_vocabularies(catalog, request.work)
    if len(answers) > 1:
        return _show_many(spec, answers)
    _show(request, answers[0])
    if answers[0].fits:
        return OK
    others = [with_constants(load_cluster(n), spec.constants) for n in shipped_clusters()]
    kinds = [kind for kind in others if kind.name != answers[0].cluster.name]
    change = smallest_change(request, clusters[0], kinds, _machines)
    console.print(f"[bold]smallest change:[/bold] {change}", highlight=False)
    return DoesNotFit.exit_code


def _counted(catalog: Catalog, opened: PublishedBase | None) -> dict[str, int]:
    """Return the rows of the catalogue's tables that a base has counted."""
    if opened is None:
        return {}
    counted = opened.encoding.table_rows(opened.catalog)
    return {name: rows for name, rows in counted.items() if name in catalog.table_specs}


def resolved(spec: PlanSpec, catalog: Catalog, opened: PublishedBase | None) -> PlanSpec:
    """Return the plan's settings, with what they leave open filled in.

    It comes from the base, else from the job's file, else from the catalogue's presets.
    """
    defaults: JsonObject = {
        "batch_rows": FinetuneSpec.model_fields["step_rows"].default
        if spec.job == "finetune"
        else batch_rows_for(spec.rows)
    }
    for settings in (dict(catalog.presets.get(spec.job, {})), _job_settings(spec)):
        flat = {k: v for k, v in settings.items() if k.partition(".")[0] in _PLANNED}
        defaults = merged(defaults, nested(flat))
        if spec.job == "finetune" and "step_rows" in settings:
            defaults["batch_rows"] = settings["step_rows"]
        if settings.get("activations") == "recompute":
            raise BadRequest("activations=recompute is not planned for; plan with the cache")
    # The job's own plan is left out: with it there would be no placement to search for.
    rule = {k: v for k, v in defaults.get("placement", {}).items() if k != "plan"}
    defaults |= {"placement": rule}
    if opened:
        defaults = merged(defaults, {"model": opened.model.model_dump()})
    asked = spec.model_dump(exclude_unset=True)
    if spec.job == "finetune" and spec.step_rows:
        asked["batch_rows"] = spec.step_rows
    try:
        return PlanSpec.model_validate(merged(defaults, asked))
    except ValidationError as error:
        raise BadRequest(f"settings of iak {spec.job}: {explain(error)}") from error


def _job_settings(spec: PlanSpec) -> Settings:
    """Return the settings of the file that the job itself is given by --config."""
    if spec.settings is None:
        return {}
    settings = read_toml(spec.settings, setting="settings")
    for name in settings:
        if new := moved_setting(SPECS[spec.job], name):
            raise BadRequest(f"settings {spec.settings}: {name} is now {new}")
    return settings


def _request(
    spec: PlanSpec,
    catalog: Catalog,
    rows: dict[str, int],
    module_tables: Sequence[TableShape] | None,
) -> PlanRequest:
    work = workload(
        catalog,
        spec.model,
        spec.kernel,
        rows=rows,
        ids=spec.ids,
        domains=spec.domains,
        module_tables=module_tables,
    )
    names = [shape.name for shape in work.shapes]
    unknown = sorted(set(spec.placement.sharding) - set(names))
    if unknown:
        raise BadRequest(
            f"placement.sharding names unknown tables {unknown}; there are {sorted(names)}"
        )
    is_tuning = spec.job == "finetune"
    return PlanRequest(
        work=work,
        settings=JobSettings(
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
            placement=spec.placement,
            batch_rows=spec.batch_rows,
        ),
        frozen=_frozen(spec, work) if is_tuning else None,
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


def _frozen(spec: PlanSpec, work: Workload) -> FrozenPrecisions:
    """Return the precision of each frozen table, checked as the job itself would check it."""
    names = [shape.name for shape in work.shapes]
    if unknown := sorted(set(spec.tables.precisions) - set(names)):
        raise BadRequest(f"tables.precisions names unknown tables {unknown}; there are {names}")
    if spec.tables.mapped:
        raise BadRequest("tables.mapped is not planned for; leave it out")
    frozen = FrozenPrecisions(precision=spec.tables.precision, precisions=spec.tables.precisions)
    for shape in work.shapes:
        check_width(shape.name, frozen.of(shape.name), shape.width)
    return frozen


def _clusters(spec: PlanSpec) -> list[ClusterSpec]:
    """Return the clusters to plan for: one, several, or one kind in several sizes."""
    if spec.compare and spec.sweep:
        raise BadRequest("give compare= or sweep=, not both")
    if spec.compare:
        clusters = [load_cluster(name.strip()) for name in spec.compare.split(",") if name.strip()]
    elif spec.sweep:
        kind = with_constants(load_cluster(spec.cluster), spec.constants)
        return [with_devices(kind, devices) for devices in _devices(spec.sweep)]
    else:
        clusters = [load_cluster(spec.cluster)]
    return [with_constants(cluster, spec.constants) for cluster in clusters]


def _devices(sweep: str) -> list[int]:
    key, _, numbers = sweep.partition("=")
    words = numbers.split(",")
    if key != "gpus" or not all(word.strip().isdecimal() and int(word) > 0 for word in words):
        raise BadRequest(f"sweep={sweep!r}; expected gpus= and numbers, as sweep=gpus=8,16,32")
    return sorted({int(word) for word in words})


def _machines(cluster: ClusterSpec, nodes: int) -> ClusterSpec:
    """Return a cluster of this number of machines of the same kind."""
    return with_devices(cluster, nodes * cluster.devices_per_node)


def _show(request: PlanRequest, assessment: Assessment) -> None:
    """Show all facts of the estimate for one cluster."""
    estimate, cluster = assessment.estimate, assessment.cluster
    verdict = "fits" if assessment.fits else "does not fit"
    work, job = request.work, estimate.document.job
    gib = sum(s.num_bytes for s in work.shapes) / GIB
    show_facts(
        f"{job} on {cluster.name} ({cluster.world} x {cluster.accelerator}): {verdict}",
        {
            "tables": f"{len(work.shapes)}, {sum(s.rows for s in work.shapes):,} rows, "
            f"{gib:,.1f} GiB in fp32; {work.ids_per_row:g} ids per row",
            "trunk and towers": f"{work.dense.parameters:,} weights, "
            f"{work.dense.flops / 1e6:.2f} MFLOP per row",
            "fullest rank": f"{estimate.fullest_rank_bytes / GIB:.1f} GiB of the "
            f"{estimate.usable_bytes / GIB:.1f} that a plan may use "
            f"({cluster.device_memory_gib:g} in all)",
            "host memory": f"{estimate.host_bytes / GIB:.1f} GiB per machine of "
            f"{cluster.host_memory_gib:g}",
            "estimated": f"{estimate.rows_per_s:,.0f} rows/s, {estimate.hours:.2f} hours, "
            f"{estimate.cost:,.2f} {cluster.currency}",
            "TorchRec's planner": f"{estimate.planner_ms:.2f} ms per step in tables (its constants)"
            if estimate.planner_ms
            else "found no plan; what follows is the rule's"
            if estimate.document.tables
            else "has no table to place",
        },
    )
    _show_tables(estimate)
    _show_memory(estimate)
    _show_phases(estimate)
    constants = cluster.constants.model_dump(exclude={"measured"}, exclude_none=True)
    source = cluster.constants.measured or "assumptions, not yet measured on this cluster"
    console.print(f"[dim]constants ({source}): {constants}[/dim]", highlight=False)
    if cluster.note:
        console.print(f"[dim]{cluster.name}: {cluster.note}[/dim]", highlight=False)
    for problem in assessment.problems:
        console.print(f"[bold]does not fit:[/bold] {problem}", highlight=False)


def _show_large_vocabularies(catalog: Catalog, work: Workload) -> None:
    """Name tables with so many ids that hashing them is to be weighed."""
    for shape in work.shapes:
        table = catalog.table_specs.get(shape.name)
        ids = shape.rows - FIRST_ROW
        if table and table.encoding == "vocabulary" and ids >= LARGE:
            size, advice = size_message(ids, shape.width), hashing_advice(shape.name, ids)
            message = f"[bold]large vocabulary {shape.name}:[/bold] {size}. {escape(advice)}"
            console.print(message, highlight=False)


def _show_tables(estimate: Estimate) -> None:
    """Show the largest tables one by one, and the rest together."""
    lines = sorted(estimate.document.tables, key=lambda t: -t.rows * t.width)
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
    show_table("where tables lie", ("table", "rows", "width", "precision", "ranks", "type"), rows)


def _ranks(ranks: Sequence[int]) -> str:
    distinct = sorted(set(ranks))
    if len(distinct) > 2 and distinct == list(range(distinct[0], distinct[-1] + 1)):
        return f"{distinct[0]}-{distinct[-1]}"
    return ", ".join(map(str, distinct))


def _show_memory(estimate: Estimate) -> None:
    """Show the memory of the fullest and of the emptiest rank, by kind."""
    ranks = sorted(estimate.memory, key=lambda m: sum(m.values()))
    rows = [
        (kind, f"{ranks[-1][kind] / GIB:,.2f}", f"{ranks[0][kind] / GIB:,.2f}")
        for kind in ranks[-1]
    ]
    total = tuple(f"{sum(m.values()) / GIB:,.2f}" for m in (ranks[-1], ranks[0]))
    show_table("GiB of a rank", ("kind", "fullest", "emptiest"), [*rows, ("together", *total)])


def _show_phases(estimate: Estimate) -> None:
    for line in phase_lines(estimate):
        show_facts(
            f"{line.phase}: {line.rows:,} rows, {line.rows_per_step:,} per step, "
            f"{line.step_ms:g} ms each (estimate); bottleneck: {line.bottleneck}",
            {"ms": line.ms, "MiB sent by a rank": line.sent_mib_per_rank},
        )


def _show_many(spec: PlanSpec, answers: Sequence[Assessment]) -> int:
    """Show a line for each cluster; return 0 when one of them fits."""
    rows = [
        (
            a.cluster.name,
            str(a.cluster.world),
            f"{a.estimate.fullest_rank_bytes / GIB:.1f}",
            f"{a.estimate.usable_bytes / GIB:.1f}",
            f"{a.estimate.rows_per_s:,.0f}",
            f"{a.estimate.hours:.2f}",
            f"{a.estimate.cost:,.2f}",
            "fits" if a.fits else a.problems[0],
        )
        for a in answers
    ]
    heads = ("cluster", "ranks", "GiB", "of", "rows/s", "hours", "cost", "")
    show_table(f"{spec.job}: estimates", heads, rows)
    fitting = [a for a in answers if a.fits]
    if not fitting:
        console.print("none of them fits")
        return DoesNotFit.exit_code
    smallest = min(fitting, key=lambda a: a.cluster.world)
    cheapest = min(fitting, key=lambda a: a.estimate.cost)
    console.print(
        f"smallest that fits: {smallest.cluster.name}; cheapest: {cheapest.cluster.name}",
        highlight=False,
    )
    return OK


def _write(spec: PlanSpec, work: Workload, answers: Sequence[Assessment]) -> None:
    """Write the files that the settings name. A plan and a picture are of one cluster."""
    if (spec.save or spec.picture) and len(answers) > 1:
        raise BadRequest("save= and picture= are for one cluster; leave compare= and sweep= out")
    if spec.save:
        _to_file(spec.save, answers[0].estimate.document.model_dump_json(indent=1))
    if spec.json_out:
        document = {
            "spec": spec.model_dump(mode="json"),
            "tables": [{"table": s.name, "rows": s.rows, "width": s.width} for s in work.shapes],
            "answers": [_as_json(a) for a in answers],
        }
        _to_file(spec.json_out, json.dumps(document, indent=1))
    if spec.picture:
        from iak.jobs.figures_plan import draw_plan

        draw_plan(answers[0].estimate, spec.picture)
        console.print(f"picture: {spec.picture}", highlight=False)


def _to_file(path: Path, text: str) -> None:
    put_output(path, text + "\n")
    console.print(f"written: {path}", highlight=False)


def _as_json(assessment: Assessment) -> JsonObject:
    estimate = assessment.estimate
    return {
        "cluster": assessment.cluster.model_dump(mode="json"),
        "fits": assessment.fits,
        "problems": list(assessment.problems),
        "usable_bytes": estimate.usable_bytes,
        "memory": [dict(rank) for rank in estimate.memory],
        "host_bytes": estimate.host_bytes,
        "phases": [line.model_dump(mode="json") for line in phase_lines(estimate)],
        "hours": estimate.hours,
        "cost": estimate.cost,
        "rows_per_s": estimate.rows_per_s,
        "planner_ms": estimate.planner_ms,
        "plan": estimate.document.model_dump(mode="json"),
    }
