"""The text of a model's answer to the class it names, by a ladder of rules that would rather fail than guess.

1. `json`: an object with an `answer`, alone, in a code fence or in a sentence. 2. `template`: a line `Answer: ...`.
3. `mention`: the one class whose words stand in the text, with no "not" before them in the clause. 4. `failed`, which
counts as wrong and is reported. The first rung that finds an answer decides what the others may see: the rationale of
an answer that is no class is not searched for one. Answers that contradict one another are `failed`. What a text means
beyond these rules is not read: a doubt, or a denial after the class ("a pen? hardly"), passes for a mention.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from viewfold.retrieval.prompt.spec import PromptSpec
from viewfold.retrieval.prompt.words import normal_form, shown_words

_THOUGHT = re.compile(r"[<\[](think|thinking|reasoning)[>\]].*?(?:[<\[]/\1[>\]]|\Z)", re.DOTALL | re.IGNORECASE)
_THOUGHT_END = re.compile(r"[<\[]/(?:think|thinking|reasoning)[>\]]", re.IGNORECASE)
_LINE = re.compile(
    r"""^[ \t>*#`"'{\-]*(?:(?:the|my) +)?(?:final +)?answer(?: +choice)?[ \t"'*`]*(?:[:=]|\bis\b)\s*(.*)$""",
    re.IGNORECASE | re.MULTILINE,
)
_QUOTED = re.compile(r"""^\W*?(["'`*]+)(.+?)\1\s*(?:[,.}]|$)""")
_CONFIDENCE = re.compile(r"confidence\W{1,4}(\d*\.?\d+)(?![\d%])", re.IGNORECASE)
_NEGATED = re.compile(r"(?:\b(?:not|no|never|cannot|neither|nor)\b|n['\u2019]t\b)[^.,;:!?]*$")
_SHORT = 2  # characters of a name that is no mention within a sentence
_DECORATION = " \t\"'`*()[]{},.;:!"


@dataclass(frozen=True)
class Answer:
    """What a model answered."""

    label: str | None
    """One of the classes; None where none could be read, which counts as wrong."""
    confidence: float | None
    """In 0..1, as the model says; None where it does not, or not in this range."""
    how: Literal["json", "template", "mention", "failed"]
    """The rung of the ladder that read it."""


def parse_answer(text: str, spec: PromptSpec, classes: Sequence[str]) -> Answer:
    """The class that `text` names, for a prompt of this `spec` and `classes`; never raises because of `text`."""
    known = {normal_form(words): label for label, words in shown_words(spec, classes).items()}
    said = _after_thought(text)
    objects = list(_objects(said))
    if objects:
        label, how = _agreed([found["answer"] for found in objects], known, "json")
        confidence = _share(objects[-1].get("confidence"))
    else:
        lines = [match[1] for match in _LINE.finditer(said)]
        label, how = _agreed(lines, known, "template") if lines else _agreed([said], known, "mention")
        stated = _CONFIDENCE.search(said)
        confidence = _share(float(stated[1])) if stated else None
    return Answer(label, confidence, how)


Rung = Literal["json", "template", "mention", "failed"]


def _agreed(answers: Sequence[str], known: Mapping[str, str], rung: Rung) -> tuple[str | None, Rung]:
    """The label that all `answers` give, and the rung: `mention` where one of them had to be searched for it."""
    read = [_whole(answer, known) for answer in answers]
    labels = {label or _mentioned(answer, known) for label, answer in zip(read, answers, strict=True)}
    if len(labels) > 1 or None in labels:
        return None, "failed"
    return labels.pop(), "mention" if None in read else rung


def _whole(answer: str, known: Mapping[str, str]) -> str | None:
    """The label whose words are all of `answer`, or what stands in quotes at its beginning."""
    quoted = _QUOTED.match(answer)
    forms = [answer, answer.strip(_DECORATION), *([quoted[2]] if quoted else [])]
    return next((known[form] for form in map(normal_form, forms) if form in known), None)


def _mentioned(text: str, known: Mapping[str, str]) -> str | None:
    """The one label mentioned in `text`, as whole words; a mention inside a longer one ("airport hangar") is none.

    None where a negation stands before a mention in its clause. Names of one or two characters, or without a letter,
    are also articles and numbers: where they are not a whole line, they only contradict other mentions.
    """
    form = normal_form(text)
    lines = {_whole(line, known) for line in text.splitlines()}
    spans = [(start, start + len(name), label) for name, label in known.items() for start in _starts(form, name)]
    labels = {
        label if (label in lines or _telling(form[start:end])) and not _NEGATED.search(form[:start]) else None
        for start, end, label in spans
        if not any(low <= start and end <= high and high - low > end - start for low, high, _ in spans)
    }
    return labels.pop() if len(labels) == 1 else None


def _telling(name: str) -> bool:
    return len(name) > _SHORT and any(character.isalpha() for character in name)


def _starts(text: str, name: str) -> Iterator[int]:
    start = text.find(name)
    while start >= 0:
        end = start + len(name)
        if not _goes_on(text[:start][:-3:-1], name[0]) and not _goes_on(text[end : end + 2], name[-1]):
            yield start
        start = text.find(name, start + 1)


def _goes_on(beside: str, edge: str) -> bool:
    """Whether the word, or the number, whose last character is `edge` goes on in the two characters `beside` it."""
    decimals = edge.isdecimal() and beside[:1] in {".", ","} and beside[1:].isdecimal()
    return beside[:1].isalnum() or decimals


def _after_thought(text: str) -> str:
    """`text` without its reasoning blocks; one that never ends takes the rest with it, for the answer never came."""
    rest = _THOUGHT.sub(" ", text)
    # Some templates open the block in the prompt, so that only its end is in the text.
    return _THOUGHT_END.split(rest)[-1]


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """Every JSON object in `text` that has an `answer` of words, outermost ones."""
    decoder = json.JSONDecoder()
    start = text.find("{")
    while start >= 0:
        try:
            value, end = decoder.raw_decode(text, start)
        except ValueError:
            end = start + 1
        except RecursionError:
            return  # a thousand brackets deep is no answer
        else:
            if isinstance(value.get("answer"), str):
                yield value
        start = text.find("{", end)


def _share(value: object) -> float | None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number and 0 <= value <= 1 else None  # type: ignore[operator, arg-type]
