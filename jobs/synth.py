"""`iak synth`: write a planted delivery-platform log whose truth is known."""

import time

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from iak.jobs.progress import console
from iak.jobs.tables import show_facts
from iak.pipeline.planted.files import SynthResult, generate
from iak.pipeline.planted.population import build_knobs
from iak.schemas.synth import SynthJobSpec


def main(spec: SynthJobSpec) -> int:
    """Write a planted delivery-platform log whose truth is known."""
    start = time.monotonic()
    result = write(spec)
    seconds = time.monotonic() - start
    state = "was there already" if result.was_there else f"written in {seconds:.1f} s"
    show_facts(
        f"planted log at {result.out}: {state}",
        {
            "rows": f"{result.rows:,}",
            "click rate": f"{result.clicks / result.rows:.4f}",
            "orders a click": f"{result.orders / max(result.clicks, 1):.4f}",
            "digest": result.digest[:16],
            "rows/s": "-" if result.was_there else f"{result.rows / seconds:,.0f}",
        },
    )
    return 0


def write(spec: SynthJobSpec) -> SynthResult:
    """Write the log, and show a bar while it grows."""
    columns = (TextColumn("synth: rows"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("synth", total=spec.rows)
        return generate(build_knobs(spec), spec.out, lambda rows: bar.advance(task, rows))
