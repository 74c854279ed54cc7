"""What the resources have in common: an image, a name, and of those that bring a cluster its pods and storage."""

import re
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version

from viewfold.config import Config, check_ranges
from viewfold.errors import MissingDependency

LONGEST_NAME = 40
"""KubeRay appends up to 23 characters for the names of pods and services, which may have 63."""


@dataclass(frozen=True, kw_only=True)
class PodConfig(Config):
    """What one pod has; it is set aside for it, and is its limit too."""

    cpus: float = 4
    """CPU cores, which are Ray's logical CPUs as well."""
    memory_gib: int = 16
    """Main memory, with what lies in shared memory."""
    gpus: int = 0
    """NVIDIA GPUs; where there are any, the pod tolerates the taint that keeps others off their nodes."""
    shared_memory_gib: int = 4
    """Of /dev/shm, which is 64 MB otherwise. Three quarters are Ray's object store, the rest is NCCL's and torch's."""
    node_selector: dict[str, str] = field(default_factory=dict)
    """Labels that a node must have."""

    def __post_init__(self) -> None:
        check_ranges(self, cpus=(0.1, 1024), memory_gib=(1, 65_536), gpus=(0, 64), shared_memory_gib=(1, 65_536))
        if self.shared_memory_gib >= self.memory_gib:
            raise ValueError(
                f"shared_memory_gib={self.shared_memory_gib} must be less than memory_gib={self.memory_gib}, "
                "of which it is a part"
            )


@dataclass(frozen=True, kw_only=True)
class ResourceConfig(Config):
    """What every resource has; never used by itself."""

    image: str
    """Holds viewfold and all it needs, and runs as user 1000: see deploy/docker."""
    name: str = ""
    """Of the resource; by default one is made from what it runs."""
    namespace: str = ""
    """Left out: the one that kubectl is set to."""
    pull_secrets: tuple[str, ...] = ()
    """Secrets with the credentials of the image's registry."""
    service_account: str = ""
    """The pods' ServiceAccount, where the cloud grants access to buckets by it."""
    tracking_uri: str = ""
    """The MLflow server. Left out: an SQLite file in the folder of runs, for one run at a time."""
    env: dict[str, str] = field(default_factory=dict)
    """Other environment variables; these go before those that viewfold sets."""
    labels: dict[str, str] = field(default_factory=dict)
    """Of the resource and its pods, such as `kueue.x-k8s.io/queue-name`."""

    def __post_init__(self) -> None:
        if self.name:
            check_name(self.name)
        if not self.image:
            raise ValueError("image cannot be empty")


@dataclass(frozen=True, kw_only=True)
class ManifestConfig(ResourceConfig):
    """A Ray cluster, and in what its pods run; never used by itself."""

    ray_version: str = ""
    """Of the Ray in the image; left out: the one installed here."""
    head: PodConfig = field(default_factory=PodConfig)
    """The pod that leads the cluster and runs the command itself; Ray puts work there only where `workers` is 0."""
    workers: int = 1
    """Pods that work."""
    worker: PodConfig = field(default_factory=PodConfig)
    """Each of them."""
    claim: str = "viewfold"
    """A PersistentVolumeClaim that is there already; ReadWriteMany, unless `workers` is 0."""
    mount: str = "/viewfold"
    """Where the pods see it: `runs/` holds run folders and `data/` packs, and relative paths begin here."""
    cache_gb: int = 50
    """Disk of each node for shards of object stores."""
    secrets: tuple[str, ...] = ()
    """Secrets whose entries become environment variables: AWS_ACCESS_KEY_ID, HF_TOKEN, MLFLOW_TRACKING_TOKEN ..."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, workers=(0, 10_000), cache_gb=(1, 1_000_000))
        if not re.fullmatch(r"(/[\w.-]+)+", self.mount):
            raise ValueError(f"mount must be an absolute path such as /viewfold, got {self.mount!r}")
        if not self.claim:
            raise ValueError("claim cannot be empty")

    @property
    def working(self) -> PodConfig:
        """A pod that Ray gives work to."""
        return self.worker if self.workers else self.head

    @property
    def num_working(self) -> int:
        """How many there are of them."""
        return max(1, self.workers)


def check_name(name: str) -> None:
    """Raises ValueError: Kubernetes or KubeRay would refuse it."""
    if len(name) > LONGEST_NAME or not re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", name):
        raise ValueError(
            f"name must be at most {LONGEST_NAME} small letters, digits and '-', begin with a letter and not end "
            f"with '-', got {name!r}"
        )


def name_from(text: str) -> str:
    """`text` as a name that Kubernetes takes."""
    words = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    return (words if words[:1].isalpha() else f"viewfold-{words}")[:LONGEST_NAME].strip("-")


def ray_version(config: ManifestConfig) -> str:
    """The version of Ray in the image.

    Raises:
        MissingDependency: it is not given, and Ray is not installed here.
    """
    try:
        return config.ray_version or version("ray")
    except PackageNotFoundError:
        raise MissingDependency(
            "Ray is not installed here, so its version in the image is not known: set ray_version=2.60.0, say"
        ) from None
