"""Run one command on the cluster, as `iak submit` sent it, and print its documents at its end."""

import sys
from pathlib import Path

from iak.jobs import cli
from iak.jobs.verbs import split_verb
from iak.pipeline.errors import PipelineError
from iak.pipeline.report.nights import PAGE, RECORD
from iak.pipeline.runs.load import load_nightly
from iak.pipeline.runs.nightly_records import night_folder, read_nights
from iak.pipeline.storage.working_copy import folder_exists, readable_folder
from iak.schemas.nightly_job import NightlyRunSpec

BEGIN, END = "-----BEGIN IAK DOCUMENT ", "-----END IAK DOCUMENT-----"
_DASHES = "-----"


def main() -> None:
    """Run the command; print its record, and end with its exit code."""
    words = sys.argv[1:]
    code = cli.run(words)
    for path in _documents(words):
        print(f"{BEGIN}{path.name}{_DASHES}")
        print(path.read_text().rstrip("\n"))
        print(END, flush=True)
    sys.exit(code)


def documents_in(logs: str) -> dict[str, str]:
    """Return the documents in a job's logs, by name; one that was cut short is left out."""
    documents: dict[str, str] = {}
    name, lines = "", list[str]()
    for line in logs.split("\n"):  # splitlines() would also cut a page at a form feed
        if line.startswith(BEGIN):
            name, lines = line.removeprefix(BEGIN).removesuffix(_DASHES), []
        elif line == END and name:
            documents[name], name = "\n".join(lines) + "\n", ""
        elif name:
            lines.append(line)
    return documents


def without_documents(logs: str) -> str:
    """Return a job's logs without the documents in them."""
    lines, is_inside = [], False
    for line in logs.splitlines(keepends=True):
        text = line.rstrip("\n")
        is_inside = text.startswith(BEGIN) or (is_inside and text != END)
        if not is_inside and text != END:
            lines.append(line)
    return "".join(lines)


def _documents(words: list[str]) -> list[Path]:
    """Return the paths of the record and of small documents that a command wrote, if any."""
    verb, rest = split_verb(words)
    try:
        spec = cli.read_spec(verb, rest)
    except PipelineError:
        return []
    if isinstance(spec, NightlyRunSpec):
        return _of_the_night(load_nightly(spec.file).nights)
    name = verb.rpartition(" ")[2]
    out, run_dir = getattr(spec, "out", None), getattr(spec, "run_dir", None)
    if isinstance(out, Path):
        wanted = [out / f"{name}.json", out / f"{name}.cluster.toml"]
    else:
        folder = run_dir if isinstance(run_dir, Path) and folder_exists(run_dir) else None
        wanted = [readable_folder(folder) / "record.json"] if folder else []
    return [path for path in wanted if path.is_file()]


def _of_the_night(nights: Path) -> list[Path]:
    """Return the record and the page of the night that ran last."""
    records = read_nights(nights).records
    if not records:
        return []
    newest = max(records, key=lambda record: record.ended_at or record.started_at)
    folder = night_folder(readable_folder(nights), newest)
    return [path for path in (folder / RECORD, folder / PAGE) if path.is_file()]


if __name__ == "__main__":
    main()
