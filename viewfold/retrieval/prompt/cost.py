"""What a prompt takes, in each of the things that servers limit."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from viewfold.retrieval.prompt.images import PromptImage
from viewfold.retrieval.prompt.messages import Shown, build_messages
from viewfold.retrieval.prompt.spec import PromptSpec
from viewfold.retrieval.prompt.tokens import TOKEN_COUNTERS, text_tokens

_TURN_TOKENS = 4  # what a chat template writes around a turn


@dataclass(frozen=True)
class PromptCost:
    """Of the messages of one prompt, the query included."""

    images: int
    pixels: int
    image_tokens: int
    """By the counter that was named."""
    prompt_tokens: int
    """`image_tokens` and an estimate of the text, on the high side."""
    bytes: int
    """Length of the messages as JSON, which is nearly all of a request's body."""


def prompt_cost(
    spec: PromptSpec, classes: Sequence[str], shown: Sequence[Shown], query: PromptImage, *, counter: str
) -> PromptCost:
    """The cost of `build_messages` of the same arguments; `counter` is a key of `TOKEN_COUNTERS`."""
    images = [*(item.image for item in shown), query]
    # Without the pixels the messages are short; what base64 makes of the pixels is known by their length.
    hollow = [Shown(item.label, replace(item.image, data=b"")) for item in shown]
    messages = build_messages(spec, classes, hollow, replace(query, data=b""))
    texts = [
        part["text"]
        for message in messages
        for part in ([{"text": message["content"]}] if isinstance(message["content"], str) else message["content"])
        if "text" in part
    ]
    image_tokens = sum(TOKEN_COUNTERS[counter](image.width, image.height) for image in images)
    return PromptCost(
        images=len(images),
        pixels=sum(image.width * image.height for image in images),
        image_tokens=image_tokens,
        prompt_tokens=image_tokens + _TURN_TOKENS * len(messages) + sum(text_tokens(text) for text in texts),
        bytes=len(json.dumps(messages)) + sum(4 * -(-len(image.data) // 3) for image in images),
    )
