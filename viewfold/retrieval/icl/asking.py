"""Questions to a multimodal model: demonstrations and a query to a prompt, the answer to a line of the log."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from viewfold.retrieval.icl.answers import Answered, AnswerKey, AnswerLog
from viewfold.retrieval.lmm import LMMClient
from viewfold.retrieval.prompt import (
    PromptImage,
    PromptSpec,
    Shown,
    answer_schema,
    build_messages,
    parse_answer,
)


@dataclass(frozen=True)
class Question:
    """One query with the demonstrations that it is shown."""

    query_id: str
    selector: str
    k: int
    order: str
    shown: tuple[tuple[str, str], ...]
    """Key and label of each demonstration, in prompt order."""


@dataclass(frozen=True)
class Interview:
    """Who is asked, and how; the same for every question."""

    client: LMMClient
    model: str
    """What the model is called in the log."""
    server: str
    """Where it is asked, for the log."""
    spec: PromptSpec
    classes: Sequence[str]
    """The closed list of what may be answered."""
    image: Callable[[str], PromptImage]
    """The image of a key; threads call it."""
    max_tokens: int
    seed: int
    timeout_s: float

    def answer(self, question: Question, log: AnswerLog) -> Answered:
        """The answer of the log, or else of the model; the log has it afterwards."""
        shown = [Shown(label, self.image(key)) for key, label in question.shown]
        messages = build_messages(self.spec, self.classes, shown, self.image(question.query_id))
        schema = answer_schema(self.spec, self.classes)
        sent = {"messages": messages, "schema": schema, "max_tokens": self.max_tokens, "seed": self.seed}
        digest = hashlib.sha256(json.dumps(sent, sort_keys=True).encode()).hexdigest()[:16]
        key = AnswerKey(
            query_id=question.query_id,
            selector=question.selector,
            k=question.k,
            order=question.order,
            model=self.model,
            server=self.server,
            prompt_hash=digest,
        )
        if (known := log.find(key)) is not None:
            return known
        completion = self.client.complete(
            messages, schema=schema, max_tokens=self.max_tokens, seed=self.seed, timeout_s=self.timeout_s
        )
        read = parse_answer(completion.text, self.spec, self.classes)
        answered = Answered(
            **key._asdict(),
            label=read.label,
            how=read.how,
            confidence=read.confidence,
            prompt_tokens=completion.prompt_tokens,
            completion_tokens=completion.completion_tokens,
            latency_s=round(completion.latency_s, 4),
            text=completion.text,
        )
        log.add(answered)
        return answered


def ask_all(
    questions: Sequence[Question], interview: Interview, log: AnswerLog, *, concurrency: int
) -> Iterator[Answered]:
    """The answers, in the order of the questions; `concurrency` of them are waited for at the same time.

    The first error ends it: no further question is sent, and what was answered by then is in the log.
    """
    pool = ThreadPoolExecutor(concurrency)
    try:
        yield from pool.map(partial(interview.answer, log=log), questions)
    finally:
        pool.shutdown(cancel_futures=True)
