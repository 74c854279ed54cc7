"""What one training is: its settings, and the work that its workers are sent."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from viewfold.augment import POLICIES, NonePolicy, PolicyConfig
from viewfold.config import Config, chosen
from viewfold.jobs.data import DataConfig, source
from viewfold.jobs.step_selection import SelectionConfig, selection_sources
from viewfold.pipeline.manifest import ShardManifest
from viewfold.pipeline.partners import Partners
from viewfold.pipeline.stream_config import StreamConfig
from viewfold.ssl.deepspeed_engine import DeepSpeedConfig
from viewfold.ssl.encoder import EncoderConfig
from viewfold.ssl.engine import OptimConfig
from viewfold.ssl.methods import METHOD_CONFIGS, METHOD_PRESETS, MethodConfig
from viewfold.ssl.trainable import TrainableConfig
from viewfold.ssl.watch import WatchConfig


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Config):
    """One training: what is learned, from which views, for how long, on how many workers."""

    method: Annotated[MethodConfig, chosen("method", METHOD_CONFIGS, METHOD_PRESETS)]
    train: TrainableConfig = field(default_factory=TrainableConfig)
    """What of the encoder learns. Where that is no more than an adapter or a head and `policy` draws no views, every
    image passes the backbone once, and the steps read features from memory."""
    select: SelectionConfig | None = None
    """Keep the step that is best for source domains which are then not learned from; left out: the last step."""
    features: str = ""
    """Folder in which the features of a frozen backbone are kept for the next training on the same data, on storage
    that all workers share. None where it is empty."""
    policy: Annotated[PolicyConfig, chosen("policy", POLICIES)] = field(default_factory=NonePolicy)
    compile_views: bool = False
    """Fuse the drawing of views with torch.compile: for GPUs; the first step takes a minute."""
    stream: StreamConfig = field(default_factory=StreamConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    steps: int = 1000
    """Optimizer steps; one step is one global batch of `stream.batch_size` samples."""
    workers: int = 2
    """Ray Train workers; the global batch stays what it is, whatever their number."""
    min_workers: int = 0
    """Go on with as few as this when workers are lost, and with up to `workers` when there is room again, in numbers
    that divide the batch; 0: exactly `workers`."""
    engine: Literal["deepspeed", "plain"] = "deepspeed"
    deepspeed: DeepSpeedConfig = field(default_factory=DeepSpeedConfig)
    """Read by the engine `deepspeed` only."""
    watch: WatchConfig = field(default_factory=WatchConfig)
    seed: int = 0
    """Of weights and drawn views; the order of samples has `stream.seed`."""
    checkpoint_every: int = 500
    """Steps between checkpoints; a run that is cut goes on from the last one."""
    log_every: int = 10
    """Steps between rows of metrics."""
    max_failures: int = 2
    """How often the workers are started again after one was lost."""

    RUNNING: ClassVar[tuple[str, ...]] = ("workers", "min_workers", "checkpoint_every", "max_failures", "features")

    def __post_init__(self) -> None:
        for name in ("steps", "workers", "checkpoint_every", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.features and self.train.adapter is None:
            raise ValueError(f"features={self.features!r} has no effect where {self.train.what} learns; leave it out")
        if not 0 <= self.min_workers <= self.workers:
            raise ValueError(f"min_workers must lie in 0..workers={self.workers}, got {self.min_workers}")

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many workers there may be: numbers that the batch divides over, and `workers` in any case."""
        fewer = range(self.min_workers or self.workers, self.workers)
        return (*(size for size in fewer if self.stream.batch_size % size == 0), self.workers)


@dataclass(frozen=True)
class TrainJob:
    """What every worker is sent; folders lie on storage that all workers share."""

    config: TrainConfig
    manifest: Path
    data: DataConfig
    start: EncoderConfig | Path
    """A new encoder of this architecture, or the folder of one to go on from."""
    out: Path
    pairs: Path | None = None
    """The folder of a mining stage, whose pairs take the place of two images of one sample."""


def training_data(config: TrainConfig, data: DataConfig, manifest: Path) -> DataConfig:
    """What of `data` is learned from: all but the domains by which a step is chosen.

    Raises:
        InvalidInput: there are no such domains to choose by.
    """
    if config.select is None:
        return data
    return selection_sources(data, config.select, ShardManifest.load(manifest)).train


def learned(job: TrainJob) -> ShardManifest:
    """The samples that a training learns from."""
    return source(job.manifest, training_data(job.config, job.data, job.manifest))


def mined_partners(job: TrainJob, manifest: ShardManifest) -> Partners | None:
    """The pairs of a mining stage among those samples; None where it trains on images alone."""
    return None if job.pairs is None else Partners.load(job.pairs, manifest)
