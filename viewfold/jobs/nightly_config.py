"""The settings of a nightly: what is trained, by what it is judged, and who is told."""

import re
from dataclasses import dataclass, field

from viewfold.config import Config, check_ranges
from viewfold.jobs.data_replay import MOST
from viewfold.jobs.drift import DriftConfig
from viewfold.jobs.gates_config import GatesConfig


@dataclass(frozen=True, kw_only=True)
class ServiceTarget(Config):
    """The running service that serves the champion."""

    url: str
    """Such as http://127.0.0.1:8000; it was started with `models:/NAME@champion`."""
    key_variable: str = ""
    """Name of the environment variable that holds its key; empty where it asks for none."""
    wait_s: float = 120
    """How long it may take to open the new pair, and to come back where it does not answer."""

    def __post_init__(self) -> None:
        check_ranges(self, wait_s=(0, 86_400))
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"url must begin with http:// or https://, got {self.url!r}")


@dataclass(frozen=True, kw_only=True)
class CanaryConfig(Config):
    """Questions with a known answer, asked of a new champion at once."""

    images: int = 32
    """Labelled images that are asked about: of the validation data, else of held-out domains, else of the index."""
    k: int = 5
    """Demonstrations that must come for each."""
    min_precision: float = 0.2
    """Share of the demonstrations that must carry the label of the image they came for, in 0..1. It finds what is
    broken; how good an encoder is, the gates measure."""

    def __post_init__(self) -> None:
        check_ranges(self, images=(1, 1000), k=(1, 64), min_precision=(0, 1))


@dataclass(frozen=True, kw_only=True)
class NightlyConfig(Config):
    """A training that is done again whenever there is new data, and takes over where it is no worse."""

    name: str
    """Of the model in the registry, and of the folder HOME/nightly/NAME."""
    recipe: str
    """As for `viewfold run`: a name or a file. It needs an index; its `register_as` and `alias` are set here."""
    settings: tuple[str, ...] = ()
    """Of the recipe, such as `data.shards=[/data/new]`."""
    steps: int = 0
    """Of a training that goes on from the champion; 0: those of the recipe's last training."""
    replay_share: float = 0.5
    """Share of old data among what such a training learns from, in 0..0.95; all else sees all data."""
    gates: GatesConfig = field(default_factory=GatesConfig)
    """What a challenger must pass."""
    service: ServiceTarget | None = None
    """Who is told of a new champion and asked the canaries; left out: the pair is opened and asked in this process."""
    canary: CanaryConfig = field(default_factory=CanaryConfig)
    drift: DriftConfig | None = None
    """Hold the queries of the service against the index when nothing is new; left out: never."""
    keep: int = 3
    """Finished nights whose folders are kept; one that an alias or the service uses is kept beside them."""
    lease_minutes: float = 10
    """After this long without a sign of life a nightly on another machine is taken for dead."""
    webhook: str = ""
    """URL to which the result of a night is posted as JSON."""
    result: str = ""
    """File into which it is written, beside the night's own."""

    def __post_init__(self) -> None:
        check_ranges(
            self, steps=(0, 10**9), replay_share=(0, MOST), keep=(1, 10_000), lease_minutes=(0.05, 1440)
        )  # fmt: skip
        if not re.fullmatch(r"[\w-][\w.-]*", self.name):
            raise ValueError(f"name takes letters, digits, '_', '-' and '.', got {self.name!r}")
        if self.drift is not None and self.service is None:
            raise ValueError("drift is read from a running service; name one in `service`, or leave drift out")
        if self.webhook and not self.webhook.startswith(("http://", "https://")):
            raise ValueError(f"webhook must begin with http:// or https://, got {self.webhook!r}")
