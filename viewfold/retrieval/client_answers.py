"""What the retrieval service answers, as the library's own types."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from viewfold.retrieval.client_http import ServiceError
from viewfold.retrieval.drift import Drift
from viewfold.retrieval.index.bundle import ScoreHistogram
from viewfold.retrieval.selection.demos import DemoItem, DemoSet
from viewfold.retrieval.service.backend import Found

T = TypeVar("T")


def demo_set(answer: Mapping[str, Any]) -> DemoSet:
    """Demonstrations as `select` gives them."""
    return made(DemoSet, {**answer, "items": [made(DemoItem, item) for item in answer["items"]]})


def found(answer: Sequence[Mapping[str, Any]]) -> list[Found]:
    """What a search found for one query."""
    return [made(Found, hit) for hit in answer]


def drift(answer: Mapping[str, Any]) -> Drift:
    """What `/v1/drift` says."""
    held = {name: made(ScoreHistogram, answer[name]) for name in ("cosines", "reference_cosines") if name in answer}
    return made(Drift, {**answer, **held})


def made(kind: type[T], answer: Mapping[str, Any]) -> T:
    """A dataclass of the fields that it knows: a newer service may say more, and must not say less.

    Raises:
        ServiceError: a field is missing.
    """
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    missing = [name for name in names if name not in answer]
    if missing:
        raise ServiceError(
            f"the answer has no {missing[0]!r}; the service is of another version than this client", code="version"
        )
    return kind(**{name: answer[name] for name in names})
