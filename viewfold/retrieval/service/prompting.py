"""Demonstrations and a query's image to the messages of a chat, within a budget."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from viewfold.errors import InvalidInput
from viewfold.retrieval.prompt.budget import Ranked, fit
from viewfold.retrieval.prompt.images import PromptImage, prompt_image
from viewfold.retrieval.prompt.messages import Shown, build_messages
from viewfold.retrieval.prompt.schema import answer_schema
from viewfold.retrieval.selection.demos import DemoSet
from viewfold.retrieval.service.backend import ServedPair
from viewfold.retrieval.service.choosing import Choosing
from viewfold.retrieval.service.schemas import Prompt

_WORK = 4
"""Images may take so many times what the service gives a prompt, before they are shrunk to it."""


async def prompt_for(pair: ServedPair, query: bytes, demos: DemoSet, choosing: Choosing, *, max_bytes: int) -> Prompt:
    """The prompt for one query, within `max_bytes`; demonstrations whose images are nowhere to be had are left out,
    and named.

    Raises:
        InvalidInput: the budget cannot be met, its images are far beyond it, or `words` has a label that the index has
            not.
    """
    keys = [item.key for item in demos.items]
    bounded = _bounded(choosing, max_bytes)
    images = dict(zip(keys, await asyncio.gather(*(pair.image(key) for key in keys)), strict=True))
    return await asyncio.to_thread(_prompt, pair.info.labels, query, demos, images, bounded, _WORK * max_bytes)


def _bounded(choosing: Choosing, max_bytes: int) -> Choosing:
    budget = choosing.body.budget
    least = min(max_bytes, budget.max_bytes or max_bytes)
    return replace(choosing, body=replace(choosing.body, budget=replace(budget, max_bytes=least)))


def _prompt(
    classes: list[str],
    query: bytes,
    demos: DemoSet,
    images: Mapping[str, bytes | None],
    choosing: Choosing,
    most: int,
) -> Prompt:
    body, spec = choosing.body, choosing.spec
    asked = _image(query, choosing, demos.query_id)
    shown = _shown(images, choosing, most)
    ranked = [
        Ranked(item.key, item.rank, Shown(item.label, shown[item.key])) for item in demos.items if item.key in shown
    ]
    balanced = choosing.select.quota.rule == "min_per_class"
    required = {item.shown.label for item in ranked} if balanced else set()
    fitted = fit(ranked, asked, body.budget, spec=spec, classes=classes, required=required)
    return Prompt(
        messages=build_messages(spec, classes, fitted.shown, fitted.query),
        classes=classes,
        keys=[*(item.key for item in ranked if item.key not in fitted.dropped), demos.query_id],
        dropped=fitted.dropped,
        notes=[*_missing(images), *fitted.notes],
        cost=fitted.cost,
        answer_schema=answer_schema(spec, classes),
    )


def _shown(images: Mapping[str, bytes | None], choosing: Choosing, most: int) -> dict[str, PromptImage]:
    shown: dict[str, PromptImage] = {}
    taken = 0
    for key, data in images.items():
        if data is None:
            continue
        shown[key] = _image(data, choosing, key)
        taken += len(shown[key].data)
        if taken > most:
            raise InvalidInput(
                f"the first {len(shown)} images alone take more than {most} bytes, {_WORK} times what a prompt may "
                "(limits.max_prompt_bytes of the service); lower max_side or k"
            )
    return shown


def _image(data: bytes, choosing: Choosing, name: str) -> PromptImage:
    try:
        return prompt_image(data, max_side=choosing.body.max_side, media=choosing.body.media)
    except InvalidInput as error:
        raise InvalidInput(f"{name}: {error}") from None


def _missing(images: Mapping[str, Any]) -> list[str]:
    return [
        f"{key}: neither its shard nor a thumbnail is there, so it is not shown"
        for key in images
        if images[key] is None
    ]
