"""Demonstrations for one query, or for many in one request."""

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from viewfold.errors import InvalidInput
from viewfold.retrieval.selection.demos import DemoSet, Query
from viewfold.retrieval.service.answers import answer
from viewfold.retrieval.service.backend import ServedPair
from viewfold.retrieval.service.choosing import Choosing
from viewfold.retrieval.service.context import choosing_of, pair_of, recent_of, settings_of, timed
from viewfold.retrieval.service.embedding import queries_of, usable
from viewfold.retrieval.service.failures import failure_of
from viewfold.retrieval.service.metrics import count_choices
from viewfold.retrieval.service.openapi import described
from viewfold.retrieval.service.prompting import prompt_for
from viewfold.retrieval.service.reading import Asked, read_body, read_json, read_queries, read_query
from viewfold.retrieval.service.schemas import BatchAnswer, DemonstrationsAnswer, MessagesAnswer, Prompt

_EXPLAINED = 64
"""Images that are said to have been chosen or left out."""

router = APIRouter(tags=["demonstrations"])


@router.post("/v1/demonstrations", **described("DemonstrationsBody", DemonstrationsAnswer, image=True))
async def demonstrations(request: Request) -> Response:
    """Labelled images of the index that show a model what the query may be, in prompt order."""
    data = await read_body(request)
    asked = read_query(data, settings_of(request).limits)
    (found,) = await _answers(request, [asked], choosing_of(request, data))
    return answer(found)


@router.post("/v1/demonstrations:batch", **described("BatchBody", BatchAnswer))
async def demonstrations_batch(request: Request) -> Response:
    """The same for many queries, which share their settings; one image that cannot be read does not hurt the others."""
    data = await read_json(request)
    asked = read_queries(data, settings_of(request).limits)
    choosing = choosing_of(request, data)
    if choosing.body.explain:
        raise InvalidInput("explain: takes one query at a time; ask /v1/demonstrations")
    return answer({"results": await _answers(request, asked, choosing)})


@router.post("/v1/messages", **described("DemonstrationsBody", MessagesAnswer, image=True))
async def messages(request: Request) -> Response:
    """The demonstrations and the query, an image, as messages of a chat that keep to a budget."""
    data = await read_body(request)
    if data.get("format", "openai") != "openai":
        raise InvalidInput("format: /v1/messages knows 'openai' alone; ask /v1/demonstrations for 'raw'")
    asked = read_query(data, settings_of(request).limits)
    choosing = choosing_of(request, {**data, "format": "openai"})
    if choosing.body.explain:
        raise InvalidInput("explain: messages have no place for it; ask /v1/demonstrations with format 'openai'")
    (found,) = await _answers(request, [asked], choosing)
    return answer({"prompt": found["prompt"], "demonstrations": found["demonstrations"]})


async def _answers(request: Request, asked: Sequence[Asked], choosing: Choosing) -> list[dict[str, Any]]:
    """One answer for each query, in their order."""
    pair = pair_of(request)
    if choosing.body.format == "openai" and any(one.vector is not None for one in asked):
        raise InvalidInput("format 'openai' shows the query's image to a model: send an image, not a vector")
    queries = await queries_of(request, pair, asked)
    with timed(request, "select"):
        chosen = iter(await pair.select(usable(queries), choosing.select))
    answers: list[dict[str, Any]] = []
    spent, most = 0, settings_of(request).limits.max_prompt_bytes
    for one, query in zip(asked, queries, strict=True):
        if isinstance(query, InvalidInput):
            answers.append(failure_of(query).body(request.state.request_id))
        else:
            answers.append(await _one(request, pair, choosing, (one, query, next(chosen))))
            prompt: Prompt | None = answers[-1]["prompt"]
            spent += 0 if prompt is None else prompt.cost.bytes
            if spent > most:
                raise InvalidInput(
                    f"the prompts of the first {len(answers)} queries take more than {most} bytes "
                    "(limits.max_prompt_bytes of the service); send fewer queries, or lower max_side, k or budget"
                )
    return answers


async def _one(
    request: Request, pair: ServedPair, choosing: Choosing, found: tuple[Asked, Query, DemoSet]
) -> dict[str, Any]:
    asked, query, demos = found
    count_choices([demos])
    recent_of(request).add(pair.info, demos, choosing.select)
    prompt = explained = None
    if choosing.body.format == "openai" and isinstance(asked.image, bytes):
        with timed(request, "prompt"):
            most = settings_of(request).limits.max_prompt_bytes
            prompt = await prompt_for(pair, asked.image, demos, choosing, max_bytes=most)
    if choosing.body.explain:
        with timed(request, "explain"):
            explained = await pair.explain(query, choosing.select, _EXPLAINED)
    place = await pair.place(query.vector)
    return {"demonstrations": demos, "place": place, "prompt": prompt, "explained": explained}
