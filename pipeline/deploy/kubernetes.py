"""Describe the nights as Kubernetes objects: KubeRay's jobs and cron jobs, and what they need.

Where `cluster` is local, every night gets a Ray cluster of its own, which ends with the night.
Where `cluster` names a job server, nights are submitted to the Ray cluster behind it, which stays.
"""

from datetime import UTC, datetime
from urllib.parse import urlsplit

import yaml

from iak.pipeline.deploy.command import dns_name, scheduled_command
from iak.pipeline.deploy.pods import (
    CONFIG,
    HEAD_PORTS,
    Manifest,
    container,
    labels,
    metadata,
    pod,
    ray_cluster,
)
from iak.pipeline.nightly.schedule import deadline_of, next_tick
from iak.schemas.nightly import NightlySpec

KUBECTL = "registry.k8s.io/kubectl:v1.34.2"
"""Image that creates a night's RayJob; it holds nothing but kubectl."""
NIGHTLY = "nightly.toml"
_KEPT_S = 24 * 3600
"""Seconds that a finished job is kept, so that a person can read its logs in the morning."""
_AFTER_DEADLINE_S = 1800
"""Seconds after the deadline in which what is ready is promoted and the page is written."""
_MAX_NIGHT_S = 20 * 3600
"""Seconds that a night without a deadline may take: less than a day, to end before the next one."""


def manifests(spec: NightlySpec, files: dict[str, str]) -> dict[str, list[Manifest]]:
    """Return the objects by the name of the file that they go into.

    Args:
        spec: the nights.
        files: text of nightly.toml and of a catalogue file, by their path beside it.
    """
    shared = [_namespace(spec), _service_account(spec), _config(spec, files)]
    network = [_network_policy(spec)]
    if spec.cluster != "local":
        return {
            "base.yaml": shared,
            "network.yaml": network,
            "raycluster.yaml": [_object("ray.io/v1", "RayCluster", spec, ray_cluster(spec))],
            "cronjob.yaml": [_submitting_cron_job(spec)],
        }
    return {
        "base.yaml": [*shared, *_may_create_ray_jobs(spec)],
        "network.yaml": network,
        "rayjob.yaml": [ray_job(spec)],
        "cronjob.yaml": [_cron_job(spec)],
        "raycronjob.yaml": [_ray_cron_job(spec)],
    }


def ray_job(spec: NightlySpec) -> Manifest:
    """Return one night as a RayJob; it gets a new name each time it is created."""
    name = metadata(spec)
    name["generateName"] = f"{name.pop('name')}-"
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": name,
        "spec": _ray_job_spec(spec),
    }


def seconds_of_a_night(spec: NightlySpec) -> int:
    """Return the seconds after which the scheduler stops a night."""
    tick = next_tick(spec.schedule, datetime(2026, 1, 1, tzinfo=UTC))
    deadline = deadline_of(spec.schedule, tick.instant)
    if deadline is None:
        return _MAX_NIGHT_S
    return int((deadline - tick.instant).total_seconds()) + _AFTER_DEADLINE_S


def as_yaml(objects: list[Manifest]) -> str:
    """Return objects as YAML documents, with texts of many lines as blocks."""
    return yaml.dump_all(objects, Dumper=_Dumper, sort_keys=False, width=100)


class _Dumper(yaml.SafeDumper):
    """Write texts of several lines as blocks."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002
        """Write an object again where it repeats: people read these files."""
        return True


def _block_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _block_text)


def _object(version: str, kind: str, spec: NightlySpec, body: Manifest) -> Manifest:
    return {"apiVersion": version, "kind": kind, "metadata": metadata(spec), "spec": body}


def _ray_job_spec(spec: NightlySpec) -> Manifest:
    return {
        "entrypoint": scheduled_command(spec, CONFIG / NIGHTLY),
        # Each attempt has a new Ray cluster. The night resumes in its own folder.
        "backoffLimit": spec.deploy.retries,
        "activeDeadlineSeconds": seconds_of_a_night(spec),
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": _KEPT_S,
        "rayClusterSpec": ray_cluster(spec),
    }


def _ray_cron_job(spec: NightlySpec) -> Manifest:
    """Return the schedule as KubeRay's own kind.

    A RayCronJob has no field against two nights at a time. The lock on `nights` prevents them.
    """
    body = {
        "schedule": spec.schedule.cron,
        "timeZone": spec.schedule.time_zone,
        "jobTemplate": _ray_job_spec(spec),
    }
    return _object("ray.io/v1", "RayCronJob", spec, body)


def _cron_job(spec: NightlySpec) -> Manifest:
    """Return the schedule as a CronJob of Kubernetes that creates a RayJob each night."""
    described = container(spec, "create", command=["kubectl", "create", "-f", "/etc/iak/job.yaml"])
    described |= {"image": KUBECTL, "resources": _small()}
    described.pop("envFrom", None)  # kubectl needs no key of a store
    described["volumeMounts"] = [
        {"name": "job", "mountPath": str(CONFIG), "readOnly": True},
        {"name": "scratch", "mountPath": "/tmp"},
    ]
    body = pod(spec, described)
    body |= {
        "restartPolicy": "Never",
        "serviceAccountName": dns_name(spec),
        "automountServiceAccountToken": True,  # kubectl asks the API server by this token
        "volumes": [
            {
                "name": "job",
                "configMap": {
                    "name": dns_name(spec),
                    "items": [{"key": "job.yaml", "path": "job.yaml"}],
                },
            },
            {"name": "scratch", "emptyDir": {}},
        ],
    }
    return _scheduled(spec, body, seconds=300)


def _submitting_cron_job(spec: NightlySpec) -> Manifest:
    """Return the schedule as a CronJob that submits each night to the cluster's job server."""
    command = ["sh", "-c", scheduled_command(spec, CONFIG / NIGHTLY)]
    described = container(spec, "submit", command=command)
    described["resources"] = _small(memory="2Gi")
    body = pod(spec, described)
    body["restartPolicy"] = "Never"
    return _scheduled(spec, body, seconds=seconds_of_a_night(spec))


def _scheduled(spec: NightlySpec, body: Manifest, *, seconds: int) -> Manifest:
    job = {
        "backoffLimit": spec.deploy.retries,
        "activeDeadlineSeconds": seconds,
        "ttlSecondsAfterFinished": _KEPT_S,
        "template": {"metadata": {"labels": labels(spec)}, "spec": body},
    }
    cron = {
        "schedule": spec.schedule.cron,
        "timeZone": spec.schedule.time_zone,
        "concurrencyPolicy": "Forbid",
        "startingDeadlineSeconds": 3600,
        "successfulJobsHistoryLimit": 3,
        "failedJobsHistoryLimit": 3,
        "jobTemplate": {"spec": job},
    }
    return _object("batch/v1", "CronJob", spec, cron)


def _small(memory: str = "128Mi") -> Manifest:
    return {"requests": {"cpu": "100m", "memory": memory}, "limits": {"memory": memory}}


def _namespace(spec: NightlySpec) -> Manifest:
    """Return the namespace, in which pods with more rights than these are refused."""
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": spec.deploy.namespace,
            "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
        },
    }


def _service_account(spec: NightlySpec) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": metadata(spec),
        "automountServiceAccountToken": False,
    }


def _may_create_ray_jobs(spec: NightlySpec) -> list[Manifest]:
    """Return the one right that a CronJob's pod needs."""
    rule = {"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["create"]}
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": metadata(spec),
        "rules": [rule],
    }
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": metadata(spec),
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "Role",
            "name": dns_name(spec),
        },
        "subjects": [
            {
                "kind": "ServiceAccount",
                "name": dns_name(spec),
                "namespace": spec.deploy.namespace,
            }
        ],
    }
    return [role, binding]


def _config(spec: NightlySpec, files: dict[str, str]) -> Manifest:
    """Return nightly.toml, the catalogue's file and the RayJob, as every pod reads them.

    A key of a ConfigMap has no slash, so a catalogue must lie beside nightly.toml.
    """
    data = {NIGHTLY: files[NIGHTLY], **files}
    if spec.cluster == "local":
        data["job.yaml"] = as_yaml([ray_job(spec)])
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata(spec), "data": data}


def _network_policy(spec: NightlySpec) -> Manifest:
    """Return who may talk to the service's pods, and whom they may talk to."""
    own = {"podSelector": {"matchLabels": labels(spec)}}
    in_namespace = "kubernetes.io/metadata.name"
    operator = {"namespaceSelector": {"matchLabels": {in_namespace: spec.deploy.operator}}}
    monitoring = {"namespaceSelector": {"matchLabels": {in_namespace: spec.deploy.monitoring}}}
    dns = [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")]
    outside = [{"protocol": "TCP", "port": port} for port in _ports_outside(spec)]
    body: Manifest = {
        "podSelector": {"matchLabels": labels(spec)},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [
            {"from": [own]},
            {"from": [operator], "ports": [_tcp(HEAD_PORTS["dashboard"])]},
            {"from": [monitoring], "ports": [_tcp(HEAD_PORTS["metrics"])]},
        ],
        "egress": [{"to": [own]}, {"ports": dns}, {"ports": outside}],
    }
    return _object("networking.k8s.io/v1", "NetworkPolicy", spec, body)


def _tcp(port: int) -> Manifest:
    return {"protocol": "TCP", "port": port}


def _ports_outside(spec: NightlySpec) -> list[int]:
    """Return the ports of object stores, of the API server, and of servers that the file names."""
    ports = {443, 6443, *spec.deploy.egress_ports}
    for address in (spec.cluster, spec.notify.tracking):
        parts = urlsplit(address or "")
        if parts.scheme in ("http", "https"):
            ports.add(parts.port or (443 if parts.scheme == "https" else 80))
    return sorted(ports)
