"""The model without weights."""

from typing import Any, Literal

import pytest

from viewfold.retrieval.lmm import LMMClient, VoteLMM
from viewfold.retrieval.prompt import PromptImage, PromptSpec, Shown, answer_schema, build_messages, parse_answer

CLASSES = ["pen", "pencil", "airport_hangar"]
IMAGE = PromptImage(b"pixels", "image/png", 8, 8)


def voted(labels: list[str], layout: Literal["multiturn", "interleaved"] = "multiturn") -> Any:
    spec = PromptSpec(layout=layout, labels={"pen": "a pen"})
    model: LMMClient = VoteLMM()
    messages = build_messages(spec, CLASSES, [Shown(label, IMAGE) for label in labels], IMAGE)
    completion = model.complete(messages, schema=answer_schema(spec, CLASSES), max_tokens=50)
    return parse_answer(completion.text, spec, CLASSES)


@pytest.mark.parametrize("layout", ["multiturn", "interleaved"])
@pytest.mark.parametrize(
    ("labels", "winner", "share"),
    [
        (["pencil", "pen", "pen"], "pen", 2 / 3),
        (["pen", "pencil"], "pencil", 0.5),
        (["pen", "pencil", "pencil", "airport_hangar", "pen"], "pen", 0.4),
    ],
)
def test_the_majority_wins_and_of_equal_ones_the_last_shown(
    labels: list[str], winner: str, share: float, layout: Literal["multiturn", "interleaved"]
) -> None:
    answer = voted(labels, layout)
    assert (answer.label, answer.confidence, answer.how) == (winner, share, "json")


def test_without_demonstrations_there_is_no_answer() -> None:
    assert voted([]).how == "failed"
