"""Refuse settings of nightly.toml that cannot work where a night runs: paths, and a long name."""

from collections.abc import Callable
from pathlib import Path, PurePosixPath

from iak.pipeline.deploy.command import dns_name
from iak.pipeline.errors import BadRequest
from iak.schemas.nightly import NightlySpec
from iak.schemas.paths import bucket_uri

_MAX_NAME = 40
"""Characters of a service's name. A RayJob's name has 47 at most (KubeRay 1.4), and Kubernetes
appends six of them where `generateName` is given."""


def refuse_relative_paths(spec: NightlySpec) -> None:
    """Refuse relative paths: on a cluster they would lie below a job's working folder.

    Raises:
        BadRequest: names every such setting.
    """
    if lost := _settings_where(spec, lambda path: not path.is_absolute()):
        raise BadRequest(
            f"{', '.join(lost)}: relative paths, and the night runs on {spec.cluster}. Give a URI "
            "(s3://...), or an absolute path that every machine of the cluster sees"
        )


def refuse_lost_paths(spec: NightlySpec) -> None:
    """Refuse paths that a pod would read or write on a disk of its own.

    Raises:
        BadRequest: names every such setting.
    """
    mount = PurePosixPath(spec.deploy.mount) if spec.deploy.volume_claim else None
    lost = _settings_where(spec, lambda path: mount is None or not path.is_relative_to(mount))
    if lost:
        where = (
            f"below deploy.mount={spec.deploy.mount}"
            if mount
            else "on a volume (deploy.volume_claim names none)"
        )
        raise BadRequest(
            f"{', '.join(lost)}: a pod's own disk is lost with the pod. Give a URI (s3://...), or "
            f"an absolute path {where}"
        )


def refuse_long_name(spec: NightlySpec) -> None:
    """Refuse a name that is too long for the objects of a cluster.

    Raises:
        BadRequest: says how long it may be.
    """
    name = dns_name(spec)
    if len(name) > _MAX_NAME:
        raise BadRequest(
            f"name={spec.name}: {name} has {len(name)} characters. KubeRay adds its own to it and "
            f"takes {_MAX_NAME} at most; choose a shorter name"
        )


def refuse_catalog_elsewhere(spec: NightlySpec, file: Path) -> None:
    """Refuse a catalogue's file that is not beside nightly.toml, because both are sent together.

    Raises:
        BadRequest: it lies elsewhere.
    """
    if spec.catalog.suffix == ".toml" and spec.catalog.name != str(spec.catalog):
        raise BadRequest(
            f"catalog={spec.catalog} is not beside {file}, and both are sent together. Copy it "
            f"there and write catalog={spec.catalog.name}"
        )


def _settings_where(spec: NightlySpec, is_lost: Callable[[PurePosixPath], bool]) -> list[str]:
    """Return the settings whose path, where it is no URI, is lost: `base=/home/me/base`."""
    paths: dict[str, object] = {
        name: getattr(spec, name) for name in ("data_root", "base", "registry", "nights")
    }
    if spec.finetune.cache.folder:
        paths["finetune.cache.folder"] = spec.finetune.cache.folder
    return [
        f"{setting}={path}"
        for setting, path in paths.items()
        if "://" not in str(path) and not bucket_uri(str(path))
        if is_lost(PurePosixPath(str(path)))
    ]
