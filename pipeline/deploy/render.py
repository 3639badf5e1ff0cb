"""Render the files that run the nights on other machines, from nightly.toml."""

from pathlib import Path, PurePath

from iak.pipeline.deploy import airflow, kubernetes, systemd
from iak.pipeline.deploy.alerts import alert_rules
from iak.pipeline.deploy.command import dns_name
from iak.pipeline.deploy.dashboard import dashboard
from iak.pipeline.deploy.paths import (
    refuse_catalog_elsewhere,
    refuse_long_name,
    refuse_lost_paths,
)
from iak.pipeline.runs.load import catalog_path
from iak.schemas.deploy import RenderSpec, Target
from iak.schemas.nightly import NightlySpec

FIRST_STEPS: dict[Target, str] = {
    "kubernetes": "kubectl apply -f base.yaml -f network.yaml, then either cronjob.yaml or "
    "raycronjob.yaml; kubectl create -f rayjob.yaml runs one night now",
    "airflow": "copy it into Airflow's folder of DAGs; `iak` and nightly.toml are on its workers",
    "systemd": "copy both to /etc/systemd/system, systemctl enable --now NAME.timer",
    "prometheus": "name it in rule_files of prometheus.yml; metrics come from the node exporter's "
    "textfile collector, whose folder is notify.metrics",
    "grafana": "import it as a dashboard",
}
"""Target -> the next steps of a person who has its files."""


def render(spec: NightlySpec, asked: RenderSpec) -> dict[str, str]:
    """Return every file's text by its path in the output folder.

    Raises:
        BadRequest: the nights cannot run on Kubernetes, because of a path that a pod would lose or
            a name that Kubernetes does not take.
    """
    wanted: dict[Target, dict[str, str]] = {}
    file = PurePath(asked.file.absolute())
    if "kubernetes" in asked.targets:
        wanted["kubernetes"] = _kubernetes(spec, asked.file)
    if "airflow" in asked.targets:
        name = dns_name(spec).replace("-", "_")
        wanted["airflow"] = {f"{name}.py": airflow.dag(spec, file)}
    if "systemd" in asked.targets:
        wanted["systemd"] = systemd.units(spec, file, asked.iak)
    if "prometheus" in asked.targets:
        wanted["prometheus"] = {f"{dns_name(spec)}.rules.yaml": alert_rules(spec)}
    if "grafana" in asked.targets:
        wanted["grafana"] = {f"{dns_name(spec)}.json": dashboard(spec)}
    return {
        f"{target}/{name}": text for target, files in wanted.items() for name, text in files.items()
    }


def _kubernetes(spec: NightlySpec, file: Path) -> dict[str, str]:
    refuse_long_name(spec)
    refuse_lost_paths(spec)
    files = {kubernetes.NIGHTLY: file.read_text(encoding="utf-8")}
    refuse_catalog_elsewhere(spec, file)
    if spec.catalog.suffix == ".toml":
        catalog = catalog_path(file.parent / spec.catalog)
        files[spec.catalog.name] = catalog.read_text(encoding="utf-8")
    objects = kubernetes.manifests(spec, files)
    return {name: kubernetes.as_yaml(documents) for name, documents in objects.items()}
