"""Answers of a model, kept line by line as they come: an evaluation that was killed asks only what is missing."""

import json
import os
import threading
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import NamedTuple

from viewfold.errors import InvalidInput


class AnswerKey(NamedTuple):
    """What an answer is the answer to."""

    query_id: str
    selector: str
    k: int
    order: str
    model: str
    server: str
    """Its address: two servers may call different models the same."""
    prompt_hash: str
    """Of all that was sent: other demonstrations, words, images or limits are another question."""


@dataclass(frozen=True)
class Answered:
    """One answer of a model; one line of the log."""

    query_id: str
    selector: str
    k: int
    order: str
    model: str
    server: str
    prompt_hash: str
    label: str | None
    """The class that was named; None where none could be read, which counts as wrong."""
    how: str
    """How it was read: json, template, mention, failed."""
    confidence: float | None
    prompt_tokens: int | None
    """As the server counts them; None where it does not say."""
    completion_tokens: int | None
    latency_s: float
    text: str
    """As it came."""

    @property
    def key(self) -> AnswerKey:
        """What it is the answer to."""
        return AnswerKey(*(getattr(self, name) for name in AnswerKey._fields))


class AnswerLog:
    """A JSONL file of answers; many threads of one process may add to it."""

    def __init__(self, path: Path) -> None:
        """Reads what is there; half a line at the end, left by a process that was killed, is cut off.

        Raises:
            InvalidInput: another line cannot be read.
        """
        self._path = path
        self._lock = threading.Lock()
        self._known: dict[AnswerKey, Answered] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        whole = path.read_bytes()
        end = whole.rfind(b"\n") + 1
        if end < len(whole):
            os.truncate(path, end)
        for number, line in enumerate(whole[:end].split(b"\n")[:-1], start=1):
            answered = _read(line, f"{path}:{number}")
            self._known[answered.key] = answered

    def __len__(self) -> int:
        return len(self._known)

    def find(self, key: AnswerKey) -> Answered | None:
        """The answer to this question, if it was given already."""
        return self._known.get(key)

    def add(self, answered: Answered) -> None:
        """Keep an answer; it is in the file when the call returns."""
        line = json.dumps(asdict(answered)) + "\n"  # ASCII: no text of a model holds a line end or half a character
        with self._lock, self._path.open("ab") as file:
            file.write(line.encode())
            self._known[answered.key] = answered


def _read(line: bytes, where: str) -> Answered:
    try:
        data = json.loads(line)
        return Answered(**{field.name: data[field.name] for field in fields(Answered)})
    except (ValueError, KeyError, TypeError):
        raise InvalidInput(f"{where}: not an answer of an in-context evaluation; move the file away") from None
