"""The fields of KubeRay 1.7.1's RayCluster and RayJob, after its API reference (ray.io/v1), as JSON Schema.

Pod templates are objects of Kubernetes itself, and are checked by its own schema.
"""

from __future__ import annotations

from typing import Any

TEXT, NUMBER, FLAG, ANY = {"type": "string"}, {"type": "integer"}, {"type": "boolean"}, {}
TEXTS = {"type": "object", "additionalProperties": TEXT}


def _exactly(required: tuple[str, ...] = (), /, **properties: Any) -> dict[str, Any]:
    found = {"type": "object", "properties": properties, "additionalProperties": False}
    return found | {"required": list(required)}


def _one_of(*values: str) -> dict[str, Any]:
    return {"enum": list(values)}


_CREDENTIAL = _exactly(value=TEXT, valueFrom=_exactly(secretKeyRef=_exactly(("name", "key"), name=TEXT, key=TEXT)))
_GROUP = {"resources": TEXTS, "labels": TEXTS, "rayStartParams": TEXTS, "template": ANY}
CLUSTER_SPEC = _exactly(
    ("headGroupSpec",),
    authOptions=_exactly(mode=_one_of("disabled", "token"), secretName=TEXT, enableK8sTokenAuth=FLAG),
    autoscalerOptions=_exactly(
        resources=ANY,
        image=TEXT,
        imagePullPolicy=TEXT,
        env=ANY,
        envFrom=ANY,
        volumeMounts=ANY,
        securityContext=ANY,
        idleTimeoutSeconds=NUMBER,
        upscalingMode=_one_of("Default", "Aggressive", "Conservative"),
        version=_one_of("v1", "v2"),
    ),
    enableInTreeAutoscaling=FLAG,
    gcsFaultToleranceOptions=_exactly(
        ("redisAddress",),
        redisAddress=TEXT,
        redisUsername=_CREDENTIAL,
        redisPassword=_CREDENTIAL,
        externalStorageNamespace=TEXT,
    ),
    headGroupSpec=_exactly(
        ("template",),
        **_GROUP,
        headService=ANY,
        enableIngress=FLAG,
        serviceType=_one_of("ClusterIP", "NodePort", "LoadBalancer", "ExternalName"),
    ),
    headServiceAnnotations=TEXTS,
    managedBy=TEXT,
    rayVersion=TEXT,
    suspend=FLAG,
    upgradeStrategy=ANY,
    workerGroupSpecs={
        "type": "array",
        "items": _exactly(
            ("groupName", "template", "minReplicas", "maxReplicas"),
            **_GROUP,
            groupName=TEXT,
            replicas=NUMBER,
            minReplicas=NUMBER,
            maxReplicas=NUMBER,
            numOfHosts=NUMBER,
            idleTimeoutSeconds=NUMBER,
            priority=NUMBER,
            scaleStrategy=ANY,
            suspend=FLAG,
        ),
    },
)
JOB_SPEC = _exactly(
    ("entrypoint", "rayClusterSpec"),
    activeDeadlineSeconds=NUMBER,
    backoffLimit=NUMBER,
    clusterSelector=TEXTS,
    deletionStrategy=ANY,
    entrypoint=TEXT,
    entrypointNumCpus={"type": "number"},
    entrypointNumGpus={"type": "number"},
    entrypointResources=TEXT,
    jobId=TEXT,
    managedBy=TEXT,
    metadata=TEXTS,
    preRunningDeadlineSeconds=NUMBER,
    rayClusterSpec=CLUSTER_SPEC,
    runtimeEnvYAML=TEXT,
    shutdownAfterJobFinishes=FLAG,
    submissionMode=_one_of("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"),
    submitterConfig=_exactly(backoffLimit=NUMBER),
    submitterPodTemplate=ANY,
    suspend=FLAG,
    ttlSecondsAfterFinished=NUMBER,
)
SPECS = {"RayCluster": CLUSTER_SPEC, "RayJob": JOB_SPEC}
