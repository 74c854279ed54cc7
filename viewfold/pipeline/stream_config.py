"""What a stream draws from a manifest, and the order that follows from it."""

import math
from dataclasses import dataclass
from typing import ClassVar

from viewfold.config import Config
from viewfold.pipeline.manifest import ShardManifest
from viewfold.pipeline.order import Balanced, Order, Plan, SomeRows
from viewfold.pipeline.order.plan import Tail
from viewfold.pipeline.partners import Partners


@dataclass(frozen=True, kw_only=True)
class StreamConfig(Config):
    """What a training run draws from a manifest."""

    batch_size: int = 64
    """Samples in one global batch, over all ranks."""
    image_size: int = 64
    """Height and width in pixels that images are scaled and cropped to."""
    seed: int = 0
    images_per_sample: int = 1
    """Distinct stored images that are drawn of each sample: 2 sees an object twice, 1 takes it as it is."""
    classes_per_batch: int = 0
    """0: every sample once an epoch. Otherwise batches of this many classes, `batch_size` divided by it images of
    each, spread over their domains."""
    lanes: int = 0
    """Stretches of the data that every batch takes equal shares of and that are dealt to the ranks; divides
    `batch_size`. 0: the divisor next below its square root."""
    block: int = 256
    """Neighbouring samples that stay near each other in the order: larger reads fewer shards at a time, smaller mixes
    better. For remote shards, about the samples of one shard."""
    tail: Tail = "carry"
    """What becomes of an epoch's last samples: they open the next epoch's first batch (`carry`), are left out
    (`drop`), or are filled up to a batch with samples of the same epoch (`pad`)."""
    loader_workers: int = 0
    """Processes that read and decode for each rank; 0 does it in the training process."""
    max_bad_share: float = 0.0
    """Share of the samples that may turn out unreadable, in 0..1; at 0 the first one ends the run."""
    ledger: str = ""
    """Folder in which every rank writes down what it consumed; none where it is empty."""

    RUNNING: ClassVar[tuple[str, ...]] = ("loader_workers", "ledger")

    def __post_init__(self) -> None:
        least = {"batch_size": 1, "image_size": 8, "block": 1, "loader_workers": 0, "lanes": 0, "classes_per_batch": 0}
        least["images_per_sample"] = 1
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}, got {getattr(self, name)}")
        if not 0 <= self.max_bad_share < 1:
            raise ValueError(f"max_bad_share must lie in 0..1 and below 1, got {self.max_bad_share}")
        for name in ("lanes", "classes_per_batch"):
            if (parts := getattr(self, name)) and self.batch_size % parts:
                near = min(_divisors(self.batch_size), key=lambda divisor: abs(divisor - parts))
                raise ValueError(f"{name}={parts} does not divide batch_size={self.batch_size}; use {near}")


def make_order(manifest: ShardManifest, config: StreamConfig, partners: Partners | None = None) -> Order:
    """The order of the samples that a configuration asks for; with `partners`, of those alone that have one."""
    if partners is not None:
        return SomeRows(partners.anchors, make_order(manifest.take(partners.anchors), config))
    if config.classes_per_batch:
        return Balanced(
            identity=manifest.hash,
            label=manifest.label,
            domain=manifest.domain,
            group=manifest.group,
            domain_names=manifest.domains,
            classes_per_batch=config.classes_per_batch,
            images_per_class=config.batch_size // config.classes_per_batch,
            seed=config.seed,
        )
    return Plan(
        identity=manifest.hash,
        num_samples=len(manifest),
        global_batch=config.batch_size,
        seed=config.seed,
        lanes=config.lanes or max(n for n in _divisors(config.batch_size) if n <= math.isqrt(config.batch_size)),
        block=config.block,
        tail=config.tail,
    )


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]
