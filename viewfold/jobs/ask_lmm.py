"""Asking a multimodal model about an image: demonstrations to a prompt within a budget, an answer, what it cost."""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from viewfold.config import Config, check_ranges
from viewfold.errors import InvalidInput
from viewfold.jobs.pool_images import PoolImages
from viewfold.retrieval import DemoSet, IndexBundle
from viewfold.retrieval.lmm import Completion, LMMClient, OpenAIClient, VoteLMM, api_key_from_environment
from viewfold.retrieval.prompt import (
    Answer,
    BudgetConfig,
    PromptCost,
    PromptImage,
    PromptSpec,
    Ranked,
    Shown,
    answer_schema,
    build_messages,
    fit,
    parse_answer,
    prompt_image,
)
from viewfold.retrieval.prompt.images import MediaType

VOTE = "vote"
"""The `url` of the model that needs no server: it answers with the majority of the labels that it is shown."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Config):
    """The model that is asked, and how."""

    url: str
    """Of an OpenAI-compatible server, such as http://localhost:8000/v1; `vote` asks no server but counts labels."""
    model: str = ""
    """The model's name on that server."""
    max_tokens: int = 256
    """Longest answer."""
    timeout_s: float = 120.0
    """Longest wait for it."""
    retries: int = 3
    """Further tries when the server is busy or failing."""
    seed: int = 0
    """For servers that draw."""
    price_in: float | None = None
    """Money for a million prompt tokens."""
    price_out: float | None = None
    """Money for a million tokens of the answer."""

    def __post_init__(self) -> None:
        check_ranges(self, max_tokens=(1, 1e6), timeout_s=(0.1, 1e5), retries=(0, 100))
        if not self.model and self.url != VOTE:
            raise ValueError("name the model too (--model M): a server may hold several")
        if self.model and self.url == VOTE:
            raise ValueError(f"`vote` asks no server: leave the model {self.model!r} out, or give the server's address")
        if (self.price_in is None) != (self.price_out is None):
            raise ValueError("price_in and price_out make a price only together; give both")

    def client(self) -> LMMClient:
        """What sends questions to it; its key, if it wants one, is in the environment (VIEWFOLD_LMM_API_KEY).

        Raises:
            InvalidInput: `url` is not the address of a server.
            MissingDependency: the package `openai` is not installed.
        """
        if self.url == VOTE:
            return VoteLMM()
        return OpenAIClient(self.url, self.model, api_key=api_key_from_environment(), retries=self.retries)


@dataclass(frozen=True, kw_only=True)
class PromptConfig(Config):
    """What a model is shown."""

    spec: PromptSpec = field(default_factory=PromptSpec)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    max_side: int = 512
    """Longer sides of images are shrunk to this many pixels."""
    media: MediaType = "image/jpeg"
    """How images are encoded; `image/png` where compression would hurt."""

    def __post_init__(self) -> None:
        check_ranges(self, max_side=(16, 8192))

    def image(self, data: bytes, name: str) -> PromptImage:
        """An image file as it is shown; `name` says whose it is where it cannot be."""
        try:
            return prompt_image(data, max_side=self.max_side, media=self.media)
        except InvalidInput as error:
            raise InvalidInput(f"{name}: {error}") from None


@dataclass(frozen=True, eq=False)
class Prompt:
    """What a model is to be sent."""

    messages: list[dict[str, Any]]
    classes: list[str]
    """The closed list of what may be answered."""
    keys: list[str]
    """Of the images in the order of the messages; the last one is the query's."""
    cost: PromptCost
    dropped: list[str]
    """Keys of demonstrations that the budget had no room for."""
    notes: list[str]
    """What was done to meet the budget, and which images could not be read as they are stored."""


@dataclass(frozen=True)
class Reply:
    """What a model said, and what it took."""

    answer: Answer
    completion: Completion
    cost: float | None
    """Money, where prices were given and the server counts tokens."""


def build_prompt(
    query: bytes,
    chosen: DemoSet,
    bundle: IndexBundle,
    config: PromptConfig,
    images: PoolImages,
    *,
    required: Collection[str] = (),
) -> Prompt:
    """The demonstrations, in their order, and the query as messages that stay within the budget.

    Of each label in `required` the budget leaves one demonstration at least.

    Raises:
        InvalidInput: the budget cannot be met, the spec has words for a label that the index does not have, or an
            image cannot be read.
    """
    classes = class_list(bundle)
    ranked = [
        Ranked(item.key, item.rank, Shown(item.label, config.image(images.image_of(item.key), item.key)))
        for item in chosen.items
    ]
    asked = config.image(query, chosen.query_id)
    fitted = fit(ranked, asked, config.budget, spec=config.spec, classes=classes, required=required)
    return Prompt(
        messages=build_messages(config.spec, classes, fitted.shown, fitted.query),
        classes=classes,
        keys=[*(item.key for item in ranked if item.key not in fitted.dropped), chosen.query_id],
        cost=fitted.cost,
        dropped=fitted.dropped,
        notes=[*images.warnings, *fitted.notes],
    )


def ask_model(prompt: Prompt, spec: PromptSpec, config: ModelConfig) -> Reply:
    """Send the prompt and read the answer; one that cannot be read is an answer too.

    Raises:
        InvalidInput: the server cannot be reached or refuses the request; names it and says why.
    """
    completion = config.client().complete(
        prompt.messages,
        schema=answer_schema(spec, prompt.classes),
        max_tokens=config.max_tokens,
        seed=config.seed,
        timeout_s=config.timeout_s,
    )
    return Reply(parse_answer(completion.text, spec, prompt.classes), completion, _cost(completion, config))


def class_list(bundle: IndexBundle) -> list[str]:
    """Every label that an image of the index carries, once, sorted: the answers that a model may give."""
    labels = bundle.records.column("label").filter(pa.array(bundle.alive)).unique().to_pylist()
    return sorted(label for label in labels if label is not None)


def _cost(completion: Completion, config: ModelConfig) -> float | None:
    """Both prices and both counts, or nothing: half of a sum would mislead."""
    if completion.prompt_tokens is None or completion.completion_tokens is None:
        return None
    if config.price_in is None or config.price_out is None:
        return None
    return (completion.prompt_tokens * config.price_in + completion.completion_tokens * config.price_out) / 1e6
