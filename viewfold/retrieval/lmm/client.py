"""What a large multimodal model does for us: messages in, text out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable


@dataclass(frozen=True)
class Completion:
    """What came back for one prompt."""

    text: str
    prompt_tokens: int | None
    """As the server counts them, images included; None where it does not say."""
    completion_tokens: int | None
    latency_s: float
    """From sending the request to having the whole answer, without the attempts that failed."""
    model: str
    """The name the server gives itself."""
    constrained: bool = False
    """Whether the server was held to the schema; False where none was given or it knows no `response_format`."""


@runtime_checkable
class LMMClient(Protocol):
    """A model that answers the messages of `retrieval/prompt`."""

    def complete(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        schema: Mapping[str, Any] | None,
        max_tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
        timeout_s: float = 60.0,
    ) -> Completion:
        """The answer to `messages`, held to `schema` where the model can be; `timeout_s` is for one attempt."""
        ...
