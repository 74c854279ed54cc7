"""What is served: the index, its records, their thumbnails, the map."""

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from viewfold.errors import InvalidInput
from viewfold.retrieval.service.answers import answer
from viewfold.retrieval.service.backend import MapPoints
from viewfold.retrieval.service.context import pair_of, settings_of
from viewfold.retrieval.service.failures import NotFound
from viewfold.retrieval.service.openapi import answered
from viewfold.retrieval.service.schemas import IndexesAnswer, RecordAnswer

router = APIRouter(tags=["index"])


@router.get("/v1/indexes", **answered(IndexesAnswer))
async def indexes(request: Request) -> Response:
    """The index that is served, with its encoder, and how it may be asked."""
    settings = settings_of(request)
    index = {"pair": pair_of(request).info, "defaults": settings.select, "limits": settings.limits}
    return answer({"indexes": [index]})


@router.get("/v1/records/{key:path}/thumbnail", **answered(None, media="image/jpeg", missing=True))
async def thumbnail(request: Request, key: str) -> Response:
    """A small picture of an image of the index."""
    data = await pair_of(request).thumbnail(key)
    if data is None:
        raise NotFound(f"{key}: the index has no thumbnail of it")
    return Response(data, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=300"})


@router.get("/v1/records/{key:path}", **answered(RecordAnswer, missing=True))
async def record(request: Request, key: str) -> Response:
    """What is known of an image of the index."""
    found = await pair_of(request).record(key)
    if found is None:
        raise NotFound(f"{key}: the index has no such image")
    return answer(found)


@router.get("/v1/card", **answered(None, missing=True))
async def card(request: Request) -> Response:
    """What the encoder of the index ignores and what it predicts, as it was measured before the index was built."""
    found = await pair_of(request).card()
    if found is None:
        raise NotFound("this index has no card; one that a run builds after its stage `evaluate` has it")
    name, data = found
    if name.endswith(".json"):
        return Response(data, media_type="application/json")
    # Anything else could act in the name of this service where a browser shows it.
    return Response(data, media_type="application/octet-stream", headers={"Content-Disposition": "attachment"})


@router.get("/v1/map", **answered(MapPoints))
async def index_map(request: Request, limit: Annotated[int, Query(ge=1)] = 2000) -> Response:
    """The images of the index in the plane in which they differ most; of many, a sample."""
    most = settings_of(request).limits.max_map
    if limit > most:
        raise InvalidInput(f"limit must be at most {most} (limits.max_map of the service), got {limit}")
    return answer(await pair_of(request).map(limit))
