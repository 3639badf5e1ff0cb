"""Load the clusters that `iak plan` is given, by name, by number of machines, or from a file."""

import re
from importlib import resources
from pathlib import Path

from pydantic import ValidationError

from iak.pipeline.errors import BadRequest
from iak.pipeline.runs.documents import read_toml
from iak.pipeline.runs.explain import explain
from iak.schemas.cluster import ClusterSpec

MAX_NODES = 100_000
_PART = re.compile(r"(?P<devices>[1-9]\d*)x(?P<kind>[A-Z].*)")
_MANY = re.compile(r"(?P<nodes>\d+)x(?P<kind>\d+x.+)")


def load_cluster(name: str) -> ClusterSpec:
    """Return a shipped cluster (`8xH100`), several of its machines (`16x8xH100`), or a TOML file's.

    Raises:
        BadRequest: no cluster has this name, or its file is not valid.
    """
    if Path(name).suffix == ".toml":
        return _parse(Path(name))
    shipped = shipped_clusters()
    # "2xH100" is a part of the shipped machine "8xH100".
    if part := _PART.fullmatch(name):
        wholes = [kind for kind in shipped if kind.partition("x")[2] == part["kind"]]
        if name not in shipped and wholes:
            return with_devices(_parse(shipped[wholes[0]]), int(part["devices"]))
    match = _MANY.fullmatch(name)
    nodes, kind = (int(match["nodes"]), match["kind"]) if match else (1, name)
    if kind not in shipped or nodes < 1:
        raise BadRequest(
            f"no cluster '{name}'. Shipped are {', '.join(shipped)}; put a number before one for "
            "several machines (4x8xH100), or name a TOML file of your own"
        )
    _refuse_too_many(nodes)
    return _parse(shipped[kind]).model_copy(update={"name": name, "nodes": nodes})


def _refuse_too_many(nodes: int) -> None:
    """Refuse more machines than any cluster has, which are most likely a mistake."""
    if nodes > MAX_NODES:
        raise BadRequest(
            f"cluster= and sweep= ask for {nodes:,} machines; plan for {MAX_NODES:,} at most"
        )


def shipped_clusters() -> dict[str, Path]:
    """Return the clusters that come with iak, by name."""
    folder = Path(str(resources.files("iak.jobs") / "configs" / "clusters"))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def with_constants(cluster: ClusterSpec, constants: dict[str, float]) -> ClusterSpec:
    """Return the cluster with these constants instead of its own; the others stay."""
    if not constants:
        return cluster
    settings = cluster.model_dump()
    settings["constants"] = settings["constants"] | constants | {"measured": "given by hand"}
    try:
        return ClusterSpec.model_validate(settings)
    except ValidationError as error:
        raise BadRequest(f"constants: {explain(error)}") from error


def with_devices(cluster: ClusterSpec, devices: int) -> ClusterSpec:
    """Return the cluster with this number of devices: whole machines, or a part of one.

    A part of a machine has the same part of its memory, cores and price.

    Raises:
        BadRequest: there are more devices than one machine has, and no whole number of machines.
    """
    per_node = cluster.devices_per_node
    _refuse_too_many(devices // per_node)
    kind = cluster.name.rpartition(f"{per_node}x")[2]
    is_shipped = f"{per_node}x{kind}" in shipped_clusters()
    if devices < per_node:
        share = devices / per_node
        return cluster.model_copy(
            update={
                "name": f"{devices}x{kind}" if is_shipped else f"{devices} of {cluster.name}",
                "nodes": 1,
                "devices_per_node": devices,
                "host_memory_gib": cluster.host_memory_gib * share,
                "cores_per_node": max(1, round(cluster.cores_per_node * share)),
                "price_per_hour": cluster.price_per_hour * share,
            }
        )
    nodes, rest = divmod(devices, per_node)
    if rest:
        raise BadRequest(
            f"{devices} devices are not a whole number of machines with {per_node} each; "
            f"take {nodes * per_node} or {(nodes + 1) * per_node}"
        )
    prefix = f"{nodes}x" if nodes > 1 else ""
    name = f"{prefix}{per_node}x{kind}" if is_shipped else f"{kind} with nodes={nodes}"
    return cluster.model_copy(update={"name": name, "nodes": nodes})


def _parse(path: Path) -> ClusterSpec:
    document = read_toml(path, setting="cluster")
    try:
        return ClusterSpec.model_validate(document)
    except ValidationError as error:
        raise BadRequest(f"cluster {path}: {explain(error)}") from error
