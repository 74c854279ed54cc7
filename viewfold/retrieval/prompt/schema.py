"""The answer that is asked for: as a JSON schema, and as a demonstration shows it."""

import json
from collections.abc import Sequence
from typing import Any

from viewfold.retrieval.prompt.spec import PromptSpec
from viewfold.retrieval.prompt.words import shown_words


def answer_schema(spec: PromptSpec, classes: Sequence[str]) -> dict[str, Any]:
    """JSON schema of an answer: the words of one class, a confidence in 0..1, and a rationale if the spec asks for one.

    Every property is required and no other allowed, which strict servers insist on.
    """
    properties: dict[str, Any] = {
        "answer": {"type": "string", "enum": list(shown_words(spec, classes).values())},
        "confidence": {"type": "number", "minimum": 0, "maximum": 1},
    }
    if spec.rationale:
        properties["rationale"] = {"type": "string"}
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def render_answer(words: str) -> str:
    """The answer that a demonstration shows, of the `shown_words` of its class; `parse_answer` reads it back."""
    return json.dumps({"answer": words}, ensure_ascii=False)
