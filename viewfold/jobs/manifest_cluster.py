"""The Ray cluster of a KubeRay resource: one head and equal workers, as plain data."""

from collections.abc import Mapping
from typing import Any

from viewfold.jobs.data import PACKS_VARIABLE
from viewfold.jobs.manifest_config import ManifestConfig, PodConfig, ResourceConfig, ray_version
from viewfold.pipeline.remote.cache import BYTES_VARIABLE, FOLDER_VARIABLE

CACHE = "/var/cache/viewfold"
USER = 1000
"""Of the images in deploy/docker, and the group that volumes are given to."""
RESTRICTED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
"""With `_NOBODY_SPECIAL`: what the strictest of the Pod Security Standards asks for."""
_NOBODY_SPECIAL = {
    "runAsNonRoot": True,
    "runAsUser": USER,
    "runAsGroup": USER,
    "fsGroup": USER,
    # Else every file of the volume is given to the group at each start, which takes hours where there are millions.
    "fsGroupChangePolicy": "OnRootMismatch",
    "seccompProfile": {"type": "RuntimeDefault"},
}
_HEAD_PORTS = {"gcs-server": 6379, "dashboard": 8265, "client": 10001}
_GPU = "nvidia.com/gpu"
SERVE_PORT = "serve"
"""Name of the port of HTTP, by which KubeRay finds it."""


def ray_cluster(
    config: ManifestConfig,
    *,
    env: Mapping[str, str] | None = None,
    files: Mapping[str, dict[str, Any]] | None = None,
    serve_port: int | None = None,
) -> dict[str, Any]:
    """The RayClusterSpec. `env` goes before what all pods have, `files` are volumes by the folder they appear in.

    With a `serve_port`, workers are ready when their proxy of Ray Serve answers there.
    """
    serving = {} if serve_port is None else {SERVE_PORT: serve_port}
    pods = {"ray-head": config.head, "ray-worker": config.worker}
    head, worker = (_pod(config, pod, name, env=env or {}, files=files or {}) for name, pod in pods.items())
    _container(head)["ports"] = _ports({**_HEAD_PORTS, **serving})
    if serving:
        probe = {"httpGet": {"path": "/-/healthz", "port": SERVE_PORT}, "periodSeconds": 5, "timeoutSeconds": 2}
        _container(worker).update(ports=_ports(serving), readinessProbe=probe)
    # The driver lives in the head: work beside it could take its memory, and with it the whole cluster.
    idle = {"num-cpus": "0", "num-gpus": "0"} if config.workers else {}
    group = {
        "groupName": "workers",
        "replicas": config.workers,
        "minReplicas": config.workers,
        "maxReplicas": config.workers,
        "rayStartParams": _object_store(config.worker),
        "template": worker,
    }
    return {
        "rayVersion": ray_version(config),
        # Whoever reaches the dashboard can run code in the cluster.
        "authOptions": {"mode": "token"},
        "headGroupSpec": {
            "rayStartParams": {"dashboard-host": "0.0.0.0", **idle, **_object_store(config.head)},
            "template": head,
        },
        "workerGroupSpecs": [group] if config.workers else [],
    }


def metadata(config: ResourceConfig, name: str) -> dict[str, Any]:
    """Of the resource."""
    told = {"name": name, "namespace": config.namespace, "labels": dict(config.labels)}
    return {key: value for key, value in told.items() if value}


def _pod(
    config: ManifestConfig, pod: PodConfig, name: str, *, env: Mapping[str, str], files: Mapping[str, dict[str, Any]]
) -> dict[str, Any]:
    """The template of a pod whose one container has this name."""
    volumes: dict[str, tuple[str, dict[str, Any]]] = {
        "storage": (config.mount, {"persistentVolumeClaim": {"claimName": config.claim}}),
        "shm": ("/dev/shm", {"emptyDir": {"medium": "Memory", "sizeLimit": f"{pod.shared_memory_gib}Gi"}}),
        # One more: a shard that is on its way is not counted by the cache, and a pod that has more is evicted.
        "cache": (CACHE, {"emptyDir": {"sizeLimit": f"{config.cache_gb + max(1, config.cache_gb // 10)}G"}}),
        **{f"files-{number}": (folder, source) for number, (folder, source) in enumerate(files.items())},
    }
    container = {
        "name": name,
        "image": config.image,
        "workingDir": config.mount,
        "env": [{"name": name, "value": value} for name, value in {**_env(config), **env, **config.env}.items()],
        "envFrom": [{"secretRef": {"name": name}} for name in config.secrets],
        "resources": _resources(pod),
        "securityContext": dict(RESTRICTED),
        "volumeMounts": [{"name": name, "mountPath": folder} for name, (folder, _) in volumes.items()],
    }
    spec = {
        **pod_basics(config),
        "nodeSelector": dict(pod.node_selector),
        "tolerations": [{"key": _GPU, "operator": "Exists", "effect": "NoSchedule"}] if pod.gpus else [],
        "containers": [{key: value for key, value in container.items() if value}],
        "volumes": [{"name": name, **source} for name, (_, source) in volumes.items()],
    }
    labels = {"metadata": {"labels": dict(config.labels)}} if config.labels else {}
    return {**labels, "spec": {key: value for key, value in spec.items() if value}}


def pod_basics(config: ResourceConfig) -> dict[str, Any]:
    """What every pod says of itself: as whom it runs, and by what the image is fetched."""
    account = {"serviceAccountName": config.service_account} if config.service_account else {}
    pull = {"imagePullSecrets": [{"name": name} for name in config.pull_secrets]} if config.pull_secrets else {}
    return {**account, **pull, "securityContext": dict(_NOBODY_SPECIAL)}


def _env(config: ManifestConfig) -> dict[str, str]:
    tracking = {"MLFLOW_TRACKING_URI": config.tracking_uri} if config.tracking_uri else {}
    return {
        PACKS_VARIABLE: f"{config.mount}/data",
        FOLDER_VARIABLE: CACHE,
        BYTES_VARIABLE: f"{config.cache_gb}GB",
        **tracking,
    }


def _resources(pod: PodConfig) -> dict[str, Any]:
    # The same twice: Ray counts on all of it, and a pod that asks for less than its limit is the first to be evicted.
    has = {"cpu": f"{pod.cpus:g}", "memory": f"{pod.memory_gib}Gi"} | ({_GPU: str(pod.gpus)} if pod.gpus else {})
    return {"requests": has, "limits": has}


def _object_store(pod: PodConfig) -> dict[str, str]:
    # By itself Ray takes 30 % of the memory, and writes to disk instead where /dev/shm is smaller than that.
    return {"object-store-memory": str(pod.shared_memory_gib * 2**30 * 3 // 4)}


def _ports(ports: Mapping[str, int]) -> list[dict[str, Any]]:
    return [{"name": name, "containerPort": port} for name, port in ports.items()]


def _container(template: dict[str, Any]) -> dict[str, Any]:
    container: dict[str, Any] = template["spec"]["containers"][0]
    return container
