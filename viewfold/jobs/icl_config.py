"""The settings of an in-context evaluation: which domains are held out, which encoders choose, who is asked."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from viewfold.config import Config, check_ranges
from viewfold.jobs.ask_lmm import ModelConfig
from viewfold.jobs.data import DataConfig
from viewfold.jobs.embed import EmbedConfig
from viewfold.jobs.train_config import TrainConfig
from viewfold.retrieval.prompt import PromptSpec
from viewfold.ssl.encoder import EncoderConfig

MIN_RANDOM_SEEDS = 3
MACRO = "macro"
"""The mean over folds, among the names of folds."""
SETTINGS, RESULTS, PAGE, LOG = "config.yaml", "results.json", "report.html", "answers.jsonl"
RESERVED = frozenset({
    MACRO, "seeds", "space", "calibration", "selector", "against", "order", "k", "measure",
    "data", "base", "base-features", "pixels", "backbone-features", SETTINGS, RESULTS, PAGE, LOG,
})  # fmt: skip
"""Keys of the results and names in the folder, between which those of the folds stand."""


@dataclass(frozen=True, kw_only=True)
class LmmConfig(Config):
    """The multimodal model that answers, and how it is asked."""

    server: ModelConfig
    """Where it is; `url: vote` asks no server, but counts the labels that the prompt shows."""
    prompt: PromptSpec = field(default_factory=PromptSpec)
    orders: tuple[Literal["nearest_last", "nearest_first"], ...] = ("nearest_last",)
    """Each question is asked once with the demonstrations in each of these orders."""
    queries_per_fold: int = 100
    """Queries that are asked, the same for every selector, drawn by key of those whose class can be shown; 0: all."""
    max_side: int = 512
    """Longer sides of images are shrunk to this many pixels."""
    concurrency: int = 4
    """Questions that wait for an answer at the same time."""

    RUNNING: ClassVar[tuple[str, ...]] = ("concurrency",)

    def __post_init__(self) -> None:
        check_ranges(self, queries_per_fold=(0, 1e9), max_side=(16, 8192), concurrency=(1, 1024))
        if not self.orders or len(set(self.orders)) < len(self.orders):
            raise ValueError(f"orders must name each order once, got {self.orders}")


@dataclass(frozen=True, kw_only=True)
class IclConfig(Config):
    """One domain after the other is held out; its images ask, and the labelled images of the others are shown."""

    name: str
    """Also the default folder, `runs/NAME`."""
    data: DataConfig
    folds: tuple[tuple[str, ...], ...]
    """Domains held out together, fold by fold: the styles of one vendor, the scanners of one hospital."""
    start: str = ""
    """The base encoder, whose nearest images are what invariant selection is held against: its folder, a run folder, or
    `models:/NAME@champion`. It is taken as it is, whatever it has seen."""
    encoder: EncoderConfig | None = None
    """With `pretrain`, in place of `start`: the base encoder that is trained anew for each fold."""
    pretrain: TrainConfig | None = None
    """How it is trained; it never sees the fold's domains."""
    adaptations: Mapping[str, TrainConfig] = field(default_factory=dict)
    """Trainings by name that go on from the base encoder, on the other domains' labelled images; each is a selector
    `invariant:NAME`."""
    ks: tuple[int, ...] = (0, 1, 3, 5, 7, 15)
    """Numbers of demonstrations; 0 has no votes and is asked of the model alone."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Each adaptation is trained once with each of these, of weights, draws and order."""
    random_seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Random selection is drawn once with each of these."""
    exclude_group: bool = True
    """A query never sees its own group: its class has to be found through other things of that class."""
    unseen_share: float = 0.0
    """Share of the grouped images, in 0..1 and below 1, that no adaptation and no `pretrain` learns from in any domain:
    whole groups, drawn by key. Then only their images ask, and those without a group; the labelled ones of other
    domains can still be chosen. 0: queries are things that were learned from, with their labels, in other domains."""
    embed: EmbedConfig = field(default_factory=EmbedConfig)
    pixels: int = 16
    """Side of the shrunk images whose raw values are the selector `pixels`."""
    vote_tau: float = 0.1
    """Temperature of the vote that weighs each label by exp(cosine / tau)."""
    resamples: int = 2000
    """Draws of groups for intervals, and of signs for p-values."""
    seed: int = 0
    """Of those draws, of the unseen groups, and of the queries that are asked and shown."""
    gallery: int = 8
    """Queries of each fold whose demonstrations the report shows."""
    lmm: LmmConfig | None = None

    def __post_init__(self) -> None:
        if not self.folds or not all(self.folds):
            raise ValueError("folds must name at least one fold, and at least one domain in each")
        self._check_folds()
        if bool(self.start) == (self.pretrain is not None) or (self.pretrain is None) != (self.encoder is None):
            raise ValueError("the base encoder is either `start` or `pretrain` with `encoder`; give one of the two")
        self._check_numbers()
        for name, training in self.adaptations.items():
            if not re.fullmatch(r"[\w.-]+", name):
                raise ValueError(f"adaptations: a name takes letters, digits, '_', '-' and '.', got {name!r}")
            if not training.method.needs_labels:
                raise ValueError(f"adaptations.{name}: method {training.method.name} learns without labels; use cci")

    def _check_folds(self) -> None:
        domains = [domain for fold in self.folds for domain in fold]
        if twice := sorted({domain for domain in domains if domains.count(domain) > 1}):
            raise ValueError(f"folds: a domain is held out once, but {', '.join(twice)} stands there twice")
        names = [fold_name(fold) for fold in self.folds]
        for name in names:
            if name in RESERVED or name.startswith(".") or name.endswith(".part"):
                raise ValueError(f"folds: {name!r} is the name of other results or files; give the domain another name")
            if names.count(name) > 1:
                raise ValueError(f"folds: two would be called {name!r} in results and folders; rename a domain")

    def _check_numbers(self) -> None:
        for field_name in ("ks", "seeds", "random_seeds"):
            values = getattr(self, field_name)
            if not values or len(set(values)) < len(values) or min(values) < 0:
                raise ValueError(f"{field_name} must hold different numbers of 0 or more, got {values}")
        if max(self.ks) < 1:
            raise ValueError("ks must hold a number above 0")
        if len(self.random_seeds) < MIN_RANDOM_SEEDS:
            raise ValueError(
                f"random_seeds needs {MIN_RANDOM_SEEDS} or more: one draw says little, got {self.random_seeds}"
            )
        if not 0 <= self.unseen_share < 1:
            raise ValueError(f"unseen_share must lie in 0..1 and below 1, got {self.unseen_share}")
        check_ranges(self, pixels=(2, 256), resamples=(100, 1e6), gallery=(0, 1000))
        if self.vote_tau <= 0:
            raise ValueError(f"vote_tau must be above 0, got {self.vote_tau}")

    @property
    def max_k(self) -> int:
        """The most demonstrations that are asked for."""
        return max(self.ks)

    def adaptation(self, name: str, seed: int) -> TrainConfig:
        """The training `name` with this seed."""
        training = self.adaptations[name]
        return replace(training, seed=seed, stream=replace(training.stream, seed=seed))


def fold_name(domains: tuple[str, ...]) -> str:
    """How a fold is called in results and folders."""
    return re.sub(r"[^\w.+-]", "_", "+".join(domains))
