"""`iak show PATH`: show what a run, a published base or a folder of bundles holds.

Documents are read as JSON, field by field, and not as the types of schemas/. So a folder of an
older or newer format is shown as far as possible. Then bundles are compared with their index. So
bundles that no index lists, and a folder that lacks one, are shown first and then refused.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from iak.jobs.progress import console
from iak.jobs.tables import number, show_facts, show_table
from iak.pipeline.errors import BadRequest, Corrupt
from iak.pipeline.files import put_output
from iak.pipeline.runs.record import RECORD, check_unchanged
from iak.pipeline.storage.working_copy import readable_folder
from iak.schemas.base import JsonObject
from iak.schemas.job import ShowSpec
from iak.schemas.paths import reference_text

MANIFEST, INDEX = "manifest.json", "index.json"
_MAX_DOMAINS = 40
_MAX_OUTPUTS = 8
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


@dataclass(slots=True, kw_only=True)
class FolderDocuments:
    """The documents of a folder, as JSON of any version; None for what it does not have."""

    record: JsonObject | None = None
    base: JsonObject | None = None
    """Manifest of a base."""
    base_folder: str | None = None
    bundles: list[JsonObject] | None = None
    """Manifests of bundles, with the bytes of each folder."""
    bundles_folder: str | None = None
    index_folder: str | None = None
    """The folder of bundles that should have an index."""

    def as_json(self) -> JsonObject:
        """Return the documents that there are, as JSON values."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def main(spec: ShowSpec) -> int:
    """Show what a run, a published base or a folder of bundles holds."""
    documents = read_folder(readable_folder(spec.path))
    record = documents.record
    if record:
        _show_record(record, spec.path)
    if documents.base and documents.base_folder:
        _show_base(documents.base, documents.base_folder, record)
    if documents.bundles and documents.bundles_folder:
        _show_bundles(documents.bundles, documents.bundles_folder, record)
    if spec.json_out:
        put_output(spec.json_out, json.dumps(documents.as_json(), indent=1))
    if documents.index_folder:
        from iak.pipeline.publish.bundle_index import read_index  # loads torch, which takes seconds

        read_index(Path(documents.index_folder))
    return 0


def read_folder(path: Path) -> FolderDocuments:
    """Read the documents of a folder: its record, base manifest and bundle manifests.

    Args:
        path: a run folder, a published base, a folder of bundles, or one bundle.

    Raises:
        BadRequest: the folder is missing, or none of these.
        Corrupt: a document is not JSON, or the record is not what was written.
    """
    if not path.is_dir():
        raise BadRequest(f"no folder at {path}; give a run folder, a base or a bundles folder")
    documents = FolderDocuments()
    if (path / RECORD).is_file():
        documents.record = _read(path / RECORD)
        check_unchanged(documents.record, path / RECORD)
    base = next((f for f in (path, path / "base") if _kind(f) == "iak-base"), None)
    if base is not None:
        documents.base, documents.base_folder = _read(base / MANIFEST), str(base)
    _read_bundles(documents, path)
    if documents == FolderDocuments():
        names = ", ".join(sorted(p.name for p in path.iterdir())[:10]) or "nothing"
        raise BadRequest(
            f"{path} is not a run, base or bundles folder: it has no {RECORD}, no {MANIFEST} of a "
            f"base or a bundle (here, in base/, in bundles/ or one folder down). It holds {names}"
        )
    return documents


def _read_bundles(documents: FolderDocuments, path: Path) -> None:
    """Read the bundle that a folder is, or the bundles of the first folder that has some."""
    if _kind(path) == "iak-bundle":
        documents.bundles, documents.bundles_folder = [_bundle(path)], str(path)
        return
    for folder in (path, path / "bundles"):
        inside = sorted(folder.iterdir()) if folder.is_dir() else []
        # Dot files are parts that are not in place yet.
        bundles = [f for f in inside if not f.name.startswith(".") and _kind(f) == "iak-bundle"]
        if bundles or (folder / INDEX).is_file():  # one with an index and no bundle lost them
            documents.bundles = [_bundle(each) for each in bundles]
            documents.bundles_folder = documents.index_folder = str(folder)
            return


def _kind(folder: Path) -> str | None:
    path = folder / MANIFEST
    return str(_read(path).get("kind")) if path.is_file() else None


def _read(path: Path) -> JsonObject:
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise Corrupt(f"{path} cannot be read as JSON: {error}. Restore it from a copy") from error
    if not isinstance(document, dict):
        raise Corrupt(f"{path} holds a {type(document).__name__}, not a document")
    return document


def _bundle(folder: Path) -> JsonObject:
    """Return a bundle's manifest, and the bytes of its folder."""
    size = sum(f.stat().st_size for f in folder.iterdir() if f.is_file())
    return _read(folder / MANIFEST) | {"bytes": size}


# ---------------------------------------------------------------- a run


def _show_record(record: JsonObject, path: Path) -> None:
    result = _dict(record.get("result"))
    spec = _dict(record.get("spec"))
    outputs = _outputs(_dict(record.get("outputs")))
    asked = ("catalog", "data_root", "base", "bundles", "live", "from", "split", "workers", "seed")
    show_facts(
        f"run {reference_text(path)}: iak {record.get('verb')}, {record.get('status')}",
        {
            "exit code": "-" if record.get("exit_code") is None else record["exit_code"],
            "started": f"{record.get('started_at')}, attempt {record.get('attempts', 1)}",
            "ended": record.get("ended_at") or "-",
            "commit": record.get("commit") or "unknown",
            "versions": record.get("versions") or "unknown",
            "machine": _machine(_dict(record.get("machine"))),
            "asked": {k: spec[k] for k in asked if spec.get(k) is not None},
            "inputs": _digests(_dict(record.get("inputs"))) or "unknown",
            "seconds": record.get("timings_s") or "-",
        }
        | ({"outputs": outputs} if outputs else {})
        | ({"error": record["error"]} if record.get("error") else {}),
    )
    _show_window(_dict(record.get("snapshot")))
    if kernels := result.get("kernels"):
        _show_kernels(kernels)
    whose = "the untouched parent" if result.get("is_parent_best") else "the best state"
    _show_tasks(result.get("best_tasks") or [], whose)
    facts = {
        name.replace("_", " "): _short(value)
        for name, value in result.items()
        if isinstance(value, str | int | float | bool) or (name == "contract" and value)
    }
    if facts:
        show_facts("result", facts)
    if (path / "metrics.json").is_file():
        _show_metrics(json.loads((path / "metrics.json").read_text()))


def _digests(inputs: JsonObject) -> dict[str, str]:
    """Return the inputs of a run, with digests that are short enough to compare by eye."""
    return {name: str(digest)[:12] for name, digest in inputs.items()}


def _outputs(outputs: JsonObject) -> dict[str, str]:
    """Return the results of a run: path -> bytes and the short digest that covers them."""
    shown = {name: _dict(output) for name, output in [*outputs.items()][:_MAX_OUTPUTS]}
    lines = {
        name: f"{bytes_text(output.get('bytes', 0))}, {str(output.get('sha256'))[:12]}"
        for name, output in shown.items()
    }
    more = len(outputs) - len(shown)
    return lines | ({"more": f"{more:,}"} if more else {})


def _machine(machine: JsonObject) -> str:
    return (
        f"{machine.get('processor', '?')}, {machine.get('cores', '?')} cores, "
        f"{machine.get('memory_gib', '?')} GiB"
    )


def _show_window(snapshot: JsonObject) -> None:
    """Show the rows that a run read, by split."""
    if not snapshot:
        return
    files = snapshot.get("files")
    count = f"{len(files):,} files, " if isinstance(files, list) else ""
    show_facts(
        f"log {snapshot.get('uri', '?')}",
        {
            "snapshot": f"{str(snapshot.get('fingerprint', '?'))[:12]}, {count}"
            f"{snapshot.get('rows', 0):,} rows, labels as of {snapshot.get('as_of') or '-'}",
            **_window_lines(_dict(snapshot.get("splits"))),
        },
    )


def _window_lines(splits: JsonObject) -> dict[str, str]:
    """Return a line for each split: its rows and its days."""
    return {
        f"split {name}": f"{s.get('rows', 0):,} rows, "
        + (f"{s['first']} to {s['last']}" if s.get("first") else "no dates")
        for name, s in splits.items()
    }


def _show_kernels(kernels: Sequence[JsonObject]) -> None:
    has_shares = any(k.get("own_share") is not None for k in kernels)
    has_outside = any(k.get("outside") for k in kernels)
    lines = [
        (
            str(k.get("domain")),
            f"{k.get('tuning_rows', 0):,}",
            _gate_rows(_dict(k.get("gate"))),
            number(_dict(k.get("gate")).get("gain"), 5, sign=True),
            _code(k),
            *([number(k.get("own_share"), 2)] if has_shares else []),
            *([number(_dict(k.get("outside")).get("change"), 5, sign=True)] if has_outside else []),
            ("published: " if k.get("published") else "held: ")
            + str(k.get("reason", ""))
            + _task_verdicts(_dict(k.get("gate"))),
        )
        for k in kernels[:_MAX_DOMAINS]
    ]
    published = sum(bool(k.get("published")) for k in kernels)
    title = f"kernels: {published:,} of {len(kernels):,} published"
    columns = ["domain", "tuning rows", "gate rows", "gain", "code"]
    # A share of 0.4: the kernel keeps 0.4 of its own change, and its parent's kernel for the rest.
    columns += ["own change"] if has_shares else []
    # Loss outside the kernel's domain minus the base's there, in nats a row.
    columns += ["loss outside"] if has_outside else []
    show_table(title, (*columns, "verdict"), lines)
    _show_rest(len(kernels))


def _code(kernel: JsonObject) -> str:
    """Return the rate of a kernel's code and its active units; a dash where none was measured."""
    code = _dict(kernel.get("code"))
    if kernel.get("rate") is None or not code:
        return number(kernel.get("rate"), 2)
    return (
        f"{number(kernel['rate'], 2)} nats, {code.get('active_units')} of {code.get('units')} units"
    )


def _gate_rows(gate: JsonObject) -> str:
    rows = gate.get("rows")
    return f"{rows:,}" if isinstance(rows, int) else "-"


def _show_metrics(rows: Sequence[JsonObject]) -> None:
    """Show AUC and log-loss of every method and task, over all rows."""
    shown = [r for r in rows if r.get("domain") == "pooled"] or list(rows)
    domains = {str(r.get("domain")) for r in rows} - {"all", "pooled"}
    show_table(
        f"metrics over all rows ({len(domains):,} domains in metrics.json)",
        ("method", "task", "rows", "positives", "AUC", "log-loss", "calibration"),
        [
            (
                str(r.get("method")),
                str(r.get("task")),
                f"{r.get('rows', 0):,}",
                f"{r['positives']:,.0f}" if r.get("positives") is not None else "-",
                number(r.get("auc")),
                number(r.get("logloss")),
                number(r.get("calibration"), 3),
            )
            for r in shown
        ],
        ends_in_number=True,
    )


# ---------------------------------------------------------------- a base


def _show_base(manifest: JsonObject, folder: str, record: JsonObject | None) -> None:
    """Show the base's manifest, without the fields that the run's record has shown."""
    files = manifest.get("files") or []
    catalog = _dict(manifest.get("catalog"))
    size = sum(int(f.get("bytes", 0)) for f in files)
    metrics = manifest.get("metrics") or []
    origin = "runs elsewhere" if catalog.get("base") else "was trained from the beginning"
    show_facts(
        f"base {folder}",
        {
            "fingerprint": manifest.get("fingerprint"),
            "parent": manifest.get("parent") or f"none: it {origin}",
            "created": manifest.get("created_at"),
            "log": _dict(catalog.get("log")).get("name", "?"),
            "tasks": ", ".join(str(t.get("label")) for t in catalog.get("tasks") or []),
            "size": f"{bytes_text(size)} in {len(files):,} files",
            "metrics": _named(metrics) or "none",
            **({} if record else {"versions": manifest.get("versions") or "unknown"}),
        },
    )
    if not record:
        _show_window(_dict(manifest.get("snapshot")))
        _show_tasks([m for m in metrics if m.get("task")])
    _show_tables(manifest.get("tables") or [], files)
    _show_precisions(manifest.get("precisions") or [])


def _named(metrics: Sequence[JsonObject]) -> JsonObject:
    """Return the value of each metric of a base by its name."""
    # A metric's name alone is not unique: there is an unseen share for every table.
    return {
        m["name"] + (f" of {m['table']}" if m.get("table") else ""): _short(m.get("value"))
        for m in metrics
        if "name" in m
    }


def _show_tables(tables: Sequence[JsonObject], files: Sequence[JsonObject]) -> None:
    """Show each table of a base with the bytes of its files."""
    bytes_of = Counter[str | None]()
    for file in files:
        bytes_of[file.get("table")] += int(file.get("bytes", 0))
    show_table(
        "tables",
        ("table", "rows", "width", "bytes", "read by"),
        [
            (
                str(t.get("name")),
                f"{t.get('rows', 0):,}",
                str(t.get("width")),
                bytes_text(bytes_of[t.get("name")]),
                ", ".join(t.get("features") or []),
            )
            for t in tables
        ],
    )


def _show_tasks(tasks: Sequence[JsonObject], whose: str = "this base") -> None:
    """Show log-loss, AUC and calibration of each task."""
    if tasks:
        show_table(
            f"on validation rows, {whose}",
            ("task", "rows", "positives", "log-loss", "AUC", "predicted/observed"),
            [
                (
                    str(task["task"]),
                    f"{task.get('rows', 0):,}",
                    f"{task.get('positives', 0):,}",
                    number(task.get("log_loss"), 5),
                    number(task.get("auc")),
                    number(task.get("calibration"), 3),
                )
                for task in tasks
            ],
            ends_in_number=True,
        )


def _show_precisions(entries: Sequence[JsonObject]) -> None:
    """Show the AUC that each precision of the tables costs, by task."""
    full = {e.get("task"): e for e in entries if e.get("precision") == "fp32"}
    lines = []
    for entry in entries:
        before = _dict(full.get(entry.get("task"))).get("auc")
        auc = entry.get("auc")
        cost = auc - before if auc is not None and before is not None else None
        lines.append(
            (
                str(entry.get("precision")),
                str(entry.get("task")),
                f"{entry.get('rows', 0):,}",
                number(auc, 5),
                number(cost, 5, sign=True) if cost is not None else entry.get("reason") or "-",
            )
        )
    if lines:
        columns = ("precision", "task", "rows", "AUC", "AUC against fp32")
        show_table("what a precision of the tables costs", columns, lines)


# ---------------------------------------------------------------- bundles


def _show_bundles(bundles: Sequence[JsonObject], folder: str, record: JsonObject | None) -> None:
    """Show the bundles' manifests, without the fields that the run's record has shown."""
    published = sum(bool(_dict(b.get("verdict")).get("publish")) for b in bundles)
    bases = {str(b.get("base_fingerprint")) for b in bundles}
    size = sum(int(b.get("bytes", 0)) for b in bundles)
    show_facts(
        f"bundles {folder}",
        {
            "kernels": f"{len(bundles):,}, {published:,} of them published",
            "base": ", ".join(sorted(bases)),
            "size": bytes_text(size),
            "created": max(str(b.get("created_at")) for b in bundles),
            **({} if record else {"versions": bundles[0].get("versions") or "unknown"}),
        },
    )
    if record and _dict(record.get("result")).get("kernels"):
        return
    show_table(
        "kernels",
        ("domain", "tuning rows", "gate rows", "gain", "verdict"),
        [_bundle_line(b) for b in bundles[:_MAX_DOMAINS]],
    )
    _show_rest(len(bundles))
    window = _dict(bundles[0].get("data_window"))
    splits = {name: split for name, split in window.items() if isinstance(split, dict)}
    show_facts(
        f"tuned on snapshot {str(window.get('snapshot', 'unknown'))[:12]}", _window_lines(splits)
    )


def _bundle_line(bundle: JsonObject) -> tuple[str, str, str, str, str]:
    verdict = _dict(bundle.get("verdict"))
    domain = _dict(bundle.get("domain"))
    tuned = _dict(bundle.get("data_window")).get("tuning_rows")
    word = "published" if verdict.get("publish") else "held"
    return (
        "/".join(f"{k}={domain.get(k)}" for k in bundle.get("level") or domain) or "pooled",
        f"{tuned:,}" if isinstance(tuned, int) else "-",
        _gate_rows(verdict),
        number(verdict.get("gain"), 5, sign=True),
        f"{word}: {verdict.get('reason', '')}{_task_verdicts(verdict)}",
    )


def _task_verdicts(verdict: JsonObject) -> str:
    """Return the gate's verdict on each task in brackets; empty where there is none."""
    tasks = verdict.get("tasks")
    verdicts = [_task_verdict(_dict(task)) for task in tasks] if isinstance(tasks, list) else []
    return f" ({'; '.join(verdicts)})" if verdicts else ""


def _task_verdict(task: JsonObject) -> str:
    if task.get("judged") is False:
        return f"{task.get('task', '?')}: not judged, {task.get('reason', '')}"
    name = f"{task.get('task', '?')}, {task.get('positives', '?')} positives"
    if task.get("holds"):
        return f"{name}: HOLDS, {task.get('reason', '')}"
    auc = _dict(task.get("auc"))
    return f"{name}: AUC {number(auc.get('delta'), sign=True)}"


def _show_rest(count: int) -> None:
    if count > _MAX_DOMAINS:
        console.print(f"  and {count - _MAX_DOMAINS:,} more; json=FILE writes them all")


def bytes_text(size: float) -> str:
    """Return a number of bytes with a unit: 1.2 MiB."""
    for unit in _UNITS:
        if size < 1024 or unit == _UNITS[-1]:
            return f"{size:,.0f} {unit}" if unit == "B" else f"{size:,.1f} {unit}"
        size /= 1024
    raise AssertionError("the last unit takes what is left")


def _dict(value: object) -> JsonObject:
    return dict(value) if isinstance(value, Mapping) else {}


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.5g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else f"{value}"
