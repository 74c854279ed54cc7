"""Demonstrations and a query to the messages of a chat, and the text of the answer to a label.

image = prompt_image(data)                               bytes of an image file to what is sent
fitted = fit(ranked, image, BudgetConfig(), spec=spec, classes=classes)
messages = build_messages(spec, classes, fitted.shown, fitted.query)
completion = client.complete(messages, schema=answer_schema(spec, classes), max_tokens=200)
answer = parse_answer(completion.text, spec, classes)    answer.label is None: failed, counts as wrong
"""

from viewfold.retrieval.prompt.budget import BudgetConfig, Fitted, Ranked, fit
from viewfold.retrieval.prompt.cost import PromptCost, prompt_cost
from viewfold.retrieval.prompt.images import MediaType, PromptImage, prompt_image
from viewfold.retrieval.prompt.messages import Shown, bound_answers, build_messages
from viewfold.retrieval.prompt.parse import Answer, parse_answer
from viewfold.retrieval.prompt.schema import answer_schema, render_answer
from viewfold.retrieval.prompt.spec import PromptSpec
from viewfold.retrieval.prompt.tokens import TOKEN_COUNTERS, text_tokens
from viewfold.retrieval.prompt.words import normal_form, shown_words

__all__ = [
    "TOKEN_COUNTERS",
    "Answer",
    "BudgetConfig",
    "Fitted",
    "MediaType",
    "PromptCost",
    "PromptImage",
    "PromptSpec",
    "Ranked",
    "Shown",
    "answer_schema",
    "bound_answers",
    "build_messages",
    "fit",
    "normal_form",
    "parse_answer",
    "prompt_cost",
    "prompt_image",
    "render_answer",
    "shown_words",
    "text_tokens",
]
