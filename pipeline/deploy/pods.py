"""Describe the pods of a Ray cluster for nights: container, resources, volumes, user, rights."""

from pathlib import PurePosixPath
from typing import Any

from iak.pipeline.deploy.command import dns_name
from iak.schemas.nightly import DeploySpec, NightlySpec

Manifest = dict[str, Any]

CONFIG = PurePosixPath("/etc/iak")
"""Folder of nightly.toml and the catalogue in every pod."""
USER = 1000
"""User and group that the image runs as; see infra/container/Containerfile."""
RAY_VERSION = "2.60.0"
HEAD_PORTS = {"gcs": 6379, "dashboard": 8265, "client": 10001, "metrics": 8080}
SHARED_MEMORY_SHARE = 0.3
"""Share of a pod's memory that /dev/shm may take: Ray's object store wants that much."""


def labels(spec: NightlySpec) -> dict[str, str]:
    """Return the labels of every object of a service."""
    return {
        "app.kubernetes.io/name": "iak",
        "app.kubernetes.io/instance": dns_name(spec),
        "app.kubernetes.io/managed-by": "iak-infra-render",
    }


def metadata(spec: NightlySpec, suffix: str = "") -> Manifest:
    """Return an object's name, namespace and labels."""
    return {
        "name": dns_name(spec) + suffix,
        "namespace": spec.deploy.namespace,
        "labels": labels(spec),
    }


def ray_cluster(spec: NightlySpec) -> Manifest:
    """Return the `spec` of a RayCluster: a head that drives, and a pod for each worker."""
    workers = spec.workers.workers
    return {
        "rayVersion": RAY_VERSION,
        "authOptions": {"mode": "token"},  # KubeRay makes a token for all pods of the cluster
        "headGroupSpec": {
            # With 0 processors Ray starts no worker on the head, which runs the driver.
            "rayStartParams": {"num-cpus": "0", "dashboard-host": "0.0.0.0"},
            "template": {
                "metadata": {"labels": labels(spec)},
                "spec": _pod(spec, gpus=0, ports=HEAD_PORTS),
            },
        },
        "workerGroupSpecs": [
            {
                "groupName": "workers",
                "replicas": workers,
                "minReplicas": workers,
                "maxReplicas": workers,
                "rayStartParams": {},
                "template": {
                    "metadata": {"labels": labels(spec)},
                    "spec": _pod(spec, gpus=spec.deploy.gpus, ports={"metrics": 8080}),
                },
            }
        ],
    }


def container(spec: NightlySpec, name: str, *, command: list[str] | None = None) -> Manifest:
    """Return a container of the image, without rights that it does not need."""
    described: Manifest = {
        "name": name,
        "image": spec.deploy.image,
        "imagePullPolicy": "IfNotPresent",
        "env": [
            {"name": "HOME", "value": "/tmp"},
            {"name": "OMP_NUM_THREADS", "value": "1"},
        ],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "volumeMounts": _mounts(spec.deploy),
    }
    if command:
        described["command"] = command
    if spec.deploy.secret:
        described["envFrom"] = [{"secretRef": {"name": spec.deploy.secret}}]
    return described


def pod(spec: NightlySpec, described: Manifest) -> Manifest:
    """Return the `spec` of a pod with one container."""
    return {
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            # Changing the owner of every file of a large volume takes longer than a night.
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 60,
        "containers": [described],
        "volumes": _volumes(spec),
    }


def _pod(spec: NightlySpec, *, gpus: int, ports: dict[str, int]) -> Manifest:
    deploy = spec.deploy
    needs: dict[str, str] = {"cpu": str(deploy.cpus), "memory": f"{deploy.memory_gib}Gi"}
    limits = {"memory": needs["memory"]}  # no limit of cpu, which would throttle a busy worker
    if gpus:
        limits["nvidia.com/gpu"] = needs["nvidia.com/gpu"] = str(gpus)
    described = container(spec, "ray")
    described["resources"] = {"requests": needs, "limits": limits}
    described["ports"] = [
        {"name": name, "containerPort": port, "protocol": "TCP"} for name, port in ports.items()
    ]
    return pod(spec, described)


def _volumes(spec: NightlySpec) -> list[Manifest]:
    memory_mib = int(spec.deploy.memory_gib * 1024 * SHARED_MEMORY_SHARE)
    volumes: list[Manifest] = [
        {"name": "config", "configMap": {"name": dns_name(spec)}},
        {"name": "scratch", "emptyDir": {}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{memory_mib}Mi"}},
    ]
    if spec.deploy.volume_claim:
        claim = {"claimName": spec.deploy.volume_claim}
        volumes.append({"name": "data", "persistentVolumeClaim": claim})
    return volumes


def _mounts(deploy: DeploySpec) -> list[Manifest]:
    mounts: list[Manifest] = [
        {"name": "config", "mountPath": str(CONFIG), "readOnly": True},
        {"name": "scratch", "mountPath": "/tmp"},
        {"name": "shm", "mountPath": "/dev/shm"},
    ]
    if deploy.volume_claim:
        mounts.append({"name": "data", "mountPath": deploy.mount})
    return mounts
