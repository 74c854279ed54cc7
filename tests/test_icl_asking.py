"""Questions to a model: the vote comes back as the vote, what cannot be read is wrong, nothing is asked twice."""

import io
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pools import pool
from servers import wait_until

from viewfold.errors import InvalidInput
from viewfold.keyed import generator
from viewfold.retrieval import Query, SelectConfig, build_bundle, select
from viewfold.retrieval.icl import AnswerLog, Choices, Coded, Interview, Pool, Question, ask_all, demo_measures
from viewfold.retrieval.lmm import Completion, VoteLMM
from viewfold.retrieval.prompt import PromptImage, PromptSpec, prompt_image

CLASSES = ["ape", "bee", "cat"]


class Counted:
    """A model that counts how often it is asked, and may answer slowly or nonsense."""

    def __init__(self, *, text: str | None = None, wait_s: float = 0.0) -> None:
        self.asked, self.text, self.wait_s = 0, text, wait_s

    def complete(
        self, messages: Sequence[Mapping[str, Any]], *, schema: Mapping[str, Any] | None, max_tokens: int,
        temperature: float = 0.0, seed: int = 0, timeout_s: float = 60.0,
    ) -> Completion:  # fmt: skip
        self.asked += 1
        time.sleep(self.wait_s)
        voted = VoteLMM().complete(messages, schema=schema, max_tokens=max_tokens)
        return voted if self.text is None else replace(voted, text=self.text, prompt_tokens=100)


def image(key: str) -> PromptImage:
    """A picture that no other key has."""
    pixels = generator("picture", key).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return prompt_image(buffer.getvalue(), media="image/png")


def interview(client: Counted | VoteLMM, **changes: Any) -> Interview:
    settings = {"max_tokens": 50, "seed": 0, "timeout_s": 5.0, "spec": PromptSpec(), **changes}
    return Interview(client=client, model="m", server="s", classes=CLASSES, image=image, **settings)


def questions(number: int) -> list[Question]:
    rng = generator("questions", 0)
    drawn = rng.integers(0, 3, (number, 5))
    shown = [tuple((f"{q}-{n}", CLASSES[label]) for n, label in enumerate(row)) for q, row in enumerate(drawn)]
    return [Question(f"q{number}", "nearest", 5, "nearest_last", row) for number, row in enumerate(shown)]


@pytest.mark.parametrize(("layout", "k"), [("multiturn", 4), ("interleaved", 3)])
def test_the_accuracy_of_the_voting_model_is_the_vote_accuracy(tmp_path: Path, layout: str, k: int) -> None:
    rng = generator("vote", 0)
    labels = [CLASSES[n] for n in rng.integers(0, 3, 40)]
    features = pool(rng.normal(size=(40, 3)).astype(np.float32), label=labels)
    bundle = build_bundle(features, tmp_path / "bundle")
    queries = [Query(f"q{n}", rng.normal(size=3)) for n in range(40)]
    truths = [CLASSES[n] for n in rng.integers(0, 3, 40)]
    chosen = select(bundle, queries, SelectConfig(k=k))
    known = Pool(Coded.of(labels), Coded.of(features.column("domain")), features.vectors)
    direct = demo_measures(Choices.of(bundle, chosen, k), known, truths, vote_tau=0.1)["copied_vote"]
    asked = [
        Question(demos.query_id, "nearest", k, "nearest_last", tuple((i.key, i.label) for i in demos.items))
        for demos in chosen
    ]
    who = interview(VoteLMM(), spec=PromptSpec(layout=layout))  # type: ignore[arg-type]
    answers = list(ask_all(asked, who, AnswerLog(tmp_path / "answers.jsonl"), concurrency=3))
    assert [a.label == truth for a, truth in zip(answers, truths, strict=True)] == (direct > 0).tolist()
    assert {a.how for a in answers} == {"json"}


def test_what_cannot_be_read_is_an_answer_that_names_nothing(tmp_path: Path) -> None:
    log = AnswerLog(tmp_path / "answers.jsonl")
    (answer,) = ask_all(questions(1), interview(Counted(text="no idea")), log, concurrency=1)
    assert (answer.label, answer.how, answer.prompt_tokens) == (None, "failed", 100)


def test_a_second_evaluation_asks_only_what_is_new(tmp_path: Path) -> None:
    path, client = tmp_path / "answers.jsonl", Counted()
    first = list(ask_all(questions(6), interview(client), AnswerLog(path), concurrency=2))
    again = list(ask_all(questions(8), interview(client), AnswerLog(path), concurrency=2))
    assert (client.asked, again[:6]) == (8, first)
    list(ask_all(questions(8), interview(client, max_tokens=60), AnswerLog(path), concurrency=2))
    assert client.asked == 16  # another limit is another question
    turned = [replace(question, order="nearest_first") for question in questions(8)]
    list(ask_all(turned, interview(client), AnswerLog(path), concurrency=2))
    assert client.asked == 24


def test_half_a_line_is_cut_off_and_a_foreign_line_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    list(ask_all(questions(3), interview(VoteLMM()), AnswerLog(path), concurrency=1))
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    assert len(AnswerLog(path)) == 2
    client = Counted()
    list(ask_all(questions(3), interview(client), AnswerLog(path), concurrency=1))
    assert (client.asked, path.read_bytes()) == (1, whole)
    path.write_bytes(b'{"label": 3}\n' + whole)
    with pytest.raises(InvalidInput, match=r"answers.jsonl:1: not an answer"):
        AnswerLog(path)


def test_any_text_of_a_model_is_one_line_of_the_log_and_read_back(tmp_path: Path) -> None:
    text = "one\u2028two\x85three\nfour \ud83d"
    (answer,) = ask_all(questions(1), interview(Counted(text=text)), AnswerLog(tmp_path / "a.jsonl"), concurrency=1)
    log, client = AnswerLog(tmp_path / "a.jsonl"), Counted()
    assert (list(ask_all(questions(1), interview(client), log, concurrency=1)), client.asked) == ([answer], 0)
    assert answer.text == text
    unescaped = (tmp_path / "a.jsonl").read_text().replace("\\u2028", "\u2028").replace("\\ud83d", "")
    (tmp_path / "b.jsonl").write_text(unescaped, encoding="utf-8")
    assert len(AnswerLog(tmp_path / "b.jsonl")) == 1


def test_an_error_ends_the_asking_and_keeps_what_was_answered(tmp_path: Path) -> None:
    def broken(key: str) -> PromptImage:
        if key == "q2":
            raise InvalidInput("q2: cut short")
        return image(key)

    log = AnswerLog(tmp_path / "answers.jsonl")
    with pytest.raises(InvalidInput, match="cut short"):
        list(ask_all(questions(200), replace(interview(Counted(wait_s=0.001)), image=broken), log, concurrency=1))
    assert 2 <= len(AnswerLog(tmp_path / "answers.jsonl")) < 200


def answers_in(path: Path) -> int:
    """Whole lines so far."""
    return path.read_bytes().count(b"\n") if path.is_file() else 0


@pytest.mark.slow
def test_a_killed_evaluation_asks_only_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    code = (
        "import sys; from pathlib import Path; from test_icl_asking import *\n"
        "list(ask_all(questions(40), interview(Counted(wait_s=0.5)), AnswerLog(Path(sys.argv[1])), concurrency=2))"
    )
    search = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], env={**os.environ, "PYTHONPATH": search})
    try:
        wait_until(lambda: answers_in(path) >= 5 or process.poll() is not None, seconds=300)
        assert process.poll() is None, "ended before it could be killed"
    finally:
        process.kill()
        process.wait()
    log, client = AnswerLog(path), Counted()
    kept = len(log)
    assert 5 <= kept < 40
    answers = list(ask_all(questions(40), interview(client), log, concurrency=2))
    assert client.asked == 40 - kept
    fresh = AnswerLog(tmp_path / "fresh.jsonl")
    assert answers == list(ask_all(questions(40), interview(client), fresh, concurrency=2))
