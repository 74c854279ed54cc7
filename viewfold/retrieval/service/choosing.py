"""Settings of a request, laid over those of the service: what selection and the prompt are asked for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

import orjson

from viewfold.config import dump, parse
from viewfold.errors import InvalidInput
from viewfold.retrieval.prompt.spec import PromptSpec
from viewfold.retrieval.selection.select_config import SelectConfig
from viewfold.retrieval.service.config import ServiceConfig
from viewfold.retrieval.service.reading import settings_text
from viewfold.retrieval.service.schemas import SettingsBody

_SELECT_FIELDS = tuple(field.name for field in fields(SelectConfig))
_LARGEST_SEED = 2**53
_MOST_PER_CLASS = 10_000


@dataclass(frozen=True, eq=False)
class Choosing:
    """What one request asks for, apart from its queries."""

    select: SelectConfig
    body: SettingsBody
    spec: PromptSpec


def chooser(settings: ServiceConfig) -> Callable[[Mapping[str, Any]], Choosing]:
    """A function of the settings in a body. It gives one and the same object for equal settings, so that the requests
    that bring them can be joined; it raises `InvalidInput` for an unknown key, a wrong type, a value out of range."""
    defaults = dump(settings.select)

    @lru_cache(maxsize=256)
    def made(text: bytes) -> Choosing:
        data = orjson.loads(text)
        body = parse(SettingsBody, data, where="request")
        given = {name: data[name] for name in _SELECT_FIELDS if data.get(name) is not None}
        select = parse(SelectConfig, _laid_over(defaults, given), where="request")
        _check_limits(select, settings.limits.max_k)
        if body.max_side > settings.limits.max_side:
            most = settings.limits.max_side
            raise InvalidInput(f"max_side must be at most {most} (limits.max_side of the service), got {body.max_side}")
        return Choosing(select, body, _spec(body))

    return lambda data: made(settings_text(data))


def _laid_over(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Fields one by one, those of the parts (`filters`, `quota`, ...) too."""
    merged = dict(defaults)
    for name, value in given.items():
        nested = isinstance(value, dict) and isinstance(merged[name], dict)
        merged[name] = {**merged[name], **value} if nested else value
    return merged


def _check_limits(select: SelectConfig, max_k: int) -> None:
    if select.k > max_k:
        raise InvalidInput(f"k must be at most {max_k} (limits.max_k of the service), got {select.k}")
    if abs(select.seed) > _LARGEST_SEED:
        raise InvalidInput(f"seed must lie within 2**53 of 0, got {select.seed}")
    if select.quota.per_class > _MOST_PER_CLASS:
        raise InvalidInput(f"quota.per_class must be at most {_MOST_PER_CLASS}, got {select.quota.per_class}")


def _spec(body: SettingsBody) -> PromptSpec:
    given = {"task": body.task, "question": body.question}
    texts = {name: text for name, text in given.items() if text is not None}
    data = {"layout": body.layout, "labels": dict(body.words), "rationale": body.rationale, **texts}
    return parse(PromptSpec, data, where="request")
