"""Bodies of requests and answers. Every body passes through `config.parse`: a key that is not named here is refused."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from viewfold.config import Config, check_ranges
from viewfold.retrieval.prompt.budget import BudgetConfig
from viewfold.retrieval.prompt.cost import PromptCost
from viewfold.retrieval.prompt.images import MediaType
from viewfold.retrieval.selection.abstention import AbstainConfig
from viewfold.retrieval.selection.demos import DemoSet
from viewfold.retrieval.selection.diversity import DiversityConfig
from viewfold.retrieval.selection.filters import FilterConfig
from viewfold.retrieval.selection.guards import GuardConfig
from viewfold.retrieval.selection.ordering import Order
from viewfold.retrieval.selection.quota import QuotaConfig
from viewfold.retrieval.selection.select_config import SelectConfig
from viewfold.retrieval.service.backend import Found, PairInfo
from viewfold.retrieval.service.config import LimitsConfig

Layout = Literal["multiturn", "interleaved"]


@dataclass(frozen=True, kw_only=True)
class QueryBody(Config):
    """An image that is asked about: either `image` or `vector`."""

    image: str | None = None
    """The image file in base64, or as a data URI; addresses are not fetched."""
    vector: tuple[float, ...] | None = None
    """What the encoder of the index made of it; need not have unit length."""
    base_vector: tuple[float, ...] | None = None
    """Beside `vector`, what the encoder from before adaptation made of it: for the guard against near duplicates."""
    sha256: str | None = None
    """Beside `vector`, of its file: images with the same bytes are left out."""
    phash: str | None = None
    """Beside `vector`, its perceptual hash: images that look the same are left out."""
    id: str | None = None
    """Its identity: the image of the index with this key is left out, and random draws depend on it."""
    group: str | None = None
    """What must not leak, such as a patient: images of this group are left out."""


@dataclass(frozen=True, kw_only=True)
class SettingsBody(Config):
    """How demonstrations are chosen and shown; what is left out is as the service was started with."""

    strategy: Literal["random", "nearest", "invariant"] | None = None
    """`nearest` and `invariant` are one rule; which of the two names is true depends on the index's encoder."""
    k: int | None = None
    """Demonstrations for each query; 0 asks for none."""
    filters: FilterConfig | None = None
    """Which images may be shown to anyone."""
    exclude_group: bool | None = None
    """Leave out images of the query's own group."""
    guards: GuardConfig | None = None
    """Which images look too much like the query."""
    quota: QuotaConfig | None = None
    """How many of a class or domain."""
    diversity: DiversityConfig | None = None
    """How different from one another."""
    abstain: AbstainConfig | None = None
    """When to show less; the calibration is that of the service."""
    order: Order | None = None
    """Order in the prompt."""
    seed: int | None = None
    """For what is drawn or shuffled."""
    format: Literal["raw", "openai"] = "raw"
    """`openai` adds a `prompt` with the messages of a chat; the query must be an image then. /v1/messages knows no
    other."""
    explain: bool = False
    """Add why near images were chosen or left out; of one query alone, and not in /v1/messages."""
    layout: Layout = "multiturn"
    """How the messages are laid out: a turn for each demonstration, or all in one."""
    task: str | None = None
    """First sentence of the system turn."""
    question: str | None = None
    """What is asked about the query."""
    words: Mapping[str, str] = field(default_factory=dict)
    """Words to show in place of a label."""
    rationale: bool = False
    """Ask for a sentence of explanation after the answer."""
    max_side: int = 512
    """Longer sides of images in the messages are shrunk to this many pixels."""
    media: MediaType = "image/jpeg"
    """How images in the messages are encoded."""
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    """What the messages may take, the query included."""

    def __post_init__(self) -> None:
        check_ranges(self, max_side=(16, 8192))


@dataclass(frozen=True, kw_only=True)
class SearchSettings(Config):
    """How a search is carried out."""

    k: int | None = None
    """Images for each query, 1 or more; left out, 10 or as many as the service allows."""
    filters: FilterConfig = field(default_factory=FilterConfig)
    """Which images may be found."""

    def __post_init__(self) -> None:
        if self.k is not None and self.k < 1:
            raise ValueError(f"k must be 1 or more, got {self.k}")


@dataclass(frozen=True, kw_only=True)
class EmbedBody(Config):
    """Images to embed: one, or a list."""

    image: str | None = None
    """An image file in base64, or as a data URI."""
    images: tuple[str, ...] | None = None
    """Several of them."""


@dataclass(frozen=True, kw_only=True)
class ReloadBody(Config):
    """What is to be loaded."""

    source: str | None = None
    """A run folder, a bundle, or models:/name@alias; left out, what the service was started with, opened anew."""


@dataclass(frozen=True)
class Prompt:
    """Messages of a chat, as OpenAI-compatible servers take them."""

    messages: list[dict[str, Any]]
    classes: list[str]
    """The closed list of what may be answered."""
    keys: list[str]
    """Of the images in the order of the messages; the last one is the query's."""
    dropped: list[str]
    """Demonstrations that the budget had no room for."""
    notes: list[str]
    """What was done to meet the budget."""
    cost: PromptCost
    answer_schema: dict[str, Any]
    """JSON schema of the answer, for `response_format`."""


@dataclass(frozen=True)
class Explained:
    """How far an image came in selection, and why not further."""

    key: str
    stage: str
    """`filter`, a guard (`key`, `sha256`, `group`, `phash`, `duplicate`), `rank`, `quota`, `diversity`, `abstain` or
    `chosen`."""
    reason: str
    label: str | None
    domain: str | None
    score: float
    """Cosine to the query."""


@dataclass(frozen=True)
class Problem:
    """What went wrong."""

    code: str
    """For programs: `invalid_input`, `too_large`, `unauthorized`, `overloaded`, `not_ready`, ..."""
    message: str
    """For people: what, where, what to do."""
    request_id: str
    """Stands in the log of the service."""


@dataclass(frozen=True)
class ErrorAnswer:
    """The answer to a request that failed."""

    error: Problem


@dataclass(frozen=True)
class DemonstrationsAnswer:
    """The demonstrations for one query."""

    demonstrations: DemoSet
    place: tuple[float, float] | None
    """Where the query lies on the index's map."""
    prompt: Prompt | None
    """With `format=openai`."""
    explained: list[Explained] | None
    """With `explain`: the nearest images, best first."""


@dataclass(frozen=True)
class BatchAnswer:
    """One answer for each query, in their order; `error` for an image that cannot be read."""

    results: list[DemonstrationsAnswer | ErrorAnswer]


@dataclass(frozen=True)
class MessagesAnswer:
    """The prompt alone."""

    prompt: Prompt
    demonstrations: DemoSet


@dataclass(frozen=True)
class Hits:
    """What was found for one query."""

    query_id: str
    hits: list[Found]
    """Best first."""


@dataclass(frozen=True)
class SearchAnswer:
    """One answer for each query, in their order; `error` for an image that cannot be read."""

    results: list[Hits | ErrorAnswer]


@dataclass(frozen=True)
class Embedding:
    """One image as the encoder sees it."""

    vector: list[float]
    base_vector: list[float] | None
    sha256: str
    phash: str
    place: tuple[float, float] | None


@dataclass(frozen=True)
class EmbedAnswer:
    """One answer for each image, in their order; `error` for one that cannot be read."""

    results: list[Embedding | ErrorAnswer]


@dataclass(frozen=True)
class Index:
    """What is served, and how it may be asked."""

    pair: PairInfo
    defaults: SelectConfig
    """What a request gets where it does not say otherwise."""
    limits: LimitsConfig


@dataclass(frozen=True)
class IndexesAnswer:
    """The indexes that are served: one."""

    indexes: list[Index]


@dataclass(frozen=True)
class ReloadAnswer:
    """What answers now."""

    pair: PairInfo
    changed: bool
    """Whether it is another pair than before."""


@dataclass(frozen=True)
class StatusAnswer:
    """How the service is."""

    status: str
    pair: str | None
    """The id of what answers."""


@dataclass(frozen=True)
class RecordAnswer:
    """An image of the index."""

    row: int
    key: str
    label: str | None
    domain: str | None
    group: str | None
    shard: str | None
    offset: int | None
    size: int | None
    """Bytes of its file, at `offset` of its shard."""
    sha256: str | None
    phash: str | None
    map_x: float
    map_y: float
