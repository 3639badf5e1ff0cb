"""A night on disk as a run leaves it, with its settings."""

from iak.pipeline.publish.bundle import bundle_name
from iak.pipeline.report.nights import write_night
from iak.schemas.nightly import NightlySpec
from tests.nights import a_night


def settings(folder, **changes):
    return NightlySpec(
        **{
            "name": "shop",
            "catalog": "planted",
            "data_root": "/log",
            "base": folder,
            "registry": str(folder / "registry"),
            "nights": folder / "nights",
            **changes,
        }
    )


def written(folder, record=None, **changes):
    """The record of a night whose page, record and bundles lie below a folder."""
    record = (record or a_night(domains=3)).model_copy(update={"page": "page.html", **changes})
    run = folder / "runs" / record.id
    nights = folder / "nights" / f"{record.night}-{record.id}"
    nights.mkdir(parents=True, exist_ok=True)
    (nights / "page.html").write_text("<p>the page</p>")
    for domain in record.domains:
        bundle = run / "bundles" / bundle_name(dict(domain.decision.domain) or None)
        bundle.mkdir(parents=True, exist_ok=True)
        (bundle / "kernel.safetensors").write_bytes(b"weights of " + bundle.name.encode())
        (bundle / "manifest.json").write_text("{}")
    return write_night(record.model_copy(update={"run_dir": str(run)}), nights), nights
