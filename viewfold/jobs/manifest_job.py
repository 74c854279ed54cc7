"""A RayJob: a Ray cluster that KubeRay starts for one run of a recipe, and takes down when it has ended."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from viewfold import __version__
from viewfold.config import check_ranges
from viewfold.errors import InvalidInput
from viewfold.jobs.manifest_cluster import RESTRICTED, metadata, pod_basics, ray_cluster
from viewfold.jobs.manifest_config import ManifestConfig, ResourceConfig, name_from
from viewfold.jobs.recipes import RECIPES, find
from viewfold.jobs.run_config import RunConfig

_FOLDER, _RECIPE_FILE = "/etc/viewfold", "recipe.yaml"


@dataclass(frozen=True, kw_only=True)
class ClusterJobConfig(ManifestConfig):
    """A command on a cluster of its own; never used by itself."""

    image: str = f"viewfold-train:{__version__}"
    """Holds viewfold[all], and runs as user 1000: see deploy/docker/train.Dockerfile."""
    ttl_s: int = 600
    """Seconds for which the cluster is kept after the end, to look at."""
    deadline_s: int = 0
    """Seconds after which the job is ended, with those spent waiting for nodes; 0: never."""
    backoff_limit: int = 0
    """How often a failed job is tried again, in a new cluster. The one before may not be gone by then, and nothing but
    a nightly's lease keeps two of them out of one run folder; lost workers are replaced without this
    (`pretrain.max_failures`)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, ttl_s=(0, 2**31 - 1), deadline_s=(0, 2**31 - 1), backoff_limit=(0, 100))


@dataclass(frozen=True, kw_only=True)
class RayJobConfig(ClusterJobConfig):
    """One `viewfold run` on a cluster of its own."""

    recipe: str
    """As for `viewfold run`. A file is sent along; the paths in it are those that the pods see."""
    settings: tuple[str, ...] = ()
    """Of the recipe, such as `pretrain.steps=500`."""


def rayjob(config: RayJobConfig) -> list[dict[str, Any]]:
    """The resource, and before it the ConfigMap with the recipe if that is a file.

    Raises:
        InvalidInput: a recipe that cannot be run, or one that would wait for ever in a cluster of this size.
    """
    run = find(config.recipe, config.settings)
    check_fit(run, config)
    name = config.name or name_from(run.name)
    sent = None if config.recipe in RECIPES else file_map(config, name, _RECIPE_FILE, Path(config.recipe))
    recipe = config.recipe if sent is None else f"{_FOLDER}/{_RECIPE_FILE}"
    words = ["viewfold", "run", recipe, *config.settings, "--out", f"{config.mount}/runs/{run.name}"]
    job = {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": metadata(config, name)}
    return [*([] if sent is None else [sent]), {**job, "spec": job_spec(config, words, sent=sent)}]


def job_spec(
    config: ClusterJobConfig, words: Sequence[str], *, sent: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The RayJobSpec that runs the command `words`, with the ConfigMap `sent` in /etc/viewfold."""
    files = {} if sent is None else {_FOLDER: {"configMap": {"name": sent["metadata"]["name"]}}}
    deadline = {"activeDeadlineSeconds": config.deadline_s} if config.deadline_s else {}
    return {
        "entrypoint": shlex.join(words),  # parsed by the submitter's shell, quoted anew by Ray, parsed by the job's
        "submissionMode": "K8sJobMode",
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": config.ttl_s,
        "backoffLimit": config.backoff_limit,
        **deadline,
        "submitterPodTemplate": {"spec": {**pod_basics(config), **_submitter(config)}},
        "rayClusterSpec": ray_cluster(config, files=files),
    }


def file_map(config: ResourceConfig, name: str, file: str, source: Path) -> dict[str, Any]:
    """The ConfigMap of the resource `name` that holds `source` as `file`."""
    kind = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata(config, f"{name}-{Path(file).stem}")}
    return {**kind, "data": {file: source.read_text(encoding="utf-8")}}


def _submitter(config: ClusterJobConfig) -> dict[str, Any]:
    """KubeRay fills in the command; its own template says nothing of users, which strict namespaces refuse."""
    container = {
        "name": "ray-job-submitter",
        "image": config.image,
        "resources": {"requests": {"cpu": "500m", "memory": "500Mi"}, "limits": {"cpu": "1", "memory": "1Gi"}},
        "securityContext": dict(RESTRICTED),
    }
    return {"restartPolicy": "Never", "containers": [container]}


def check_fit(run: RunConfig, config: ManifestConfig) -> None:
    """Ray waits without end for what no node has: a cluster that is too small is refused before it costs anything."""
    trainings = {stage: getattr(run, stage) for stage in ("pretrain", "adapt")}
    needs = {f"{stage}.workers": training.sizes[0] for stage, training in trainings.items() if training is not None}
    if config.workers:  # in a single pod, actors share what there is
        actors = {stage: getattr(run, stage) for stage in ("mine", "embed")}
        needs |= {f"{stage}.actors": made.actors for stage, made in actors.items() if made is not None}
    pod = config.working
    if pod.gpus:
        has, what = config.num_working * pod.gpus, "GPU"
    elif config.workers:
        has, what = config.num_working * int(pod.cpus), "CPU"
    else:
        return
    for setting, needed in needs.items():
        if needed > has:
            raise InvalidInput(
                f"{setting}={needed}: as many processes need a {what} each, and the pods that work have {has}; "
                f"raise workers or give each pod more, or set settings=[{setting}={has}]"
            )
