"""Plain search, and the encoder by itself."""

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from viewfold.errors import InvalidInput
from viewfold.retrieval.selection.demos import Query
from viewfold.retrieval.selection.filters import FilterConfig
from viewfold.retrieval.service.answers import answer
from viewfold.retrieval.service.backend import Found, ServedPair
from viewfold.retrieval.service.context import pair_of, settings_of, timed
from viewfold.retrieval.service.embedding import queries_of, usable, vectors_of
from viewfold.retrieval.service.failures import failure_of
from viewfold.retrieval.service.openapi import described
from viewfold.retrieval.service.reading import read_body, read_images, read_queries, read_query, read_settings
from viewfold.retrieval.service.schemas import EmbedAnswer, SearchAnswer, SearchSettings

_DEFAULT_K = 10

router = APIRouter(tags=["search"])


@router.post("/v1/search", **described("SearchBody", SearchAnswer, image=True))
async def search(request: Request) -> Response:
    """The nearest images of the index, without the guards that demonstrations stand behind."""
    data = await read_body(request)
    limits = settings_of(request).limits
    asked = read_queries(data, limits) if "queries" in data else [read_query(data, limits)]
    settings = read_settings(SearchSettings, data)
    k = min(_DEFAULT_K, limits.max_k) if settings.k is None else settings.k
    if k > limits.max_k:
        raise InvalidInput(f"k must be at most {limits.max_k} (limits.max_k of the service), got {k}")
    pair = pair_of(request)
    queries = await queries_of(request, pair, asked)
    with timed(request, "search"):
        found = iter(await _searched(pair, usable(queries), k, settings.filters))
    results = [
        failure_of(query).body(request.state.request_id)
        if isinstance(query, InvalidInput)
        else {"query_id": query.id, "hits": next(found)}
        for query in queries
    ]
    return answer({"results": results})


@router.post("/v1/embed", **described("EmbedBody", EmbedAnswer, image=True))
async def embed(request: Request) -> Response:
    """What the encoder of the index makes of images."""
    asked = read_images(await read_body(request), settings_of(request).limits)
    pair = pair_of(request)
    queries = await queries_of(request, pair, asked)
    results: list[dict[str, Any]] = []
    for query in queries:
        if isinstance(query, InvalidInput):
            results.append(failure_of(query).body(request.state.request_id))
        else:
            results.append(
                {
                    "vector": query.vector.tolist(),
                    "base_vector": None if query.base_vector is None else query.base_vector.tolist(),
                    "sha256": query.sha256,
                    "phash": query.phash,
                    "place": await pair.place(query.vector),
                }
            )
    return answer({"results": results})


async def _searched(pair: ServedPair, queries: Sequence[Query], k: int, filters: FilterConfig) -> list[list[Found]]:
    return await pair.search(vectors_of(queries), k, filters) if queries else []
