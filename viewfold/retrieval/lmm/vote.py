"""A model without weights: it answers what most of the demonstrations in its prompt say."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from viewfold.retrieval.lmm.client import Completion
from viewfold.retrieval.prompt.messages import bound_answers


class VoteLMM:
    """Majority of the answers that the messages bind to their images; of equal ones, the one shown last.

    Models shown similar demonstrations do mostly this (arXiv:2404.15736). It sees the messages alone, so that whatever
    stands between a selector and a prompt is part of what it measures.
    """

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
        """The vote as an answer in JSON, its confidence the share of the votes; no text without demonstrations."""
        answers = bound_answers(messages)
        votes = Counter(answers)
        last = {answer: place for place, answer in enumerate(answers)}
        text = ""
        if answers:
            winner = max(votes, key=lambda answer: (votes[answer], last[answer]))
            text = json.dumps({"answer": winner, "confidence": votes[winner] / len(answers)}, ensure_ascii=False)
        return Completion(text=text, prompt_tokens=None, completion_tokens=None, latency_s=0.0, model="vote")
