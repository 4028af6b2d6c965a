"""The manifests against Kubernetes' own schemas, and against what schemas cannot know."""

import re
import shutil
import subprocess
import tomllib

import kubernetes_validate
import pytest
import yaml

from dgq.worker.fleet.draining import GRACE_S
from tests.deploy.files import DEPLOY, ROOT, manifest, manifests, services

FOLDER = DEPLOY / "kubernetes"
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
RESOURCES = [
    pytest.param(document, id=f"{path.stem}-{document['kind']}")
    for path, document in manifests()
    if document["kind"] != "ScaledObject" and path != FOLDER / "models" / "worker.yaml"
]
PODS = {
    document["metadata"]["name"]: document["spec"]["template"]
    for path, document in manifests()
    if document["kind"] in ("Deployment", "StatefulSet") and path.parent == FOLDER
}

SCALED_OBJECT = {
    "scaleTargetRef": {"name": str},
    "minReplicaCount": int,
    "maxReplicaCount": int,
    "pollingInterval": int,
    "cooldownPeriod": int,
    "triggers": [{"type": str, "metadata": {str: str}}],
    "advanced": {
        "horizontalPodAutoscalerConfig": {
            "behavior": {
                "scaleDown": {
                    "stabilizationWindowSeconds": int,
                    "policies": [{"type": str, "value": int, "periodSeconds": int}],
                }
            }
        }
    },
}
"""What KEDA 2.17 knows of the fields that are used here; no package on PyPI has its schema."""


def settings_of(name):
    """The environment of a pod's one container, by variable: the value, or where it comes from."""
    (container,) = PODS[name]["spec"]["containers"]
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container["env"]}


def fits(value, shape):
    """Whether a value has the shape: a type, a list of one shape, or a mapping of shapes."""
    if isinstance(shape, type):
        return type(value) is shape
    if isinstance(shape, list):
        return isinstance(value, list) and all(fits(item, shape[0]) for item in value)
    return isinstance(value, dict) and all(
        fits(item, shape.get(name, shape.get(str, ()))) for name, item in value.items()
    )


@pytest.mark.parametrize("version", ["1.30", "1.37"])
@pytest.mark.parametrize("document", RESOURCES)
def test_it_follows_the_schema(document, version):
    kubernetes_validate.validate(document, version, strict=True)


def test_the_schema_sees_mistakes():
    broken = yaml.safe_load(yaml.safe_dump(manifest("Deployment", "dgq-worker")))
    broken["spec"]["template"]["spec"]["terminationGracePeriod"] = 90
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, "1.37", strict=True)


def test_keda_scales_the_workers_by_what_the_scheduler_says():
    scaled = manifest("ScaledObject", "dgq-worker")
    assert scaled["apiVersion"] == "keda.sh/v1alpha1"
    spec = scaled["spec"]
    assert fits(spec, SCALED_OBJECT)
    assert spec["scaleTargetRef"]["name"] in PODS
    assert spec["minReplicaCount"] < spec["maxReplicaCount"]
    assert "replicas" not in manifest("Deployment", "dgq-worker")["spec"]
    (trigger,) = spec["triggers"]
    assert trigger["type"] == "metrics-api"
    assert trigger["metadata"]["format"] == "prometheus"
    host, port = re.fullmatch(
        r"http://([a-z-]+)\.dgq\.svc:(\d+)/metrics", trigger["metadata"]["url"]
    ).groups()
    service = manifest("Service", host)
    assert int(port) in {entry["port"] for entry in service["spec"]["ports"]}
    assert host == "dgq-scheduler"
    assert settings_of(host)["DGQ_METRICS_PORT"] == port
    assert int(trigger["metadata"]["targetValue"]) > 0


def test_a_wrong_shape_is_seen():
    assert not fits({"minReplicas": 1}, SCALED_OBJECT)
    assert not fits({"triggers": [{"type": "x", "metadata": {"a": 1}}]}, SCALED_OBJECT)


def test_kustomize_takes_all_files():
    kustomization = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
    named = {(FOLDER / name).resolve() for name in kustomization["resources"]}
    files = {path for path in FOLDER.glob("*.yaml") if path.name != "kustomization.yaml"}
    assert named == (files - {FOLDER / "secret.example.yaml"}) | {DEPLOY / "server"}
    assert {image["newTag"] for image in kustomization["images"]} == {VERSION}
    component = yaml.safe_load((FOLDER / "models" / "kustomization.yaml").read_text())
    for name in [*component["resources"], *(patch["path"] for patch in component["patches"])]:
        assert (FOLDER / "models" / name).exists()


@pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed")
def test_kustomize_itself_can_render_it():
    done = subprocess.run(
        ["kubectl", "kustomize", FOLDER], capture_output=True, text=True, timeout=60, check=True
    )
    rendered = list(yaml.safe_load_all(done.stdout))
    (config,) = (
        document
        for document in rendered
        if document["kind"] == "ConfigMap" and "start.sh" in document["data"]
    )
    (server,) = (document for document in rendered if document["kind"] == "StatefulSet")
    volumes = {volume["name"]: volume for volume in server["spec"]["template"]["spec"]["volumes"]}
    assert volumes["config"]["configMap"]["name"] == config["metadata"]["name"]
    assert config["data"]["server.conf"] == (DEPLOY / "server" / "server.conf").read_text()


@pytest.mark.parametrize("name", PODS)
def test_what_a_pod_names_exists(name):
    spec = PODS[name]["spec"]
    (container,) = spec["containers"]
    ports = {port["name"] for port in container["ports"]}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        for how in ("httpGet", "tcpSocket"):
            if how in container.get(probe, {}):
                assert container[probe][how]["port"] in ports
                assert container[probe][how].get("path") in (None, "/healthz")
    volumes = {volume["name"] for volume in spec["volumes"]}
    for claim in (
        manifest("StatefulSet", name)["spec"]["volumeClaimTemplates"]
        if (name == "dgq-server")
        else ()
    ):
        volumes.add(claim["metadata"]["name"])
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    secret = manifest("Secret", "dgq-server")
    password = settings_of(name)["DGQ_REDIS_PASSWORD"]["secretKeyRef"]
    assert password["name"] == secret["metadata"]["name"]
    assert password["key"] in secret["stringData"]
    for source in container.get("envFrom", ()):
        manifest("ConfigMap", source["configMapRef"]["name"])


def test_selectors_select():
    labels = {name: pod["metadata"]["labels"] for name, pod in PODS.items()}
    for path, document in manifests():
        if path.parent != FOLDER:
            continue
        spec, name = document.get("spec", {}), document["metadata"]["name"]
        match document["kind"]:
            case "Deployment" | "StatefulSet" | "PodDisruptionBudget":
                assert spec["selector"]["matchLabels"] == labels[name]
            case "Service":
                assert spec["selector"] == labels[name]
                ports = PODS[name]["spec"]["containers"][0]["ports"]
                named = {port["name"] for port in ports}
                assert {port["targetPort"] for port in spec["ports"]} <= named
            case "NetworkPolicy":
                assert spec["podSelector"]["matchLabels"] == labels[name]
                allowed = spec["ingress"][0]["from"][0]["podSelector"]["matchExpressions"][0]
                assert set(allowed["values"]) == set(PODS) - {"dgq-server"}
            case _:
                pass


def test_the_server_is_where_the_settings_say():
    settings = manifest("ConfigMap", "dgq-settings")["data"]
    host, port = re.fullmatch(r"redis://([a-z-]+):(\d+)/0", settings["DGQ_REDIS_URL"]).groups()
    assert int(port) in {entry["port"] for entry in manifest("Service", host)["spec"]["ports"]}


@pytest.mark.parametrize("name", PODS)
def test_pods_may_run_in_a_restricted_namespace(name):
    namespace = manifest("Namespace", "dgq")["metadata"]["labels"]
    assert namespace["pod-security.kubernetes.io/enforce"] == "restricted"
    spec = PODS[name]["spec"]
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False  # else DGQ_SCHEDULER_PORT and the like appear
    (container,) = spec["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert "memory" in container["resources"]["limits"]


@pytest.mark.parametrize("name", ["dgq-worker", "dgq-scheduler"])
def test_pods_have_time_to_drain(name):
    settings = manifest("ConfigMap", "dgq-settings")["data"]
    drain_s = float(settings["DGQ_DRAIN_TIMEOUT_S"])
    assert PODS[name]["spec"]["terminationGracePeriodSeconds"] >= drain_s + 2 * GRACE_S
    (container,) = PODS[name]["spec"]["containers"]
    assert "lifecycle" not in container  # SIGTERM drains


def test_a_worker_has_one_gpu():
    (container,) = PODS["dgq-worker"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert "cuda:0" in container["args"]


def test_images_are_those_of_compose():
    ours = {service["image"].partition(":")[0] for service in services().values()}
    for pod in PODS.values():
        (container,) = pod["spec"]["containers"]
        assert container["image"].partition(":")[0] in ours


def test_the_patch_for_models_fits_the_worker():
    (patch,) = (
        document for path, document in manifests() if path == FOLDER / "models" / "worker.yaml"
    )
    (claim,) = (
        document for path, document in manifests() if path == FOLDER / "models" / "volume.yaml"
    )
    spec = patch["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert patch["metadata"]["name"] == "dgq-worker"
    assert container["name"] == PODS["dgq-worker"]["spec"]["containers"][0]["name"]
    (volume,) = spec["volumes"]
    assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    (mount,) = container["volumeMounts"]
    assert mount["name"] == volume["name"]
    assert container["env"][0]["value"].startswith(mount["mountPath"] + "/")
