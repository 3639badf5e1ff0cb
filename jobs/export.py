"""`iak export`: write base and kernels as a folder that torch and NumPy alone can predict with."""

from iak.jobs.progress import announce, console
from iak.jobs.tables import show_facts
from iak.pipeline.runs.export import export
from iak.pipeline.runs.load import load_catalog
from iak.schemas.export import ExportSpec


def main(spec: ExportSpec) -> int:
    """Export, and show what was written."""
    catalog = load_catalog(spec.catalog)
    with announce("exporting"):
        result = export(spec, catalog)
    show_facts(
        f"export at {result.out}",
        {
            "base": result.base_fingerprint,
            "kernels": result.kernels,
            "MiB": f"{result.bytes / 2**20:,.1f}",
        },
    )
    for part in result.left_out:
        console.print(f"left out: {part}", markup=False)
    return 0
