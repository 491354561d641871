"""docker/raycluster.yaml and docker/rayjob.yaml, by the schemas of Kubernetes and KubeRay and by intent."""

from __future__ import annotations

import json
import re
from importlib.metadata import version
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml
from kuberay import SPECS

import selgen_ray
from selgen_ray.space import Resources

DOCKER = Path(__file__).parents[2] / "docker"
FILES = ["raycluster.yaml", "rayjob.yaml"]


def documents(name: str) -> list[dict]:
    return list(yaml.safe_load_all((DOCKER / name).read_text(encoding="utf-8")))


def of_ray(name: str) -> dict:
    (found,) = (document for document in documents(name) if document["apiVersion"] == "ray.io/v1")
    return found


def cluster(name: str) -> dict:
    spec = of_ray(name)["spec"]
    return spec.get("rayClusterSpec", spec)


def groups(name: str) -> list[dict]:
    return [cluster(name)["headGroupSpec"], *cluster(name)["workerGroupSpecs"]]


def pods(name: str) -> list[dict]:
    """The spec of every pod that the file makes."""
    found = [group["template"]["spec"] for group in groups(name)]
    found += [d["spec"]["template"]["spec"] for d in documents(name) if d["kind"] == "Deployment"]
    submitter = of_ray(name)["spec"].get("submitterPodTemplate")
    return found + ([submitter["spec"]] if submitter else [])


@pytest.mark.parametrize("name", FILES)
def test_kubernetes_and_kuberay_take_them(name):
    for document in documents(name):
        if document["kind"] in SPECS:
            jsonschema.validate(document["spec"], SPECS[document["kind"]])
            assert document.keys() == {"apiVersion", "kind", "metadata", "spec"}
        else:
            kubernetes_validate.validate(document, "1.33", strict=True)
    for pod in pods(name):
        whole = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": pod}
        kubernetes_validate.validate(whole, "1.33", strict=True)


def test_a_misspelt_key_would_be_found():
    spec = cluster("raycluster.yaml")
    spec["workerGroupSpecs"][0]["maxReplica"] = 2
    with pytest.raises(jsonschema.ValidationError, match="maxReplica"):
        jsonschema.validate(spec, SPECS["RayCluster"])
    pod = pods("raycluster.yaml")[0] | {"toleration": []}
    with pytest.raises(kubernetes_validate.ValidationError, match="toleration"):
        whole = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": pod}
        kubernetes_validate.validate(whole, "1.33", strict=True)


@pytest.mark.parametrize("name", FILES)
def test_no_pod_is_more_than_it_has_to_be_and_none_holds_a_secret(name):
    for pod in pods(name):
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] > 0
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            for variable in container.get("env", []):
                assert not re.search("TOKEN|KEY|SECRET|PASSWORD", variable["name"]) or "valueFrom" in variable
            asked = container["resources"]
            assert asked["requests"]["memory"] == asked["limits"]["memory"], "a node of Ray must know what it has"
    assert "kind: Secret" not in (DOCKER / name).read_text()


@pytest.mark.parametrize("name", FILES)
def test_versions_are_those_of_the_package(name):
    assert cluster(name)["rayVersion"] == version("ray")
    images = {container["image"] for pod in pods(name) for container in pod["containers"]}
    images = {image for image in images if "selgen" in image}
    assert {image.rpartition(":")[2] for image in images} == {f"{selgen_ray.__version__}-cuda"}


@pytest.mark.parametrize("name", FILES)
def test_what_is_mounted_is_there(name):
    claims = {d["metadata"]["name"] for d in documents("raycluster.yaml") if d["kind"] == "PersistentVolumeClaim"}
    for pod in pods(name):
        volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
        mounts = {mount["name"] for container in pod["containers"] for mount in container.get("volumeMounts", [])}
        assert mounts == volumes.keys()
        wanted = {v["persistentVolumeClaim"]["claimName"] for v in volumes.values() if "persistentVolumeClaim" in v}
        assert wanted <= claims
    shared = next(d for d in documents("raycluster.yaml") if d["metadata"]["name"] == "selgen-results")
    assert shared["spec"]["accessModes"] == ["ReadWriteMany"], "all nodes write there"


@pytest.mark.parametrize("name", FILES)
def test_trials_get_gpus_from_nothing_and_never_run_beside_the_head(name):
    spec = cluster(name)
    assert spec["authOptions"] == {"mode": "token"} and spec["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert spec["enableInTreeAutoscaling"] and spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    gpus = [g for g in spec["workerGroupSpecs"] if "gpu" in g["groupName"]]
    assert gpus and all(g["minReplicas"] == 0 < g["maxReplicas"] for g in gpus)
    for group in gpus:
        pod = group["template"]["spec"]
        assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"]
        assert pod["terminationGracePeriodSeconds"] >= 120
        preemptible = "preemptible" in group["groupName"]
        assert preemptible == any("spot" in str(toleration) for toleration in pod["tolerations"])
    (said,) = re.findall(r"`resources: (\{.*?\})`", (DOCKER / name).read_text())
    assert Resources(**yaml.safe_load(said)) == Resources(gpus=1, autoscaling=True)


def test_the_cluster_outlives_its_head_and_drivers_their_trials_nodes():
    spec = cluster("raycluster.yaml")
    service = next(d for d in documents("raycluster.yaml") if d["kind"] == "Service")
    address = f"{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"
    assert spec["gcsFaultToleranceOptions"]["redisAddress"] == address
    driver = next(g for g in spec["workerGroupSpecs"] if g["groupName"] == "driver")
    assert driver["minReplicas"] == driver["maxReplicas"] == 1 and driver["rayStartParams"]["num-cpus"] == "0"
    assert json.loads(json.loads(f'"{driver["rayStartParams"]["resources"].strip(chr(34))}"')) == {"driver": 4}
    said = re.search(r"--entrypoint-resources '(\{.*?\})'", (DOCKER / "raycluster.yaml").read_text())
    assert json.loads(said[1]) == {"driver": 1}
