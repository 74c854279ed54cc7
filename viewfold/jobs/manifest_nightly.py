"""A nightly on Kubernetes: a RayCronJob with a cluster for each night, or a CronJob that submits to one that runs."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from viewfold import __version__
from viewfold.config import check_ranges, load, overridden, parse
from viewfold.errors import InvalidInput
from viewfold.jobs.manifest_cluster import RESTRICTED, metadata, pod_basics
from viewfold.jobs.manifest_config import ResourceConfig, name_from
from viewfold.jobs.manifest_job import ClusterJobConfig, check_fit, file_map, job_spec
from viewfold.jobs.nightly_config import NightlyConfig
from viewfold.jobs.recipes import RECIPES, find

LONGEST_CRON_NAME = 30
"""Each night's RayJob has the minute as ten characters more, and KubeRay takes 47."""
_FOLDER, _FILE = "/etc/viewfold", "nightly.yaml"
_SCHEDULE = r"@(hourly|daily|midnight|weekly|monthly)|\S+( \S+){4}"


@dataclass(frozen=True, kw_only=True)
class RayCronJobConfig(ClusterJobConfig):
    """`viewfold nightly` on a cluster that is started for it, night for night."""

    nightly: str
    """The file for `viewfold nightly`. It is sent along; the paths in it are those that the pods see."""
    settings: tuple[str, ...] = ()
    """Of the nightly, such as `steps=500`."""
    schedule: str = "0 2 * * *"
    """When, as cron has it."""
    time_zone: str = "Etc/UTC"
    """Of the schedule; the day that a night is for is that of UTC."""
    suspend: bool = False
    """Start none until this is false again. KubeRay then makes up for every one that was missed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_schedule(self.schedule, self.name)


@dataclass(frozen=True, kw_only=True)
class CronJobConfig(ResourceConfig):
    """`viewfold submit nightly` to a cluster that runs already."""

    nightly: str
    """The file for `viewfold nightly`. It is sent along; the paths in it are those that the cluster sees."""
    settings: tuple[str, ...] = ()
    """Of the nightly, such as `steps=500`."""
    cluster: str
    """Name of the RayCluster; its dashboard and its token are found by it."""
    address: str = ""
    """Of the dashboard; left out: http://CLUSTER-head-svc:8265."""
    token_secret: str = ""
    """The Secret whose entry `auth_token` is the cluster's token; left out: the one that KubeRay makes, CLUSTER."""
    home: str = "/viewfold/runs"
    """Where the cluster sees its runs and, unless there is a tracking server, the registry."""
    image: str = f"viewfold-train:{__version__}"
    """Holds viewfold[train], and runs as user 1000: see deploy/docker/train.Dockerfile."""
    schedule: str = "0 2 * * *"
    """When, as cron has it."""
    time_zone: str = "Etc/UTC"
    """Of the schedule; the day that a night is for is that of UTC."""
    suspend: bool = False
    """Start none until this is false again."""
    starting_deadline_s: int = 3600
    """A night that could not begin for so long is left out; the next one finds what was new."""
    deadline_s: int = 0
    """Seconds after which nobody waits for the job any more, which goes on all the same; 0: never."""
    backoff_limit: int = 2
    """How often a night that failed is submitted again; it goes on from what is done."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(
            self, starting_deadline_s=(10, 2**31 - 1), deadline_s=(0, 2**31 - 1), backoff_limit=(0, 100)
        )  # fmt: skip
        _check_schedule(self.schedule, self.name)
        if not self.cluster:
            raise ValueError("cluster cannot be empty: name the RayCluster that runs already")
        if not self.home.startswith("/"):
            raise ValueError(f"home must be an absolute path that the cluster sees, got {self.home!r}")


N = TypeVar("N", RayCronJobConfig, CronJobConfig)


def scheduled_config(cls: type[N], file: str, overrides: Sequence[str]) -> N:
    """From a file with the resource's settings, which has the key `nightly`, or from the nightly's own file.

    Raises:
        InvalidInput: no such file, or settings that `config.parse` refuses.
    """
    path = Path(file)
    if not path.is_file():
        raise InvalidInput(
            f"{file}: no such file; name the settings of a nightly, or of the resource (`nightly: FILE`)"
        )
    if re.search(r"^['\"]?nightly['\"]?\s*:", path.read_text(encoding="utf-8"), re.M):
        return load(cls, path, overrides)
    return parse(cls, overridden({"nightly": file}, overrides), where="manifest")


def raycronjob(config: RayCronJobConfig) -> list[dict[str, Any]]:
    """The ConfigMap with the nightly's file, and the resource.

    Raises:
        InvalidInput: settings that the nightly refuses, or a training that would wait for ever in such a cluster.
    """
    nightly = _checked(config.nightly, config.settings)
    if nightly.recipe in RECIPES:
        check_fit(find(nightly.recipe, nightly.settings), config)
    name = _name(config, nightly)
    sent = file_map(config, name, _FILE, Path(config.nightly))
    words = ["viewfold", "nightly", f"{_FOLDER}/{_FILE}", *config.settings, "--home", f"{config.mount}/runs"]
    spec = {**_when(config), "jobTemplate": job_spec(config, words, sent=sent)}
    kind = {"apiVersion": "ray.io/v1", "kind": "RayCronJob", "metadata": metadata(config, name)}
    return [sent, {**kind, "spec": spec}]


def cronjob(config: CronJobConfig) -> list[dict[str, Any]]:
    """The ConfigMap with the nightly's file, and the resource.

    Raises:
        InvalidInput: settings that the nightly refuses.
    """
    name = _name(config, _checked(config.nightly, config.settings))
    sent = file_map(config, name, _FILE, Path(config.nightly))
    deadline = {"activeDeadlineSeconds": config.deadline_s} if config.deadline_s else {}
    labels = {"metadata": {"labels": dict(config.labels)}} if config.labels else {}
    job = {"backoffLimit": config.backoff_limit, **deadline, "template": {**labels, "spec": _pod(config, sent)}}
    spec = {
        **_when(config),
        "concurrencyPolicy": "Forbid",
        "startingDeadlineSeconds": config.starting_deadline_s,
        "successfulJobsHistoryLimit": 3,
        "failedJobsHistoryLimit": 3,
        "jobTemplate": {"spec": job},
    }
    kind = {"apiVersion": "batch/v1", "kind": "CronJob", "metadata": metadata(config, name)}
    return [sent, {**kind, "spec": spec}]


def _pod(config: CronJobConfig, sent: Mapping[str, Any]) -> dict[str, Any]:
    address = config.address or f"http://{config.cluster}-head-svc:8265"
    tracking = {"MLFLOW_TRACKING_URI": config.tracking_uri} if config.tracking_uri else {}
    env = [word for name, value in {**tracking, **config.env}.items() for word in ("--env", f"{name}={value}")]
    words = ["viewfold", "submit", "--address", address, *env, "nightly", _FILE, *config.settings]
    token = {"secretKeyRef": {"name": config.token_secret or config.cluster, "key": "auth_token"}}
    container = {
        "name": "submitter",
        "image": config.image,
        # Where the file lies: `submit` sends along what is named by a relative path.
        "workingDir": _FOLDER,
        "command": [*words, "--home", config.home],
        "env": [{"name": "RAY_AUTH_MODE", "value": "token"}, {"name": "RAY_AUTH_TOKEN", "valueFrom": token}],
        "resources": {"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "2Gi"}},
        "securityContext": dict(RESTRICTED),
        "volumeMounts": [{"name": "nightly", "mountPath": _FOLDER}],
    }
    volume = {"name": "nightly", "configMap": {"name": sent["metadata"]["name"]}}
    return {**pod_basics(config), "restartPolicy": "Never", "containers": [container], "volumes": [volume]}


def _when(config: RayCronJobConfig | CronJobConfig) -> dict[str, Any]:
    return {"schedule": config.schedule, "timeZone": config.time_zone, "suspend": config.suspend}


def _checked(file: str, settings: Sequence[str]) -> NightlyConfig:
    """Read here, so that what it refuses is not found out at night."""
    return load(NightlyConfig, Path(file), settings)


def _name(config: ResourceConfig, nightly: NightlyConfig) -> str:
    return config.name or name_from(nightly.name)[:LONGEST_CRON_NAME].strip("-")


def _check_schedule(schedule: str, name: str) -> None:
    if not re.fullmatch(_SCHEDULE, schedule):
        raise ValueError(f"schedule must be five fields as cron has them, such as '0 2 * * *', got {schedule!r}")
    if len(name) > LONGEST_CRON_NAME:
        raise ValueError(f"name must be at most {LONGEST_CRON_NAME} characters, got {name!r}")
