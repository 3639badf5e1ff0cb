"""`iak infra render`: write the files that run the nights on Kubernetes, Airflow or systemd."""

from iak.jobs.progress import console
from iak.jobs.tables import show_facts
from iak.pipeline.deploy.render import FIRST_STEPS, render
from iak.pipeline.files import put_output
from iak.pipeline.runs.load import load_nightly
from iak.schemas.deploy import RenderSpec


def main(spec: RenderSpec) -> int:
    """Write the files, and show what to do with each kind."""
    files = render(load_nightly(spec.file), spec)
    for name, text in files.items():
        path = spec.out / name
        put_output(path, text)
    for target in spec.targets:
        names = [name for name in files if name.startswith(f"{target}/")]
        show_facts(target, {"files": ", ".join(names), "then": FIRST_STEPS[target]})
    console.print(f"{len(files)} files at {spec.out}", markup=False)
    return 0
