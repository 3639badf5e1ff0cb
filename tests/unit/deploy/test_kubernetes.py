"""Kubernetes objects: valid by KubeRay's CRDs and by Kubernetes' own schemas, and safe."""

import json
import subprocess
from pathlib import Path

import jsonschema
import pytest
import yaml

from iak.pipeline.deploy.kubernetes import as_yaml, manifests, seconds_of_a_night
from tests.tools import tool_python
from tests.unit.deploy.nights import nights

FILES = {"nightly.toml": 'name = "shop"\n# 100 %: "quoted"\n', "shop.toml": "[log]\n"}
KUBERAY = Path(__file__).parents[4] / "shared" / "kuberay"
CRDS = {"RayJob": "rayjobs", "RayCronJob": "raycronjobs", "RayCluster": "rayclusters"}
CLUSTERS = ["local", "http://ray.example:8265"]


def _objects(spec):
    """Return every object as it is read back from the files."""
    files = manifests(spec, FILES)
    return [o for objects in files.values() for o in yaml.safe_load_all(as_yaml(objects))]


def _of_kind(spec, kind):
    return next(o for o in _objects(spec) if o["kind"] == kind)


def _pods(value):
    """Yield every pod's `spec`, however deep it lies."""
    if isinstance(value, dict):
        if "containers" in value:
            yield value
        for inner in value.values():
            yield from _pods(inner)
    if isinstance(value, list):
        for inner in value:
            yield from _pods(inner)


def _closed(schema):
    """Refuse unknown fields, which a CRD drops without a word."""
    if isinstance(schema, dict):
        is_open = schema.get("x-kubernetes-preserve-unknown-fields")
        if schema.get("type") == "object" and "properties" in schema and not is_open:
            schema.setdefault("additionalProperties", False)
        for inner in schema.values():
            _closed(inner)
    if isinstance(schema, list):
        for inner in schema:
            _closed(inner)
    return schema


@pytest.fixture(scope="module")
def crds():
    """Return the schema of each of KubeRay's kinds; unknown fields are errors."""
    if not KUBERAY.is_dir():
        pytest.skip(f"{KUBERAY} is not here: KubeRay's CRDs")
    schemas = {}
    for kind, plural in CRDS.items():
        text = (KUBERAY / f"ray.io_{plural}.yaml").read_bytes()
        crd = yaml.load(text, Loader=yaml.CSafeLoader)
        version = next(v for v in crd["spec"]["versions"] if v["name"] == "v1")
        schema = _closed(version["schema"]["openAPIV3Schema"])
        schema["properties"]["metadata"] = {"type": "object"}
        schemas[kind] = jsonschema.Draft202012Validator(schema)
    return schemas


@pytest.mark.slow
@pytest.mark.parametrize("cluster", CLUSTERS)
def test_kuberays_objects_are_valid(crds, cluster):
    rays = [o for o in _objects(nights(cluster=cluster)) if o["kind"] in CRDS]
    assert rays
    for ray in rays:
        assert [e.message for e in crds[ray["kind"]].iter_errors(ray)] == []


@pytest.mark.slow
def test_the_check_of_kuberays_objects_sees_a_typo(crds):
    job = _of_kind(nights(), "RayJob")
    job["spec"]["backofLimit"] = job["spec"].pop("backoffLimit")
    assert [e.message for e in crds["RayJob"].iter_errors(job)]


_VALIDATE = """
import json, sys, kubernetes_validate
for document in json.load(sys.stdin):
    try:
        kubernetes_validate.validate(document, "1.33", strict=True)
    except kubernetes_validate.ValidationError as error:
        print(document["kind"], error.message)
"""


@pytest.mark.slow
def test_kubernetes_own_objects_are_valid():
    python = tool_python("kubernetes-validate", "kubernetes-validate==1.37.0")
    spec = nights()
    objects = [o for c in CLUSTERS for o in _objects(nights(cluster=c)) if o["kind"] not in CRDS]
    typo = _of_kind(spec, "CronJob")
    typo["spec"]["timezone"] = typo["spec"].pop("timeZone")
    done = subprocess.run(
        [str(python), "-c", _VALIDATE],
        input=json.dumps([*objects, typo]),
        capture_output=True,
        text=True,
        check=True,
    )
    assert objects
    assert len(done.stdout.splitlines()) == 1, done.stdout
    assert "timezone" in done.stdout


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_no_pod_has_rights_it_does_not_need(cluster):
    pods = list(_pods(_objects(nights(cluster=cluster))))
    assert pods
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"] is True
        for container in pod["containers"]:
            rights = container["securityContext"]
            assert rights["allowPrivilegeEscalation"] is False
            assert rights["capabilities"] == {"drop": ["ALL"]}
            assert rights["readOnlyRootFilesystem"] is True
        is_kubectl = pod["containers"][0]["name"] == "create"
        assert pod["automountServiceAccountToken"] is is_kubectl


def test_secrets_are_named_and_never_written():
    text = "".join(as_yaml(objects) for objects in manifests(nights(), FILES).values())
    assert "secretRef" in text
    assert "kind: Secret" not in text


def test_the_config_is_byte_for_byte_the_files():
    data = _of_kind(nights(), "ConfigMap")["data"]
    assert {name: data[name] for name in FILES} == FILES
    assert yaml.safe_load(data["job.yaml"]) == _of_kind(nights(), "RayJob")


def test_schedule_deadline_and_retries_reach_the_objects():
    spec = nights()
    cron, ray = _of_kind(spec, "CronJob")["spec"], _of_kind(spec, "RayCronJob")["spec"]
    assert cron["schedule"] == ray["schedule"] == "30 2 * * *"
    assert cron["timeZone"] == ray["timeZone"] == "Europe/Berlin"
    job = ray["jobTemplate"]
    assert job["activeDeadlineSeconds"] == 3 * 3600 + 1800  # 02:30 to 05:30, and half an hour
    assert job["backoffLimit"] == 2
    assert job["rayClusterSpec"]["workerGroupSpecs"][0]["replicas"] == 3


def test_a_night_without_deadline_ends_within_a_day():
    assert seconds_of_a_night(nights(schedule={})) < 24 * 3600


def test_names_that_kubernetes_takes():
    assert (
        _of_kind(nights(name="Shop__EU_"), "RayJob")["metadata"]["generateName"] == "iak-shop-eu-"
    )


def test_ports_of_named_servers_are_open():
    spec = nights(
        notify={"tracking": "http://mlflow.example:5000"},
        deploy={"volume_claim": "x", "egress_ports": [9000]},
    )
    egress = _of_kind(spec, "NetworkPolicy")["spec"]["egress"]
    ports = {entry["port"] for entry in egress[-1]["ports"]}
    assert {443, 5000, 9000} <= ports
