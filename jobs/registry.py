"""`iak registry …`: show, move and verify the pointers to the bundles that serve each domain.

torch and SciPy take seconds to import. Only `promote`, `forget`, and `gc` with nights= or base=
load torch, and only `show` loads SciPy.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iak.jobs.progress import announce, console
from iak.jobs.tables import number, show_facts, show_table
from iak.pipeline.errors import NOTHING_TO_DO, OK, SOME_HELD, BadRequest, Corrupt
from iak.pipeline.files import put_output
from iak.pipeline.registry.commits import (
    earlier_pointers,
    folder_of,
    pointer_of,
    read_commit,
    read_head,
    read_history,
)
from iak.pipeline.registry.retention import remove_unneeded
from iak.pipeline.registry.rollback import roll_back
from iak.pipeline.registry.stored_bundles import read_entry
from iak.pipeline.registry.verify import verify_registry
from iak.pipeline.storage.store import Store, map_concurrently, open_store
from iak.schemas.chain import ChainState
from iak.schemas.forget import ForgetReport, TouchedCache
from iak.schemas.nightly import NightlySpec
from iak.schemas.registry import ALIASES, Alias, Commit, Entry, Pointer
from iak.schemas.registry_answer import (
    DiffAnswer,
    DomainAnswer,
    DomainDifference,
    GcAnswer,
    HistoryAnswer,
    PointerRow,
    PointersAnswer,
    PromoteAnswer,
    RegistryAnswer,
    RollbackAnswer,
    StaleFolder,
    VerifyAnswer,
)
from iak.schemas.registry_job import (
    RegistryDiffSpec,
    RegistryForgetSpec,
    RegistryGcSpec,
    RegistryListSpec,
    RegistryPromoteSpec,
    RegistryRollbackSpec,
    RegistryShowSpec,
    RegistrySpec,
    RegistryVerifySpec,
)
from iak.schemas.shadow import ShadowDocument

if TYPE_CHECKING:  # it loads torch, which `gc` needs only for some settings
    from iak.pipeline.registry.promote import Promotion
    from iak.pipeline.runs.stale import Stale

MAX_DOMAINS = 40
"""Domains shown in a table; the JSON has all."""
TOKEN = "MLFLOW_TRACKING_TOKEN"
"""Environment variable with the MLflow server's token."""


def main(spec: RegistrySpec) -> int:
    """Run the verb, and write its result to the file of `json=`, if given.

    Raises:
        Corrupt: `verify` found problems; they are shown, and written to the file first.
    """
    verbs: dict[type[RegistrySpec], Callable[[Any], tuple[int, RegistryAnswer]]] = {
        RegistryListSpec: list_pointers,
        RegistryShowSpec: show,
        RegistryDiffSpec: diff,
        RegistryPromoteSpec: promote,
        RegistryRollbackSpec: rollback,
        RegistryVerifySpec: verify,
        RegistryForgetSpec: forget,
        RegistryGcSpec: gc,
    }
    code, answer = verbs[type(spec)](spec)
    if spec.json_out:
        put_output(spec.json_out, json.dumps(answer.as_json(), indent=1))
    if isinstance(answer, VerifyAnswer) and answer.problems:
        listing = "\n".join(f"  {problem}" for problem in answer.problems)
        raise Corrupt(f"{answer.registry} is damaged:\n{listing}")
    return code


def list_pointers(spec: RegistryListSpec) -> tuple[int, PointersAnswer]:
    """Print the bundle of each domain, alias by alias."""
    store = open_store(spec.registry)
    head = read_head(store)
    by_alias: dict[Alias, list[PointerRow]] = {}
    for alias in [spec.alias] if spec.alias else ALIASES:
        rows = list(map_concurrently(store, partial(_pointer_row, store), _pointers(head, alias)))
        by_alias[alias] = rows
        if rows:
            _show_pointers(alias, rows)
        else:
            console.print(f"no {alias}: nothing was promoted to it", markup=False)
    return 0, PointersAnswer(registry=store.uri, generation=_generation(head), **by_alias)


def _show_pointers(alias: str, rows: Sequence[PointerRow]) -> None:
    """Print the pointers of an alias."""
    left = f"{len(rows) - MAX_DOMAINS} more domains; json= writes all" * (len(rows) > MAX_DOMAINS)
    show_table(
        alias,
        ("domain", "commit", "gate gain", "bundle", "parent", "tuned", "run"),
        [
            (
                row.domain,
                str(row.generation),
                number(row.gain, 5, sign=True),
                row.bundle[:12],
                (row.parent or "-")[:12],
                row.tuned_at,
                row.run + ("" if row.published else " (held by the gate, forced)"),
            )
            for row in rows[:MAX_DOMAINS]
        ],
        text=("bundle", "parent", "tuned"),
        caption=left,
    )


def _pointer_row(store: Store, pointer: Pointer) -> PointerRow:
    """Return a pointer and the facts of its bundle."""
    entry = read_entry(store, pointer.stored)
    lineage = entry.lineage
    return PointerRow(
        domain=pointer.name,
        generation=pointer.generation,
        before=pointer.before,
        bundle=entry.digest,
        published=entry.published,
        reason=entry.reason,
        gain=entry.gain,
        parent=lineage.parent,
        base_fingerprint=lineage.base_fingerprint,
        run=lineage.run,
        code=lineage.code,
        tuned_at=f"{lineage.tuned_at:%Y-%m-%d %H:%M}",
        added_at=f"{lineage.added_at:%Y-%m-%d %H:%M}",
        data_window=lineage.data_window,
    )


def show(spec: RegistryShowSpec) -> tuple[int, RegistryAnswer]:
    """Print the newest commits and all chains, or one domain's evidence, pointers and lineage."""
    return _show_domain(spec, spec.domain) if spec.domain else _show_history(spec)


def _show_history(spec: RegistryShowSpec) -> tuple[int, HistoryAnswer]:
    from iak.jobs.chains import chain_row, show_chains  # loads SciPy, which takes a second

    history = list(read_history(open_store(spec.registry)))
    chains = list(history[-1].chains.values()) if history else []
    show_table(
        f"history of {spec.registry}",
        ("commit", "what", "when", "by", "pointers moved", "bundles removed"),
        [
            (
                str(commit.generation),
                commit.action,
                f"{commit.at:%Y-%m-%d %H:%M}",
                commit.by,
                f"{len(commit.moves):,}",
                f"{len(commit.removed):,}",
            )
            for commit in history[-spec.last :]
        ],
        text=("what", "when", "by"),
        ends_in_number=True,
    )
    if chains:
        show_chains(chains)
    return 0, HistoryAnswer(
        registry=spec.registry, commits=history, chains=[chain_row(chain) for chain in chains]
    )


def _show_domain(spec: RegistryShowSpec, domain: str) -> tuple[int, DomainAnswer]:
    """Print a domain's evidence, and the bundles it had, newest first, alias by alias."""
    from iak.jobs.chains import chain_row, show_chain  # loads SciPy, which takes a second

    store = open_store(spec.registry)
    head = read_head(store)
    chain = _chain_of(head, domain)
    aliases = [alias for alias in ALIASES if _has(head, alias, domain)]
    if not aliases and chain is None:
        folder_of(store, head, "champion", domain)  # refuses the name, and lists those that exist
    answer = DomainAnswer(registry=store.uri, domain=domain)
    if chain is not None:
        show_chain(chain)
        answer = answer.model_copy(update={"chain": chain_row(chain)})
    if not aliases:
        console.print(f"{domain} has no kernel of its own yet", markup=False)
    for alias in aliases:
        folder = folder_of(store, head, alias, domain)
        pointer = pointer_of(head, alias, folder)
        assert pointer is not None, "folder_of refuses a domain without a pointer"
        pointers = [pointer, *earlier_pointers(store, alias, folder, pointer)]
        rows = list(map_concurrently(store, partial(_pointer_row, store), pointers))
        answer = answer.model_copy(update={alias: rows})
        _show_pointers_of(alias, pointer.name, rows, is_cut=pointers[-1].before is not None)
        show_facts(f"lineage of the {alias}", _lineage(read_entry(store, pointer.stored)))
    return 0, answer


def _chain_of(head: Commit | None, domain: str) -> ChainState | None:
    """Return a domain's chain, by its name or its folder's; None where it has none."""
    chains = head.chains if head else {}
    return next((c for folder, c in chains.items() if domain in (folder, c.name)), None)


def _show_pointers_of(alias: str, domain: str, rows: Sequence[PointerRow], *, is_cut: bool) -> None:
    show_table(
        f"{alias} of {domain}: now, and what rollbacks return to",
        ("commit", "bundle", "gate gain", "tuned", "the gate said"),
        [
            (
                str(row.generation),
                row.bundle[:12],
                number(row.gain, 5, sign=True),
                row.tuned_at,
                row.reason,
            )
            for row in rows
        ],
        text=("bundle", "tuned"),
        caption="Earlier bundles were removed by gc." if is_cut else "",
    )


def _lineage(entry: Entry) -> dict[str, object]:
    lineage = entry.lineage
    return {
        "bundle": entry.digest,
        "base": lineage.base_fingerprint,
        "base lies in": lineage.base or "unknown",
        "parent bundle": lineage.parent or "none known",
        "run": f"{lineage.run}, record {(lineage.record_sha256 or 'unknown')[:12]}",
        "code": lineage.code or "unknown",
        "data window": json.dumps(lineage.data_window.model_dump(mode="json"))[:400],
        "tuned": lineage.tuned_at,
        "added": lineage.added_at,
        "bytes": f"{sum(file.bytes for file in entry.files):,}",
    }


def diff(spec: RegistryDiffSpec) -> tuple[int, DiffAnswer]:
    """Print the domains for which two sets of pointers point at different bundles."""
    store = open_store(spec.registry)
    first, second = (_state(store, name) for name in (spec.first, spec.second))
    rows = []
    for folder in sorted(first.keys() | second.keys()):
        one, other = first.get(folder), second.get(folder)
        pointer = one or other
        assert pointer is not None, "the folder is of one of them"
        rows.append(
            DomainDifference(
                domain=pointer.name,
                first=one.bundle if one else None,
                second=other.bundle if other else None,
                first_gain=_gain(store, one),
                second_gain=_gain(store, other),
            )
        )
    others = [row for row in rows if row.first != row.second]
    show_table(
        f"{spec.first} -> {spec.second}: {len(others)} of {len(rows)} domains differ",
        ("domain", spec.first, spec.second, "gate gains"),
        [_diff_cells(row) for row in others[:MAX_DOMAINS]],
        text=(spec.first, spec.second),
        caption="Each gain was measured on the gate rows of its own night.",
    )
    return 0, DiffAnswer(registry=store.uri, first=spec.first, second=spec.second, domains=rows)


def _diff_cells(row: DomainDifference) -> tuple[str, ...]:
    gains = (number(gain, 5, sign=True) for gain in (row.first_gain, row.second_gain))
    return row.domain, (row.first or "-")[:12], (row.second or "-")[:12], " -> ".join(gains)


def _gain(store: Store, pointer: Pointer | None) -> float | None:
    """Return a bundle's gain on its gate rows; None where it is no longer there."""
    try:
        return read_entry(store, pointer.stored).gain if pointer else None
    except Corrupt:
        return None


def _state(store: Store, name: str) -> Mapping[str, Pointer]:
    """Return the pointers that `champion` or `champion:12` names."""
    word, _, generation = name.partition(":")
    alias: Alias = "champion" if word == "champion" else "candidate"
    commit = read_commit(store, int(generation)) if generation else read_head(store)
    return commit.pointers.get(alias, {}) if commit else {}


def promote(spec: RegistryPromoteSpec) -> tuple[int, PromoteAnswer]:
    """Promote what the gate published, and show what moved, what was held and what was forced."""
    from iak.pipeline.registry.promote import promote_alias, promote_run
    from iak.pipeline.runs.finished_run import finished_run  # loads torch, which takes seconds

    store = open_store(spec.registry)
    asked: dict[str, Any] = {"domains": spec.domains or None, "force": spec.force}
    asked["replay"] = _replay(spec.shadow) if spec.shadow else None
    with announce("verifying and storing bundles", after_s=2.0):
        if spec.run is not None:
            promotion = promote_run(store, finished_run(spec.run), spec.alias, **asked)
        else:
            assert spec.source is not None, "the spec has one of both"
            promotion = promote_alias(store, spec.source, spec.alias, **asked)
    moves = promotion.commit.moves if promotion.commit else []
    _show_promotion(promotion, f"{spec.alias} of {spec.registry}")
    answer = PromoteAnswer(
        registry=spec.registry,
        alias=spec.alias,
        generation=_generation(promotion.commit),
        moves=moves,
        unchanged=list(promotion.unchanged),
        forced=list(promotion.forced),
        held=dict(promotion.held),
    )
    if promotion.held:
        return SOME_HELD, answer
    return (OK if moves else NOTHING_TO_DO), answer


def _show_promotion(promotion: "Promotion", where: str) -> None:
    """Show what moved, what was served already, and what was forced or held.

    Args:
        promotion: what the registry did.
        where: alias and registry, for the title.
    """
    if promotion.commit and promotion.commit.moves:
        moves = promotion.commit.moves
        show_table(
            f"{where}, commit {_generation(promotion.commit)}",
            ("domain", "before", "after", "why"),
            [
                (name, (m.before or "-")[:12], (m.after or "-")[:12], m.reason)
                for name, m in zip(promotion.moved, moves, strict=True)
            ],
            text=("before", "after"),
        )
    if promotion.unchanged:
        names = ", ".join(promotion.unchanged)
        console.print(f"served by the same bundle already: {names}", markup=False)
    if promotion.forced:
        names = ", ".join(promotion.forced)
        console.print(f"held by the gate and promoted by force: {names}", markup=False)
    for name, reason in promotion.held.items():
        console.print(f"not promoted, the gate held it: {name}: {reason}", markup=False)


def _replay(path: Path) -> ShadowDocument:
    """Return what `iak shadow` wrote."""
    try:
        return ShadowDocument.model_validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise BadRequest(
            f"shadow={path} is no file of `iak shadow json=FILE`: {error}. Replay the candidate "
            "again"
        ) from error


def rollback(spec: RegistryRollbackSpec) -> tuple[int, RollbackAnswer]:
    """Return domains to the bundles they had before, and show what serves them now."""
    store = open_store(spec.registry)
    tracked = _tracked(spec, store)
    done = roll_back(store, spec.alias, spec.domain)
    for one in done.domains:
        now = (
            f"bundle {one.entry.digest[:12]} of {one.entry.lineage.run} serves again"
            if one.entry
            else "it had none before, so its parent, the pooled kernel or the base serves"
        )
        console.print(f"{one.domain}: bundle {one.left[:12]} serves no longer; {now}", markup=False)
    if tracked is not None:
        from iak.pipeline.runs.nightly_notify import follow_rollback  # loads NumPy and more

        console.print(follow_rollback(tracked, store, token=os.environ.get(TOKEN)), markup=False)
    return 0, RollbackAnswer(
        registry=spec.registry, generation=done.commit.generation, moves=done.commit.moves
    )


def _tracked(spec: RegistryRollbackSpec, store: Store) -> NightlySpec | None:
    """Return the settings whose MLflow server follows a rollback; None where none does.

    Raises:
        BadRequest: the file names another registry.
    """
    if spec.nightly is None or spec.alias != "champion":
        return None
    from iak.pipeline.runs.load import load_nightly

    settings = load_nightly(spec.nightly)
    if open_store(settings.registry).uri != store.uri:
        raise BadRequest(
            f"nightly={spec.nightly} is of the registry {settings.registry}, and registry= names "
            f"{spec.registry}. Nothing moved; give the file of this registry"
        )
    return settings if settings.notify.tracking is not None else None


def verify(spec: RegistryVerifySpec) -> tuple[int, VerifyAnswer]:
    """Read all commits and all bundles."""
    with announce("reading every byte", after_s=2.0):
        report = verify_registry(open_store(spec.registry))
    show_facts(
        f"registry {spec.registry}: {'damaged' if report.problems else 'sound'}",
        {
            "commits": f"{report.commits:,}",
            "bundles": f"{report.bundles:,}, {report.bytes:,} bytes sound",
            "not committed": f"{report.uncommitted:,}, of killed promotions (gc removes them)",
        },
    )
    return 0, VerifyAnswer(
        registry=spec.registry,
        commits=report.commits,
        bundles=report.bundles,
        bytes=report.bytes,
        uncommitted=report.uncommitted,
        problems=list(report.problems),
    )


def forget(spec: RegistryForgetSpec) -> tuple[int, ForgetReport]:
    """Print what a request to delete users' data touches, and remove caches where asked to."""
    from iak.pipeline.runs.forget import find_touched  # loads torch, which takes seconds

    users = {line.strip() for line in spec.rows_of.read_text().splitlines()} - {""}
    if not users:
        raise BadRequest(f"rows_of={spec.rows_of} names no user; expected one a line")
    with announce("reading the user column of the log's files", after_s=2.0):
        touched = find_touched(open_store(spec.registry), users, remove_caches=spec.remove_caches)
    _show_touched(touched)
    return 0, touched


def _show_touched(touched: ForgetReport) -> None:
    """Print files, then what was made from them, worst first."""
    show_table(
        f"files with rows of {touched.users:,} users",
        ("file", "rows"),
        [(file.path, f"{file.rows:,}") for file in touched.files[:MAX_DOMAINS]],
        ends_in_number=True,
    )
    lines = [
        *(("base", b.path, b.state, _rows(b.rows), b.reason) for b in touched.bases),
        *(("cache", c.path, c.state, "-", _cache_note(c)) for c in touched.caches),
        *(
            (f"bundle {', '.join(b.aliases)}", b.domain, b.state, _rows(b.rows), b.reason)
            for b in touched.bundles
        ),
    ]
    lines.sort(key=lambda line: ("touched", "unknown", "untouched").index(line[2]))
    show_table(
        "made from them",
        ("what", "name", "state", "rows", "note"),
        lines[:MAX_DOMAINS],
        text=("name", "state"),
        caption="Tune again on a log without these rows, promote, then gc keep=0; pre-train the "
        "base again. json= writes all lines.",
    )


def _rows(rows: int | None) -> str:
    return "-" if rows is None else f"{rows:,}"


def _cache_note(cache: TouchedCache) -> str:
    return f"{cache.bytes:,} bytes{', removed' if cache.is_removed else ''}"


def gc(spec: RegistryGcSpec) -> tuple[int, GcAnswer]:
    """Remove bundles that no pointer and no rollback needs; with `dry_run` only show them."""
    done = remove_unneeded(open_store(spec.registry), keep=spec.keep, dry_run=spec.dry_run)
    show_facts(
        f"{'would remove from' if spec.dry_run else 'removed from'} {spec.registry}",
        {
            "bundles": f"{len(done.removed):,}, {done.bytes:,} bytes",
            "kept": f"{done.kept:,}: pointed at, or one of {spec.keep} rollbacks of a domain",
            "unfinished files of killed writers": f"{done.unfinished:,}",
        },
    )
    stale = _stale(spec)
    for what, folders in stale.items():
        size = sum(folder.bytes for folder in folders)
        console.print(f"{what}: {len(folders):,} folders, {size:,} bytes", markup=False)
    return 0, GcAnswer(
        registry=spec.registry,
        dry_run=spec.dry_run,
        removed=list(done.removed),
        bytes=done.bytes,
        kept=done.kept,
        folders=[
            StaleFolder(what=what, path=str(folder.path), bytes=folder.bytes)
            for what, folders in stale.items()
            for folder in folders
        ],
    )


def _stale(spec: RegistryGcSpec) -> dict[str, list["Stale"]]:
    """Empty old nights' run folders and remove unused mapped tables, where the spec names them."""
    if spec.nights is None and spec.base is None:
        return {}
    from iak.pipeline.runs.stale import remove_stale_runs, remove_unused_tables  # load torch

    removed = {}
    if spec.nights is not None:
        removed["runs of old nights"] = remove_stale_runs(
            spec.nights, keep=spec.keep_nights, dry_run=spec.dry_run
        )
    if spec.base is not None:
        removed["unused mapped tables"] = remove_unused_tables(
            spec.base, days=spec.mapped_days, dry_run=spec.dry_run
        )
    return removed


def _pointers(head: Commit | None, alias: Alias) -> list[Pointer]:
    return list(head.pointers.get(alias, {}).values()) if head else []


def _has(head: Commit | None, alias: Alias, domain: str) -> bool:
    pointers = head.pointers.get(alias, {}) if head else {}
    return any(domain in (folder, pointer.name) for folder, pointer in pointers.items())


def _generation(commit: Commit | None) -> int | None:
    return commit.generation if commit else None
