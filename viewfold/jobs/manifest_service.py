"""A RayService: the retrieval service on a Ray cluster that KubeRay keeps going."""

from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from viewfold import __version__
from viewfold.jobs.manifest_cluster import metadata, ray_cluster
from viewfold.jobs.manifest_config import ManifestConfig
from viewfold.jobs.pair_folders import REGISTERED
from viewfold.jobs.serve_ray import RayServeConfig
from viewfold.jobs.serve_ray_run import PATIENCE, serve_config
from viewfold.retrieval.service.config import ServiceConfig

_KEYS_FOLDER, _KEYS_FILE = "/etc/viewfold-keys", "keys"
_EVERYBODY = "0.0.0.0"


@dataclass(frozen=True, kw_only=True)
class RayServiceConfig(ManifestConfig):
    """`viewfold serve SOURCE --ray` on a cluster of its own."""

    serve: RayServeConfig
    """What is served and how, as for `viewfold serve`; `serve.source` is required. Relative paths begin at `mount`."""
    image: str = f"viewfold-serve:{__version__}"
    """Holds viewfold[train,retrieval,remote,serve], and runs as user 1000: see deploy/docker/serve.Dockerfile."""
    keys_secret: str = "viewfold-keys"
    """A Secret whose entry `keys` holds the keys that requests must show, one a line."""

    def __post_init__(self) -> None:
        super().__post_init__()
        service = self.serve.service
        if service.host not in (ServiceConfig().host, _EVERYBODY) or service.keys_file is not None:
            raise ValueError("serve.service.host and keys_file are set here: leave them out, and name keys_secret")
        if service.port == 0:
            raise ValueError("serve.service.port must be a fixed one, such as 8000, got 0")
        self._check_fit()

    def _check_fit(self) -> None:
        """Ray waits without end for what no node has."""
        pod, serve = self.working, self.serve
        cpus, deployments = self.num_working * pod.cpus, serve.parts + 2
        if serve.replica_cpus > pod.cpus or deployments * serve.replica_cpus > cpus:
            raise ValueError(
                f"serve: {deployments} deployments of {serve.replica_cpus:g} CPUs do not fit into {self.num_working} "
                f"pods of {pod.cpus:g}; raise workers or worker.cpus, or lower serve.replica_cpus"
            )
        if serve.encoder_gpus > pod.gpus:
            raise ValueError(
                f"serve.encoder_gpus={serve.encoder_gpus:g} and the pods that work have {pod.gpus}; raise worker.gpus"
            )


def rayservice(config: RayServiceConfig) -> list[dict[str, Any]]:
    """The resource."""
    serve = _in_pods(config)
    keys = {"secret": {"secretName": config.keys_secret, "defaultMode": 0o440}}
    cluster = ray_cluster(
        config,
        env={PATIENCE: "60"},  # in 5 s a busy machine starts no proxy, and Ray Serve takes it down
        files={_KEYS_FOLDER: keys},
        serve_port=serve.service.port,
    )
    service = {"apiVersion": "ray.io/v1", "kind": "RayService", "metadata": metadata(config, config.name or "viewfold")}
    return [{**service, "spec": {"serveConfigV2": serve_config(serve), "rayClusterConfig": cluster}}]


def _in_pods(config: RayServiceConfig) -> RayServeConfig:
    serve, mount = config.serve, config.mount
    return replace(
        serve,
        source=_path(mount, serve.source),
        home=Path(_path(mount, str(serve.home))),
        encoder=None if serve.encoder is None else _path(mount, serve.encoder),
        shards=tuple(_path(mount, shard) for shard in serve.shards),
        service=replace(serve.service, host=_EVERYBODY, keys_file=f"{_KEYS_FOLDER}/{_KEYS_FILE}"),
    )


def _path(mount: str, text: str) -> str:
    return text if text.startswith(REGISTERED) or "://" in text else str(PurePosixPath(mount) / text)
